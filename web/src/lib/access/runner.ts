/** What is run on a Docker host to let it in. The token goes into a file: arguments of programs can be read by everyone. */
export function runnerCommand(origin: string, secret: string): string {
  return `(umask 077; echo '${secret}' > runner-token)\ncaisson-runner --coordinator-url ${origin} --token-file runner-token`;
}
