/** A build, an attempt and a runner as the API tells them, for tests: what a test does not say is ordinary. */
import type { Attempt, Build, RunnerState } from '../src/lib/api/client';

export function attempt(parts: Partial<Attempt> = {}): Attempt {
  return {
    number: 1,
    runner: { id: '00000000-0000-0000-0000-00000000000a', name: 'host-1' },
    assigned_at: '2026-01-01T00:00:02Z',
    started_at: null,
    finished_at: null,
    outcome: null,
    phases: {},
    resolved_commit: null,
    image_digest: null,
    log_bytes: null,
    ...parts,
  };
}

export function runner(parts: Partial<RunnerState> = {}): RunnerState {
  return {
    id: '00000000-0000-0000-0000-00000000000a',
    name: 'host-1',
    status: 'ready',
    unhealthy: null,
    last_seen_at: '2026-01-01T00:00:50Z',
    capacity: 2,
    labels: [],
    version: '0.1.0',
    engine: 'Docker 20.10.24',
    builds: [],
    swept: 0,
    left_behind: 0,
    ...parts,
  };
}

export function build(parts: Partial<Build> = {}): Build {
  return {
    id: `id-${parts.number ?? 1}`,
    number: 1,
    repository_url: 'https://example.org/team/app.git',
    commit: 'main',
    resolved_commit: null,
    command: 'make test',
    image: 'debian:bookworm-slim',
    env: [],
    labels: [],
    status: 'queued',
    reason: null,
    message: null,
    exit_code: null,
    attempt: 0,
    runner: null,
    timeout_seconds: 3600,
    limits: {},
    network: 'bridge',
    queued_at: '2026-01-01T00:00:00Z',
    started_at: null,
    finished_at: null,
    queue_position: null,
    waiting_for: null,
    log_bytes: null,
    attempts: [],
    ...parts,
  };
}
