/** What each role may do: no more than those after it. */
import type { Role } from '../api/client';

export const ROLES: { role: Role; may: string }[] = [
  { role: 'viewer', may: 'sees builds, logs, queue and runners' },
  { role: 'submitter', may: 'also starts, reruns and cancels builds' },
  { role: 'operator', may: 'also drains runners' },
  { role: 'admin', may: 'also says who may do what, and lets runners in' },
];

const rank = (role: Role): number => ROLES.findIndex((known) => known.role === role);

/** Whether somebody of the role `own` may do what the role `needed` may. */
export const mayDo = (own: Role, needed: Role): boolean => rank(own) >= rank(needed);

/** The roles that somebody may give away: up to their own. */
export const rolesUpTo = (own: Role): Role[] => ROLES.map(({ role }) => role).filter((role) => mayDo(own, role));
