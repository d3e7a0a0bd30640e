/** A page of builds, newest first, and what a change does to it. */
import type { Build } from '../api/client';
import { matches, type Filter } from './filter';

export const PAGE = 50;

export interface Listing {
  builds: Build[];
  /** The `before` of the next page, when there is one. */
  next: string | null;
}

/** The listing with a build's new state. The same object when nothing in it changes. */
export function apply(listing: Listing, build: Build, filter: Filter): Listing {
  const at = listing.builds.findIndex((known) => known.id === build.id);
  const fits = matches(build, filter);
  if (at >= 0) {
    const builds = fits ? listing.builds.with(at, build) : listing.builds.toSpliced(at, 1);
    return { ...listing, builds };
  }
  if (!fits || !belongs(listing, build, filter)) return listing;
  const after = listing.builds.findIndex((known) => known.number < build.number);
  const builds = listing.builds.toSpliced(after < 0 ? listing.builds.length : after, 0, build);
  if (builds.length <= PAGE) return { ...listing, builds };
  const kept = builds.slice(0, PAGE);
  return { builds: kept, next: String(kept[PAGE - 1]!.number) };
}

/** Whether a build that is not on the page has its place there: a page ends where the next one begins. */
function belongs(listing: Listing, build: Build, filter: Filter): boolean {
  if (filter.before && build.number >= Number(filter.before)) return false;
  return listing.next === null || build.number > Number(listing.next);
}
