//! Each change as a statement.

use caisson_protocol::{AttemptId, BuildId, Outcome, Status};
use caisson_scheduler::{AttemptEnd, Change, RunnerRef, Submission};
use rusqlite::{Connection, Result, ToSql, named_params};

use crate::store::{AttemptResult, Millis, record::report};

pub(super) fn apply(transaction: &Connection, change: &Change, at: Millis) -> Result<()> {
    match change {
        Change::Submitted { submission, number } => submitted(transaction, submission, *number, at),
        Change::Assigned { attempt, runner } => assigned(transaction, *attempt, runner, at),
        Change::Started { attempt, resolved_commit, image_digest } => {
            run(
                transaction,
                "UPDATE builds SET status = 'running', started_at = :at WHERE id = :build",
                named_params! { ":build": attempt.build.to_string(), ":at": at },
            )?;
            attempt_row(
                transaction,
                "UPDATE attempts SET started_at = :at, resolved_commit = :commit, image_digest = :digest",
                *attempt,
                &[
                    (":at", &at),
                    (":commit", &resolved_commit.as_ref().map(ToString::to_string)),
                    (":digest", image_digest),
                ],
            )
        }
        Change::Canceling { build } => status(transaction, &build.to_string(), Status::Canceling),
        Change::AttemptEnded { attempt, end, charged } => {
            attempt_ended(transaction, *attempt, end, *charged, at)
        }
        Change::Requeued { build } => run(
            transaction,
            "UPDATE builds SET status = 'queued', started_at = NULL WHERE id = :build",
            named_params! { ":build": build.to_string() },
        ),
        Change::Ended { build, outcome } => ended(transaction, *build, outcome, at),
        Change::Cleaned { attempt, runner, cleanup_ms } => {
            // Touches nothing when the attempt is another runner's: not this one's to speak of.
            let sql = "UPDATE attempts SET cleanup_ms = :cleanup_ms
                       WHERE build = (SELECT number FROM builds WHERE id = :build)
                         AND number = :attempt AND runner_id = :runner";
            transaction.prepare_cached(sql)?.execute(named_params! {
                ":build": attempt.build.to_string(),
                ":attempt": attempt.number,
                ":runner": runner.to_string(),
                ":cleanup_ms": count(*cleanup_ms),
            })?;
            Ok(())
        }
    }
}

fn submitted(transaction: &Connection, submission: &Submission, number: u64, at: Millis) -> Result<()> {
    let spec = &submission.spec;
    run(
        transaction,
        "INSERT INTO builds (number, id, repository_url, commit_name, command, image, env, labels, timeout_seconds,
            limits, network, status, queued_at, key, key_digest)
         VALUES (:number, :id, :repository_url, :commit, :command, :image, :env, :labels, :timeout_seconds,
            :limits, :network, 'queued', :at, :key, :key_digest)",
        named_params! {
            ":number": count(number),
            ":id": submission.id.to_string(),
            ":repository_url": spec.repository_url.as_str(),
            ":commit": spec.commit.as_str(),
            ":command": spec.command.as_str(),
            ":image": spec.image.as_str(),
            ":env": json(&spec.env)?,
            ":labels": json(&spec.labels)?,
            ":timeout_seconds": spec.timeout_seconds.get(),
            ":limits": json(&spec.limits)?,
            ":network": json(&spec.network)?,
            ":at": at,
            ":key": submission.key.as_ref().map(|key| &key.key),
            ":key_digest": submission.key.as_ref().map(|key| &key.digest),
        },
    )
}

fn assigned(transaction: &Connection, attempt: AttemptId, runner: &RunnerRef, at: Millis) -> Result<()> {
    run(
        transaction,
        "INSERT INTO attempts (build, number, runner_id, runner_name, assigned_at)
         SELECT number, :attempt, :runner_id, :runner_name, :at FROM builds WHERE id = :build",
        named_params! {
            ":build": attempt.build.to_string(),
            ":attempt": attempt.number,
            ":runner_id": runner.id.to_string(),
            ":runner_name": runner.name,
            ":at": at,
        },
    )?;
    status(transaction, &attempt.build.to_string(), Status::Assigned)
}

fn ended(transaction: &Connection, build: BuildId, outcome: &Outcome, at: Millis) -> Result<()> {
    let result = AttemptResult::from(outcome);
    run(
        transaction,
        "UPDATE builds SET status = :status, result_reason = :reason, result_message = :message,
            exit_code = :exit_code, finished_at = :at
         WHERE id = :build",
        named_params! {
            ":build": build.to_string(),
            ":status": result.status,
            ":reason": result.reason,
            ":message": result.message,
            ":exit_code": result.exit_code,
            ":at": at,
        },
    )
}

fn attempt_ended(
    tx: &Connection,
    attempt: AttemptId,
    end: &AttemptEnd,
    charged: bool,
    at: Millis,
) -> Result<()> {
    let result = AttemptResult::of_attempt(end);
    attempt_row(
        tx,
        "UPDATE attempts SET finished_at = :at, result = :result, result_reason = :reason, result_message = :message,
            exit_code = :exit_code, charged = :charged",
        attempt,
        &[
            (":at", &at),
            (":result", &result.status),
            (":reason", &result.reason),
            (":message", &result.message),
            (":exit_code", &result.exit_code),
            (":charged", &charged),
        ],
    )?;
    let Some(report) = report(end) else { return Ok(()) };
    let phases = &report.phases;
    attempt_row(
        tx,
        "UPDATE attempts SET resolved_commit = coalesce(:commit, resolved_commit),
            image_digest = coalesce(:digest, image_digest), log_bytes = :log_bytes,
            clone_ms = :clone, image_ms = :image, create_ms = :create, run_ms = :run, cleanup_ms = :cleanup",
        attempt,
        &[
            (":commit", &report.resolved_commit.as_ref().map(ToString::to_string)),
            (":digest", &report.image_digest),
            (":log_bytes", &count(report.log_bytes)),
            (":clone", &phases.clone_ms.map(count)),
            (":image", &phases.image_ms.map(count)),
            (":create", &phases.create_ms.map(count)),
            (":run", &phases.run_ms.map(count)),
            (":cleanup", &phases.cleanup_ms.map(count)),
        ],
    )
}

fn status(transaction: &Connection, build: &str, status: Status) -> Result<()> {
    run(
        transaction,
        "UPDATE builds SET status = :status WHERE id = :build",
        named_params! { ":build": build, ":status": status.as_str() },
    )
}

fn attempt_row(tx: &Connection, set: &str, attempt: AttemptId, values: &[(&str, &dyn ToSql)]) -> Result<()> {
    let sql = format!(
        "{set} WHERE build = (SELECT number FROM builds WHERE id = :which_build) AND number = :which_attempt"
    );
    let build = attempt.build.to_string();
    let which: [(&str, &dyn ToSql); 2] = [(":which_build", &build), (":which_attempt", &attempt.number)];
    run(tx, &sql, &[values, &which].concat())
}

/// Runs a statement that must touch exactly one row: the scheduler speaks of what is there.
fn run(transaction: &Connection, sql: &str, values: &[(&str, &dyn ToSql)]) -> Result<()> {
    match transaction.prepare_cached(sql)?.execute(values)? {
        1 => Ok(()),
        touched => Err(rusqlite::Error::StatementChangedRows(touched)),
    }
}

/// SQLite's integers are signed. What is counted here stays far below where that matters.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
