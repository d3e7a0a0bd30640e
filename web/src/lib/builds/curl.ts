/** The same build as a line for a terminal. */
import type { Build } from '../api/client';

type Submitted = Pick<Build, 'repository_url' | 'commit' | 'command' | 'image' | 'labels' | 'timeout_seconds' | 'env' | 'limits' | 'network'>;

export function curl(build: Submitted, origin: string): string {
  const body = {
    repository_url: build.repository_url,
    commit: build.commit,
    command: build.command,
    image: build.image,
    ...(build.labels.length && { labels: build.labels }),
    // The values of variables are not shown to anybody, so they are to be filled in.
    ...(build.env.length && { env: Object.fromEntries(build.env.map((name) => [name, '…'])) }),
    timeout_seconds: build.timeout_seconds,
    ...(Object.keys(build.limits).length && { limits: build.limits }),
    ...(build.network === 'none' && { network: build.network }),
  };
  return `curl ${quote(`${origin}/api/v1/builds`)} -H "Authorization: Bearer $CAISSON_TOKEN" -d ${quote(JSON.stringify(body))}`;
}

/** Text as a shell takes it for itself. */
function quote(text: string): string {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
