//! What a scheduler is rebuilt from: the live part of the store.

use std::{collections::BTreeSet, sync::Arc};

use caisson_protocol::{BuildId, BuildSpec, RunnerId, Status};

use crate::{
    IdempotencyKey, Moment, RequestId, RunnerRef,
    build::{Build, Lease, State},
    scheduler::{Rules, Scheduler},
};

/// All that a scheduler needs of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The builds that have not ended.
    pub builds: Vec<LiveBuild>,
    /// The largest number given to a build, or 0.
    pub latest_number: u64,
    /// The latest idempotency keys, oldest first.
    pub keys: Vec<RememberedKey>,
}

/// A build that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveBuild {
    /// Its identity.
    pub id: BuildId,
    /// Its number.
    pub number: u64,
    /// What to build.
    pub spec: Arc<BuildSpec>,
    /// Where it stands; never a terminal status.
    pub status: Status,
    /// How many attempts were made.
    pub attempts_made: u32,
    /// How many of them count against the cap.
    pub attempts_charged: u32,
    /// Runners that reported a failure of the infrastructure for it. Not those that were lost: one that comes back is
    /// as good as any other.
    pub failed_on: BTreeSet<RunnerId>,
    /// Who has the current attempt, unless it waits.
    pub runner: Option<RunnerRef>,
}

/// An idempotency key that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedKey {
    /// The key.
    pub key: IdempotencyKey,
    /// The build it stands for.
    pub build: BuildId,
}

impl Scheduler {
    /// The scheduler of a coordinator that starts. Runners that held builds have a full timeout to come back.
    #[must_use]
    pub fn restore(rules: Rules, now: Moment, restored: Restored) -> Self {
        let mut scheduler = Self::new(rules);
        scheduler.take_over(now, restored);
        scheduler
    }

    /// Goes back to what is stored, after a commit failed. What was asked for by the `refused` requests did not take
    /// place, stored or not. Connections stay; since runners could not be served, all of them have a full timeout. What
    /// waits is handed out with the next event, whatever it is: its step has to be stored like any other.
    pub fn recover(&mut self, now: Moment, restored: Restored, refused: &[RequestId]) {
        self.fleet.free_all();
        self.fleet.forget_drains(refused);
        self.take_over(now, restored);
    }

    fn take_over(&mut self, now: Moment, restored: Restored) {
        self.latest_number = restored.latest_number;
        self.keys = restored.keys.into_iter().collect();
        self.builds.clear();
        self.queue = crate::queue::Queue::default();
        let deadline = now.after_ms(self.rules.timeout_ms);
        self.fleet.grant(deadline);
        for live in restored.builds {
            self.take_over_build(live, deadline);
        }
    }

    fn take_over_build(&mut self, live: LiveBuild, deadline: Moment) {
        let leased = |runner: &RunnerRef| Lease { runner: runner.id, unlisted: 0 };
        let state = match (live.status, &live.runner) {
            (Status::Assigned, Some(runner)) => State::Assigned(leased(runner)),
            (Status::Running, Some(runner)) => State::Running(leased(runner)),
            (Status::Canceling, Some(runner)) => State::Canceling(leased(runner)),
            _ => State::Queued,
        };
        match live.runner {
            Some(runner) if state != State::Queued => {
                let id = runner.id;
                self.fleet.expect(runner, deadline);
                self.fleet.hold(id, live.id);
            }
            _ => self.queue.insert(live.number, live.id),
        }
        let build = Build {
            id: live.id,
            number: live.number,
            spec: live.spec,
            state,
            attempts_made: live.attempts_made,
            attempts_charged: live.attempts_charged,
            failed_on: live.failed_on,
        };
        self.builds.insert(live.id, build);
    }
}
