// Every page in both themes and on a phone: found usable by axe (WCAG AA), and pictured in .cache/screenshots.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, afterEach, before, test } from 'node:test';
import { becomes, World } from './world.js';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const pictures = new URL('../../.cache/screenshots/', import.meta.url).pathname;
const LOOKS = [
  { name: 'light', colorScheme: 'light' },
  { name: 'dark', colorScheme: 'dark' },
  { name: 'phone', colorScheme: 'light', width: 390, height: 844 },
];
const PAGES = ['/', '/builds/1', '/builds/3', '/builds/4', '/builds/6', '/builds/9999', '/new', '/queue', '/runners', '/trends', '/nothing', '/?q=nothing-matches', '/settings', '/settings/tokens', '/settings/people', '/settings/runners', '/settings/audit'];

let world;
before(async () => {
  mkdirSync(pictures, { recursive: true });
  world = await World.start({ runners: 2 });
  const log = String.raw`printf '\033[1;36m==>\033[0m building \033[1mapp\033[0m\n'; echo 'warning: unused variable' >&2; i=0; while [ $i -lt 40 ]; do i=$((i+1)); printf '\033[32mok\033[0m test %d\n' $i; done`;
  const commands = [
    [log], ['sleep 60', { timeout_seconds: 2 }], [`${log}; printf '\\033[31merror\\033[0m: assertion failed\\n' >&2; exit 101`],
    ['make', { commit: 'no-such-branch' }], ['true'], ['make release', { labels: ['gpu'] }],
  ];
  await world.ask('/users', 'POST', { name: 'anna', role: 'operator', password: 'a long password' });
  await world.ask('/tokens', 'POST', { name: 'nightly script', role: 'submitter', expires_in_seconds: 86_400 });
  for (const [command, more] of commands) await world.submit(command, more);
  for (const number of [1, 2, 3, 4, 5]) await world.ended(number);
  await world.submit(`${log}; sleep 600`, { env: { MODE: 'fast' } });
});
after(() => world?.stop());
afterEach(() => assert.deepEqual(world.complaints.splice(0), []));

async function violations(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => `${node.html.slice(0, 160)} (${node.any[0]?.message ?? ''})`).join(' | ')}`);
}

for (const look of LOOKS) {
  test(`each page is for everyone: ${look.name}`, async () => {
    const page = await world.person(look);
    for (const path of [...PAGES, '/builds/7']) {
      await page.goto(path);
      await page.getByRole('heading', { level: 1 }).waitFor();
      await becomes(() => page.getByText(/^Loading /).count(), 0);
      await page.evaluate(() => document.fonts.ready);
      const file = path.replace(/[^a-z0-9]+/gi, '-').replace(/^-|-$/g, '') || 'builds';
      await page.screenshot({ path: `${pictures}${file}-${look.name}.png` });
      assert.deepEqual(await violations(page), [], path);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${path} is ${wide} px wider than the window`);
    }
    await page.keyboard.press('?');
    assert.deepEqual(await violations(page), [], 'help');
    const stranger = await world.stranger(look);
    await stranger.goto('/sign-in');
    await stranger.getByLabel('Password').waitFor();
    await stranger.screenshot({ path: `${pictures}sign-in-${look.name}.png` });
    assert.deepEqual(await violations(stranger), [], 'sign in');
  });
}
