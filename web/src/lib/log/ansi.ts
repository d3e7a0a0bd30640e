/**
 * What a terminal would show of a line, as pieces of text with a style. Never markup: pieces become text nodes.
 * Knows colours (16, 256, true colour), bold, dim, italic, underline, inverse, and `\r` that begins a line anew.
 */

export type Colour = number | string;

export interface Style {
  fg?: Colour;
  bg?: Colour;
  bold?: true;
  dim?: true;
  italic?: true;
  underline?: true;
  inverse?: true;
}

export interface Piece {
  text: string;
  style: Style;
}

// Sequences: CSI with its numbers, whatever else, and a letter; strings (OSC, DCS, SOS, PM, APC) up to BEL or ST; ESC with what stands
// between and one character. What is not finished ends with the line.
const ESCAPE = /\x1b(?:\[([0-?]*)([ -?]*)([@-~])?|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)/g;
const INVISIBLE = /[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]/g;

/** The pieces of a line, and the style that the next line would begin with. */
export function parse(line: string, from: Style = {}): { pieces: Piece[]; style: Style } {
  const shown = overwritten(line);
  if (!shown.includes('\x1b')) return { pieces: piece(shown, from), style: from };
  const pieces: Piece[] = [];
  let style = from;
  let at = 0;
  for (const found of shown.matchAll(ESCAPE)) {
    pieces.push(...piece(shown.slice(at, found.index), style));
    at = found.index + found[0].length;
    if (found[3] === 'm' && !found[2]) style = restyled(style, found[1] ?? '');
  }
  pieces.push(...piece(shown.slice(at), style));
  return { pieces, style };
}

/** The text of a line without what a terminal would not show. */
export function plain(line: string): string {
  return parse(line).pieces.map((piece) => piece.text).join('');
}

function piece(text: string, style: Style): Piece[] {
  const visible = text.replace(INVISIBLE, '');
  return visible === '' ? [] : [{ text: visible, style }];
}

/** Progress bars write a line again and again after `\r`: what was written last is what is left of it, in the style set before. */
function overwritten(line: string): string {
  const parts = line.replace(/\r+$/, '').split('\r');
  if (parts.length === 1) return parts[0]!;
  const styles = parts.slice(0, -1).flatMap((part) => part.match(ESCAPE) ?? []).filter((escape) => /^\x1b\[.*m$/.test(escape));
  return styles.join('') + parts[parts.length - 1]!;
}

function restyled(before: Style, parameters: string): Style {
  const codes = parameters.split(';').flatMap(ungrouped);
  let style: Style = { ...before };
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at]!;
    if (code === 38 || code === 48) {
      const [colour, used] = extended(codes.slice(at + 1));
      at += used;
      if (colour !== undefined) style[code === 38 ? 'fg' : 'bg'] = colour;
    } else {
      style = simple(style, code);
    }
  }
  return style;
}

/** Numbers joined by colons belong together: a colour with the name of its space left out, or a kind of underline. */
function ungrouped(group: string): number[] {
  const [code = 0, kind = 0, ...rest] = group.split(':').map(Number);
  if (!group.includes(':')) return [code];
  if (code === 38 || code === 48) return kind === 2 ? [code, kind, ...rest.slice(-3)] : [code, kind, ...rest.slice(0, 1)];
  return [code === 4 && kind === 0 ? 24 : code];
}

function simple(style: Style, code: number): Style {
  const { fg, bg, bold, dim, italic, underline, inverse, ...rest } = style;
  const all = { fg, bg, bold, dim, italic, underline, inverse };
  const set = (change: Partial<Record<keyof Style, unknown>>): Style => {
    const merged = Object.entries({ ...all, ...change }).filter(([, value]) => value !== undefined);
    return { ...rest, ...Object.fromEntries(merged) };
  };
  if (code === 0) return {};
  if (code === 1) return set({ bold: true });
  if (code === 2) return set({ dim: true });
  if (code === 3) return set({ italic: true });
  if (code === 4) return set({ underline: true });
  if (code === 7) return set({ inverse: true });
  if (code === 22) return set({ bold: undefined, dim: undefined });
  if (code === 23) return set({ italic: undefined });
  if (code === 24) return set({ underline: undefined });
  if (code === 27) return set({ inverse: undefined });
  if (code >= 30 && code <= 37) return set({ fg: code - 30 });
  if (code === 39) return set({ fg: undefined });
  if (code >= 40 && code <= 47) return set({ bg: code - 40 });
  if (code === 49) return set({ bg: undefined });
  if (code >= 90 && code <= 97) return set({ fg: code - 82 });
  if (code >= 100 && code <= 107) return set({ bg: code - 92 });
  return style;
}

/** A colour after 38 or 48, and how many numbers it took. */
function extended(codes: number[]): [Colour | undefined, number] {
  const byte = (value: number | undefined) => Math.min(255, Math.max(0, value || 0));
  if (codes[0] === 5) return [codes[1] === undefined ? undefined : indexed(byte(codes[1])), 2];
  if (codes[0] === 2) return [`rgb(${byte(codes[1])}, ${byte(codes[2])}, ${byte(codes[3])})`, 4];
  return [undefined, 1];
}

/** The first sixteen follow the theme; the others are what they are. */
function indexed(index: number): Colour {
  if (index < 16) return index;
  if (index >= 232) {
    const grey = 8 + 10 * (index - 232);
    return `rgb(${grey}, ${grey}, ${grey})`;
  }
  const level = (part: number) => (part === 0 ? 0 : 55 + 40 * part);
  const cube = index - 16;
  return `rgb(${level(Math.floor(cube / 36))}, ${level(Math.floor(cube / 6) % 6)}, ${level(cube % 6)})`;
}
