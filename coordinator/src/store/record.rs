//! What the store knows of a build.

use std::sync::Arc;

use caisson_protocol::{
    AttemptReport, BuildId, BuildSpec, ErrorReason, Outcome, Phases, ResolvedCommit, Status,
};
use caisson_scheduler::{AttemptEnd, LiveBuild, RunnerRef};

/// A wall-clock time in milliseconds since 1970, for people only.
pub type Millis = i64;

/// A build and its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRecord {
    /// Its identity.
    pub id: BuildId,
    /// Its number.
    pub number: u64,
    /// What to build.
    pub spec: Arc<BuildSpec>,
    /// Where it stands.
    pub status: Status,
    /// How it ended, once it has.
    pub result: Option<AttemptResult>,
    /// When it was accepted.
    pub queued_at: Millis,
    /// When the command of its current attempt began to run.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// Its attempts, in order.
    pub attempts: Vec<AttemptRecord>,
}

impl BuildRecord {
    /// The build as a scheduler takes it up again.
    pub(crate) fn live(&self) -> LiveBuild {
        let charged = || self.attempts.iter().filter(|attempt| attempt.charged);
        let failed =
            |attempt: &&AttemptRecord| attempt.result.as_ref().is_some_and(AttemptResult::blames_runner);
        let latest = self.attempts.last();
        LiveBuild {
            id: self.id,
            number: self.number,
            spec: Arc::clone(&self.spec),
            status: self.status,
            attempts_made: latest.map_or(0, |attempt| attempt.number),
            attempts_charged: u32::try_from(charged().count()).unwrap_or(u32::MAX),
            failed_on: charged().filter(failed).map(|attempt| attempt.runner.id).collect(),
            runner: latest.filter(|attempt| attempt.result.is_none()).map(|attempt| attempt.runner.clone()),
        }
    }
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Its number, from 1.
    pub number: u32,
    /// Who has or had it.
    pub runner: RunnerRef,
    /// When it was given to the runner.
    pub assigned_at: Millis,
    /// When its command began to run.
    pub started_at: Option<Millis>,
    /// When it was over.
    pub finished_at: Option<Millis>,
    /// How it ended, once it has.
    pub result: Option<AttemptResult>,
    /// Whether it counts against the cap of attempts.
    pub charged: bool,
    /// How long its parts took.
    pub phases: Phases,
    /// The commit that was built.
    pub resolved_commit: Option<ResolvedCommit>,
    /// The digest of the image.
    pub image_digest: Option<String>,
    /// How long its log became, in bytes, where its runner said so.
    pub log_bytes: Option<u64>,
}

/// How an attempt or a build ended, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptResult {
    /// A terminal status, or `released` for an attempt that ended without saying anything of the build.
    pub status: String,
    /// The cause, for programs.
    pub reason: Option<String>,
    /// The cause, for people.
    pub message: Option<String>,
    /// The command's exit code.
    pub exit_code: Option<u8>,
}

impl From<&Outcome> for AttemptResult {
    fn from(outcome: &Outcome) -> Self {
        Self {
            status: outcome.status().as_str().to_owned(),
            reason: outcome.reason().map(str::to_owned),
            message: outcome.message().map(str::to_owned),
            exit_code: outcome.exit_code(),
        }
    }
}

impl AttemptResult {
    /// Whether the build should rather be tried on another runner. A lost runner may come back as good as any.
    pub(crate) fn blames_runner(&self) -> bool {
        self.status == Status::Errored.as_str()
            && self.reason.as_deref() != Some(ErrorReason::RunnerLost.as_str())
    }

    /// How an attempt ended, in words.
    pub(crate) fn of_attempt(end: &AttemptEnd) -> Self {
        let released = |reason: &str, message: &str| Self {
            status: "released".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            exit_code: None,
        };
        match end {
            AttemptEnd::Reported(report) => Self::from(&report.outcome),
            AttemptEnd::RunnerLost => Self::from(&Outcome::Errored {
                reason: ErrorReason::RunnerLost,
                message: "its runner was not heard from in time, or restarted without it".into(),
            }),
            AttemptEnd::GivenBack => released("given_back", "its runner was stopped and gave it back"),
            AttemptEnd::NeverReceived => released("never_received", "its runner never received it"),
        }
    }
}

/// What the runner reported of an attempt, if it was its runner that ended it.
pub(crate) fn report(end: &AttemptEnd) -> Option<&AttemptReport> {
    match end {
        AttemptEnd::Reported(report) => Some(report),
        AttemptEnd::RunnerLost | AttemptEnd::GivenBack | AttemptEnd::NeverReceived => None,
    }
}
