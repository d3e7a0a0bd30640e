//! How builds have gone lately, as numbers to draw.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Json, extract::State};
use caisson_protocol::Status;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    model::moment,
    person::Parameters,
    problem::{Problem, ProblemDocument},
};
use crate::{
    clock,
    store::{BuildFilter, BuildRecord, Millis},
};

/// How many builds are looked at; older ones are left out, and the answer says so.
const BUILDS_MAX: usize = 5000;
/// How many are taken from the store at once.
const PAGE: usize = 500;
/// How many commands are told.
const COMMANDS_MAX: usize = 8;
const HOUR_MS: i64 = 3_600_000;

/// How builds have gone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Trends {
    /// How long each bucket is.
    bucket_seconds: i64,
    /// The time from `since` until now in equal parts, oldest first.
    buckets: Vec<Bucket>,
    /// How many ended builds this is made of.
    builds: usize,
    /// Whether all builds of that time were looked at, and not just the latest ones.
    complete: bool,
    /// The commands that take longest.
    slowest: Vec<CommandTrend>,
    /// The commands that both succeeded and failed on one commit.
    flakiest: Vec<CommandTrend>,
    /// The repositories that were built.
    repositories: Vec<String>,
}

/// The builds that ended in one part of the time.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Bucket {
    /// When it begins.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = String, format = DateTime)]
    from: Option<OffsetDateTime>,
    /// How many succeeded.
    succeeded: usize,
    /// How many failed or took too long.
    failed: usize,
    /// How many could not be run.
    errored: usize,
    /// How many were canceled.
    canceled: usize,
    /// How long they ran.
    #[schema(required)]
    duration_ms: Option<Spread>,
    /// How long they waited before their command began to run.
    #[schema(required)]
    waiting_ms: Option<Spread>,
}

/// How some durations are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Spread {
    /// Half of them are no longer than this.
    p50: i64,
    /// All but one in twenty are no longer than this.
    p95: i64,
}

/// How one command of one repository has gone.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct CommandTrend {
    /// Its repository.
    repository_url: String,
    /// What is run.
    command: String,
    /// How often it ran to its end.
    builds: usize,
    /// How many of those failed.
    failed: usize,
    /// On how many commits it both succeeded and failed.
    flaky_commits: usize,
    /// How long it ran.
    duration_ms: Spread,
}

/// Which builds.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TrendsQuery {
    /// Only builds of this repository.
    repository: Option<String>,
    /// How far back: `day`, `week` (when it is left out) or `month`.
    range: Option<String>,
}

/// Tells how builds have gone lately: durations, waiting times, outcomes, slow and flaky commands.
#[utoipa::path(
    get,
    path = "/trends",
    params(TrendsQuery),
    responses((status = 200, body = Trends), (status = 422, body = ProblemDocument, content_type = "application/problem+json"))
)]
pub(super) async fn trends(
    State(app): State<Arc<App>>,
    query: Parameters<TrendsQuery>,
) -> Result<Json<Trends>, Problem> {
    let Parameters(TrendsQuery { repository, range }) = query;
    let (bucket_ms, count) = match range.as_deref() {
        Some("day") => (HOUR_MS, 24),
        Some("week") | None => (6 * HOUR_MS, 28),
        Some("month") => (24 * HOUR_MS, 30),
        Some(other) => {
            return Err(Problem::invalid("range", format!("{other:?} is none of day, week, month")));
        }
    };
    let until = (clock::now_ms() / HOUR_MS + 1) * HOUR_MS;
    let since = until - bucket_ms * count;
    let mut builds: Vec<BuildRecord> = Vec::new();
    let mut complete = false;
    while builds.len() < BUILDS_MAX {
        let before = builds.last().map(|build| build.number);
        let filter =
            BuildFilter { repository_url: repository.clone(), before, limit: PAGE, ..BuildFilter::default() };
        let page = app.store.builds(&filter).await?;
        complete = page.len() < PAGE || page.last().is_some_and(|build| build.queued_at < since);
        builds.extend(page);
        if complete {
            break;
        }
    }
    let ended: Vec<Ended> = builds.iter().filter_map(Ended::of).filter(|build| build.at >= since).collect();
    Ok(Json(Trends {
        bucket_seconds: bucket_ms / 1000,
        buckets: buckets(&ended, since, bucket_ms, usize::try_from(count).unwrap_or(0)),
        builds: ended.len(),
        complete,
        slowest: slowest(&ended),
        flakiest: flakiest(&ended),
        repositories: ended
            .iter()
            .map(|build| build.repository_url.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    }))
}

/// What counts of a build that has ended.
#[derive(Debug, Clone)]
struct Ended {
    repository_url: String,
    command: String,
    commit: String,
    status: Status,
    at: Millis,
    duration_ms: Option<i64>,
    waiting_ms: Option<i64>,
}

impl Ended {
    fn of(build: &BuildRecord) -> Option<Self> {
        let at = build.finished_at?;
        let resolved = build.attempts.last().and_then(|attempt| attempt.resolved_commit.as_ref());
        Some(Self {
            repository_url: build.spec.repository_url.clone().into(),
            command: build.spec.command.as_str().to_owned(),
            commit: resolved.map_or_else(|| build.spec.commit.to_string(), ToString::to_string),
            status: build.status,
            at,
            duration_ms: build.started_at.map(|started| (at - started).max(0)),
            waiting_ms: build.started_at.map(|started| (started - build.queued_at).max(0)),
        })
    }

    /// Whether its command ran, and ended by itself or by its time limit.
    fn ran(&self) -> bool {
        matches!(self.status, Status::Succeeded | Status::Failed | Status::TimedOut)
    }

    fn failed(&self) -> bool {
        matches!(self.status, Status::Failed | Status::TimedOut)
    }
}

fn buckets(ended: &[Ended], since: Millis, bucket_ms: i64, count: usize) -> Vec<Bucket> {
    let mut sorted: Vec<Vec<&Ended>> = vec![Vec::new(); count];
    for build in ended {
        let at = usize::try_from((build.at - since) / bucket_ms).unwrap_or(usize::MAX);
        if let Some(bucket) = sorted.get_mut(at) {
            bucket.push(build);
        }
    }
    let beginnings = (0..).map(|at| moment(since + bucket_ms * at));
    sorted.iter().zip(beginnings).map(|(builds, from)| Bucket::of(builds, from)).collect()
}

impl Bucket {
    fn of(builds: &[&Ended], from: OffsetDateTime) -> Self {
        let count = |wanted: &[Status]| builds.iter().filter(|build| wanted.contains(&build.status)).count();
        Self {
            from: Some(from),
            succeeded: count(&[Status::Succeeded]),
            failed: count(&[Status::Failed, Status::TimedOut]),
            errored: count(&[Status::Errored]),
            canceled: count(&[Status::Canceled]),
            duration_ms: spread(
                builds.iter().filter(|build| build.ran()).filter_map(|build| build.duration_ms).collect(),
            ),
            waiting_ms: spread(builds.iter().filter_map(|build| build.waiting_ms).collect()),
        }
    }
}

/// The commands whose builds ran to their end.
fn commands(ended: &[Ended]) -> Vec<CommandTrend> {
    let mut by_command: BTreeMap<(&str, &str), Vec<&Ended>> = BTreeMap::new();
    for build in ended.iter().filter(|build| build.ran()) {
        by_command.entry((&build.repository_url, &build.command)).or_default().push(build);
    }
    let trends = by_command.into_iter().filter_map(|((repository_url, command), builds)| {
        Some(CommandTrend {
            repository_url: repository_url.to_owned(),
            command: command.to_owned(),
            builds: builds.len(),
            failed: builds.iter().filter(|build| build.failed()).count(),
            flaky_commits: flaky_commits(&builds),
            duration_ms: spread(builds.iter().filter_map(|build| build.duration_ms).collect())?,
        })
    });
    trends.collect()
}

fn flaky_commits(builds: &[&Ended]) -> usize {
    let mut outcomes: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
    for build in builds {
        outcomes.entry(&build.commit).or_default().insert(build.failed());
    }
    outcomes.values().filter(|outcomes| outcomes.len() == 2).count()
}

fn slowest(ended: &[Ended]) -> Vec<CommandTrend> {
    let mut commands = commands(ended);
    commands.sort_by_key(|command| std::cmp::Reverse(command.duration_ms.p50));
    commands.truncate(COMMANDS_MAX);
    commands
}

fn flakiest(ended: &[Ended]) -> Vec<CommandTrend> {
    let mut commands = commands(ended);
    commands.retain(|command| command.flaky_commits > 0);
    commands.sort_by_key(|command| std::cmp::Reverse((command.flaky_commits, command.failed)));
    commands.truncate(COMMANDS_MAX);
    commands
}

fn spread(mut durations: Vec<i64>) -> Option<Spread> {
    durations.sort_unstable();
    let at = |part: usize| durations.get((durations.len() * part).div_ceil(100).saturating_sub(1)).copied();
    Some(Spread { p50: at(50)?, p95: at(95)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(commit: &str, status: Status, at: Millis, duration_ms: i64) -> Ended {
        Ended {
            repository_url: "https://example.org/app.git".into(),
            command: "make test".into(),
            commit: commit.into(),
            status,
            at,
            duration_ms: Some(duration_ms),
            waiting_ms: Some(1),
        }
    }

    #[test]
    fn a_spread_is_made_of_values_that_occurred() {
        assert_eq!(spread(vec![]), None);
        assert_eq!(spread(vec![7]), Some(Spread { p50: 7, p95: 7 }));
        assert_eq!(spread((1..=100).rev().collect()), Some(Spread { p50: 50, p95: 95 }));
    }

    #[test]
    fn a_build_is_counted_when_it_ended() {
        let ended = [build("a", Status::Succeeded, 1999, 5), build("a", Status::TimedOut, 2000, 9)];
        let buckets = buckets(&ended, 1000, 1000, 3);
        assert_eq!(buckets.iter().map(|bucket| bucket.succeeded).collect::<Vec<_>>(), [1, 0, 0]);
        assert_eq!(buckets.iter().map(|bucket| bucket.failed).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(buckets[2].duration_ms, None);
    }

    #[test]
    fn flaky_is_what_failed_and_succeeded_on_one_commit() {
        let fails_then_is_mended = [build("a", Status::Failed, 1, 1), build("b", Status::Succeeded, 2, 1)];
        assert!(flakiest(&fails_then_is_mended).is_empty());
        let flaky = [build("a", Status::Failed, 1, 1), build("a", Status::Succeeded, 2, 1)];
        assert_eq!(flakiest(&flaky).len(), 1);
        let not_its_fault = [build("a", Status::Errored, 1, 1), build("a", Status::Succeeded, 2, 1)];
        assert!(flakiest(&not_its_fault).is_empty());
    }
}
