import { describe, expect, test } from 'vitest';
import { ago, bytes, duration, growing, limit, offset, until } from './format';

test.each([[0, '0 ms'], [999, '999 ms'], [1000, '1.0 s'], [9949, '9.9 s'], [59_999, '59 s'], [61_000, '1m 01s'], [3_660_000, '1h 01m'], [90_000_000, '1d 01h'], [-5, '0 ms']])('%d ms last %s', (ms, text) => {
  expect(duration(ms)).toBe(text);
});
test('what grows is told in whole seconds', () => expect([growing(900), growing(9900), growing(61_000)]).toEqual(['0 s', '9 s', '1m 01s']));
test.each([[3, '3 s'], [90, '90 s'], [900, '15 min'], [3600, '1 h'], [86_400, '1 d'], [3700, '1h 01m']])('a limit of %d s is %s', (seconds, text) => expect(limit(seconds)).toBe(text));
test.each([[0, '0 B'], [999, '999 B'], [1500, '1.5 kB'], [104_857_600, '105 MB'], [999_999, '1.0 MB']])('%d bytes are %s', (count, text) => expect(bytes(count)).toBe(text));
test('a line is placed in its log', () => expect([offset(-1), offset(7350), offset(3_661_200)]).toEqual(['0:00.0', '0:07.3', '1:01:01.2']));
describe('how long ago', () => {
  const now = Date.UTC(2026, 0, 10);
  test.each([[10_000, 'just now'], [60_000, '1 min ago'], [3_600_000, '1 h ago'], [90_000_000, 'yesterday'], [4 * 86_400_000, '4 days ago']])('%d ms', (ms, text) => expect(ago(now - ms, now)).toBe(text));
});
describe('how long until then', () => {
  test.each([[-1, 'over'], [20_000, 'in 1 min'], [3 * 3_600_000, 'in 3 h'], [30 * 86_400_000, 'in 30 days']])('%d ms', (ms, text) => expect(until(ms, 0)).toBe(text));
});
