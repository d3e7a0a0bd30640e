import { expect, test } from 'vitest';
import { actorName, asked, GROUPS, read, subject, write } from './audit';
import { seconds } from './lifetimes';
import { mayDo, ROLES, rolesUpTo } from './roles';
import { runnerCommand } from './runner';

test('each role may do what those before it may, and gives away no more than itself', () => {
  const order = ROLES.map(({ role }) => role);
  for (const [at, own] of order.entries()) {
    expect(order.filter((needed) => mayDo(own, needed))).toEqual(order.slice(0, at + 1));
    expect(rolesUpTo(own)).toEqual(order.slice(0, at + 1));
  }
});

test('a part of the audit log is an address', () => {
  const filter = { group: 'refusals', actor: 'anna b', q: 'x&y', cursor: '17' };
  expect(read(new URL(write(filter), 'http://x').searchParams)).toEqual(filter);
  expect(write({ group: 'all', actor: '', q: '', cursor: '' })).toBe('/settings/audit');
  expect(read(new URLSearchParams('show=nothing')).group).toBe('all');
});

test('it is asked for by what is chosen', () => {
  expect(asked({ group: 'builds', actor: 'anna', q: '', cursor: '' })).toEqual({ limit: 50, action: 'submit,rerun,cancel', actor: 'anna' });
  for (const { id } of GROUPS) expect(asked({ group: id, actor: '', q: '', cursor: '' }).limit).toBe(50);
});

test('an entry leads to what it is about, and somebody is always named', () => {
  expect(subject({ action: 'cancel', on: 'a/b' })).toBe('/builds/a%2Fb');
  expect([subject({ action: 'token_made', on: 'x' }), subject({ action: 'submit', on: '' })]).toEqual([null, null]);
  expect([actorName({ actor: 'anna', actor_kind: 'person' }), actorName({ actor: '', actor_kind: 'stranger' }), actorName({ actor: '', actor_kind: 'system' })]).toEqual(['anna', 'Somebody', 'system']);
});

test('what never ends says so by leaving it out', () => expect([seconds('7'), seconds('')]).toEqual([{ expires_in_seconds: 604_800 }, {}]));

test('a token is never an argument of a program', () => {
  const [keep, start] = runnerCommand('https://ci.example.org', 'secret').split('\n');
  expect(keep).toMatch(/^\(umask 077; echo 'secret' > runner-token\)$/);
  expect(start).toBe('caisson-runner --coordinator-url https://ci.example.org --token-file runner-token');
});
