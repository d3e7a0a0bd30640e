/** What happens, for everyone on the page: the connection, the runners, the queue's depth, and each build's changes. */
import { getContext, setContext } from 'svelte';
import { mayDo } from '../access/roles';
import { api, ask, socketUrl, type About, type Build, type Role, type RunnerState, type ServerEvent, type Session } from '../api/client';
import { Connection, type ConnectionState } from './connection';

type BuildListener = (build: Build) => void;

export class Live {
  state = $state<ConnectionState>('connecting');
  signedIn = $state<boolean | null>(null);
  /** Who is signed in. */
  session = $state.raw<Session | null>(null);
  about = $state.raw<About | null>(null);
  runners = $state.raw<RunnerState[] | null>(null);
  queue = $state.raw<{ depth: number; limit: number } | null>(null);
  /** Grows with each snapshot: what was loaded before it may have missed something. */
  epoch = $state(0);
  /** Seconds since 1970, ticking. */
  now = $state(Date.now());

  #listeners = new Set<BuildListener>();
  #connection = new Connection<ServerEvent>(() => new WebSocket(socketUrl('/events')), {
    event: (event) => this.#hear(event),
    state: (state) => (this.state = state),
    refused: () => this.#mayStay(),
  });

  /** Finds out who we are, and connects if we are somebody. */
  async start(): Promise<void> {
    if (await this.#mayStay()) this.#connection.start();
  }

  stop(): void {
    this.#connection.stop();
  }

  /** Somebody looks again: the connection is tried at once, and what they may do can have changed. */
  hurry(): void {
    this.#connection.hurry();
    if (this.signedIn) void this.#mayStay();
  }

  /** Whether somebody of this role may do it, and so whether it is offered. The coordinator decides for itself. */
  may(role: Role): boolean {
    return this.session !== null && mayDo(this.session.role, role);
  }

  /** Calls `listener` with each build that changes, until the function it gives is called. */
  onBuild(listener: BuildListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async signOut(): Promise<void> {
    await ask(api.DELETE('/api/v1/session'));
    this.#connection.stop();
    this.session = null;
    this.signedIn = false;
  }

  /** A coordinator that is away may come back; one that does not know us has to be signed in to. */
  async #mayStay(): Promise<boolean> {
    try {
      [this.session, this.about] = await Promise.all([ask(api.GET('/api/v1/session')), ask(api.GET('/api/v1/about'))]);
      this.signedIn = true;
    } catch (error) {
      if ((error as { status?: number }).status === 401) {
        this.signedIn = false;
        return false;
      }
    }
    return true;
  }

  #hear(event: ServerEvent): void {
    switch (event.type) {
      case 'snapshot':
        this.signedIn = true;
        this.queue = { depth: event.queue.depth, limit: event.queue.limit };
        this.runners = event.runners.runners;
        this.epoch += 1;
        break;
      case 'runners':
        this.runners = event.runners.runners;
        break;
      case 'queue':
        this.queue = { depth: event.depth, limit: event.limit };
        break;
      case 'build':
        for (const listener of this.#listeners) listener(event.build);
        break;
    }
  }
}

const key = Symbol('live');
export const provideLive = (live: Live): Live => setContext(key, live);
export const useLive = (): Live => getContext<Live>(key);
