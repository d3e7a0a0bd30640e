/** The list of builds on the screen: loaded for a filter, then kept current by what happens. */
import { api, ask, asProblem, type Build, type Problem } from '../api/client';
import type { Live } from '../live/live.svelte';
import { type Filter } from './filter';
import { apply, PAGE, type Listing } from './list';

export class BuildList {
  listing = $state.raw<Listing | null>(null);
  problem = $state.raw<Problem | null>(null);
  loading = $state(false);

  #loads = 0;
  /** What happened since the load began: its answer may be older than that. */
  #since: Build[] = [];
  #filter: Filter | null = null;

  constructor(live: Live) {
    $effect(() => live.onBuild((build) => this.#changed(build)));
  }

  async load(filter: Filter): Promise<void> {
    const load = ++this.#loads;
    this.#filter = filter;
    this.#since = [];
    this.loading = true;
    try {
      const page = await ask(api.GET('/api/v1/builds', { params: { query: query(filter) } }));
      if (load !== this.#loads) return;
      const listing = { builds: page.builds, next: page.next_cursor };
      this.listing = this.#since.reduce((known, build) => apply(known, build, filter), listing);
      this.problem = null;
    } catch (error) {
      if (load === this.#loads) this.problem = asProblem(error);
    } finally {
      if (load === this.#loads) this.loading = false;
    }
  }

  #changed(build: Build): void {
    if (this.loading) this.#since.push(build);
    if (this.listing && this.#filter) this.listing = apply(this.listing, build, this.#filter);
  }
}

function query({ status, repository, q, before }: Filter) {
  return {
    limit: PAGE,
    ...(status.length && { status: status.join(',') }),
    ...(repository && { repository }),
    ...(q && { q }),
    ...(before && { cursor: before }),
  };
}
