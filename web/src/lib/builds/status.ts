/** What each status is called, and which of the six shapes stands for it. */
import type { Status } from '../api/client';

export type Tone = 'good' | 'bad' | 'warn' | 'busy' | 'idle';
export type Shape = 'ring' | 'half' | 'arc' | 'stop' | 'check' | 'cross' | 'clock' | 'slash' | 'triangle';

export interface Look {
  name: string;
  tone: Tone;
  shape: Shape;
}

export const LOOKS: Record<Status, Look> = {
  queued: { name: 'Queued', tone: 'idle', shape: 'ring' },
  assigned: { name: 'Preparing', tone: 'busy', shape: 'half' },
  running: { name: 'Running', tone: 'busy', shape: 'arc' },
  canceling: { name: 'Canceling', tone: 'idle', shape: 'stop' },
  succeeded: { name: 'Succeeded', tone: 'good', shape: 'check' },
  failed: { name: 'Failed', tone: 'bad', shape: 'cross' },
  timed_out: { name: 'Timed out', tone: 'bad', shape: 'clock' },
  canceled: { name: 'Canceled', tone: 'idle', shape: 'slash' },
  errored: { name: 'Errored', tone: 'warn', shape: 'triangle' },
};

const LIVE: ReadonlySet<Status> = new Set(['queued', 'assigned', 'running', 'canceling']);
const BAD: ReadonlySet<Status> = new Set(['failed', 'timed_out', 'errored']);
export const isBad = (status: Status): boolean => BAD.has(status);

export const isLive = (status: Status): boolean => LIVE.has(status);
