/** The form that starts a build: what is typed, where it comes from, and what is sent. */
import type { Build, Edits, NewBuild } from '../api/client';
import * as limits from './limits';

export interface Draft {
  repository_url: string;
  commit: string;
  command: string;
  image: string;
  /** `NAME=value`, one in a line. */
  env: string;
  labels: string;
  timeout: string;
  /** `memory 512MiB, cpus 1.5`. */
  limits: string;
  /** `none`, or nothing for what the runner allows. */
  network: '' | 'none';
}

export const EMPTY: Draft = { repository_url: '', commit: '', command: '', image: '', env: '', labels: '', timeout: '', limits: '', network: '' };
const KEY = 'caisson.draft';

/** The last submission, so that the next one begins with it. Values of variables are not kept: they may be secrets. */
export function remembered(storage: Pick<Storage, 'getItem'>): Draft {
  try {
    const kept = JSON.parse(storage.getItem(KEY) ?? '{}') as Record<string, unknown>;
    const known = Object.keys(EMPTY).filter((name) => typeof kept[name] === 'string');
    return { ...EMPTY, ...Object.fromEntries(known.map((name) => [name, kept[name]])) };
  } catch {
    return EMPTY;
  }
}

export function remember(storage: Pick<Storage, 'setItem'>, draft: Draft): void {
  try {
    storage.setItem(KEY, JSON.stringify({ ...draft, env: '' }));
  } catch {
    // A browser that keeps nothing starts with an empty form.
  }
}

/** What a link such as `/new?repository=…&commit=…&command=…` fills in; nothing when it says nothing. */
export function fromLink(query: URLSearchParams): Draft | null {
  const draft: Draft = {
    repository_url: query.get('repository') ?? '',
    commit: query.get('commit') ?? '',
    command: query.get('command') ?? '',
    image: query.get('image') ?? '',
    env: query.getAll('env').join('\n'),
    labels: query.get('labels') ?? '',
    timeout: query.get('timeout') ?? '',
    limits: query.get('limits') ?? '',
    network: query.get('network') === 'none' ? 'none' : '',
  };
  return Object.values(draft).some((value) => value !== '') ? draft : null;
}

/** The link that fills the form in like this. */
export function toLink(draft: Draft, origin: string): string {
  const query = new URLSearchParams();
  const names: [string, keyof Draft][] = [['repository', 'repository_url'], ['commit', 'commit'], ['command', 'command'], ['image', 'image'], ['labels', 'labels'], ['timeout', 'timeout'], ['limits', 'limits'], ['network', 'network']];
  for (const [name, field] of names) if (draft[field]) query.set(name, draft[field]);
  return `${origin}/new?${query}`;
}

export function fromBuild(build: Build): Draft {
  return {
    repository_url: build.repository_url,
    commit: build.commit,
    command: build.command,
    image: build.image,
    env: '',
    labels: build.labels.join(', '),
    timeout: String(build.timeout_seconds),
    limits: limits.written(build.limits),
    network: build.network === 'none' ? 'none' : '',
  };
}

/** What is wrong with a field before the coordinator is asked. */
export interface Mistake {
  field: string;
  message: string;
}

export function toNewBuild(draft: Draft): NewBuild | Mistake {
  const env = variables(draft.env);
  const timeout = seconds(draft.timeout);
  if ('message' in env) return env;
  if (typeof timeout === 'object') return timeout;
  const held = limits.read(draft.limits);
  if ('message' in held) return held;
  const labels = labelsOf(draft.labels);
  return {
    commit: draft.commit.trim(),
    command: draft.command,
    ...(draft.repository_url.trim() && { repository_url: draft.repository_url.trim() }),
    ...(draft.image.trim() && { image: draft.image.trim() }),
    ...(draft.env.trim() && { env: env.values }),
    ...(labels.length && { labels }),
    ...(timeout !== undefined && { timeout_seconds: timeout }),
    ...(draft.limits.trim() && { limits: held }),
    ...(draft.network && { network: draft.network }),
  };
}

/** The same for a rerun: what was emptied is as much a change as what was written. `env` is added to what there was. */
export function toEdits(draft: Draft): Edits | Mistake {
  const fresh = toNewBuild(draft);
  if ('message' in fresh) return fresh;
  return { limits: {}, network: 'bridge', ...fresh, labels: labelsOf(draft.labels) };
}

const labelsOf = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);

function variables(text: string): { values: Record<string, string> } | Mistake {
  const values: Record<string, string> = {};
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue;
    const at = line.indexOf('=');
    if (at < 1) return { field: 'env', message: `“${line.trim()}” has no value: write NAME=value, one in a line.` };
    values[line.slice(0, at).trim()] = line.slice(at + 1);
  }
  return { values };
}

/** `90`, `90s`, `15m`, `2h`, `1d` as seconds. */
function seconds(text: string): number | undefined | Mistake {
  if (text.trim() === '') return undefined;
  const found = /^(\d+)\s*([smhd]?)$/.exec(text.trim());
  if (!found) return { field: 'timeout_seconds', message: 'Write a duration such as 90s, 15m or 2h.' };
  return Number(found[1]) * { '': 1, s: 1, m: 60, h: 3600, d: 86_400 }[found[2] as '' | 's' | 'm' | 'h' | 'd'];
}
