import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { becomes, eventually, World } from './world.js';

const LINES = 1_300_000;
/** Lines of 80 bytes each; one of them, far in, tells of an error. */
const printing = (lines) => `BEGIN { for (i = 1; i <= ${lines}; i++) printf "%07d %s\\n", i, i == 987654 ? "\\033[31merror\\033[0m: the needle is here, and the line goes on with some words for a while." : "compiling a module with a name of a certain length, and then some more words" }`;
let world;
let number;
before(async () => {
  world = await World.start({ runners: 1 });
  ({ number } = await world.submit(`awk '${printing(LINES)}'`));
  assert.equal((await world.ended(number, 300_000)).status, 'succeeded');
});
after(() => world?.stop());
afterEach(() => assert.deepEqual(world.complaints.splice(0), []));

async function opened(address = '', build = number) {
  const page = await world.person();
  await page.goto(`/builds/${build}${address}`);
  await page.locator('.row .text').filter({ hasText: /\S/ }).first().waitFor();
  return page;
}
const texts = (page) => page.locator('.row .text').allTextContents();

/** How long a click on a build takes to show its log, in milliseconds. */
async function opening(page, build) {
  await page.goto('/');
  await page.locator(`a[href="/builds/${build}"]`).first().waitFor();
  return page.evaluate(async (build) => {
    const begun = performance.now();
    document.querySelector(`a[href="/builds/${build}"]`).click();
    while (![...document.querySelectorAll('.row .text')].some((row) => row.textContent.includes('compiling'))) await new Promise(requestAnimationFrame);
    return performance.now() - begun;
  }, build);
}

test('100 MB open nearly as quickly as one line', async (t) => {
  const { log_bytes } = await world.ask(`/builds/${number}`);
  assert.ok(log_bytes > 100_000_000, String(log_bytes));
  await opened();
  const one = (await world.submit('echo compiling')).number;
  assert.equal((await world.ended(one)).status, 'succeeded');
  const page = await world.person();
  const [large, small] = [[], []];
  for (let time = 0; time < 3; time += 1) {
    small.push(await opening(page, one));
    large.push(await opening(page, number));
    assert.ok((await page.locator('.row').count()) < 120);
  }
  const [taken, floor] = [Math.min(...large), Math.min(...small)];
  t.diagnostic(`opened in ${Math.round(taken)} ms, and one line in ${Math.round(floor)} ms`);
  assert.ok(taken < 5 * floor, `${taken} ms, and one line in ${floor} ms`);
});

/** How long a frame takes while a log is scrolled, in the middle, in milliseconds. */
async function scrolling(page) {
  return page.evaluate(async () => {
    const scroller = document.querySelector('.scroller');
    const times = [];
    let before = performance.now();
    for (let frame = 0; frame < 120; frame += 1) {
      scroller.scrollTop = frame % 10 ? scroller.scrollTop + 137 : (scroller.scrollHeight * frame) / 120;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      times.push(now - before);
      before = now;
    }
    return times.sort((a, b) => a - b)[60];
  });
}

test('a million lines scroll as a thousand do', async (t) => {
  const short = (await world.submit(`awk '${printing(1000)}'`)).number;
  assert.equal((await world.ended(short)).status, 'succeeded');
  const page = await opened();
  const taken = await scrolling(page);
  const floor = await scrolling(await opened('', short));
  t.diagnostic(`a frame takes ${taken.toFixed(1)} ms, and of a thousand lines ${floor.toFixed(1)} ms`);
  assert.ok(taken < 3 * floor, `${taken} ms, and of a thousand lines ${floor} ms`);
  await page.locator('.scroller').evaluate((scroller) => { scroller.scrollTop = scroller.scrollHeight; });
  await page.getByText(`${LINES}`.padStart(7, '0')).first().waitFor();
});

test('a search finds one line of a million, and the first error is found without one', async (t) => {
  // A coordinator that is built for tests searches a hundred times slower than one that is built for use.
  const patience = { timeout: 90_000 };
  const page = await opened();
  const begun = Date.now();
  await page.getByLabel('Search the log').fill('NEEDLE');
  await page.keyboard.press('Enter');
  await page.getByText('0987654').waitFor(patience);
  t.diagnostic(`found in ${Date.now() - begun} ms`);
  await page.getByText('1 of 1', { exact: true }).waitFor();
  await becomes(() => page.locator('.match').textContent(), 'needle');
  await page.locator('.scroller').evaluate((scroller) => { scroller.scrollTop = 0; });
  await becomes(() => page.getByText('0987654').count(), 0);
  await page.getByRole('button', { name: 'First error' }).click();
  await page.locator('.row.chosen').getByText('0987654').waitFor(patience);
});

test('a line is a link, and so are several', async () => {
  const page = await opened('#L500000');
  const line = (number) => page.getByRole('link', { name: `Line ${number}`, exact: true });
  await line(500_000).waitFor();
  await line(500_003).click({ modifiers: ['Shift'] });
  await becomes(() => page.url(), /#L500000-L500003$/);
  await becomes(() => page.locator('.row.chosen').count(), 4);
});

test('long lines wrap, and the ends of the log stay where they are', async () => {
  const page = await opened();
  await page.setViewportSize({ width: 390, height: 844 });
  await page.getByRole('button', { name: 'Wrap' }).click();
  await eventually('a line takes more than one row', async () => (await page.locator('.row').first().evaluate((row) => row.offsetHeight)) > 20);
  const place = (which) => page.locator('.row')[which]().evaluate((row) => {
    const [box, window] = [row.getBoundingClientRect(), row.closest('.window').getBoundingClientRect()];
    return { top: box.top - window.top, bottom: window.bottom - box.bottom };
  });
  assert.ok(Math.abs((await place('first')).top) < 2);
  await page.locator('.scroller').evaluate((scroller) => { scroller.scrollTop = scroller.scrollHeight; });
  await eventually('the end is at the end', async () => /succeeded/.test((await texts(page)).at(-1)));
  await eventually('its bottom is the bottom', async () => Math.abs((await place('last')).bottom) < 2);
});
