//! What can happen.

use caisson_protocol::{
    AttemptId, AttemptReport, BuildId, Condition, HeldAttempt, Registration, ResolvedCommit, RunnerId,
};

use crate::Submission;

/// One connection of one runner. A later connection has a larger number, as long as the coordinator runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Somebody who waits for an [`Answer`](crate::Answer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What can happen to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A person submits a build.
    Submit {
        /// Whom to answer.
        request: RequestId,
        /// What is submitted.
        submission: Submission,
    },
    /// A person cancels a build.
    Cancel {
        /// Whom to answer.
        request: RequestId,
        /// The build.
        build: BuildId,
    },
    /// A person drains a runner.
    Drain {
        /// Whom to answer.
        request: RequestId,
        /// The runner.
        runner: RunnerId,
    },
    /// A runner says something on its connection.
    Runner {
        /// The connection.
        session: SessionId,
        /// What it says.
        event: RunnerEvent,
    },
    /// The coordinator itself was away: it was stopped, or its machine slept. What runners said meanwhile may still be on
    /// its way in. Comes before whatever came in since.
    Resumed,
    /// A deadline may have passed, see [`Scheduler::next_deadline`](crate::Scheduler::next_deadline). Comes after all
    /// that had arrived by then, so that what was said in time counts.
    Wake,
}

/// What can come from a runner's connection. Each of them is a sign of life, but the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunnerEvent {
    /// It says who it is. The first on each connection.
    Register {
        /// Its identity.
        runner: RunnerId,
        /// What it says of itself.
        registration: Registration,
    },
    /// It gave a sign of life that needs no decision, such as a piece of log.
    Heard,
    /// It lists what it holds.
    KeepAlive {
        /// Every attempt it holds.
        held: Vec<HeldAttempt>,
    },
    /// It has received an assignment.
    Accepted {
        /// The attempt.
        attempt: AttemptId,
    },
    /// An attempt's command runs.
    Started {
        /// The attempt.
        attempt: AttemptId,
        /// The commit that was checked out.
        resolved_commit: ResolvedCommit,
        /// The digest of the image, where it is known.
        image_digest: Option<String>,
    },
    /// An attempt ended, and all of its log is durable here.
    Finished {
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        report: AttemptReport,
    },
    /// An ended attempt left nothing behind.
    Cleaned {
        /// The attempt.
        attempt: AttemptId,
        /// How long the removal took, in milliseconds.
        cleanup_ms: u64,
    },
    /// It takes no further builds.
    Draining {
        /// Every attempt it holds, and will hold.
        held: Vec<HeldAttempt>,
    },
    /// It tells how it is.
    Condition(Condition),
    /// It gives an attempt back.
    Released {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Its connection is gone.
    Disconnected,
}
