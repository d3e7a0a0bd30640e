/** Repositories and commits, short. */

/** `https://example.org/team/app.git` → `team/app`. */
export function repositoryName(url: string): string {
  const path = url.replace(/^[a-z+]+:\/\/[^/]*\/?/i, '').replace(/^[^/@]+@[^:]+:/, '');
  const parts = path.replace(/\.git\/?$/, '').split('/').filter(Boolean);
  return parts.slice(-2).join('/') || url;
}

/** A SHA to its first eight digits; anything else as it is. */
export function commitName(commit: string): string {
  return /^[0-9a-f]{40,64}$/i.test(commit) ? commit.slice(0, 8) : commit;
}

/** The first line of a command, and how many more there are. */
export function commandTitle(command: string): { first: string; more: number } {
  const lines = command.split('\n').filter((line) => line.trim() !== '');
  return { first: lines[0]?.trim() ?? '', more: Math.max(0, lines.length - 1) };
}
