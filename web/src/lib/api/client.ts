/** The coordinator's API: typed by its own document, its refusals as one kind of error. */
import createClient from 'openapi-fetch';
import type { components, paths } from './schema';

type Schemas = components['schemas'];
export type Build = Schemas['Build'];
export type Attempt = Schemas['Attempt'];
export type Status = Schemas['Status'];
export type Runners = Schemas['Runners'];
export type RunnerState = Schemas['RunnerState'];
export type ServerEvent = Schemas['ServerEvent'];
export type LogLine = Schemas['LogLine'];
export type LogLines = Schemas['LogLines'];
export type NewBuild = Schemas['NewBuild'];
export type Edits = Schemas['Edits'];
export type Trends = Schemas['Trends'];
export type About = Schemas['About'];
export type WaitingBuilds = Schemas['WaitingBuilds'];
export type Session = Schemas['Session'];
export type SignIn = Schemas['SignIn'];
export type Role = Schemas['Role'];
export type User = Schemas['User'];
export type Token = Schemas['Token'];
export type RunnerRegistration = Schemas['RunnerRegistration'];
export type RunnerCredential = Schemas['RunnerCredential'];
export type AuditEntry = Schemas['AuditEntry'];
export type Action = Schemas['Action'];

/** Why the coordinator did not do what it was asked. `code` is `unreachable` when it did not answer at all. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly field: string | null = null,
  ) {
    super(message);
  }

  static of(status: number, body: unknown): Problem {
    const told = (body ?? {}) as { code?: string; detail?: string; field?: string };
    return new Problem(status, told.code ?? 'unknown', told.detail ?? `The coordinator answered ${status}.`, told.field ?? null);
  }

  static unreachable(): Problem {
    return new Problem(0, 'unreachable', 'The coordinator does not answer.');
  }
}

export const api = createClient<paths>({
  // Looked up at each call, and not when this file is loaded.
  fetch: (request) => fetch(request),
});

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** What was asked for, or a `Problem`. */
export async function ask<T>(call: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await call;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw Problem.unreachable();
  }
  if (!answer.response.ok) throw Problem.of(answer.response.status, answer.error);
  return answer.data as T;
}

/** Any error as something to show. */
export function asProblem(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, 'unexpected', String(error));
}

/** The address of a WebSocket of this coordinator. */
export function socketUrl(path: string, at: { protocol: string; host: string } = location): string {
  return `${at.protocol === 'https:' ? 'wss:' : 'ws:'}//${at.host}/api/v1${path}`;
}
