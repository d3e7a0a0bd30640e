/**
 * The stream of what happens: a snapshot, then changes. It heals by itself. A missing `seq` means that a change was
 * missed, and a new connection brings a new snapshot. Knows nothing of what the messages are about.
 */

export type ConnectionState = 'connecting' | 'live' | 'lost';

export interface Numbered {
  seq: number;
  type: string;
}

export interface Handlers<T extends Numbered> {
  /** A message came. The first after each connection is a snapshot. */
  event(event: T): void;
  state(state: ConnectionState): void;
  /** A connection could not be made. Says whether to try again. */
  refused(): Promise<boolean>;
}

export interface Socket {
  onmessage: ((message: MessageEvent) => void) | null;
  onclose: ((event: CloseEvent) => void) | null;
  close(): void;
}

const DELAY_FIRST_MS = 250;
const DELAY_MAX_MS = 8000;

export class Connection<T extends Numbered> {
  #socket: Socket | null = null;
  #seq: number | null = null;
  #delay = DELAY_FIRST_MS;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #stopped = false;

  constructor(
    private readonly open: () => Socket,
    private readonly handlers: Handlers<T>,
    private readonly random: () => number = Math.random,
  ) {}

  start(): void {
    this.#stopped = false;
    this.#connect('connecting');
  }

  stop(): void {
    this.#stopped = true;
    this.#drop();
  }

  /** Tries at once, if it is waiting to try again: the network is back, or somebody looks. */
  hurry(): void {
    if (this.#timer === null || this.#stopped) return;
    this.#connect('lost');
  }

  #connect(state: ConnectionState): void {
    this.#drop();
    this.handlers.state(state);
    const socket = this.open();
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#hear(JSON.parse(String(data)) as T);
    socket.onclose = () => {
      if (this.#socket === socket) void this.#lost();
    };
  }

  #hear(event: T): void {
    if (event.type !== 'snapshot' && event.seq !== (this.#seq ?? NaN) + 1) {
      this.#connect('live');
      return;
    }
    this.#seq = event.seq;
    this.#delay = DELAY_FIRST_MS;
    if (event.type === 'snapshot') this.handlers.state('live');
    this.handlers.event(event);
  }

  async #lost(): Promise<void> {
    this.#socket = null;
    this.#seq = null;
    this.handlers.state('lost');
    const again = await this.handlers.refused();
    if (!again || this.#stopped || this.#socket) return;
    // Spread, so that a coordinator that comes back is not met by everyone at once.
    const delay = this.#delay * (0.75 + this.random() / 2);
    this.#delay = Math.min(this.#delay * 2, DELAY_MAX_MS);
    this.#timer = setTimeout(() => this.#connect('lost'), delay);
  }

  #drop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const socket = this.#socket;
    this.#socket = null;
    this.#seq = null;
    if (socket) {
      socket.onclose = null;
      socket.onmessage = null;
      socket.close();
    }
  }
}
