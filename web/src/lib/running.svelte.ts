/** The builds that a runner has, with what they are: asked for once each, then kept current by what happens. */
import { SvelteMap } from 'svelte/reactivity';
import { api, ask, type Build } from './api/client';
import type { Live } from './live/live.svelte';

export function useRunning(live: Live, ids: () => string[]): SvelteMap<string, Build> {
  const known = new SvelteMap<string, Build>();
  $effect(() => live.onBuild((build) => ids().includes(build.id) && known.set(build.id, build)));
  $effect(() => {
    for (const id of ids()) {
      void ask(api.GET('/api/v1/builds/{id}', { params: { path: { id } } })).then(
        (build) => known.set(id, build),
        // It is shown without its particulars, and the next change brings them.
        () => undefined,
      );
    }
  });
  return known;
}
