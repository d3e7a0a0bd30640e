import { expect, test, vi } from 'vitest';
import { listen } from './keys';
import { durationTicks, path, ticks } from './plot';
import { match } from './routes';

test('each address has its page', () => {
  expect(match('/')).toEqual({ name: 'builds' });
  expect(match('/builds/57')).toEqual({ name: 'build', id: '57' });
  expect(match('/queue/').name).toBe('queue');
  expect(match('/settings')).toEqual({ name: 'settings', part: 'account' });
  expect(match('/settings/tokens')).toEqual({ name: 'settings', part: 'tokens' });
  expect([match('/settings/nothing').name, match('/nothing').name]).toEqual(['nowhere', 'nowhere']);
});

test('scales have round numbers, and reach the top', () => {
  expect(ticks(9)).toEqual([0, 5, 10]);
  expect(ticks(1)).toEqual([0, 1]);
  expect(ticks(0)).toEqual([0, 1]);
  expect(durationTicks(61_000)).toEqual([0, 30_000, 60_000, 90_000]);
});

test('a line begins anew after a gap', () => {
  expect(path([{ x: 0, y: 1 }, { x: 1, y: 2 }, null, { x: 3, y: 4 }])).toBe('M0.0 1.0L1.0 2.0M3.0 4.0');
});

test('keys do something, but not while somebody types', () => {
  const [open, go] = [vi.fn(), vi.fn()];
  const forget = listen({ n: open, 'g q': go });
  const press = (key: string, target: EventTarget = document.body, more = {}) => target.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, ...more }));
  const input = document.body.appendChild(document.createElement('input'));
  press('n', input);
  press('n', document.body, { ctrlKey: true });
  expect(open).not.toHaveBeenCalled();
  press('n');
  press('g');
  press('q');
  expect([open.mock.calls.length, go.mock.calls.length]).toEqual([1, 1]);
  forget();
  press('n');
  expect(open).toHaveBeenCalledTimes(1);
});
