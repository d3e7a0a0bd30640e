/** Which builds are listed: as the address bar writes it, as the API asks for it, and as a change is judged by it. */
import type { Build, Status } from '../api/client';

export interface Filter {
  status: Status[];
  repository: string;
  q: string;
  /** The page begins below this number; the newest builds when it is empty. */
  before: string;
}

export interface Choice {
  id: string;
  label: string;
  status: Status[];
}

/** What one choice in the bar stands for. */
export const CHOICES: Choice[] = [
  { id: 'all', label: 'All', status: [] },
  { id: 'active', label: 'Active', status: ['queued', 'assigned', 'running', 'canceling'] },
  { id: 'succeeded', label: 'Succeeded', status: ['succeeded'] },
  { id: 'failed', label: 'Failed', status: ['failed', 'timed_out'] },
  { id: 'errored', label: 'Errored', status: ['errored'] },
  { id: 'canceled', label: 'Canceled', status: ['canceled'] },
];

export function read(query: URLSearchParams): Filter {
  const known = new Set(CHOICES.flatMap((choice) => choice.status));
  const status = (query.get('status') ?? '').split(',').filter((name): name is Status => known.has(name as Status));
  return {
    status,
    repository: query.get('repository') ?? '',
    q: query.get('q') ?? '',
    before: /^\d+$/.test(query.get('before') ?? '') ? query.get('before')! : '',
  };
}

/** The address of the list with this filter. */
export function write(filter: Filter): string {
  const query = new URLSearchParams();
  if (filter.status.length) query.set('status', filter.status.join(','));
  if (filter.repository) query.set('repository', filter.repository);
  if (filter.q) query.set('q', filter.q);
  if (filter.before) query.set('before', filter.before);
  const text = query.toString().replaceAll('%2C', ',');
  return text ? `/?${text}` : '/';
}

export function choiceOf(filter: Filter): string | null {
  const key = [...filter.status].sort().join();
  return CHOICES.find((choice) => [...choice.status].sort().join() === key)?.id ?? null;
}

export const isNarrow = (filter: Filter): boolean => filter.status.length > 0 || filter.repository !== '' || filter.q !== '';

/** Whether the coordinator would list this build, whatever the page. */
export function matches(build: Build, filter: Filter): boolean {
  if (filter.status.length && !filter.status.includes(build.status)) return false;
  if (filter.repository && build.repository_url !== filter.repository) return false;
  if (!filter.q) return true;
  const lower = (text: string) => text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
  const wanted = lower(filter.q);
  return [build.repository_url, build.commit, build.command].some((text) => lower(text).includes(wanted));
}
