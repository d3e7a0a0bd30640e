-- Times are milliseconds since 1970. A secret is kept as its SHA-256 alone.
CREATE TABLE version (number INTEGER NOT NULL) STRICT;
INSERT INTO version VALUES (0);

CREATE TABLE people (
    name          TEXT    PRIMARY KEY,
    role          TEXT    NOT NULL,
    password_hash TEXT    NOT NULL, -- argon2id, PHC form
    disabled      INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    signed_in_at  INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    digest     BLOB    PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    owner      TEXT    REFERENCES people (name) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    used_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_by_owner ON tokens (owner);

CREATE TABLE sessions (
    digest     BLOB    PRIMARY KEY,
    person     TEXT    REFERENCES people (name) ON DELETE CASCADE,
    token      TEXT    REFERENCES tokens (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    CHECK ((person IS NULL) <> (token IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_person ON sessions (person);
CREATE INDEX sessions_by_token ON sessions (token);

CREATE TABLE registrations (
    digest     BLOB    PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    reusable   INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    used_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE credentials (
    digest       BLOB    PRIMARY KEY,
    runner       TEXT    NOT NULL,
    registration TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    used_at      INTEGER,
    ended        TEXT,
    ended_at     INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX one_credential_for_each_runner ON credentials (runner) WHERE ended IS NULL;

CREATE TABLE audit (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    actor_kind TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    address    TEXT,
    action     TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    detail     TEXT    NOT NULL
) STRICT;

CREATE INDEX audit_by_actor ON audit (actor, number);
CREATE INDEX audit_by_action ON audit (action, number);

-- What was done stays done: an entry never changes, and goes only when it is older than what is kept. That moment
-- lies a day back at least.
CREATE TABLE audit_kept (since INTEGER NOT NULL) STRICT;
INSERT INTO audit_kept VALUES (0);

CREATE TRIGGER audit_is_kept_for_a_day BEFORE UPDATE ON audit_kept
WHEN NEW.since > (unixepoch() - 86400) * 1000
BEGIN
    SELECT RAISE (ABORT, 'the audit log keeps a day at least');
END;

CREATE TRIGGER audit_does_not_change BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE (ABORT, 'an entry of the audit log does not change');
END;

CREATE TRIGGER audit_does_not_shrink BEFORE DELETE ON audit
WHEN OLD.at >= (SELECT since FROM audit_kept)
BEGIN
    SELECT RAISE (ABORT, 'an entry of the audit log is kept');
END;
