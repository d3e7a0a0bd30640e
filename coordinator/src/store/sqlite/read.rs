//! What is asked of the store, as queries.

use std::{cmp::Reverse, sync::Arc};

use caisson_protocol::{BuildSpec, Phases, Status};
use caisson_scheduler::{IdempotencyKey, RememberedKey, Restored, RunnerRef};
use rusqlite::{Connection, OptionalExtension, Result, Row, named_params, types::Type};
use serde::de::DeserializeOwned;

use crate::store::{AttemptRecord, AttemptResult, BuildFilter, BuildKey, BuildRecord};

/// How many idempotency keys a scheduler is given back: as many as it remembers.
const KEYS_MAX: u32 = 100_000;

const BUILD: &str =
    "SELECT number, id, repository_url, commit_name, command, image, env, labels, timeout_seconds,
    status, result_reason, result_message, exit_code, queued_at, started_at, finished_at, limits, network";

/// Ended builds that have all `:pieces`, as the index has them one after the other: a cross join is not turned around.
const INDEXED: &str = "(SELECT rowid AS found FROM builds_text WHERE builds_text MATCH :pieces)
    CROSS JOIN builds ON number = found";

pub(super) fn restore(reader: &Connection) -> Result<Restored> {
    // One transaction, so that all three queries see the same moment.
    let moment = reader.unchecked_transaction()?;
    let live = format!(
        "{BUILD} FROM builds WHERE status IN ('queued', 'assigned', 'running', 'canceling') ORDER BY number"
    );
    let mut builds = Vec::new();
    for build in moment.prepare(&live)?.query_map([], build_row)? {
        let build = build?;
        builds.push(with_attempts(&moment, build)?.live());
    }
    let latest_number =
        moment.query_row("SELECT coalesce(max(number), 0) FROM builds", [], |row| row.get::<_, i64>(0))?;
    let mut keys = moment
        .prepare(
            "SELECT key, key_digest, id FROM builds WHERE key IS NOT NULL ORDER BY number DESC LIMIT ?1",
        )?
        .query_map([KEYS_MAX], |row| {
            let key = IdempotencyKey { key: row.get(0)?, digest: row.get(1)? };
            Ok(RememberedKey { key, build: parsed(row, 2)? })
        })?
        .collect::<Result<Vec<_>>>()?;
    keys.reverse();
    Ok(Restored { builds, latest_number: latest_number.unsigned_abs(), keys })
}

pub(super) fn build(reader: &Connection, which: BuildKey) -> Result<Option<BuildRecord>> {
    let found = match which {
        BuildKey::Id(id) => {
            let sql = format!("{BUILD} FROM builds WHERE id = ?1");
            reader.prepare_cached(&sql)?.query_row([id.to_string()], build_row).optional()?
        }
        BuildKey::Number(number) => {
            let sql = format!("{BUILD} FROM builds WHERE number = ?1");
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            reader.prepare_cached(&sql)?.query_row([number], build_row).optional()?
        }
    };
    found.map(|build| with_attempts(reader, build)).transpose()
}

pub(super) fn builds(reader: &Connection, filter: &BuildFilter) -> Result<Vec<BuildRecord>> {
    let Some(pieces) = filter.text.as_deref().and_then(pieces) else {
        return page(reader, filter, Among::All);
    };
    let mut found = page(reader, filter, Among::Live)?;
    found.extend(page(reader, filter, Among::Ended { pieces })?);
    found.sort_unstable_by_key(|build| Reverse(build.number));
    found.truncate(filter.limit);
    Ok(found)
}

/// Which builds are looked through.
enum Among {
    All,
    /// Those that have not ended: few.
    Live,
    /// Those that have, and that have all these pieces of text: an index finds them.
    Ended {
        pieces: String,
    },
}

fn page(reader: &Connection, filter: &BuildFilter, among: Among) -> Result<Vec<BuildRecord>> {
    let mut conditions = vec!["number < :before"];
    let (source, order, pieces) = match among {
        Among::All => ("builds", "number", None),
        Among::Live => {
            conditions.push("status IN ('queued', 'assigned', 'running', 'canceling')");
            ("builds", "number", None)
        }
        // The index is read backwards for as long as it takes to fill the page.
        Among::Ended { pieces } => {
            conditions.push("found < :before");
            (INDEXED, "found", Some(pieces))
        }
    };
    let text = filter.text.as_deref().map(like_pattern);
    let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
    let statuses = serde_json::to_string(&statuses).unwrap_or_default();
    if !filter.statuses.is_empty() {
        conditions.push("status IN (SELECT value FROM json_each(:statuses))");
    }
    if filter.repository_url.is_some() {
        conditions.push("repository_url = :repository_url");
    }
    if text.is_some() {
        conditions.push(
            "(command LIKE :text ESCAPE '\\' OR repository_url LIKE :text ESCAPE '\\'
              OR commit_name LIKE :text ESCAPE '\\')",
        );
    }
    let conditions = conditions.join(" AND ");
    let sql = format!("{BUILD} FROM {source} WHERE {conditions} ORDER BY {order} DESC LIMIT :limit");
    let mut statement = reader.prepare_cached(&sql)?;
    let before = i64::try_from(filter.before.unwrap_or(u64::MAX)).unwrap_or(i64::MAX);
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let values = named_params! {
        ":before": before,
        ":limit": limit,
        ":statuses": statuses,
        ":repository_url": filter.repository_url,
        ":text": text,
        ":pieces": pieces,
    };
    // Only names that the statement has may be bound.
    for (name, value) in values {
        if let Some(at) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(at, value)?;
        }
    }
    let mut rows = statement.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(with_attempts(reader, build_row(row)?)?);
    }
    Ok(found)
}

/// What the text of a search means to the index: each three letters in a row, wherever they are. `None` for a text that
/// has no three.
fn pieces(text: &str) -> Option<String> {
    let letters: Vec<char> = text.chars().collect();
    let piece = |letters: &[char]| format!("\"{}\"", letters.iter().collect::<String>().replace('"', "\"\""));
    let pieces: Vec<String> = letters.windows(3).map(piece).collect();
    (!pieces.is_empty()).then(|| pieces.join(" "))
}

/// What the text of a search means to LIKE: itself, anywhere.
fn like_pattern(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

fn build_row(row: &Row<'_>) -> Result<BuildRecord> {
    let status = row.get::<_, String>(9)?;
    let status = Status::ALL
        .into_iter()
        .find(|known| known.as_str() == status)
        .ok_or_else(|| damaged(9, format!("unknown status {status:?}").into()))?;
    let result = AttemptResult {
        status: status.as_str().to_owned(),
        reason: row.get(10)?,
        message: row.get(11)?,
        exit_code: row.get(12)?,
    };
    let timeout: u32 = row.get(8)?;
    let spec = BuildSpec {
        repository_url: parsed(row, 2)?,
        commit: parsed(row, 3)?,
        command: parsed(row, 4)?,
        image: parsed(row, 5)?,
        env: json(row, 6)?,
        labels: json(row, 7)?,
        timeout_seconds: timeout.try_into().map_err(|error| damaged(8, Box::new(error)))?,
        limits: json(row, 16)?,
        network: json(row, 17)?,
    };
    Ok(BuildRecord {
        id: parsed(row, 1)?,
        number: row.get::<_, i64>(0)?.unsigned_abs(),
        spec: Arc::new(spec),
        status,
        result: status.is_terminal().then_some(result),
        queued_at: row.get(13)?,
        started_at: row.get(14)?,
        finished_at: row.get(15)?,
        attempts: Vec::new(),
    })
}

fn with_attempts(reader: &Connection, mut build: BuildRecord) -> Result<BuildRecord> {
    let sql = "SELECT number, runner_id, runner_name, assigned_at, started_at, finished_at, result, result_reason,
        result_message, exit_code, charged, resolved_commit, image_digest, log_bytes, clone_ms, image_ms, create_ms,
        run_ms, cleanup_ms FROM attempts WHERE build = ?1 ORDER BY number";
    let number = i64::try_from(build.number).unwrap_or(i64::MAX);
    build.attempts = reader.prepare_cached(sql)?.query_map([number], attempt_row)?.collect::<Result<_>>()?;
    Ok(build)
}

fn attempt_row(row: &Row<'_>) -> Result<AttemptRecord> {
    let status: Option<String> = row.get(6)?;
    let (reason, message, exit_code) = (row.get(7)?, row.get(8)?, row.get(9)?);
    let count = |at: usize| row.get::<_, Option<i64>>(at).map(|number| number.map(i64::unsigned_abs));
    Ok(AttemptRecord {
        number: row.get(0)?,
        runner: RunnerRef { id: parsed(row, 1)?, name: row.get(2)? },
        assigned_at: row.get(3)?,
        started_at: row.get(4)?,
        finished_at: row.get(5)?,
        result: status.map(|status| AttemptResult { status, reason, message, exit_code }),
        charged: row.get(10)?,
        resolved_commit: row.get::<_, Option<String>>(11)?.map(|_| parsed(row, 11)).transpose()?,
        image_digest: row.get(12)?,
        log_bytes: count(13)?,
        phases: Phases {
            clone_ms: count(14)?,
            image_ms: count(15)?,
            create_ms: count(16)?,
            run_ms: count(17)?,
            cleanup_ms: count(18)?,
        },
    })
}

fn parsed<T>(row: &Row<'_>, at: usize) -> Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(at)?.parse().map_err(|error: T::Err| damaged(at, Box::new(error)))
}

fn json<T: DeserializeOwned>(row: &Row<'_>, at: usize) -> Result<T> {
    serde_json::from_str(&row.get::<_, String>(at)?).map_err(|error| damaged(at, error.into()))
}

fn damaged(column: usize, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
}
