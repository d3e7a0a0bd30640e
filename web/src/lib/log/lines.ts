/** The lines of a log that are known, out of millions, and which are missing. */
import type { LogLine } from '../api/client';

/** How many are kept: what is far from where somebody looks is forgotten first. */
const KEPT_MAX = 20_000;
/** How many are asked for at once. */
export const FETCH = 400;

export class KnownLines {
  #lines = new Map<number, LogLine>();

  get(number: number): LogLine | undefined {
    return this.#lines.get(number);
  }

  add(lines: LogLine[]): void {
    for (const line of lines) this.#lines.set(line.number, line);
    const newest = lines[lines.length - 1];
    if (newest && this.#lines.size > KEPT_MAX) this.#forget(newest.number);
  }

  clear(): void {
    this.#lines.clear();
  }

  /** What to ask for so that `first` to `last` are known: a run of lines around them, so that scrolling on finds more. */
  missing(first: number, last: number, total: number): { from: number; count: number } | null {
    let from = Math.max(1, first);
    const until = Math.min(last, total);
    while (from <= until && this.#lines.has(from)) from += 1;
    if (from > until) return null;
    let to = until;
    while (to > from && this.#lines.has(to)) to -= 1;
    const spare = Math.max(0, FETCH - (to - from + 1));
    const begin = Math.max(1, from - Math.floor(spare / 2));
    return { from: begin, count: Math.min(FETCH, total - begin + 1) };
  }

  #forget(around: number): void {
    const numbers = [...this.#lines.keys()].sort((a, b) => Math.abs(a - around) - Math.abs(b - around));
    for (const number of numbers.slice(KEPT_MAX / 2)) this.#lines.delete(number);
  }
}
