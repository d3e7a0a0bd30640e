/** What a build is held to below what its runner allows: as people write it, and as the API has it. */
import type { Build } from '../api/client';
import type { Mistake } from './draft';

export type Limits = Build['limits'];

const KEYS = new Map<string, keyof Limits>([
  ['memory', 'memory_bytes'],
  ['cpus', 'cpus'],
  ['pids', 'pids'],
  ['nofile', 'nofile'],
  ['shm', 'shm_bytes'],
  ['disk', 'disk_bytes'],
  ['log', 'log_bytes'],
]);
/** Largest first. */
const UNITS: [string, number][] = [['TiB', 1024 ** 4], ['GiB', 1024 ** 3], ['MiB', 1024 ** 2], ['KiB', 1024], ['B', 1]];

const isSize = (key: keyof Limits): boolean => key.endsWith('_bytes');

/** `memory 512MiB, cpus 1.5`. */
export function written(limits: Limits): string {
  const parts = [...KEYS].flatMap(([name, key]) => {
    const value = limits[key];
    return value == null ? [] : [`${name} ${isSize(key) ? size(value) : value}`];
  });
  return parts.join(', ');
}

/** In the largest unit that it is a whole number of, so that it reads back as the same. */
function size(bytes: number): string {
  const [name, unit] = UNITS.find(([, unit]) => bytes % unit === 0) ?? ['B', 1];
  return `${bytes / unit}${name}`;
}

export function read(text: string): Limits | Mistake {
  const limits: Limits = {};
  for (const part of text.split(/[,\n]/).map((part) => part.trim()).filter(Boolean)) {
    const [, name = '', number = '', unit = ''] = /^(\w+)[\s=:]+(\d+(?:\.\d+)?)\s*(\w*)$/.exec(part) ?? [];
    const key = KEYS.get(name.toLowerCase());
    const factor = key && isSize(key) ? UNITS.find(([known]) => known.toLowerCase() === unit.toLowerCase())?.[1] : unit === '' ? 1 : undefined;
    if (!key || !factor) return { field: 'limits', message: `“${part}” is no limit: write such as memory 512MiB, cpus 1.5, pids 200.` };
    limits[key] = Number(number) * factor;
  }
  return limits;
}
