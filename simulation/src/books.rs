//! What was committed, kept beside the store and apart from the scheduler, so that both can be checked against it.

use std::collections::{BTreeMap, BTreeSet};

use caisson_protocol::{AttemptId, BuildId, Outcome, RunnerId};
use caisson_scheduler::{AttemptEnd, Change};

use crate::plan::{Plan, StationPlan};

/// All builds that were ever committed.
#[derive(Debug)]
pub struct Books {
    /// By identity.
    pub builds: BTreeMap<BuildId, Entry>,
    /// How many builds may wait.
    pub queue_capacity: usize,
    /// How many attempts a build has.
    pub max_attempts: u32,
    stations: BTreeMap<RunnerId, StationPlan>,
}

/// A build.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// Which of the plan's builds it is.
    pub script: usize,
    /// Whether it asks for the label that some runners have.
    pub labelled: bool,
    /// Where it stands.
    pub standing: Standing,
    /// How many attempts were made.
    pub attempts: u32,
    /// How many of them count.
    pub charged: u32,
    /// Runners that failed to run it.
    pub failed_on: BTreeSet<RunnerId>,
    /// How the attempts ended that have.
    pub ends: BTreeMap<u32, AttemptEnd>,
}

/// Where a build stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It waits.
    Queued,
    /// A runner prepares it.
    Assigned(RunnerId),
    /// A runner runs it.
    Running(RunnerId),
    /// A runner stops it.
    Canceling(RunnerId),
    /// Its attempt is over, and what becomes of it follows in the same commit.
    Between {
        /// Whose attempt it was.
        runner: RunnerId,
        /// Whether it was being canceled.
        canceling: bool,
    },
    /// It has ended.
    Ended(Outcome),
}

impl Standing {
    /// Who has it.
    #[must_use]
    pub fn runner(&self) -> Option<RunnerId> {
        match self {
            Self::Assigned(runner) | Self::Running(runner) | Self::Canceling(runner) => Some(*runner),
            Self::Queued | Self::Between { .. } | Self::Ended(_) => None,
        }
    }
}

impl Books {
    /// Books in which nothing is written yet.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let stations =
            plan.stations.iter().map(|station| (RunnerId::of_name(&station.name), station.clone())).collect();
        Self {
            builds: BTreeMap::new(),
            queue_capacity: plan.rules.queue_capacity,
            max_attempts: plan.rules.max_attempts,
            stations,
        }
    }

    /// A build.
    #[must_use]
    pub fn get(&self, build: BuildId) -> Option<&Entry> {
        self.builds.get(&build)
    }

    /// Whether an attempt is its build's current one.
    #[must_use]
    pub fn is_current(&self, attempt: AttemptId) -> bool {
        self.get(attempt.build)
            .is_some_and(|entry| entry.attempts == attempt.number && entry.standing.runner().is_some())
    }

    /// The builds that wait.
    pub fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.builds.values().filter(|entry| entry.standing == Standing::Queued)
    }

    /// The builds that this runner has.
    pub fn of_runner(&self, runner: RunnerId) -> impl Iterator<Item = &Entry> {
        self.builds.values().filter(move |entry| entry.standing.runner() == Some(runner))
    }

    /// How many builds a runner takes.
    #[must_use]
    pub fn capacity(&self, runner: RunnerId) -> usize {
        self.stations.get(&runner).map_or(0, |station| station.capacity as usize)
    }

    /// Whether a runner could take a build for all that the build is.
    #[must_use]
    pub fn suits(&self, entry: &Entry, runner: RunnerId) -> bool {
        let labelled = self.stations.get(&runner).is_some_and(|station| station.labelled);
        (labelled || !entry.labelled) && !entry.failed_on.contains(&runner)
    }

    /// Writes down a change.
    pub fn apply(&mut self, change: &Change) {
        if let Change::Submitted { submission, number } = change {
            let script = script_of(submission.spec.command.as_str());
            let entry = Entry {
                number: *number,
                script,
                labelled: !submission.spec.labels.is_empty(),
                standing: Standing::Queued,
                attempts: 0,
                charged: 0,
                failed_on: BTreeSet::new(),
                ends: BTreeMap::new(),
            };
            self.builds.insert(submission.id, entry);
        } else if let Some(entry) = build_of(change).and_then(|build| self.builds.get_mut(&build)) {
            entry.apply(change);
        }
    }
}

impl Entry {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Assigned { attempt, runner } => {
                self.attempts = attempt.number;
                self.standing = Standing::Assigned(runner.id);
            }
            Change::Started { .. } => {
                if let Some(runner) = self.standing.runner() {
                    self.standing = Standing::Running(runner);
                }
            }
            Change::Canceling { .. } => {
                if let Some(runner) = self.standing.runner() {
                    self.standing = Standing::Canceling(runner);
                }
            }
            Change::AttemptEnded { attempt, end, charged } => {
                let Some(runner) = self.standing.runner() else { return };
                let canceling = matches!(self.standing, Standing::Canceling(_));
                self.charged += u32::from(*charged);
                if *charged && matches!(end, AttemptEnd::Reported(_)) {
                    self.failed_on.insert(runner);
                }
                self.ends.insert(attempt.number, end.clone());
                self.standing = Standing::Between { runner, canceling };
            }
            Change::Requeued { .. } => self.standing = Standing::Queued,
            Change::Ended { outcome, .. } => self.standing = Standing::Ended(outcome.clone()),
            Change::Submitted { .. } | Change::Cleaned { .. } => {}
        }
    }
}

/// The build that a change is about, but for what is only told of it afterwards.
#[must_use]
pub fn build_of(change: &Change) -> Option<BuildId> {
    match change {
        Change::Submitted { submission, .. } => Some(submission.id),
        Change::Assigned { attempt, .. }
        | Change::Started { attempt, .. }
        | Change::AttemptEnded { attempt, .. } => Some(attempt.build),
        Change::Canceling { build } | Change::Requeued { build } | Change::Ended { build, .. } => {
            Some(*build)
        }
        Change::Cleaned { .. } => None,
    }
}

/// Which of the plan's builds a command belongs to.
#[must_use]
pub fn script_of(command: &str) -> usize {
    command.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}
