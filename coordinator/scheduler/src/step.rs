//! What a decision consists of: changes to store, and effects to let out once they are stored.

use caisson_protocol::{
    AttemptId, AttemptReport, BuildId, CoordinatorMessage, Outcome, ResolvedCommit, RunnerId,
};

use crate::{RequestId, SessionId, Submission};

/// The outcome of one event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What to store, in this order, all of it or nothing.
    pub changes: Vec<Change>,
    /// What to let out after that. An effect may be repeated or lost without harm.
    pub effects: Vec<Effect>,
}

/// A runner as builds remember it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunnerRef {
    /// Its identity.
    pub id: RunnerId,
    /// Its name at that time.
    pub name: String,
}

/// A fact to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A build was accepted; it waits.
    Submitted {
        /// The build.
        submission: Submission,
        /// Its number: builds are counted from 1 in the order of submission.
        number: u64,
    },
    /// An attempt was made of a build, on a runner.
    Assigned {
        /// The attempt.
        attempt: AttemptId,
        /// The runner.
        runner: RunnerRef,
    },
    /// The command of the current attempt runs.
    Started {
        /// The attempt.
        attempt: AttemptId,
        /// The commit that was checked out, where it was said.
        resolved_commit: Option<ResolvedCommit>,
        /// The digest of the image, where it is known.
        image_digest: Option<String>,
    },
    /// A build is on its way to canceled.
    Canceling {
        /// The build.
        build: BuildId,
    },
    /// An attempt is over. What becomes of its build follows: `Requeued` or `Ended`.
    AttemptEnded {
        /// The attempt.
        attempt: AttemptId,
        /// How.
        end: AttemptEnd,
        /// Whether it counts against the build's cap of attempts.
        charged: bool,
    },
    /// A build waits again, at its own place.
    Requeued {
        /// The build.
        build: BuildId,
    },
    /// A build has ended, for good.
    Ended {
        /// The build.
        build: BuildId,
        /// How.
        outcome: Outcome,
    },
    /// What an ended attempt made is removed. Holds only if the attempt was this runner's.
    Cleaned {
        /// The attempt.
        attempt: AttemptId,
        /// The runner that says so.
        runner: RunnerId,
        /// How long it took, in milliseconds.
        cleanup_ms: u64,
    },
}

/// How an attempt came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Its runner reported it.
    Reported(AttemptReport),
    /// Its runner was removed, or restarted without it.
    RunnerLost,
    /// Its runner gave it back.
    GivenBack,
    /// Its runner never received it.
    NeverReceived,
}

/// Something to let out after the changes are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Say something to a runner.
    Send {
        /// On this connection.
        session: SessionId,
        /// What to say.
        message: CoordinatorMessage,
    },
    /// End a connection, after what was said on it.
    Close {
        /// The connection.
        session: SessionId,
    },
    /// Answer somebody.
    Answer {
        /// Who asked.
        request: RequestId,
        /// What to tell.
        answer: Answer,
    },
}

/// What somebody is told who asked for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The build is accepted.
    Accepted {
        /// The build.
        build: BuildId,
    },
    /// The same submission was accepted before: this is its build.
    Repeated {
        /// The build.
        build: BuildId,
    },
    /// The idempotency key was used before, for something else.
    KeyReused,
    /// No more builds may wait.
    QueueFull {
        /// How many may wait.
        limit: usize,
        /// How many do.
        depth: usize,
    },
    /// The build is canceled, or will be as soon as its runner has stopped it.
    Canceling,
    /// There is no such build among those that wait or run.
    BuildNotLive,
    /// The runner drains.
    Draining,
    /// There is no such runner.
    RunnerUnknown,
}
