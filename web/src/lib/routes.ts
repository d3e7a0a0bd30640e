/** Which page an address is. */
export type Page =
  | { name: 'builds' }
  | { name: 'build'; id: string }
  | { name: 'new' }
  | { name: 'queue' }
  | { name: 'runners' }
  | { name: 'trends' }
  | { name: 'settings'; part: SettingsPart }
  | { name: 'sign-in' }
  | { name: 'nowhere' };

export const SETTINGS = ['account', 'tokens', 'people', 'runners', 'audit'] as const;
export type SettingsPart = (typeof SETTINGS)[number];

export function match(path: string): Page {
  const part = /^\/settings(?:\/([^/]+))?\/?$/.exec(path);
  if (part) {
    const found = SETTINGS.find((name) => name === (part[1] ?? 'account'));
    return found ? { name: 'settings', part: found } : { name: 'nowhere' };
  }
  const build = /^\/builds\/([^/]+)\/?$/.exec(path);
  if (build?.[1]) return { name: 'build', id: decodeURIComponent(build[1]) };
  switch (path.replace(/\/$/, '')) {
    case '':
    case '/builds':
      return { name: 'builds' };
    case '/new':
      return { name: 'new' };
    case '/queue':
      return { name: 'queue' };
    case '/runners':
      return { name: 'runners' };
    case '/trends':
      return { name: 'trends' };
    case '/sign-in':
      return { name: 'sign-in' };
    default:
      return { name: 'nowhere' };
  }
}
