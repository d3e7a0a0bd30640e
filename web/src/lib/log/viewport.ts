/**
 * Which lines of a long log are on the screen, from how far it is scrolled.
 *
 * The point that is a share `p` down the whole log is drawn a share `p` down the window. With lines of one height that
 * is ordinary scrolling. It also holds for wrapped lines, whose heights nobody knows before they are drawn, and for
 * logs so long that the browser's tallest element (33,554,428 px in Chromium) is too short for them.
 */
export const ROW = 20;
const HEIGHT_MAX = 30_000_000;

export interface View {
  /** The line at the anchor, with its fraction, counted from 0. */
  anchor: number;
  /** Where in the window the anchor is drawn, in pixels. */
  y: number;
  /** The lines to draw: from `first` up to, and without, `end`. */
  first: number;
  end: number;
}

/** How tall the whole log is to scroll through. */
export function scrollHeight(lines: number, height: number): number {
  return Math.max(height, Math.min(lines * ROW, HEIGHT_MAX));
}

export function view(lines: number, scrollTop: number, height: number): View {
  const range = scrollHeight(lines, height) - height;
  const share = range > 0 ? Math.min(1, Math.max(0, scrollTop / range)) : 0;
  const anchor = share * lines;
  const y = share * height;
  const above = Math.ceil(y / ROW) + 4;
  const below = Math.ceil((height - y) / ROW) + 4;
  const at = Math.min(Math.floor(anchor), Math.max(0, lines - 1));
  return { anchor, y, first: Math.max(0, at - above), end: Math.min(lines, at + below + 1) };
}

/** How far to scroll so that a line, counted from 0, is in the middle of the window. */
export function scrollTo(line: number, lines: number, height: number): number {
  const whole = scrollHeight(lines, height);
  const range = whole - height;
  if (range <= 0) return 0;
  // In a log of `lines × ROW` pixels the line's middle would come to the window's middle.
  const full = lines * ROW - height;
  const wanted = (line + 0.5) * ROW - height / 2;
  return Math.min(range, Math.max(0, (wanted / full) * range));
}
