-- Times are milliseconds since 1970, for people only. Order comes from numbers.
CREATE TABLE builds (
    number          INTEGER PRIMARY KEY,
    id              TEXT    NOT NULL UNIQUE,
    repository_url  TEXT    NOT NULL,
    commit_name     TEXT    NOT NULL,
    command         TEXT    NOT NULL,
    image           TEXT    NOT NULL,
    env             TEXT    NOT NULL, -- JSON object
    labels          TEXT    NOT NULL, -- JSON array
    timeout_seconds INTEGER NOT NULL,
    status          TEXT    NOT NULL,
    result_reason   TEXT,
    result_message  TEXT,
    exit_code       INTEGER,
    queued_at       INTEGER NOT NULL,
    started_at      INTEGER,
    finished_at     INTEGER,
    key             TEXT,
    key_digest      TEXT
) STRICT;

CREATE INDEX builds_by_status ON builds (status, number);
CREATE INDEX builds_by_repository ON builds (repository_url, number);
CREATE INDEX builds_with_key ON builds (number) WHERE key IS NOT NULL;

CREATE TABLE attempts (
    build           INTEGER NOT NULL REFERENCES builds (number),
    number          INTEGER NOT NULL,
    runner_id       TEXT    NOT NULL,
    runner_name     TEXT    NOT NULL,
    assigned_at     INTEGER NOT NULL,
    started_at      INTEGER,
    finished_at     INTEGER,
    result          TEXT,
    result_reason   TEXT,
    result_message  TEXT,
    exit_code       INTEGER,
    charged         INTEGER NOT NULL DEFAULT 0,
    resolved_commit TEXT,
    image_digest    TEXT,
    log_bytes       INTEGER,
    clone_ms        INTEGER,
    image_ms        INTEGER,
    create_ms       INTEGER,
    run_ms          INTEGER,
    cleanup_ms      INTEGER,
    PRIMARY KEY (build, number)
) STRICT, WITHOUT ROWID;

-- Each build ends once: a terminal status is never left, whoever asks.
CREATE TRIGGER builds_end_once BEFORE UPDATE OF status ON builds
WHEN OLD.status IN ('succeeded', 'failed', 'timed_out', 'canceled', 'errored')
BEGIN
    SELECT RAISE (ABORT, 'a build that has ended does not change');
END;

-- So does each attempt.
CREATE TRIGGER attempts_end_once BEFORE UPDATE OF result ON attempts
WHEN OLD.result IS NOT NULL
BEGIN
    SELECT RAISE (ABORT, 'an attempt that has ended does not change');
END;
