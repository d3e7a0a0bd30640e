/** One build on the screen: loaded, then kept current by what happens. */
import { api, ask, asProblem, type Build, type Problem } from '../api/client';
import type { Live } from '../live/live.svelte';

export class OneBuild {
  build = $state.raw<Build | null>(null);
  problem = $state.raw<Problem | null>(null);
  /** What went wrong with what was asked for last. */
  refused = $state.raw<Problem | null>(null);
  busy = $state(false);

  #changes = 0;

  constructor(
    private readonly id: string,
    live: Live,
  ) {
    $effect(() =>
      live.onBuild((build) => {
        if (build.id !== this.build?.id && build.id !== id && String(build.number) !== id) return;
        this.#changes += 1;
        this.build = build;
      }),
    );
    $effect(() => {
      // Loaded at first, and anew after each snapshot.
      void live.epoch;
      void this.load();
    });
  }

  async load(): Promise<void> {
    const before = this.#changes;
    try {
      const build = await ask(api.GET('/api/v1/builds/{id}', { params: { path: { id: this.id } } }));
      // What was told meanwhile is newer than the answer.
      if (before === this.#changes) this.build = build;
      this.problem = null;
    } catch (error) {
      this.problem = asProblem(error);
    }
  }

  cancel(): Promise<Build | null> {
    return this.#act(() => ask(api.POST('/api/v1/builds/{id}/cancel', { params: { path: { id: this.id } } })));
  }

  rerun(): Promise<Build | null> {
    return this.#act(() => ask(api.POST('/api/v1/builds/{id}/rerun', { params: { path: { id: this.id } } })));
  }

  async #act(action: () => Promise<Build>): Promise<Build | null> {
    this.busy = true;
    this.refused = null;
    try {
      return await action();
    } catch (error) {
      this.refused = asProblem(error);
      return null;
    } finally {
      this.busy = false;
    }
  }
}
