import { fireEvent, render, screen, waitFor } from '@testing-library/svelte';
import { createRawSnippet } from 'svelte';
import { expect, test, vi } from 'vitest';
import { build } from '../../tests/build';
import Within from '../../tests/Within.svelte';
import { Problem, type Role } from '../lib/api/client';
import { mayDo } from '../lib/access/roles';
import BuildActions from './BuildActions.svelte';
import Confirm from './Confirm.svelte';
import Ends from './Ends.svelte';

const text = (words: string) => createRawSnippet(() => ({ render: () => `<span>${words}</span>` }));
const offered = (role: Role) => {
  const { container, unmount } = render(Within, { component: BuildActions, given: { one: {}, build: build({ status: 'running' }) }, live: { may: (needed: Role) => mayDo(role, needed) } });
  const names = [...container.querySelectorAll('a, button')].map((button) => button.textContent);
  unmount();
  return names;
};

test('what a role may not do is not offered', () => {
  expect(offered('viewer')).toEqual([]);
  expect(offered('submitter')).toEqual(['Edit and rerun', 'Rerun', 'Cancel']);
});

test('what can’t be taken back is asked first, and a refusal is told where it was asked', async () => {
  const act = vi.fn().mockRejectedValueOnce(new Problem(409, 'last_admin', 'anna is the last admin')).mockResolvedValueOnce(undefined);
  const { container } = render(Confirm, { label: 'Remove', what: 'anna', title: 'Remove anna?', children: text('It ends.'), act });
  await fireEvent.click(screen.getByRole('button', { name: 'Remove anna' }));
  expect(act).not.toHaveBeenCalled();
  const dialog = container.querySelector('dialog')!;
  dialog.close ??= () => (dialog.open = false);
  expect(dialog.open).toBe(true);
  const confirm = screen.getByRole('button', { name: 'Remove' });
  await fireEvent.click(confirm);
  await waitFor(() => expect(screen.getByRole('alert').textContent).toBe('Anna is the last admin'));
  expect(dialog.open).toBe(true);
  await fireEvent.click(confirm);
  await waitFor(() => expect(dialog.open).toBe(false));
});

test.each([[null, 'never ends'], ['2026-01-01T00:00:59Z', 'ended'], ['2026-01-02T00:01:00Z', 'ends in 24 h']])('%s: it %s', (at, said) => {
  expect(render(Within, { component: Ends, given: { at } }).container.textContent!.trim()).toBe(said);
});
