/** The audit log: what its words mean, and the address of a part of it. */
import type { Action, AuditEntry } from '../api/client';

export const ACTIONS: Record<Action, string> = {
  sign_in: 'signed in',
  sign_in_failed: 'failed to sign in',
  sign_out: 'signed out',
  denied: 'was denied',
  submit: 'submitted',
  rerun: 'reran',
  cancel: 'canceled',
  drain: 'drained',
  person_added: 'added person',
  person_changed: 'changed person',
  person_removed: 'removed person',
  password_changed: 'changed password of',
  token_made: 'made token',
  token_revoked: 'revoked token',
  registration_made: 'made registration token',
  registration_revoked: 'revoked registration token',
  runner_registered: 'registered as',
  credential_revoked: 'revoked credential of',
  runner_refused: 'was refused as a runner',
};

/** What is chosen together in the filter. */
export const GROUPS: { id: string; label: string; actions: Action[] }[] = [
  { id: 'all', label: 'All', actions: [] },
  { id: 'sign-ins', label: 'Sign-ins', actions: ['sign_in', 'sign_in_failed', 'sign_out'] },
  { id: 'refusals', label: 'Refusals', actions: ['sign_in_failed', 'denied', 'runner_refused'] },
  { id: 'builds', label: 'Builds', actions: ['submit', 'rerun', 'cancel'] },
  { id: 'access', label: 'People and tokens', actions: ['person_added', 'person_changed', 'person_removed', 'password_changed', 'token_made', 'token_revoked'] },
  { id: 'runners', label: 'Runners', actions: ['drain', 'registration_made', 'registration_revoked', 'runner_registered', 'credential_revoked', 'runner_refused'] },
];

export interface AuditFilter {
  group: string;
  actor: string;
  q: string;
  /** The page begins below this entry; the newest when it is empty. */
  cursor: string;
}

export function read(query: URLSearchParams): AuditFilter {
  const group = query.get('show') ?? 'all';
  return { group: GROUPS.some(({ id }) => id === group) ? group : 'all', actor: query.get('actor') ?? '', q: query.get('q') ?? '', cursor: query.get('cursor') ?? '' };
}

/** The address of the log with this filter. */
export function write({ group, actor, q, cursor }: AuditFilter): string {
  const query = new URLSearchParams({ ...(group !== 'all' && { show: group }), ...(actor && { actor }), ...(q && { q }), ...(cursor && { cursor }) });
  return `/settings/audit${query.size ? `?${query}` : ''}`;
}

/** What the API is asked for. */
export function asked({ group, actor, q, cursor }: AuditFilter) {
  const actions = GROUPS.find(({ id }) => id === group)?.actions ?? [];
  return { limit: 50, ...(actions.length && { action: actions.join(',') }), ...(actor && { actor }), ...(q && { q }), ...(cursor && { cursor }) };
}

const OF_BUILDS: ReadonlySet<Action> = new Set(['submit', 'rerun', 'cancel']);

/** The page of what an entry is about, where there is one. */
export function subject({ action, on }: Pick<AuditEntry, 'action' | 'on'>): string | null {
  return OF_BUILDS.has(action) && on ? `/builds/${encodeURIComponent(on)}` : null;
}

/** Who it was, in a word for each kind of somebody. */
export function actorName({ actor, actor_kind }: Pick<AuditEntry, 'actor' | 'actor_kind'>): string {
  return actor || (actor_kind === 'stranger' ? 'Somebody' : actor_kind);
}
