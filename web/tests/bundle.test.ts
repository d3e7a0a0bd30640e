// @vitest-environment node
import { readFileSync, readdirSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';

const site = new URL('../dist/site/', import.meta.url);
/** What `scripts/web` has built: these tests are of the result, and come after it. */
const page = () => readFileSync(new URL('index.html', site), 'utf8');

test('the first load is below 100 KB of script and style', () => {
  const files = [...page().matchAll(/(?:src|href)="\/(assets\/[^"]+\.(?:js|css))"/g)].map((found) => found[1]!);
  expect(files.length).toBeGreaterThan(1);
  const bytes = files.reduce((sum, file) => sum + gzipSync(readFileSync(new URL(file, site))).length, 0);
  expect(bytes).toBeLessThan(100_000);
});

test('nothing on the page is inline, and all of it is our own', () => {
  expect(page()).not.toMatch(/<script(?![^>]*src=)|<style|style=|onload=|https?:\/\//);
  for (const file of readdirSync(new URL('assets/', site)).filter((file) => file.endsWith('.css'))) {
    expect(readFileSync(new URL(`assets/${file}`, site), 'utf8')).not.toMatch(/url\(["']?(https?:|data:)/);
  }
});
