//! The messages on the channel. The runner connects out, by WebSocket, and both sides speak JSON text frames tagged
//! by `type`; pieces of log are binary frames, see [`LogFrame`](crate::LogFrame).
//!
//! `tests/golden/` holds one example of each message: what it shows is what the other side understands.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{AttemptId, BuildSpec, Labels, Outcome, Phases, ResolvedCommit, RunnerId};

/// The version of this protocol. A runner and a coordinator of different versions don't work together.
pub const PROTOCOL_VERSION: u32 = 2;

/// The largest frame either side takes: the longest command and environment, escaped as JSON, fit.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// How many attempts a runner may hold, finished ones that wait to be acknowledged included.
pub const HELD_MAX: usize = 4096;

/// What a runner says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RunnerMessage {
    /// The first message on a connection.
    Register(Registration),
    /// A sign of life, when there is nothing else to say.
    KeepAlive {
        /// Every attempt the runner holds.
        held: Vec<HeldAttempt>,
    },
    /// An assignment has come, and its place on the runner's disk is made.
    Accepted {
        /// The attempt that was assigned.
        attempt: AttemptId,
    },
    /// The command runs. Said again on each new connection while it does.
    Started {
        /// The attempt it belongs to.
        attempt: AttemptId,
        /// The commit that was checked out.
        resolved_commit: ResolvedCommit,
        /// The digest of the image, where the engine knows one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_digest: Option<String>,
    },
    /// An attempt has ended. Sent until acknowledged, after all of its log; an earlier `accepted` or `started` may have
    /// been lost.
    Finished {
        /// The attempt that ended.
        attempt: AttemptId,
        /// How.
        report: AttemptReport,
    },
    /// What an attempt made is removed. Told once, not acknowledged: nothing depends on it.
    Cleaned {
        /// The attempt that had ended before.
        attempt: AttemptId,
        /// How long the removal took, in milliseconds.
        cleanup_ms: u64,
    },
    /// The runner takes no further builds and goes away when it has ended what it holds.
    Draining {
        /// Every attempt the runner holds. What is on its way to it beside them it will never take up.
        held: Vec<HeldAttempt>,
    },
    /// What is said of the runner itself has changed.
    Condition(Condition),
    /// The runner gives an attempt back, and has removed what it made: someone else may try. This is also what a runner
    /// that drains, or that can run no builds, says to an assignment.
    Released {
        /// The attempt given back.
        attempt: AttemptId,
    },
}

/// What the coordinator says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CoordinatorMessage {
    /// The answer to `register`.
    Registered {
        /// The runner's identity.
        runner_id: RunnerId,
        /// How often to give a sign of life.
        keep_alive: KeepAliveTerms,
        /// Held attempts that go on.
        keep: Vec<AttemptId>,
        /// Held attempts that are somebody else's business by now: stop them and forget them.
        drop: Vec<AttemptId>,
    },
    /// The runner is not wanted here. The connection ends.
    Refused {
        /// The cause, for programs.
        reason: Refusal,
        /// The cause and what to do, for people.
        message: String,
    },
    /// A build to run.
    Assign {
        /// The attempt this is.
        attempt: AttemptId,
        /// What to run.
        spec: Arc<BuildSpec>,
        /// How long the attempt's log may become, in bytes.
        log_bytes_max: u64,
    },
    /// Stop this attempt and report it `canceled`.
    Cancel {
        /// The attempt to stop.
        attempt: AttemptId,
    },
    /// This attempt is stale: stop it, say nothing more of it.
    Drop {
        /// The attempt to forget.
        attempt: AttemptId,
    },
    /// The log of an attempt has been taken in up to here.
    LogAck {
        /// The attempt.
        attempt: AttemptId,
        /// Where its log ends at the coordinator.
        offset: u64,
        /// Whether something is missing: send again from `offset` on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        resend: bool,
    },
    /// The end of an attempt is committed: the runner may forget it.
    FinishedAck {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Take no further builds, end what you hold, go away.
    Drain,
}

/// Who a runner is and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Registration {
    /// The version of the protocol it speaks, see [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Its name, unique among the coordinator's runners: 1 to 128 characters.
    pub name: String,
    /// This run of the program. Another process with the same name has another one, and supersedes it.
    pub instance: uuid::Uuid,
    /// The labels it offers.
    pub labels: Labels,
    /// How many builds it runs at once.
    pub capacity: u32,
    /// The version of its program, for people.
    pub version: String,
    /// The engine it runs containers with, for people.
    pub engine: String,
    /// Every attempt it holds from earlier connections.
    pub held: Vec<HeldAttempt>,
    /// Whether it only ends what it holds.
    #[serde(default)]
    pub draining: bool,
    /// How it is.
    #[serde(default)]
    pub condition: Condition,
}

/// How a runner is, beside what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// Why it can run no builds, for people; it is given none meanwhile. At most [`Condition::UNHEALTHY_BYTES_MAX`] long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// How many things of earlier builds it has found and removed since it started: containers, networks, volumes and
    /// workspaces.
    #[serde(default)]
    pub swept: u64,
    /// How many such things it could not remove when it last tried.
    #[serde(default)]
    pub left_behind: u64,
}

impl Condition {
    /// The longest explanation, in bytes.
    pub const UNHEALTHY_BYTES_MAX: usize = 1024;
}

/// An attempt that a runner holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeldAttempt {
    /// The attempt.
    pub attempt: AttemptId,
    /// How far it is.
    pub phase: HeldPhase,
}

/// How far a held attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldPhase {
    /// The command does not run yet.
    Preparing,
    /// The command runs.
    Running,
    /// It has ended, and its report waits to be acknowledged.
    Finished,
}

/// How an attempt ended, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttemptReport {
    /// How it ended.
    pub outcome: Outcome,
    /// How long its parts took.
    pub phases: Phases,
    /// The commit that was checked out, if it came to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_commit: Option<ResolvedCommit>,
    /// The digest of the image, where it came so far and the engine knows one. Said again here, since a `started` that
    /// came late, or never, tells nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// The length of its whole log, in bytes.
    pub log_bytes: u64,
}

/// How often a runner gives a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAliveTerms {
    /// A sign of life at least this often, in milliseconds.
    pub interval_ms: u64,
    /// Without one for this long the runner is removed, in milliseconds.
    pub timeout_ms: u64,
}

/// Why a runner is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It speaks another version of the protocol.
    IncompatibleVersion,
    /// Its registration is not valid.
    InvalidRegistration,
    /// Another process has registered under the same name.
    Superseded,
    /// Its credential is another runner's.
    ForeignName,
    /// Its credential was taken from it.
    CredentialRevoked,
}
