/** What waits, in order: loaded, and loaded anew when builds change, but not more often than can be read. */
import { api, ask, asProblem, type Problem, type WaitingBuilds } from './api/client';
import type { Live } from './live/live.svelte';

const EVERY_MS = 500;

export class QueueList {
  waiting = $state.raw<WaitingBuilds | null>(null);
  problem = $state.raw<Problem | null>(null);
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(live: Live) {
    $effect(() => {
      void live.epoch;
      void this.#load();
    });
    $effect(() => {
      const forget = live.onBuild(() => this.#soon());
      return () => {
        forget();
        if (this.#timer) clearTimeout(this.#timer);
      };
    });
  }

  #soon(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      void this.#load();
    }, EVERY_MS);
  }

  async #load(): Promise<void> {
    try {
      this.waiting = await ask(api.GET('/api/v1/queue'));
      this.problem = null;
    } catch (error) {
      this.problem = asProblem(error);
    }
  }
}
