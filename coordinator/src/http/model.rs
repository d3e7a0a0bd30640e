//! What the API shows, in the API's own words.

use caisson_protocol::{
    BuildId, BuildLimits, Commit, Condition, ImageRef, Labels, Network, Phases, RepositoryUrl,
    ResolvedCommit, RunnerId, Status,
};
use caisson_scheduler::{RunnerRef, RunnerView, WaitingBuild, WaitingFor};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::store::{AttemptRecord, AttemptResult, BuildRecord, Millis};

/// A build.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Build {
    /// Its identity.
    id: BuildId,
    /// Its number: builds are counted in the order of submission.
    number: u64,
    /// Where the code comes from.
    repository_url: RepositoryUrl,
    /// What was asked to be built: a SHA, branch or tag.
    commit: Commit,
    /// What was built.
    #[schema(required)]
    resolved_commit: Option<ResolvedCommit>,
    /// What is run.
    command: String,
    /// The image of the container.
    image: ImageRef,
    /// The names of the variables it brings. Their values are not shown.
    env: Vec<String>,
    /// The labels its runner must have.
    labels: Labels,
    /// Where it stands.
    status: Status,
    /// What is known beyond the status, for programs.
    #[schema(required)]
    reason: Option<String>,
    /// The same, for people.
    #[schema(required)]
    message: Option<String>,
    /// The command's exit code.
    #[schema(required)]
    exit_code: Option<u8>,
    /// The number of its latest attempt; 0 when there was none.
    attempt: u32,
    /// The runner of its latest attempt.
    #[schema(required)]
    runner: Option<Runner>,
    /// How long an attempt may take.
    timeout_seconds: u32,
    /// What it is held to, where that is less than its runner allows.
    limits: BuildLimits,
    /// What its container can reach at most.
    network: Network,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    queued_at: OffsetDateTime,
    /// When the command of its latest attempt began to run.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    finished_at: Option<OffsetDateTime>,
    /// Its place among the builds that wait, from 1.
    #[schema(required)]
    queue_position: Option<usize>,
    /// Why it waits.
    #[schema(required)]
    waiting_for: Option<Waiting>,
    /// How long the log of its latest attempt is, once that has ended.
    #[schema(required)]
    log_bytes: Option<u64>,
    /// Its attempts, in order.
    attempts: Vec<Attempt>,
}

/// A runner, as a build names it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Runner {
    /// Its identity.
    id: RunnerId,
    /// Its name.
    name: String,
}

/// One try of a build on one runner.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Attempt {
    /// Which try, from 1.
    number: u32,
    /// Who had it.
    runner: Runner,
    /// When it was given to the runner.
    #[serde(with = "time::serde::rfc3339")]
    assigned_at: OffsetDateTime,
    /// When its command began to run.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    started_at: Option<OffsetDateTime>,
    /// When it was over.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    finished_at: Option<OffsetDateTime>,
    /// How it ended.
    #[schema(required)]
    outcome: Option<AttemptOutcome>,
    /// How long its parts took, in milliseconds.
    phases: Phases,
    /// The commit that was built.
    #[schema(required)]
    resolved_commit: Option<ResolvedCommit>,
    /// The digest of the image.
    #[schema(required)]
    image_digest: Option<String>,
    /// How long its log is, in bytes, once it has ended.
    #[schema(required)]
    log_bytes: Option<u64>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct AttemptOutcome {
    /// A build's terminal status, or `released` when it says nothing of the build.
    status: String,
    /// What is known beyond it, for programs.
    #[schema(required)]
    reason: Option<String>,
    /// The same, for people.
    #[schema(required)]
    message: Option<String>,
    /// The command's exit code.
    #[schema(required)]
    exit_code: Option<u8>,
}

/// Why a build waits.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Waiting {
    /// The cause, for programs.
    code: &'static str,
    /// The cause, for people.
    message: String,
}

/// A page of builds, newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct BuildPage {
    /// The builds.
    pub(super) builds: Vec<Build>,
    /// What to pass as `cursor` to get the page after this one.
    #[schema(required)]
    pub(super) next_cursor: Option<String>,
}

/// The builds that wait.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Queue {
    /// How many may wait.
    pub(super) limit: usize,
    /// How many do.
    pub(super) depth: usize,
    /// The first of them, oldest first.
    pub(super) builds: Vec<QueuedBuild>,
}

/// The builds that wait, and what they are.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct WaitingBuilds {
    /// How many may wait.
    pub(super) limit: usize,
    /// How many do.
    pub(super) depth: usize,
    /// The first of them, oldest first.
    pub(super) builds: Vec<PlacedBuild>,
}

/// A build that waits, and what it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct PlacedBuild {
    /// Its place and its cause.
    #[serde(flatten)]
    place: QueuedBuild,
    /// Its number.
    number: u64,
    /// Where the code comes from.
    repository_url: RepositoryUrl,
    /// What was asked to be built.
    commit: Commit,
    /// What is run.
    command: String,
    /// The labels its runner must have.
    labels: Labels,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    queued_at: OffsetDateTime,
}

/// A build that waits.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct QueuedBuild {
    /// The build.
    pub(super) id: BuildId,
    /// Its place, from 1.
    queue_position: usize,
    /// Why it waits.
    waiting_for: Waiting,
}

/// The runners.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Runners {
    /// The runners, by name.
    pub(super) runners: Vec<RunnerState>,
}

/// A runner, as it is now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct RunnerState {
    /// Its identity.
    id: RunnerId,
    /// Its name.
    name: String,
    /// `ready`, `unhealthy`, `draining` or `disconnected`.
    status: &'static str,
    /// Why it can run no builds, if that is so.
    #[schema(required)]
    unhealthy: Option<String>,
    /// Its last sign of life. Unknown while it has not come back after a restart of the coordinator.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    last_seen_at: Option<OffsetDateTime>,
    /// How many builds it runs at once.
    capacity: u32,
    /// What it offers.
    labels: Labels,
    /// The version of its program.
    version: String,
    /// The engine it runs containers with.
    engine: String,
    /// What it runs now.
    builds: Vec<BuildId>,
    /// How many things of earlier builds it has found and removed since it started.
    swept: u64,
    /// How many such things it could not remove when it last tried.
    left_behind: u64,
}

impl Build {
    /// A build from what is stored of it and, while it waits, from what the queue says.
    pub(super) fn new(record: &BuildRecord, waiting: Option<&WaitingBuild>) -> Self {
        let spec = &record.spec;
        let latest = record.attempts.last();
        let result = record.result.as_ref();
        Self {
            id: record.id,
            number: record.number,
            repository_url: spec.repository_url.clone(),
            commit: spec.commit.clone(),
            resolved_commit: latest.and_then(|attempt| attempt.resolved_commit.clone()),
            command: spec.command.as_str().to_owned(),
            image: spec.image.clone(),
            env: spec.env.names(),
            labels: spec.labels.clone(),
            status: record.status,
            reason: result.and_then(|result| result.reason.clone()),
            message: result.and_then(|result| result.message.clone()),
            exit_code: result.and_then(|result| result.exit_code),
            attempt: latest.map_or(0, |attempt| attempt.number),
            runner: latest.map(|attempt| Runner::from(&attempt.runner)),
            timeout_seconds: spec.timeout_seconds.get(),
            limits: spec.limits,
            network: spec.network,
            queued_at: moment(record.queued_at),
            started_at: record.started_at.map(moment),
            finished_at: record.finished_at.map(moment),
            queue_position: waiting.map(|waiting| waiting.position),
            waiting_for: waiting.map(|waiting| Waiting::from(&waiting.waiting_for)),
            log_bytes: latest.and_then(|attempt| attempt.log_bytes),
            attempts: record.attempts.iter().map(Attempt::from).collect(),
        }
    }
}

impl From<&RunnerRef> for Runner {
    fn from(runner: &RunnerRef) -> Self {
        Self { id: runner.id, name: runner.name.clone() }
    }
}

impl From<&AttemptRecord> for Attempt {
    fn from(record: &AttemptRecord) -> Self {
        Self {
            number: record.number,
            runner: Runner::from(&record.runner),
            assigned_at: moment(record.assigned_at),
            started_at: record.started_at.map(moment),
            finished_at: record.finished_at.map(moment),
            outcome: record.result.as_ref().map(AttemptOutcome::from),
            phases: record.phases,
            resolved_commit: record.resolved_commit.clone(),
            image_digest: record.image_digest.clone(),
            log_bytes: record.log_bytes,
        }
    }
}

impl From<&AttemptResult> for AttemptOutcome {
    fn from(result: &AttemptResult) -> Self {
        let AttemptResult { status, reason, message, exit_code } = result.clone();
        Self { status, reason, message, exit_code }
    }
}

impl From<&WaitingFor> for Waiting {
    fn from(why: &WaitingFor) -> Self {
        let (code, message) = match why {
            WaitingFor::AnyRunner => ("no_runner", "no runner is registered".to_owned()),
            WaitingFor::Labels(missing) => {
                ("no_matching_runner", format!("no runner has the labels it needs: {missing}"))
            }
            WaitingFor::DrainedRunners => {
                ("runners_draining", "all runners that serve it are draining".to_owned())
            }
            WaitingFor::LostRunners => {
                ("runners_disconnected", "the runners that serve it have lost their connection".to_owned())
            }
            WaitingFor::UnhealthyRunners(why) => {
                ("runners_unhealthy", format!("the runners that serve it can run no builds: {why}"))
            }
            WaitingFor::FreeRunner { runners: 1 } => ("busy", "the runner that serves it is busy".to_owned()),
            WaitingFor::FreeRunner { runners } => {
                ("busy", format!("all {runners} runners that serve it are busy"))
            }
            WaitingFor::AnotherRunner => (
                "another_runner",
                "it failed by no fault of its own, and waits for another runner".to_owned(),
            ),
        };
        Self { code, message }
    }
}

impl From<&WaitingBuild> for QueuedBuild {
    fn from(waiting: &WaitingBuild) -> Self {
        Self {
            id: waiting.id,
            queue_position: waiting.position,
            waiting_for: Waiting::from(&waiting.waiting_for),
        }
    }
}

impl QueuedBuild {
    /// The same, with what is stored of the build.
    pub(super) fn of(self, record: &BuildRecord) -> PlacedBuild {
        PlacedBuild {
            place: self,
            number: record.number,
            repository_url: record.spec.repository_url.clone(),
            commit: record.spec.commit.clone(),
            command: record.spec.command.as_str().to_owned(),
            labels: record.spec.labels.clone(),
            queued_at: moment(record.queued_at),
        }
    }
}

impl RunnerState {
    /// A runner from what it said of itself, and when it was last heard from.
    pub(super) fn new(view: &RunnerView, seen: Option<Millis>) -> Self {
        let said = view.registration.as_ref();
        let condition = said.map(|said| said.condition.clone()).unwrap_or_default();
        let status = match &condition {
            _ if !view.connected => "disconnected",
            _ if view.draining => "draining",
            Condition { unhealthy: Some(_), .. } => "unhealthy",
            _ => "ready",
        };
        Self {
            id: view.id,
            name: view.name.clone(),
            status,
            unhealthy: condition.unhealthy,
            last_seen_at: seen.map(moment),
            capacity: said.map_or(0, |said| said.capacity),
            labels: said.map(|said| said.labels.clone()).unwrap_or_default(),
            version: said.map(|said| said.version.clone()).unwrap_or_default(),
            engine: said.map(|said| said.engine.clone()).unwrap_or_default(),
            builds: view.builds.clone(),
            swept: condition.swept,
            left_behind: condition.left_behind,
        }
    }
}

/// A stored time, as it is shown.
pub(super) fn moment(at: Millis) -> OffsetDateTime {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000);
    at.unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
