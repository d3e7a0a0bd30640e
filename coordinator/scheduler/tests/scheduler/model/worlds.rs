//! The small worlds, and what may go wrong in each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use caisson_protocol::{BuildSpec, Labels, Registration, RunnerId};
use caisson_scheduler::Rules;

use super::facts::Fact;
use crate::words::*;

/// How often each thing may go wrong or be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budgets {
    /// Connections cut.
    pub(crate) cuts: u8,
    /// Messages lost though the connection stands.
    pub(crate) losses: u8,
    /// Messages taken twice.
    pub(crate) doubles: u8,
    /// Keep-alives that cross something on its way to the runner.
    pub(crate) crossings: u8,
    /// Processes that die.
    pub(crate) crashes: u8,
    /// Second processes under a name that is taken.
    pub(crate) twins: u8,
    /// Attempts that fail through no fault of the build.
    pub(crate) failures: u8,
    /// Removals of runners that still live.
    pub(crate) removals: u8,
    pub(crate) cancels: u8,
    /// Drains by a person.
    pub(crate) drains: u8,
    /// Drains by the runner itself, which may give back then.
    pub(crate) sigterms: u8,
    /// Submissions made again under their key.
    pub(crate) repeats: u8,
    /// Ends of the coordinator.
    pub(crate) deaths: u8,
    /// Commits that fail.
    pub(crate) outages: u8,
}

pub(crate) struct SmallWorld {
    pub(crate) name: &'static str,
    pub(crate) rules: Rules,
    /// The runners' capacities.
    pub(crate) capacities: &'static [u32],
    pub(crate) builds: u64,
    pub(crate) budgets: Budgets,
    /// Whether messages overtake each other.
    pub(crate) overtaking: bool,
    /// What must be seen.
    pub(crate) facts: &'static [Fact],
    seen: AtomicU32,
    pub(crate) runners: Vec<RunnerId>,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) offers: BTreeMap<RunnerId, Labels>,
    pub(crate) spec: Arc<BuildSpec>,
}

impl SmallWorld {
    pub(crate) fn all() -> Vec<Self> {
        [Self::of_one_runner(), Self::of_two_runners(), Self::of_overtaken_messages()]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Where a build has only one place to go.
    fn of_one_runner() -> Vec<Self> {
        use Fact::*;
        let none = Budgets::default();
        vec![
            Self::new(
                "a runner that crashes and is replaced",
                &[1],
                1,
                Budgets { crashes: 1, twins: 1, failures: 1, cancels: 1, ..none },
                &[SpoolDelivered, Superseded, CapReached, CanceledDespiteSuccess],
            ),
            Self::new(
                "a runner that crashes, drains and is removed",
                &[1],
                1,
                Budgets { crashes: 1, removals: 1, sigterms: 1, cancels: 1, ..none },
                &[GivenBack, CanceledByRemoval, RequeuedAndSucceeded],
            ),
            Self::new(
                "a runner that drains, and a coordinator that dies",
                &[1],
                1,
                Budgets { cuts: 1, sigterms: 1, drains: 1, deaths: 1, ..none },
                &[GivenBack, NeverReceived, ResumedAfterCoordinator],
            ),
            Self::new(
                "a connection that is cut, and a runner that fails",
                &[1],
                1,
                Budgets { cuts: 1, removals: 1, failures: 1, crashes: 1, ..none },
                &[SpoolDelivered, OldSessionRefused, CapReached],
            ),
            Self::new(
                "three builds for one runner",
                &[1],
                3,
                Budgets { crashes: 1, cancels: 1, repeats: 1, deaths: 1, ..none },
                &[BoundRefused, KeyRepeated, ResumedAfterCoordinator],
            ),
            Self::new(
                "a runner of two places",
                &[2],
                3,
                Budgets { cuts: 1, failures: 1, ..none },
                &[BoundRefused, RequeuedAndSucceeded],
            ),
        ]
    }

    /// Where builds move from one runner to the other.
    fn of_two_runners() -> Vec<Self> {
        use Fact::*;
        let none = Budgets::default();
        vec![
            Self::new(
                "a build that moves between two runners",
                &[1, 1],
                1,
                Budgets { cuts: 1, failures: 1, removals: 1, ..none },
                &[TriedElsewhere, RequeuedAndSucceeded, CapReached, OldSessionRefused],
            ),
            Self::new(
                "two runners, one of which crashes",
                &[1, 1],
                1,
                Budgets { crashes: 1, failures: 1, cancels: 1, ..none },
                &[SpoolDelivered, Superseded, TriedElsewhere],
            ),
            Self::new(
                "two runners, two builds, a coordinator that dies",
                &[1, 1],
                2,
                Budgets { deaths: 1, failures: 1, ..none },
                &[TriedElsewhere, ResumedAfterCoordinator],
            ),
            Self::new(
                "two runners, two builds, one removal",
                &[1, 1],
                2,
                Budgets { removals: 1, cancels: 1, ..none },
                &[RequeuedAndSucceeded, CanceledByRemoval],
            ),
            Self::new(
                "a store that fails",
                &[1, 1],
                2,
                Budgets { outages: 1, cancels: 1, ..none },
                &[CommitFailed],
            ),
        ]
    }

    /// Where nothing on a connection comes for sure, once, or in order.
    fn of_overtaken_messages() -> Vec<Self> {
        use Fact::*;
        let none = Budgets::default();
        vec![
            Self::new(
                "messages lost and doubled",
                &[1],
                1,
                Budgets { losses: 1, doubles: 1, cancels: 1, ..none },
                &[NeverReceived, StaleFinishRefused],
            )
            .overtaking(),
            Self::new(
                "keep-alives that cross assignments",
                &[1],
                1,
                Budgets { losses: 1, crossings: 1, removals: 1, ..none },
                &[NeverReceived],
            )
            .overtaking(),
            Self::new(
                "messages lost and doubled between two runners",
                &[1, 1],
                1,
                Budgets { losses: 1, doubles: 1, ..none },
                &[NeverReceived, StaleFinishRefused],
            )
            .overtaking(),
        ]
    }

    fn new(
        name: &'static str,
        capacities: &'static [u32],
        builds: u64,
        budgets: Budgets,
        facts: &'static [Fact],
    ) -> Self {
        let names: Vec<String> = (1..=capacities.len()).map(|number| format!("r{number}")).collect();
        let runners: Vec<RunnerId> = names.iter().map(|name| runner_id(name)).collect();
        Self {
            name,
            rules: Rules { queue_capacity: 1.max(builds as usize - 1), max_attempts: 2, ..RULES },
            capacities,
            builds,
            budgets,
            overtaking: false,
            facts,
            seen: AtomicU32::new(0),
            registrations: names
                .iter()
                .zip(capacities)
                .map(|(name, places)| registration(name, 0, *places))
                .collect(),
            offers: runners.iter().map(|runner| (*runner, Labels::default())).collect(),
            runners,
            spec: spec(&[]),
        }
    }

    fn overtaking(self) -> Self {
        Self { overtaking: true, ..self }
    }

    pub(crate) fn see(&self, fact: Fact) {
        self.seen.fetch_or(fact.bit(), Ordering::Relaxed);
    }

    pub(crate) fn has_seen(&self, fact: Fact) -> bool {
        self.seen.load(Ordering::Relaxed) & fact.bit() != 0
    }
}
