/** Why a build ended as it did, and whose fault that is: at a glance, in words. */
import type { Build } from '../api/client';
import { limit, sentence } from '../format';

export interface Explanation {
  /** Who can mend it. */
  fault: 'command' | 'request' | 'ci' | 'nobody';
  title: string;
  text: string;
}

const SIGNALS: Record<number, string> = { 1: 'SIGHUP', 2: 'SIGINT', 3: 'SIGQUIT', 4: 'SIGILL', 6: 'SIGABRT', 8: 'SIGFPE', 9: 'SIGKILL', 11: 'SIGSEGV', 13: 'SIGPIPE', 15: 'SIGTERM' };

/** What a shell means by the codes it ends with itself. */
const CODES: Record<number, string> = { 126: 'The shell found the command, but may not run it.', 127: 'The shell did not find the command in this image.' };

/** What is at fault when a build can't be run, by the API's `reason`. All others are the CI's own. */
const REQUESTS: Record<string, string> = {
  repository_not_found: 'The repository was not found',
  repository_denied: 'The repository is not allowed',
  commit_not_found: 'The commit was not found',
  image_not_found: 'The image was not found',
  image_denied: 'The image may not be pulled',
  image_unusable: 'The image can’t run a command',
};
const OWN: Record<string, string> = {
  clone_failed: 'The repository could not be fetched',
  image_failed: 'The image could not be pulled',
  engine_failed: 'The container engine failed',
  disk_full: 'The runner’s disk is full',
  runner_failed: 'The runner failed',
  runner_lost: 'The runner was lost',
};

export const FAULTS: Record<Explanation['fault'], string> = {
  command: 'The command’s fault, not the CI’s',
  request: 'What was asked for can’t be had',
  ci: 'The CI’s fault, not the code’s',
  nobody: '',
};

type Ended = Pick<Build, 'status' | 'reason' | 'message' | 'exit_code' | 'timeout_seconds' | 'attempt'>;

/** Nothing for a build that lives, or that went well. */
export function explain(build: Ended): Explanation | null {
  switch (build.status) {
    case 'failed':
      return failed(build);
    case 'timed_out':
      return { fault: 'command', title: `Not done within ${limit(build.timeout_seconds)}`, text: 'Its time limit was reached, and it was stopped.' };
    case 'canceled':
      return { fault: 'nobody', title: 'Stopped by a person', text: '' };
    case 'errored':
      return errored(build);
    default:
      return null;
  }
}

function failed({ exit_code, reason }: Ended): Explanation {
  if (reason === 'out_of_memory') {
    return { fault: 'command', title: 'Out of memory', text: `The container reached its memory limit, and the command ended with ${exit_code}.` };
  }
  if (reason === 'disk_limit') {
    return { fault: 'command', title: 'Too much written', text: 'The workspace and the container together grew beyond limits.disk, the runner’s or the build’s own, and the command was killed.' };
  }
  const signal = reason === 'killed_by_signal' && exit_code !== null ? exit_code - 128 : null;
  if (signal !== null) {
    const name = SIGNALS[signal] ?? `signal ${signal}`;
    return { fault: 'command', title: `Killed by ${name}`, text: `The command ended with ${exit_code}: a process of it was killed.` };
  }
  return { fault: 'command', title: `Exit code ${exit_code}`, text: CODES[exit_code ?? 0] ?? '' };
}

function errored({ reason, message, attempt }: Ended): Explanation {
  // An address keeps its small letter.
  const text = message && !/^\w+:\/\//.test(message) ? sentence(message) : (message ?? '');
  const asked = REQUESTS[reason ?? ''];
  if (asked) return { fault: 'request', title: asked, text };
  const title = OWN[reason ?? ''] ?? 'It could not be run';
  return { fault: 'ci', title: attempt > 1 ? `${title}, in ${attempt} attempts` : title, text };
}
