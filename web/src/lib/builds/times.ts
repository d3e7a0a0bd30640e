/** How long a build waited and ran, or has done so far. */
import type { Build } from '../api/client';
import { duration, growing } from '../format';
import { isLive } from './status';

type Timed = Pick<Build, 'status' | 'queued_at' | 'started_at' | 'finished_at'>;

export function times(build: Timed, now: number): { waited: string; ran: string } {
  const queued = Date.parse(build.queued_at);
  const started = build.started_at ? Date.parse(build.started_at) : null;
  const finished = build.finished_at ? Date.parse(build.finished_at) : null;
  if (started === null) {
    const waited = isLive(build.status) ? growing(now - queued) : duration((finished ?? now) - queued);
    return { waited, ran: '' };
  }
  const ran = finished === null ? growing(now - started) : duration(finished - started);
  return { waited: duration(started - queued), ran };
}
