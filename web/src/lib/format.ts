/** Durations, moments and sizes as people read them. */

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

export function duration(ms: number): string {
  const whole = Math.max(0, ms);
  if (whole < SECOND) return `${Math.round(whole)} ms`;
  if (whole < 10 * SECOND) return `${(Math.floor(whole / 100) / 10).toFixed(1)} s`;
  if (whole < MINUTE) return `${Math.floor(whole / SECOND)} s`;
  const two = (part: number) => String(Math.floor(part)).padStart(2, '0');
  if (whole < HOUR) return `${Math.floor(whole / MINUTE)}m ${two((whole % MINUTE) / SECOND)}s`;
  if (whole < DAY) return `${Math.floor(whole / HOUR)}h ${two((whole % HOUR) / MINUTE)}m`;
  return `${Math.floor(whole / DAY)}d ${two((whole % DAY) / HOUR)}h`;
}

/** A time limit, in the largest unit that fits: `90 s`, `15 min`, `2 h`. */
export function limit(seconds: number): string {
  const units: [number, string][] = [[86_400, 'd'], [3600, 'h'], [60, 'min']];
  const fits = units.find(([size]) => seconds >= size && seconds % size === 0);
  return fits ? `${seconds / fits[0]} ${fits[1]}` : seconds < 120 ? `${seconds} s` : duration(seconds * SECOND);
}

/** A duration that is still growing: whole seconds, so that it does not flicker. */
export function growing(ms: number): string {
  return ms < 10 * SECOND ? `${Math.max(0, Math.floor(ms / SECOND))} s` : duration(ms);
}

export function ago(at: number, now: number): string {
  const passed = now - at;
  if (passed < 45 * SECOND) return 'just now';
  if (passed < HOUR) return `${Math.max(1, Math.round(passed / MINUTE))} min ago`;
  if (passed < DAY) return `${Math.round(passed / HOUR)} h ago`;
  if (passed < 30 * DAY) return passed < 1.5 * DAY ? 'yesterday' : `${Math.round(passed / DAY)} days ago`;
  return new Date(at).toLocaleDateString(undefined, { dateStyle: 'medium' });
}

/** How long until then: `in 3 h`, `in 27 days`. What is over is told as such. */
export function until(at: number, now: number): string {
  const left = at - now;
  if (left <= 0) return 'over';
  if (left < HOUR) return `in ${Math.max(1, Math.round(left / MINUTE))} min`;
  if (left < 2 * DAY) return `in ${Math.round(left / HOUR)} h`;
  return `in ${Math.round(left / DAY)} days`;
}

export function moment(at: number): string {
  return new Date(at).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
}

export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  const units = ['kB', 'MB', 'GB'];
  let value = count;
  let unit = 'B';
  for (const next of units) {
    if (value < 999.5) break;
    value /= 1000;
    unit = next;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

export function count(number: number): string {
  return number.toLocaleString('en').replaceAll(',', '\u2009');
}

/** What the coordinator says, as the sentence that it is. */
export const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** How far into a log a line came: `4:07.3`. */
export function offset(ms: number): string {
  const whole = Math.max(0, ms);
  const two = (part: number) => String(Math.floor(part)).padStart(2, '0');
  const tenth = Math.floor((whole % SECOND) / 100);
  const hours = whole >= HOUR ? `${Math.floor(whole / HOUR)}:` : '';
  const minutes = Math.floor((whole % HOUR) / MINUTE);
  return `${hours}${hours ? two(minutes) : minutes}:${two((whole % MINUTE) / SECOND)}.${tenth}`;
}
