//! A build from submission to its end.

use std::{collections::BTreeSet, sync::Arc};

use caisson_protocol::{AttemptId, BuildId, BuildSpec, RunnerId, Status};

/// A build as it is submitted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Submission {
    /// Its identity, made by whoever takes it in.
    pub id: BuildId,
    /// What to build.
    pub spec: Arc<BuildSpec>,
    /// The key under which a repeated submission is recognised.
    pub key: Option<IdempotencyKey>,
}

/// What a client named its submission, and a digest of what it submitted under that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// The name.
    pub key: String,
    /// The digest of the body.
    pub digest: String,
}

/// A build that waits or runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Build {
    pub(crate) id: BuildId,
    /// The order of submission, which a requeue does not change.
    pub(crate) number: u64,
    pub(crate) spec: Arc<BuildSpec>,
    pub(crate) state: State,
    /// How many attempts were made: the number of the latest.
    pub(crate) attempts_made: u32,
    /// How many of them count against the cap.
    pub(crate) attempts_charged: u32,
    /// Runners on which it failed by no fault of its own.
    pub(crate) failed_on: BTreeSet<RunnerId>,
}

/// Where a live build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Queued,
    Assigned(Lease),
    Running(Lease),
    /// Sticky: from here it only goes to canceled.
    Canceling(Lease),
}

/// Which runner has the current attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) runner: RunnerId,
    /// How many keep-alives in a row did not list the attempt.
    pub(crate) unlisted: u8,
}

impl Build {
    pub(crate) fn new(submission: &Submission, number: u64) -> Self {
        Self {
            id: submission.id,
            number,
            spec: Arc::clone(&submission.spec),
            state: State::Queued,
            attempts_made: 0,
            attempts_charged: 0,
            failed_on: BTreeSet::new(),
        }
    }

    /// The current attempt, or the latest while the build waits.
    pub(crate) fn attempt(&self) -> AttemptId {
        AttemptId { build: self.id, number: self.attempts_made }
    }

    pub(crate) fn status(&self) -> Status {
        match self.state {
            State::Queued => Status::Queued,
            State::Assigned(_) => Status::Assigned,
            State::Running(_) => Status::Running,
            State::Canceling(_) => Status::Canceling,
        }
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        match self.state {
            State::Queued => None,
            State::Assigned(lease) | State::Running(lease) | State::Canceling(lease) => Some(lease),
        }
    }

    pub(crate) fn lease_mut(&mut self) -> Option<&mut Lease> {
        match &mut self.state {
            State::Queued => None,
            State::Assigned(lease) | State::Running(lease) | State::Canceling(lease) => Some(lease),
        }
    }

    pub(crate) fn is_canceling(&self) -> bool {
        matches!(self.state, State::Canceling(_))
    }
}
