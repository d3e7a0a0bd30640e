import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { becomes, copied, eventually, World } from './world.js';

let world;
before(async () => { world = await World.start({ settings: ['queue.capacity=3'] }); });
after(() => world?.stop());
afterEach(() => assert.deepEqual(world.complaints.splice(0), []));

const status = (page) => page.getByRole('region', { name: 'Summary' }).getByRole('status');
const statusIs = (page, word) => becomes(() => status(page).textContent(), word);

test('a person signs in with the token, and out', async () => {
  const page = await world.stranger();
  await page.goto('/queue');
  await page.getByRole('button', { name: 'Token' }).click();
  const token = page.getByLabel('Token', { exact: true });
  await token.fill('wrong');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('This is not the admin token').waitFor();
  await token.fill(world.token);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { name: 'Queue', level: 1 }).waitFor();
  await page.getByRole('button', { name: 'Account' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  // What was signed in with last is asked for first.
  await token.waitFor();
  await page.goto('/');
  await token.waitFor();
});

test('the printed link signs in once, and says so when it is used again', async () => {
  const page = await world.stranger();
  await page.goto(world.signInLink());
  await page.getByRole('heading', { name: 'Builds', level: 1 }).waitFor();
  const late = await world.stranger();
  await late.goto(world.signInLink());
  await late.getByRole('alert').getByText('used before').waitFor();
});

test('a build is started, followed and rerun, and another window sees it', async () => {
  const [page, other] = [await world.person(), await world.person()];
  await other.goto('/');
  await page.goto('/new');
  await page.getByLabel('Repository').fill(world.repository);
  await page.getByLabel('Commit').fill('main');
  await page.getByLabel('Command').fill('cat README.md; echo oh >&2; sleep 2; echo done');
  await page.getByLabel('Image').fill('not an image');
  await page.getByRole('button', { name: 'Start build' }).click();
  await becomes(() => page.getByLabel('Image').getAttribute('aria-invalid'), 'true');
  assert.equal(await page.getByLabel('Commit').inputValue(), 'main');
  await page.getByLabel('Image').fill('');
  await page.getByRole('button', { name: 'Start build' }).click();

  await page.waitForURL(/\/builds\/\d+$/);
  const number = page.url().split('/').at(-1);
  await page.getByText('hello from the repository').waitFor();
  await other.getByRole('link', { name: `#${number}` }).waitFor();
  await other.getByText('Running').first().waitFor();
  await statusIs(page, 'Succeeded');
  await other.getByRole('listitem').filter({ hasText: `#${number}` }).getByText('Succeeded').waitFor();
  await becomes(() => page.title(), /^Succeeded/);
  await becomes(() => page.locator('.row.stderr').count(), 1);
  await becomes(() => page.getByRole('list', { name: 'Where the time went' }).textContent(), /clone.*run.*\d s/);

  await page.getByRole('button', { name: 'Copy command' }).click();
  await copied(page, /^cat README/);
  await page.getByRole('button', { name: 'Rerun', exact: true }).click();
  await page.waitForURL(`**/builds/${Number(number) + 1}`);
  await page.getByRole('link', { name: 'Edit and rerun' }).click();
  await becomes(() => page.getByLabel('Command').inputValue(), /README/);
  await page.getByLabel('Command').fill('exit 7');
  await page.getByRole('button', { name: 'Start build' }).click();
  await page.getByText('Exit code 7', { exact: true }).waitFor();
  await page.getByText('The command’s fault, not the CI’s').waitFor();
  // The form begins with what was submitted last.
  await page.goto('/new');
  await becomes(() => page.getByLabel('Command').inputValue(), 'exit 7');
});

test('a build is held to limits of its own, also when it is run again', async () => {
  const page = await world.person();
  await page.goto('/new');
  await page.getByLabel('Repository').fill(world.repository);
  await page.getByLabel('Commit').fill('main');
  await page.getByLabel('Command').fill('ls /sys/class/net; cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes || cat memory.max');
  await page.getByText('Environment, labels, limits, network').click();
  const limits = page.getByLabel('Limits', { exact: true });
  await limits.fill('memory 512');
  await page.getByRole('button', { name: 'Start build' }).click();
  await page.getByText('“memory 512” is no limit').waitFor();
  await limits.fill('memory 5MiB');
  await page.getByRole('button', { name: 'Start build' }).click();
  await page.getByText('not between 16777216').waitFor();
  await limits.fill('memory 32MiB, pids 50');
  await page.getByLabel('Network').selectOption('None');
  await page.getByRole('button', { name: 'Start build' }).click();
  await page.waitForURL(/\/builds\/\d+$/);
  await page.getByText('Limits of its own: memory 32MiB, pids 50, no network').waitFor();
  await page.getByRole('definition').getByText('memory 32MiB, pids 50, no network').waitFor();
  await statusIs(page, 'Succeeded');
  await page.getByText('33554432', { exact: true }).waitFor();
  assert.equal(await page.getByText('eth0', { exact: true }).count(), 0);
  await page.getByRole('link', { name: 'Edit and rerun' }).click();
  await becomes(() => limits.inputValue(), 'memory 32MiB, pids 50');
  await becomes(() => page.getByLabel('Network').inputValue(), 'none');
});

test('a running build is canceled', async () => {
  const { number } = await world.submit('echo begun; sleep 300');
  const page = await world.person();
  await page.goto(`/builds/${number}`);
  await page.getByText('begun', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Cancel' }).click();
  await statusIs(page, 'Canceled');
  await becomes(() => page.getByRole('button', { name: 'Cancel' }).count(), 0);
});

test('a log is followed until somebody scrolls up', async () => {
  const { number } = await world.submit('i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo "line $i"; usleep 40000; done');
  const page = await world.person();
  await page.goto(`/builds/${number}`);
  const follow = page.getByRole('button', { name: 'Follow' });
  await page.getByText('line 60', { exact: true }).waitFor();
  await becomes(() => follow.getAttribute('aria-pressed'), 'true');
  await page.locator('.scroller').hover();
  await page.mouse.wheel(0, -600);
  await becomes(() => follow.getAttribute('aria-pressed'), 'false');
  const before = await page.locator('.scroller').evaluate((scroller) => scroller.scrollTop);
  await page.waitForTimeout(700);
  assert.equal(await page.locator('.scroller').evaluate((scroller) => scroller.scrollTop), before);
  await follow.click();
  await page.getByText('line 150', { exact: true }).waitFor();
});

test('a build that failed opens at the end of its log, and one that succeeded at the beginning', async () => {
  const lines = 'i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo "line $i"; done';
  const [bad, good] = [await world.submit(`${lines}; exit 3`), await world.submit(lines)];
  for (const { number } of [bad, good]) await world.ended(number);
  const page = await world.person();
  await page.goto(`/builds/${bad.number}`);
  await page.getByText('line 200', { exact: true }).waitFor();
  assert.equal(await page.getByText('line 1', { exact: true }).count(), 0);
  await page.goto(`/builds/${good.number}`);
  await page.getByText('line 1', { exact: true }).waitFor();
  assert.equal(await page.getByText('line 200', { exact: true }).count(), 0);
});

test('a restart of the coordinator is told and healed, and nothing of the log is missing', async () => {
  const { number } = await world.submit('i=0; while [ $i -lt 120 ]; do i=$((i+1)); echo "step $i"; usleep 100000; done');
  const [page, list] = [await world.person(), await world.person()];
  await list.goto('/');
  await page.goto(`/builds/${number}`);
  await page.getByText('step 10', { exact: true }).waitFor();
  await page.evaluate(() => { window.neverReloaded = true; });
  const restarted = world.restartCoordinator(2000);
  await page.getByRole('alert').getByText('connection to the coordinator is lost').waitFor();
  await restarted;
  await page.getByText('Live', { exact: true }).waitFor();
  await statusIs(page, 'Succeeded');
  await page.getByText('step 120', { exact: true }).waitFor();
  await list.getByRole('listitem').filter({ hasText: `#${number}` }).getByText('Succeeded').waitFor();
  const text = await (await page.request.get(`/api/v1/builds/${number}/log?stream=stdout`)).text();
  assert.equal(text, Array.from({ length: 120 }, (_, at) => `step ${at + 1}\n`).join(''));
  assert.equal(await page.evaluate(() => window.neverReloaded), true);
});

test('filters and search are in the address', async () => {
  const page = await world.person();
  await page.goto('/');
  await page.getByRole('link', { name: 'Failed', exact: true }).click();
  await page.waitForURL(/status=failed,timed_out/);
  // Only the filter says so.
  await becomes(() => page.getByText('Succeeded', { exact: true }).count(), 1);
  await page.getByText('exit 7').waitFor();
  await page.keyboard.press('/');
  await page.keyboard.type('no such command');
  await page.getByText('No build matches').waitFor();
  await page.reload();
  await becomes(() => page.getByLabel('Search builds').inputValue(), 'no such command');
});

test('older builds are pages away, and new ones do not disturb who looks at them', async () => {
  const canceled = [];
  // More than two pages of builds, none of which needs a runner.
  for (let count = 0; count < 105; count += 1) {
    const build = await world.submit(`echo ${count}`, { labels: ['nowhere'] });
    await world.ask(`/builds/${build.id}/cancel`, 'POST');
    canceled.push(build.number);
  }
  const page = await world.person();
  await page.goto('/?status=canceled');
  const numbers = () => page.locator('a.open .id').allTextContents();
  await page.getByText(`#${canceled.at(-1)}`, { exact: true }).waitFor();
  await becomes(async () => (await numbers()).length, 50);
  await page.getByRole('link', { name: 'Older builds' }).click();
  await page.getByText(`#${canceled.at(-51)}`, { exact: true }).waitFor();
  const second = await numbers();
  assert.equal(second[0], `#${canceled.at(-51)}`);
  assert.equal(second.length, 50);
  const late = await world.submit('echo late', { labels: ['nowhere'] });
  await world.ask(`/builds/${late.id}/cancel`, 'POST');
  await page.getByRole('link', { name: 'Older builds' }).click();
  await page.getByText(`#${canceled[0]}`, { exact: true }).waitFor();
  await page.goBack();
  await page.getByText(second[0], { exact: true }).waitFor();
  await becomes(numbers, second);
  await page.getByRole('link', { name: 'Newest' }).click();
  await page.getByText(`#${late.number}`, { exact: true }).waitFor();
});

test('a full queue refuses, says why, and keeps what was typed', async () => {
  const wanted = { labels: ['nowhere'] };
  const waiting = [];
  for (let count = 0; count < 3; count += 1) waiting.push(await world.submit('true', wanted));
  const page = await world.person();
  await page.goto(`/new?repository=${encodeURIComponent(world.repository)}&commit=main&command=make&labels=nowhere`);
  await page.getByRole('button', { name: 'Start build' }).click();
  await page.getByRole('alert').getByText('The queue is full').waitFor();
  assert.equal(await page.getByLabel('Command').inputValue(), 'make');
  await page.goto('/queue');
  await page.getByText('3 of 3 places taken').waitFor();
  await page.getByText('No runner has the labels it needs').first().waitFor();
  for (const { id } of waiting) await world.ask(`/builds/${id}/cancel`, 'POST');
  await page.getByText('Nothing waits').waitFor();
});

test('all of it can be done with a keyboard', async () => {
  const page = await world.person();
  await page.goto('/');
  await page.locator('a.open').first().waitFor();
  await page.keyboard.press('j');
  await page.keyboard.press('j');
  const second = await page.locator('a.open').nth(1).getAttribute('href');
  await becomes(() => page.evaluate(() => document.activeElement.getAttribute('href')), second);
  await page.keyboard.press('k');
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.waitForURL(`**${second}`);
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keyboard' }).waitFor();
  await page.keyboard.press('Escape');
  await page.keyboard.press('g');
  await page.keyboard.press('r');
  await page.waitForURL('**/runners');
  await page.getByRole('heading', { name: 'host-1' }).waitFor();
  // It goes on in the page, and not at the top of the window.
  await page.keyboard.press('Tab');
  await becomes(() => page.evaluate(() => document.activeElement.textContent), 'Drain host-1');
});

test('a page that can’t be loaded says so, and can be loaded anew', async () => {
  const page = await world.person();
  await page.goto('/queue');
  await page.route('**/assets/Trends*', (route) => route.abort());
  await page.getByRole('link', { name: 'Trends' }).click();
  await page.getByText('This page could not be loaded').waitFor();
  await page.unroute('**/assets/Trends*');
  await page.getByRole('button', { name: 'Load it anew' }).click();
  await page.getByRole('heading', { name: 'Trends', level: 1 }).waitFor();
});

test('a runner is drained', async () => {
  const page = await world.person();
  await page.goto('/runners');
  await page.getByRole('button', { name: 'Drain host-1' }).click();
  await page.getByRole('dialog', { name: 'Drain host-1?' }).getByRole('button', { name: 'Drain' }).click();
  await page.getByText('No runner is connected').waitFor();
});
