/** The part of a log that a link names: `#L12` or `#L12-L20`. */
export interface Range {
  first: number;
  last: number;
}

export function readRange(hash: string): Range | null {
  const found = /^#L(\d{1,12})(?:-L?(\d{1,12}))?$/.exec(hash);
  if (!found) return null;
  const [one, two] = [Number(found[1]), Number(found[2] ?? found[1])];
  if (one < 1 || two < 1) return null;
  return { first: Math.min(one, two), last: Math.max(one, two) };
}

export function writeRange({ first, last }: Range): string {
  return first === last ? `#L${first}` : `#L${first}-L${last}`;
}

/** The range after a click on a line number: alone, or with Shift up to there. */
export function chosen(before: Range | null, line: number, extend: boolean): Range {
  if (!extend || !before) return { first: line, last: line };
  return line < before.first ? { first: line, last: before.last } : { first: before.first, last: line };
}
