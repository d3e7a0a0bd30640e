import { describe, expect, test } from 'vitest';
import { attempt, build } from '../../../tests/build';
import { curl } from './curl';
import { EMPTY, fromLink, remember, remembered, toEdits, toLink, toNewBuild } from './draft';
import { explain } from './explain';
import { matches, read, write, type Filter } from './filter';
import { apply, PAGE } from './list';
import { phases, widths } from './phases';
import { commandTitle, commitName, repositoryName } from './repository';

const all: Filter = { status: [], repository: '', q: '', before: '' };

describe('a filter', () => {
  test('is what the address says, and back', () => {
    const address = '/?status=failed,timed_out&repository=https%3A%2F%2Fx%2Fa.git&q=make+test&before=7';
    expect(write(read(new URLSearchParams(address.slice(2))))).toBe(address);
    expect(write(read(new URLSearchParams('status=nonsense&before=x')))).toBe('/');
  });
  test('judges a build as the coordinator does', () => {
    const one = build({ command: 'MAKE Test', status: 'failed' });
    expect(matches(one, { ...all, q: 'make t' })).toBe(true);
    expect(matches(one, { ...all, q: 'cargo' })).toBe(false);
    expect(matches(one, { ...all, status: ['queued'] })).toBe(false);
    expect(matches(one, { ...all, repository: 'https://example.org/other.git' })).toBe(false);
  });
});

describe('a page of builds', () => {
  const page = { builds: [build({ number: 5 }), build({ number: 3 })], next: null };
  const numbers = (listing: { builds: { number: number }[] }) => listing.builds.map((one) => one.number);

  test('takes a new build in at its place', () => {
    expect(numbers(apply(page, build({ number: 6 }), all))).toEqual([6, 5, 3]);
    expect(numbers(apply(page, build({ number: 4 }), all))).toEqual([5, 4, 3]);
  });
  test('shows a known build as it has become, and lets go of one that fits no more', () => {
    expect(apply(page, build({ number: 3, status: 'running' }), all).builds[1]!.status).toBe('running');
    expect(numbers(apply(page, build({ number: 3, status: 'running' }), { ...all, status: ['queued'] }))).toEqual([5]);
  });
  test('does not grow beyond its size, and says where the next begins', () => {
    const full = { builds: Array.from({ length: PAGE }, (_, at) => build({ number: 100 - at })), next: null };
    const grown = apply(full, build({ number: 101 }), all);
    expect([grown.builds.length, grown.builds[0]!.number, grown.next]).toEqual([PAGE, 101, String(102 - PAGE)]);
  });
  test('of the past takes nothing new in', () => {
    expect(apply(page, build({ number: 9 }), { ...all, before: '6' })).toBe(page);
    expect(apply({ ...page, next: '3' }, build({ number: 2 }), all).builds.length).toBe(2);
  });
});

describe('why a build ended', () => {
  test.each([
    [{ status: 'failed', exit_code: 7 }, 'command', 'Exit code 7'],
    [{ status: 'failed', exit_code: 137, reason: 'killed_by_signal' }, 'command', 'Killed by SIGKILL'],
    [{ status: 'failed', exit_code: 137, reason: 'out_of_memory' }, 'command', 'Out of memory'],
    [{ status: 'failed', exit_code: 137, reason: 'disk_limit' }, 'command', 'Too much written'],
    [{ status: 'timed_out', timeout_seconds: 90 }, 'command', 'Not done within 90 s'],
    [{ status: 'errored', reason: 'commit_not_found' }, 'request', 'The commit was not found'],
    [{ status: 'errored', reason: 'runner_lost', attempt: 3 }, 'ci', 'The runner was lost, in 3 attempts'],
    [{ status: 'errored', reason: 'something_new' }, 'ci', 'It could not be run'],
  ] as const)('%o', (parts, fault, title) => {
    expect(explain(build(parts))).toMatchObject({ fault, title });
  });
  test('is not told of one that lives or went well', () => {
    expect([explain(build()), explain(build({ status: 'succeeded' }))]).toEqual([null, null]);
  });
});

describe('where the time went', () => {
  const now = Date.parse('2026-01-01T00:00:12Z');
  test('one that waits, waits until now', () => expect(phases(build(), undefined, now)).toEqual([{ name: 'waiting', ms: 12_000, live: true }]));
  test('one that runs has a run that grows', () => {
    const running = attempt({ started_at: '2026-01-01T00:00:05Z', phases: { clone: 900 } });
    expect(phases(build({ attempts: [running] }), running, now)).toEqual([
      { name: 'waiting', ms: 2000, live: false },
      { name: 'clone', ms: 900, live: false },
      { name: 'run', ms: 7000, live: true },
    ]);
  });
  test('a later attempt waited from the end of the one before', () => {
    const [first, second] = [attempt({ finished_at: '2026-01-01T00:00:04Z' }), attempt({ number: 2, assigned_at: '2026-01-01T00:00:09Z' })];
    expect(phases(build({ attempts: [first, second] }), second, now)[0]).toEqual({ name: 'waiting', ms: 5000, live: false });
  });
  test('each part can be seen, and all fill the bar', () => {
    const shares = widths([{ name: 'clone', ms: 1, live: false }, { name: 'run', ms: 100_000, live: false }]);
    expect(Math.min(...shares)).toBeGreaterThan(1);
    expect(shares.reduce((sum, share) => sum + share)).toBeCloseTo(100);
  });
});

describe('the form', () => {
  const draft = { ...EMPTY, repository_url: ' https://x/a.git ', commit: 'main', command: 'a && b' };
  test('sends what was filled in', () => {
    expect(toNewBuild({ ...draft, env: 'A=1\n\nB=x=y', labels: 'gpu, linux', timeout: '15m' })).toEqual({
      repository_url: 'https://x/a.git', commit: 'main', command: 'a && b', env: { A: '1', B: 'x=y' }, labels: ['gpu', 'linux'], timeout_seconds: 900,
    });
    expect(toNewBuild({ ...draft, limits: 'memory 512MiB, cpus 1.5', network: 'none' })).toMatchObject({
      limits: { memory_bytes: 536_870_912, cpus: 1.5 }, network: 'none',
    });
    expect(toNewBuild(draft)).not.toHaveProperty('image');
    expect(toEdits(draft)).toMatchObject({ labels: [], limits: {}, network: 'bridge' });
  });
  test('says what is wrong with a field', () => {
    expect(toNewBuild({ ...draft, env: 'A' })).toMatchObject({ field: 'env' });
    expect(toNewBuild({ ...draft, timeout: 'soon' })).toMatchObject({ field: 'timeout_seconds' });
  });
  test('is a link, and a link is the form', () => {
    const link = new URL(toLink(draft, 'http://ci'));
    expect(fromLink(link.searchParams)).toEqual(draft);
    expect(fromLink(new URLSearchParams('x=1'))).toBeNull();
  });
  test('remembers the last one, but no values of variables', () => {
    const kept = new Map<string, string>();
    remember({ setItem: (key, value) => void kept.set(key, value) }, { ...draft, env: 'SECRET=1' });
    expect(remembered({ getItem: (key) => kept.get(key) ?? null })).toEqual(draft);
    expect([...kept.values()].join()).not.toContain('SECRET');
    expect(remembered({ getItem: () => '{broken' })).toEqual(EMPTY);
  });
});

test('the curl line survives a shell', () => {
  const line = curl(build({ command: "echo 'it works'", env: ['A'] }), 'http://127.0.0.1:3000');
  expect(line).toContain(String.raw`echo '\''it works'\''`);
  expect(line).toContain('"env":{"A":"…"}');
});
test('names are short', () => {
  expect(repositoryName('https://example.org/team/app.git')).toBe('team/app');
  expect(repositoryName('git@example.org:team/app.git')).toBe('team/app');
  expect(commitName('a'.repeat(40))).toBe('aaaaaaaa');
  expect(commandTitle('\n  make\n\n  test\n')).toEqual({ first: 'make', more: 1 });
});
