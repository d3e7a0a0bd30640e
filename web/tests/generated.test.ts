// @vitest-environment node
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
// @ts-expect-error it has no types of its own
import { generated } from '../scripts/api.js';

test('the types of the API are those of its document', async () => {
  const found = readFileSync(new URL('../src/lib/api/schema.d.ts', import.meta.url), 'utf8');
  expect(found === (await generated()), 'run `npm run api`').toBe(true);
});
