import { describe, expect, test } from 'vitest';
import { parse, plain } from './ansi';
import { FETCH, KnownLines } from './lines';
import { chosen, readRange, writeRange } from './place';
import { gap, spans } from './row';
import { ROW, scrollHeight, scrollTo, view } from './viewport';

const line = (number: number, text = '', time_ms = 0) => ({ number, text, time_ms, stream: 'stdout' as const });

describe('what a terminal would show', () => {
  test('colours and styles are pieces of text', () => {
    expect(parse('\x1b[1;31mred\x1b[0m plain').pieces).toEqual([
      { text: 'red', style: { fg: 1, bold: true } },
      { text: ' plain', style: {} },
    ]);
    expect(parse('\x1b[38;5;196mx').pieces[0]!.style.fg).toBe('rgb(255, 0, 0)');
    expect(parse('\x1b[38;2;1;2;300mx').pieces[0]!.style.fg).toBe('rgb(1, 2, 255)');
    expect(parse('\x1b[38:2::1:2:3;4:3mx').pieces[0]!.style).toEqual({ fg: 'rgb(1, 2, 3)', underline: true });
    expect(parse('\x1b[97mx\x1b[39my').pieces).toEqual([{ text: 'x', style: { fg: 15 } }, { text: 'y', style: {} }]);
  });
  test('what writes a line again leaves what was written last', () => {
    expect(plain('10 %\r50 %\r100 %')).toBe('100 %');
    expect(plain('windows\r')).toBe('windows');
  });
  test('what is no text is not shown, and nothing is markup', () => {
    expect(plain('a\x07b\x1b]0;title\x07c\x1b[2Kd\x1b(Be\x1bP1$r0m\x1b\\f')).toBe('abcdef');
    expect(parse('<img src=x onerror=alert(1)>').pieces).toEqual([{ text: '<img src=x onerror=alert(1)>', style: {} }]);
    expect(plain('broken \x1b[31')).toBe('broken ');
  });
  test('a colour may only be a number or three', () => {
    for (const evil of ['\x1b[38;2;url(x);0;0mx', '\x1b[38;5;999999mx', '\x1b[38mx', '\x1b[48;2mx']) {
      for (const { style } of parse(evil).pieces) expect(String(style.fg ?? style.bg ?? 0)).toMatch(/^(\d+|rgb\(\d+, \d+, \d+\))$/);
    }
  });
});

describe('a row', () => {
  test('marks what was searched, within what a terminal shows', () => {
    const found = spans(line(1, 'an \x1b[31mERROR\x1b[0m here'), 'error');
    expect(found.map(({ text, names }) => [text, names])).toEqual([['an ', ''], ['ERROR', 'match'], [' here', '']]);
  });
  test('tells another stream within it apart', () => {
    const mixed = { ...line(1, 'out '), rest: [{ stream: 'stderr' as const, text: 'err' }] };
    expect(spans(mixed, '').map(({ names }) => names)).toEqual(['', 'other']);
  });
  test('says how long nothing was said', () => {
    expect([gap(line(2, '', 7000), line(1, '', 0)), gap(line(2, '', 100), line(1, '', 0)), gap(line(2), undefined)]).toEqual(['+7.0 s', null, null]);
  });
});

describe('a place in a log', () => {
  test('is a link', () => {
    expect(readRange('#L7')).toEqual({ first: 7, last: 7 });
    expect(readRange('#L9-L3')).toEqual({ first: 3, last: 9 });
    expect([readRange('#L0'), readRange('#x'), readRange('')]).toEqual([null, null, null]);
    expect([writeRange({ first: 7, last: 7 }), writeRange({ first: 3, last: 9 })]).toEqual(['#L7', '#L3-L9']);
  });
  test('grows with Shift', () => {
    expect(chosen({ first: 5, last: 5 }, 9, true)).toEqual({ first: 5, last: 9 });
    expect(chosen({ first: 5, last: 9 }, 2, true)).toEqual({ first: 2, last: 9 });
    expect(chosen({ first: 5, last: 9 }, 2, false)).toEqual({ first: 2, last: 2 });
  });
});

describe('the lines that are seen', () => {
  const height = 400;
  test('are those that ordinary scrolling shows', () => {
    for (const top of [0, 33, 5000, 1000 * ROW - height]) {
      const seen = view(1000, top, height);
      expect(seen.anchor * ROW - seen.y).toBeCloseTo(top);
      expect(seen.first).toBeLessThanOrEqual(Math.floor(top / ROW));
      expect(seen.end).toBeGreaterThanOrEqual(Math.min(1000, Math.ceil((top + height) / ROW)));
    }
  });
  test('are few, however many there are, and no element is too tall for a browser', () => {
    const lines = 50_000_000;
    expect(scrollHeight(lines, height)).toBeLessThan(33_554_428);
    for (const share of [0, 0.3, 1]) {
      const seen = view(lines, share * (scrollHeight(lines, height) - height), height);
      expect(seen.end - seen.first).toBeLessThan(60);
      expect(seen.end).toBeLessThanOrEqual(lines);
    }
    expect(view(lines, 1e12, height).end).toBe(lines);
  });
  test('have a wanted line in their middle', () => {
    for (const lines of [1000, 5_000_000]) {
      const wanted = Math.floor(lines / 3);
      const { anchor, y } = view(lines, scrollTo(wanted, lines, height), height);
      expect((wanted + 0.5 - anchor) * ROW + y).toBeCloseTo(height / 2, 0);
    }
    expect(scrollTo(5, 10, height)).toBe(0);
  });
  test('of an empty log are none', () => expect(view(0, 0, height)).toMatchObject({ first: 0, end: 0 }));
});

describe('the lines that are known', () => {
  test('what is missing is asked for with what is around it', () => {
    const known = new KnownLines();
    expect(known.missing(1, 20, 10)).toEqual({ from: 1, count: 10 });
    expect(known.missing(5000, 5020, 1_000_000)).toEqual({ from: 4811, count: FETCH });
    known.add(Array.from({ length: 30 }, (_, at) => line(4995 + at)));
    expect(known.missing(5000, 5020, 1_000_000)).toBeNull();
  });
  test('what is far away is forgotten', () => {
    const known = new KnownLines();
    for (let from = 1; from < 60_000; from += 400) known.add(Array.from({ length: 400 }, (_, at) => line(from + at)));
    expect(known.get(1)).toBeUndefined();
    expect(known.get(59_999)).toBeDefined();
  });
});
