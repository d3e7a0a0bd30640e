/** A search in a log: what is found, and which of it one looks at. */
import { asProblem } from '../api/client';
import type { Log } from './log.svelte';

export class LogSearch {
  text = $state('');
  hits = $state.raw<number[]>([]);
  more = $state(false);
  at = $state(-1);
  /** What there is to say: how many were found, or why there are none. */
  said = $state('');

  #asked = 0;
  #found = '';

  constructor(private readonly log: () => Log) {}

  get found(): string {
    return this.#found;
  }

  /** Goes to the next hit, or to the one before; searches first when the text is a new one. */
  async step(by: 1 | -1, near: number): Promise<number | null> {
    const text = this.text;
    if (text === '') {
      this.clear();
      return null;
    }
    if (text !== this.#found || (this.hits.length === 0 && !this.log().ended)) {
      if (!(await this.#search(text))) return null;
      const after = this.hits.findIndex((line) => line >= near);
      this.at = after < 0 ? 0 : after;
    } else if (this.hits.length) {
      this.at = (this.at + by + this.hits.length) % this.hits.length;
    }
    this.#say();
    return this.hits[this.at] ?? null;
  }

  clear(): void {
    this.#asked += 1;
    this.#found = '';
    this.hits = [];
    this.at = -1;
    this.said = '';
  }

  async #search(text: string): Promise<boolean> {
    const asked = ++this.#asked;
    this.said = 'Searching';
    try {
      const { hits, more } = await this.log().search(text);
      if (asked !== this.#asked) return false;
      this.#found = text;
      this.hits = hits;
      this.more = more;
      return true;
    } catch (error) {
      this.said = asProblem(error).message;
      return false;
    }
  }

  #say(): void {
    this.said = this.hits.length ? `${this.at + 1} of ${this.hits.length}${this.more ? '+' : ''}` : 'No match';
  }
}
