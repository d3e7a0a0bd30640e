import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { after, afterEach, before, test } from 'node:test';
import { becomes, copied, eventually, World } from './world.js';

let world;
before(async () => { world = await World.start({ settings: ['keep_alive.interval=1s', 'keep_alive.timeout=3s'] }); });
after(() => world?.stop());
afterEach(() => assert.deepEqual(world.complaints.splice(0), []));

const item = (page, list, text) => page.getByRole('list', { name: list, exact: true }).getByRole('listitem').filter({ hasText: text });
const status = (token) => fetch(`${world.base}/api/v1/builds`, { headers: { authorization: `Bearer ${token}` } }).then((answer) => answer.status);

test('a person is added, signs in, sees what a viewer may, and is refused the rest plainly', async () => {
  const admin = await world.person();
  await admin.goto('/settings/people');
  await admin.getByLabel('Name', { exact: true }).fill('Vera');
  await admin.getByLabel('Role', { exact: true }).selectOption('viewer');
  await admin.getByLabel('First password').fill('a long password');
  await admin.getByRole('button', { name: 'Add person' }).click();
  await admin.getByText('Expected 1 to 64 of a-z').waitFor();
  await admin.getByLabel('Name', { exact: true }).fill('vera');
  await admin.getByRole('button', { name: 'Add person' }).click();
  await item(admin, 'People', 'vera').waitFor();

  const { number } = await world.submit('true');
  await world.ended(number);
  const page = await world.stranger();
  await page.goto(`/builds/${number}`);
  await page.getByLabel('Name').fill('vera');
  await page.getByLabel('Password').fill('not this one');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('There is nobody of this name and password').waitFor();
  await page.getByLabel('Password').fill('a long password');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { name: `Build #${number}` }).waitFor();
  for (const name of ['Rerun', 'Cancel']) assert.equal(await page.getByRole('button', { name }).count(), 0, name);
  for (const name of ['Edit and rerun', 'New build']) assert.equal(await page.getByRole('link', { name }).count(), 0, name);
  await page.goto('/runners');
  await page.getByRole('heading', { name: 'host-1' }).waitFor();
  assert.equal(await page.getByRole('button', { name: /Drain/ }).count(), 0);
  await page.goto('/new');
  await page.getByText('You start no builds').waitFor();
  await page.goto('/settings');
  await becomes(() => page.getByRole('navigation', { name: 'Settings' }).getByRole('link').allTextContents(), ['Account', 'Tokens']);
  await page.goto('/settings/tokens');
  await becomes(() => page.getByLabel('Role').locator('option').allTextContents(), ['viewer']);
  // Tried anyway.
  await page.goto('/settings/people');
  await page.getByRole('alert').getByText('The people could not be loaded').waitFor();
  await page.getByText('This needs the role admin, and yours is viewer').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Add person' }).count(), 0);
});

test('who is given another role, kept out, or another password knows it at once', async () => {
  await world.ask('/users', 'POST', { name: 'omar', role: 'viewer', password: 'a long password' });
  const admin = await world.person();
  const omar = await world.person({}, { name: 'omar', password: 'a long password' });
  await omar.goto('/runners');
  await omar.getByRole('heading', { name: 'host-1' }).waitFor();
  await admin.goto('/settings/people');
  await admin.getByLabel('Role of omar').selectOption('operator');
  await eventually('the role is kept', async () => (await world.ask('/users')).users.find(({ name }) => name === 'omar').role === 'operator');
  // He looks at the page again.
  await omar.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
  await omar.getByRole('button', { name: 'Drain host-1' }).waitFor();

  await omar.goto('/settings');
  await omar.getByLabel('Password so far').fill('not this one');
  await omar.getByLabel('New password').fill('another password');
  await omar.getByLabel('The new one again').fill('another passwort');
  await omar.getByText('It is another one').waitFor();
  await omar.getByLabel('The new one again').fill('another password');
  await omar.getByRole('button', { name: 'Change password' }).click();
  await omar.getByText('This is not your password so far').waitFor();
  await omar.getByLabel('Password so far').fill('a long password');
  await omar.getByRole('button', { name: 'Change password' }).click();
  await omar.getByText('You are signed out everywhere else').waitFor();

  await admin.getByRole('button', { name: 'Keep out omar' }).click();
  await admin.getByText('kept out').waitFor();
  await omar.getByRole('heading', { name: 'Sign in to Caisson' }).waitFor();
  await omar.getByLabel('Name').fill('omar');
  await omar.getByLabel('Password').fill('another password');
  await omar.getByRole('button', { name: 'Sign in' }).click();
  await omar.getByText('You are kept out for now: ask an admin').waitFor();
  await admin.getByRole('button', { name: 'Let in omar' }).click();
  await admin.getByRole('button', { name: 'New password for omar' }).click();
  await admin.getByRole('dialog').getByLabel('Password').fill('short');
  await admin.getByRole('button', { name: 'Set password' }).click();
  await admin.getByText('Expected at least 10 characters').waitFor();
  await admin.getByRole('dialog').getByLabel('Password').fill('a third password');
  await admin.getByRole('button', { name: 'Set password' }).click();
  await becomes(() => admin.getByRole('dialog').count(), 0);
  await world.person({}, { name: 'omar', password: 'a third password' });
  await admin.getByRole('button', { name: 'Remove omar' }).click();
  await admin.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
  await becomes(() => item(admin, 'People', 'omar').count(), 0);
});

test('a token is made, shown once, works, is revoked, and the audit log tells of it', async () => {
  const page = await world.person();
  await page.goto('/settings/tokens');
  await page.getByLabel('What it is for').fill('nightly script');
  await page.getByLabel('Role').selectOption('submitter');
  await page.getByLabel('Ends').selectOption('in 7 days');
  await page.getByRole('button', { name: 'Make token' }).click();
  await page.getByRole('region', { name: 'The token “nightly script” is made' }).waitFor();
  await page.getByRole('button', { name: 'Copy the secret' }).click();
  const secret = await copied(page, /^\S{20,}$/);
  assert.equal(await status(secret), 200);
  await page.getByRole('button', { name: 'Done' }).click();
  await page.reload();
  const made = item(page, 'Tokens', 'nightly script');
  await made.getByText('ends in 7 days').waitFor();
  await made.getByText('used just now').waitFor();
  assert.ok(!(await page.content()).includes(secret), 'it is shown once');
  const program = await world.person({}, { token: secret });
  await program.goto('/settings/tokens');
  await program.getByText('a token makes no others').waitFor();
  await page.getByRole('button', { name: 'Revoke nightly script' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Keep' }).click();
  assert.equal(await status(secret), 200);
  await page.getByRole('button', { name: 'Revoke nightly script' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
  await becomes(() => made.count(), 0);
  assert.equal(await status(secret), 401);

  await page.goto('/settings/audit');
  await item(page, 'What was done, newest first', 'made token nightly script').waitFor();
  await item(page, 'What was done, newest first', 'revoked token nightly script').waitFor();
});

test('the audit log is filtered and searched, and the past is pages away', async () => {
  await world.ask('/users', 'POST', { name: 'mallory', role: 'viewer', password: 'a long password' });
  for (const name of ['mallory', 'nobody']) {
    const stranger = await fetch(`${world.base}/api/v1/session`, { method: 'POST', body: JSON.stringify({ name, password: 'guessed password' }) });
    assert.equal(stranger.status, 401);
  }
  await world.ask('/users', 'POST', { name: 'busy', role: 'viewer', password: 'a long password' });
  for (let turn = 0; turn < 55; turn += 1) await world.ask('/users/busy', 'PATCH', { disabled: turn % 2 === 0 });
  const page = await world.person();
  await page.goto('/settings/audit');
  const entries = page.getByRole('list', { name: 'What was done, newest first' }).getByRole('listitem');
  await becomes(() => entries.count(), 50);
  await page.getByRole('link', { name: 'Older entries' }).click();
  await entries.filter({ hasText: 'added person mallory' }).waitFor();
  await page.getByRole('link', { name: 'Refusals' }).click();
  await page.waitForURL(/show=refusals/);
  await becomes(() => entries.filter({ hasText: 'changed person' }).count(), 0);
  await entries.filter({ hasText: 'mallory failed to sign in' }).waitFor();
  await entries.filter({ hasText: 'Somebody failed to sign in' }).first().waitFor();
  await page.getByRole('link', { name: 'mallory' }).click();
  await becomes(() => entries.count(), 1);
  await page.getByRole('link', { name: /What everybody did/ }).click();
  await page.getByRole('link', { name: 'All', exact: true }).click();
  await page.getByLabel('Search the audit log').fill('added person busy');
  await page.getByLabel('Search the audit log').fill('BUSY');
  await page.waitForURL(/q=BUSY/);
  await eventually('all of it is about busy', async () => (await entries.count()) > 1 && (await entries.count()) === (await entries.filter({ hasText: 'busy' }).count()));
});

test('a runner is let in by the command that is shown, and cut off', async () => {
  const page = await world.person();
  await page.goto('/settings/runners');
  await page.getByLabel('What it is for').fill('rack 3');
  await page.getByRole('button', { name: 'Make registration token' }).click();
  await page.getByRole('button', { name: 'Copy the command' }).click();
  const command = await copied(page, /caisson-runner/);
  // The first line keeps the token in a file that nobody else can read; the second starts the runner.
  const [keep, start] = command.split('\n');
  execFileSync('sh', ['-ec', keep], { cwd: world.folder });
  assert.equal(execFileSync('stat', ['-c', '%a', world.path('runner-token')], { encoding: 'utf8' }).trim(), '600');
  const words = start.split(' ').slice(1).map((word) => (word === 'runner-token' ? world.path(word) : word));
  world.launch('runner', [...words, '--name', 'newcomer', '--work-dir', world.path('newcomer')], 'newcomer');
  await item(page, 'Credentials of runners', 'newcomer').getByText('connected', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Done' }).click();
  await page.getByRole('button', { name: 'Revoke newcomer' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
  await becomes(() => item(page, 'Credentials of runners', 'newcomer').count(), 0);
  await eventually('it has ended', () => world.processes.get('newcomer').exitCode !== null);
  assert.notEqual(world.processes.get('newcomer').exitCode, 0);
});

test('a runner that can run no builds says why', async () => {
  await world.startRunner('crowded', 1, ['disk_free_min=900TiB']);
  const page = await world.person();
  await page.goto('/runners');
  const card = page.getByRole('listitem').filter({ has: page.getByRole('heading', { name: 'crowded' }) });
  await card.getByText('Unhealthy').waitFor();
  await card.getByText(/The disk of work_dir \(.*\) has \d+ MiB left/).waitFor();
  await card.getByText('just now').waitFor();
  await card.getByText('Nothing', { exact: true }).waitFor();
});
