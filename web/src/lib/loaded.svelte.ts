/** Something that is asked for once, and again after it was changed; and a change that is asked for. */
import { asProblem, type Problem } from './api/client';
import { sentence } from './format';

export class Loaded<T> {
  value = $state.raw<T | null>(null);
  problem = $state.raw<Problem | null>(null);

  #loads = 0;

  constructor(private readonly ask: () => Promise<T>) {}

  async load(): Promise<void> {
    const load = ++this.#loads;
    try {
      const value = await this.ask();
      if (load !== this.#loads) return;
      this.value = value;
      this.problem = null;
    } catch (error) {
      if (load === this.#loads) this.problem = asProblem(error);
    }
  }
}

export class Change {
  busy = $state(false);
  /** Why the last one was refused. */
  problem = $state.raw<Problem | null>(null);

  /** Gives what came of it, or nothing when it was refused. */
  async try<T>(action: () => Promise<T>): Promise<{ done: T } | null> {
    this.busy = true;
    this.problem = null;
    try {
      return { done: await action() };
    } catch (error) {
      this.problem = asProblem(error);
      return null;
    } finally {
      this.busy = false;
    }
  }

  /** What is wrong with a field of the form; nothing where it is none of these. */
  error(field: string): string {
    return this.problem?.field === field ? sentence(this.problem.message.replace(/^\w+: /, '')) : '';
  }

  /** What is wrong with the whole, when it is none of the form's fields. */
  elsewhere(fields: string[]): string {
    return this.problem && !fields.includes(this.problem.field ?? '') ? sentence(this.problem.message) : '';
  }
}
