/** The arithmetic of plots: scales with round numbers, and lines with gaps where nothing is known. */

/** Round numbers from 0 up to at least `max`, about `wanted` of them. */
export function ticks(max: number, wanted = 3): number[] {
  if (max <= 0) return [0, 1];
  const rough = max / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough)!;
  return upTo(max, Math.max(1, step));
}

const STEPS_MS = [100, 200, 500, 1e3, 2e3, 5e3, 10e3, 20e3, 30e3, 60e3, 120e3, 300e3, 600e3, 1200e3, 1800e3, 3600e3, 7200e3, 14400e3, 43200e3, 86400e3];

/** The same for durations, whose round numbers are those of a clock. */
export function durationTicks(max: number, wanted = 3): number[] {
  if (max <= 0) return [0, 1000];
  const step = STEPS_MS.find((step) => step >= max / wanted) ?? Math.ceil(max / wanted / 86400e3) * 86400e3;
  return upTo(max, step);
}

function upTo(max: number, step: number): number[] {
  return Array.from({ length: Math.ceil(max / step) + 1 }, (_, at) => at * step);
}

/** An SVG path through the points that are known; it begins anew after a gap. */
export function path(points: ({ x: number; y: number } | null)[]): string {
  let text = '';
  let before = false;
  for (const point of points) {
    if (point) text += `${before ? 'L' : 'M'}${point.x.toFixed(1)} ${point.y.toFixed(1)}`;
    before = point !== null;
  }
  return text;
}
