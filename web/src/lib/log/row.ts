/** A line of a log as it is drawn: pieces of text, each with names for its style and colours. Text only, never markup. */
import type { LogLine } from '../api/client';
import { duration } from '../format';
import { parse, type Colour, type Style } from './ansi';

/** A pause that is worth a word. */
const GAP_MS = 5000;

export interface Span {
  text: string;
  names: string;
  colour: string | null;
  ground: string | null;
}

/** How long nothing was said before this line, when that is long. */
export function gap(line: LogLine | undefined, before: LogLine | undefined): string | null {
  if (!line || !before) return null;
  const passed = line.time_ms - before.time_ms;
  return passed >= GAP_MS ? `+${duration(passed)}` : null;
}

export function spans(line: LogLine, needle: string): Span[] {
  let style: Style = {};
  const parts = [{ stream: line.stream, text: line.text }, ...(line.rest ?? [])];
  return parts.flatMap((part) => {
    const parsed = parse(part.text, style);
    style = parsed.style;
    const other = part.stream === line.stream ? '' : 'other';
    return parsed.pieces.flatMap((piece) => marked(piece.text, needle).map(({ text, match }) => span(text, piece.style, [other, match ? 'match' : ''])));
  });
}

function span(text: string, style: Style, more: string[]): Span {
  const named = (['bold', 'dim', 'italic', 'underline'] as const).filter((name) => style[name]);
  let [colour, ground] = [css(style.fg), css(style.bg)];
  if (style.inverse) [colour, ground] = [ground ?? 'var(--surface)', colour ?? 'var(--text)'];
  // A search's mark has colours of its own.
  if (more.includes('match')) [colour, ground] = [null, null];
  return { text, names: [...named, ...more].filter(Boolean).join(' '), colour, ground };
}

function css(colour: Colour | undefined): string | null {
  if (colour === undefined) return null;
  return typeof colour === 'number' ? `var(--ansi-${colour})` : colour;
}

/** The text, cut where `needle` begins and ends, whatever the case. */
function marked(text: string, needle: string): { text: string; match: boolean }[] {
  if (needle === '') return [{ text, match: false }];
  const lower = text.toLowerCase();
  const wanted = needle.toLowerCase();
  // Some letters change their length with their case: then nothing is marked within the line.
  if (lower.length !== text.length) return [{ text, match: false }];
  const parts: { text: string; match: boolean }[] = [];
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    if (at > from) parts.push({ text: text.slice(from, at), match: false });
    parts.push({ text: text.slice(at, at + wanted.length), match: true });
    from = at + wanted.length;
  }
  if (from < text.length) parts.push({ text: text.slice(from), match: false });
  return parts;
}
