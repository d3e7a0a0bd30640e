/** Logs are foreign bytes: whatever they are, the parser neither fails, nor loses text, nor makes anything up. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import corpus from './ansi.corpus.json';
import { parse, plain } from './ansi';
import { spans } from './row';

/** More of them: `CAISSON_FUZZ_RUNS=1000000 npx vitest run src/lib/log --testTimeout 0`. */
const RUNS = Number(process.env.CAISSON_FUZZ_RUNS ?? 3000);

/** Half of it is what parsers trip over, the other half is anything that can be decoded from bytes. */
const bits = fc.oneof(
  fc.constantFrom('\x1b', '\x1b[', '\x1b]', '\x1b(', '\x1bP', '\x1b\\', '\x07', '\r', '\b', '\t', '\x9b', '\x00', 'm', ';', ':', '0', '31', '38;5;', '48;2;', '9999999999', '?25h', '<b>', '&amp;', '\u202e', 'é', '漢', '👩‍🚀', '\ud800'),
  fc.uint8Array({ maxLength: 12 }).map((bytes) => new TextDecoder().decode(bytes)),
  fc.string({ unit: 'binary', maxLength: 8 }),
);
const line = fc.array(bits, { maxLength: 40 }).map((parts) => parts.join('').replaceAll('\n', ''));
const always = (holds: (line: string) => void) => fc.assert(fc.property(line, (line) => { holds(line); }), { examples: corpus.map((line) => [line] as [string]), numRuns: RUNS });

/** The same as the parser, one character after the other, as the standard tells it. */
function shown(line: string): string {
  let text = '';
  let state: 'text' | 'escape' | 'numbers' | 'between' | 'string' | 'string escape' = 'text';
  for (const char of line.replace(/\r+$/, '').split('\r').at(-1)!.split('')) {
    if (state === 'string escape') {
      state = 'text';
      if (char === '\\') continue;
      // It was no end of the string, but another sequence.
      state = 'escape';
    }
    if (state === 'string' && char !== '\x1b') {
      if (char === '\x07') state = 'text';
      continue;
    }
    if (state === 'escape' && char === '[') state = 'numbers';
    else if (state === 'escape' && ']PX^_'.includes(char)) state = 'string';
    else if (state === 'numbers' && char >= ' ' && char <= '?') continue;
    else if ((state === 'escape' || state === 'between') && char >= ' ' && char <= '/') state = 'between';
    else if ((state === 'escape' || state === 'between') && char >= '0' && char <= '~') state = 'text';
    else if (state === 'numbers' && char >= '@' && char <= '~') state = 'text';
    else if (char === '\x1b') state = state === 'string' ? 'string escape' : 'escape';
    else {
      state = 'text';
      if (char === '\t' || (char >= ' ' && char < '\x7f') || char > '\x9f') text += char;
    }
  }
  return text;
}

test('what is shown is what a terminal would show', () => always((line) => expect(plain(line)).toBe(shown(line))));

test('text that controls nothing stays as it is', () =>
  always((line) => { const text = line.replace(/[\x00-\x08\x0a-\x1f\x7f-\x9f]/g, ''); expect(plain(text)).toBe(text); }));

test('a style is one of a few known things', () =>
  always((line) => {
    for (const { fg, bg, ...rest } of [...parse(line).pieces.map((piece) => piece.style), parse(line).style]) {
      for (const colour of [fg, bg]) expect(String(colour ?? 0)).toMatch(/^(\d|1[0-5]|rgb\(\d{1,3}, \d{1,3}, \d{1,3}\))$/);
      expect(Object.entries(rest).every(([name, on]) => ['bold', 'dim', 'italic', 'underline', 'inverse'].includes(name) && on === true)).toBe(true);
    }
  }));

test('a row says the same, whatever is searched in it', () =>
  fc.assert(
    fc.property(line, fc.string({ maxLength: 3 }), (text, needle) => {
      const row = spans({ number: 1, time_ms: 0, stream: 'stdout', text }, needle);
      expect(row.map((span) => span.text).join('')).toBe(plain(text));
    }),
  ));

test('a line of a megabyte takes no time, however it is made', () => {
  for (const part of ['\x1b', '\x1b[', '\x1b[0;', '\x1b]', '\r', '\x1b[31mx', '\x1b(', '\x1b] ']) {
    const begun = performance.now();
    plain(part.repeat(1_000_000 / part.length));
    expect(performance.now() - begun, JSON.stringify(part)).toBeLessThan(2000);
  }
});
