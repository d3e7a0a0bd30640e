import { render, screen } from '@testing-library/svelte';
import { describe, expect, test, vi } from 'vitest';
import { attempt, build, runner } from '../../tests/build';
import Within from '../../tests/Within.svelte';
import type { Status } from '../lib/api/client';
import { LOOKS } from '../lib/builds/status';
import Field from './Field.svelte';
import LogRow from './LogRow.svelte';
import PhaseBar from './PhaseBar.svelte';
import RunnerCard from './RunnerCard.svelte';
import StatusLabel from './StatusLabel.svelte';
import Why from './Why.svelte';

test('a status is a word and a shape of its own, never a colour alone', () => {
  const drawn = (Object.keys(LOOKS) as Status[]).map((status) => {
    const { container, unmount } = render(StatusLabel, { status });
    const text = container.textContent;
    const shape = container.querySelector('svg')!.innerHTML;
    unmount();
    return `${text} ${shape}`;
  });
  expect(new Set(drawn).size).toBe(drawn.length);
});

test('a field tells what is wrong with it to everyone', () => {
  render(Field, { id: 'x', label: 'Commit', value: '', error: 'it is empty' });
  const input = screen.getByLabelText('Commit');
  expect(input.getAttribute('aria-invalid')).toBe('true');
  expect(document.getElementById(input.getAttribute('aria-describedby')!)!.textContent).toBe('it is empty');
});

test('it is told whose fault a failure is', () => {
  render(Within, { component: Why, given: { build: build({ status: 'errored', reason: 'engine_failed', message: 'the engine went away' }) } });
  expect(screen.getByText('The CI’s fault, not the code’s')).toBeTruthy();
  expect(screen.getByText('The engine went away')).toBeTruthy();
});

test('it is told how long a build runs, and how long it ran', () => {
  const say = (parts: object) => render(Within, { component: Why, given: { build: build({ started_at: '2026-01-01T00:00:03Z', ...parts }) } }).container.textContent!.trim();
  expect(say({ status: 'running' })).toBe('for 57 s');
  expect(say({ status: 'succeeded', finished_at: '2026-01-01T00:00:05.500Z' })).toBe('in 2.5 s');
});

test('phases are told as text too', () => {
  const ended = attempt({ phases: { clone: 1200, run: 61_000 }, outcome: { status: 'succeeded', reason: null, message: null, exit_code: 0 } });
  render(PhaseBar, { build: build({ attempts: [ended] }), attempt: ended, now: 0 });
  expect(screen.getByRole('list', { name: 'Where the time went' }).textContent).toMatch(/waiting\s+2\.0 s\s*clone\s+1\.2 s\s*run\s+1m 01s/);
});

test('a line of a log is text, whatever it says', () => {
  const text = '<img src=x onerror="alert(1)"> \x1b[31m<script>alert(2)</script>';
  const line = { number: 3, time_ms: 1500, stream: 'stderr' as const, text };
  const choose = vi.fn();
  const { container } = render(LogRow, { number: 3, line, before: undefined, begun: 0, choose, chosen: false, found: false, current: false, needle: '' });
  expect(container.querySelector('img, script')).toBeNull();
  expect(container.textContent).toContain('<script>alert(2)</script>');
  expect(container.textContent).toContain('stderr');
  screen.getByRole('link', { name: 'Line 3' }).click();
  expect(choose).toHaveBeenCalledWith(3, false);
});

describe('a runner', () => {
  const show = (parts = {}) => render(Within, { component: RunnerCard, given: { runner: runner(parts), drain: vi.fn() } }).container.textContent!;

  test('that can run no builds says why', () => {
    expect(show({ status: 'unhealthy', unhealthy: 'the disk is full: 12 MB are left' })).toMatch(/Unhealthy.*The disk is full: 12 MB are left.*given no builds/s);
  });
  test('has free places only where a build may take them', () => {
    const free = (status: string) => show({ status, capacity: 3, builds: ['a'] }).match(/Free/g)?.length ?? 0;
    expect([free('ready'), free('draining'), free('unhealthy'), free('disconnected')]).toEqual([2, 0, 0, 0]);
  });
  test('that is lost says for how long it has been silent', () => {
    expect(show({ status: 'disconnected' })).toMatch(/Last sign of life\s*10 s ago/);
    expect(show({ status: 'disconnected', last_seen_at: null })).toMatch(/not since the coordinator’s start/);
  });
  test('says what it could not remove', () => {
    expect(show()).toMatch(/Left behind\s*Nothing/);
    expect(show({ left_behind: 1, swept: 3 })).toMatch(/Left behind\s*1 thing of earlier builds, 3 swept up/);
  });
});
