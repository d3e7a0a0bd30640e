/** The log of one attempt: how long it is, the lines that somebody looks at, and what is found in it. */
import { api, ask, asProblem, socketUrl, type LogLine, type LogLines, type Problem } from '../api/client';
import { KnownLines } from './lines';

const RETRY_MS = 1000;
/** What a line that tells of an error looks like, in most tools. */
const ERROR = String.raw`\b(error|fatal|panicked|failed|failure|exception|traceback|segmentation fault)\b`;

export class Log {
  total = $state(0);
  bytes = $state(0);
  ended = $state(false);
  loaded = $state(false);
  problem = $state.raw<Problem | null>(null);
  /** Grows with the lines that are known, so that who shows them looks again. */
  version = $state(0);

  #known = new KnownLines();
  #socket: WebSocket | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #fetching: AbortController | null = null;
  #closed = false;

  constructor(
    readonly build: string,
    readonly attempt: number,
  ) {}

  /** Takes the end of the log, and stays with it as it grows. */
  open(): void {
    this.#closed = false;
    const socket = new WebSocket(socketUrl(`/builds/${this.build}/log/tail?attempt=${this.attempt}&from=${this.#complete()}`));
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(String(data)) as LogLines);
    socket.onclose = () => {
      // A log that has not ended goes on, here or after a restart of the coordinator.
      if (!this.#closed && !this.ended) this.#timer = setTimeout(() => this.open(), RETRY_MS);
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#fetching?.abort();
    this.#socket?.close();
  }

  line(number: number): LogLine | undefined {
    void this.version;
    return this.#known.get(number);
  }

  /** Makes sure that these lines are known, soon. What was asked for before and is not needed any more is let go. */
  async need(first: number, last: number): Promise<void> {
    const missing = this.#known.missing(first, last, this.total);
    if (!missing) return;
    this.#fetching?.abort();
    const fetching = new AbortController();
    this.#fetching = fetching;
    try {
      const query = { attempt: this.attempt, ...missing };
      const answer = await ask(api.GET('/api/v1/builds/{id}/log/lines', { params: { path: { id: this.build }, query }, signal: fetching.signal }));
      this.#take(answer);
      this.problem = null;
    } catch (error) {
      if (!fetching.signal.aborted) this.problem = asProblem(error);
    }
  }

  /** The numbers of the lines in which a text occurs, up to a limit, and whether there are more. */
  async search(q: string): Promise<{ hits: number[]; more: boolean }> {
    const query = { attempt: this.attempt, q, limit: 10_000 };
    const found = await ask(api.GET('/api/v1/builds/{id}/log/search', { params: { path: { id: this.build }, query } }));
    return { hits: found.hits, more: found.next !== null };
  }

  /** The first line that tells of an error. */
  async firstError(): Promise<number | null> {
    const query = { attempt: this.attempt, q: ERROR, regex: true, limit: 1 };
    const found = await ask(api.GET('/api/v1/builds/{id}/log/search', { params: { path: { id: this.build }, query } }));
    return found.hits[0] ?? null;
  }

  get href(): string {
    return `/api/v1/builds/${this.build}/log?attempt=${this.attempt}`;
  }

  #take(lines: LogLines): void {
    // An answer that was asked for earlier may tell of less than is known.
    this.total = Math.max(this.total, lines.lines);
    this.bytes = Math.max(this.bytes, lines.bytes);
    this.ended ||= lines.ended;
    this.#known.add(lines.items);
    this.loaded = true;
    this.version += 1;
  }

  /** All but the last line, which may have been told before its end. */
  #complete(): number {
    return Math.max(0, this.total - 1);
  }
}
