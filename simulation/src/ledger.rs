//! What really happened on the runners, whatever the coordinator was told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use caisson_protocol::{AttemptId, AttemptReport};

use crate::life::{Condition, Life};

/// For how long nothing may have gone wrong with a runner before it counts as healthy, in milliseconds: a dial that
/// hangs, the longest pause before the next one, the timeout, and something on top.
const HEALTHY_AFTER_MS: u64 = 45_000;

/// What really happened.
#[derive(Debug, Default)]
pub struct Ledger {
    runs: BTreeMap<AttemptId, Vec<Run>>,
    processes: Vec<Process>,
    /// Until when something was wrong with a station or its link, in milliseconds.
    disturbed_until_ms: BTreeMap<usize, u64>,
}

/// One time that a runner ran an attempt. An assignment that comes twice may make two of them.
#[derive(Debug, Default, Clone)]
pub struct Run {
    /// All that it wrote.
    pub log: Vec<u8>,
    /// How it ended, once it has.
    pub report: Option<AttemptReport>,
}

/// A runner's process.
#[derive(Debug)]
struct Process {
    station: usize,
    life: Arc<Life>,
    holds: BTreeSet<AttemptId>,
}

impl Ledger {
    /// A process has started. Gives its number.
    pub fn started(&mut self, station: usize, life: &Arc<Life>, now_ms: u64) -> usize {
        self.disturbed(station, now_ms);
        self.processes.push(Process { station, life: Arc::clone(life), holds: BTreeSet::new() });
        self.processes.len() - 1
    }

    /// A process holds these attempts from now on.
    pub fn holds(&mut self, process: usize, attempts: impl IntoIterator<Item = AttemptId>) {
        self.processes[process].holds = attempts.into_iter().collect();
    }

    /// Something is wrong with a station until then.
    pub fn disturbed(&mut self, station: usize, until_ms: u64) {
        let until = self.disturbed_until_ms.entry(station).or_default();
        *until = (*until).max(until_ms);
    }

    /// A runner begins to run an attempt. Gives the number of the run.
    pub fn begins(&mut self, attempt: AttemptId) -> usize {
        let runs = self.runs.entry(attempt).or_default();
        runs.push(Run::default());
        runs.len() - 1
    }

    /// A run of an attempt.
    pub fn run(&mut self, attempt: AttemptId, run: usize) -> &mut Run {
        &mut self.runs.entry(attempt).or_default()[run]
    }

    /// All runs of an attempt.
    pub fn runs(&self, attempt: AttemptId) -> &[Run] {
        self.runs.get(&attempt).map_or(&[], Vec::as_slice)
    }

    /// Whether a process holds an attempt with which nothing has been wrong for long enough.
    pub fn is_in_good_hands(&self, attempt: AttemptId, now_ms: u64) -> bool {
        self.processes.iter().any(|process| {
            let disturbed = self.disturbed_until_ms.get(&process.station).copied().unwrap_or(0);
            process.life.condition() == Condition::Running
                && process.holds.contains(&attempt)
                && now_ms >= disturbed + HEALTHY_AFTER_MS
        })
    }

    /// What processes that live believe to hold.
    pub fn held(&self) -> Vec<AttemptId> {
        let living = self.processes.iter().filter(|process| !process.life.is_dead());
        living.flat_map(|process| process.holds.iter().copied()).collect()
    }
}
