/** Where the time of an attempt went: waiting, then its phases, as parts of one bar. */
import type { Attempt, Build } from '../api/client';

export type PhaseName = 'waiting' | 'clone' | 'image' | 'create' | 'run' | 'cleanup' | 'preparing';

export interface Phase {
  name: PhaseName;
  ms: number;
  /** Whether it is going on, and grows. */
  live: boolean;
}

const MEASURED = ['clone', 'image', 'create', 'run', 'cleanup'] as const;

/** The parts that are known, in order. `now` is for the one that goes on. */
export function phases(build: Pick<Build, 'queued_at' | 'status' | 'attempts'>, attempt: Attempt | undefined, now: number): Phase[] {
  const queued = Date.parse(build.queued_at);
  if (!attempt) return build.status === 'queued' ? [{ name: 'waiting', ms: now - queued, live: true }] : [];
  const assigned = Date.parse(attempt.assigned_at);
  // A later attempt waited from the end of the one before.
  const before = build.attempts.findLast((other) => other.number < attempt.number)?.finished_at;
  const parts: Phase[] = [{ name: 'waiting', ms: Math.max(0, assigned - (before ? Date.parse(before) : queued)), live: false }];
  for (const name of MEASURED) {
    const ms = attempt.phases[name];
    if (ms !== undefined && ms !== null) parts.push({ name, ms, live: false });
  }
  if (attempt.outcome) return parts;
  if (attempt.started_at === null) {
    const known = parts.slice(1).reduce((sum, part) => sum + part.ms, 0);
    parts.push({ name: 'preparing', ms: Math.max(0, now - assigned - known), live: true });
  } else if (!parts.some((part) => part.name === 'run')) {
    parts.push({ name: 'run', ms: Math.max(0, now - Date.parse(attempt.started_at)), live: true });
  }
  return parts;
}

/** How wide each part is drawn, in percent: by its time, but never so narrow that it can't be seen. */
export function widths(parts: Phase[], least = 1.5): number[] {
  const total = parts.reduce((sum, part) => sum + part.ms, 0);
  if (total === 0) return parts.map(() => 100 / parts.length);
  const raised = parts.map((part) => Math.max((100 * part.ms) / total, least));
  const sum = raised.reduce((sum, width) => sum + width, 0);
  return raised.map((width) => (100 * width) / sum);
}
