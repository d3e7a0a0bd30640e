//! Many seeds, and what they came to together.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Violation, run};

/// Seeds in which something was found once. They always run.
const KNOWN: &str = include_str!("../seeds.txt");

/// What has to happen in a batch, or else that it found nothing would mean nothing. What is left out happens in all
/// of them.
pub const COVERAGE: &[&str] = &[
    "answer to a submission lost",
    "assignment came twice",
    "attempt given back",
    "attempt never received",
    "attempts resumed",
    "cancel of a build on a runner",
    "canceled",
    "cap reached by failures",
    "cap reached by lost runners",
    "commit refused once",
    "coordinator dies before a commit",
    "coordinator dies between commit and effects",
    "disk fails after a commit",
    "disk fails before a commit",
    "drained by a person",
    "end delivered by a later process",
    "errored for good",
    "failed",
    "gap in a log found",
    "infrastructure failure",
    "log lost with the power",
    "log refused",
    "log resent",
    "message doubled",
    "message doubled later",
    "message lost",
    "message overtaken",
    "outcome of a submission unknown",
    "power lost before a log is durable",
    "queue full",
    "requeue",
    "runner drains",
    "runner lost",
    "runner superseded",
    "runner taken down by a build",
    "stale attempt dropped",
    "stale end refused",
    "store refuses",
    "submission refused for now",
    "submission repeated, same build",
    "timed out",
];

/// How many seeds a batch has at least for all of that to happen in it.
pub const COVERAGE_SEEDS: usize = 200;

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Batch {
    /// Those that broke a rule.
    pub broken: Vec<(u64, Violation)>,
    /// How often what happened, in all of them.
    pub counts: BTreeMap<&'static str, u64>,
    seeds: usize,
    virtual_ms: u64,
    took: Duration,
}

/// The seeds that were found once, and then these.
#[must_use]
pub fn seeds_to_run(from: u64, how_many: u64) -> Vec<u64> {
    known().chain(from..from + how_many).collect()
}

/// The seeds that were found once.
pub fn known() -> impl Iterator<Item = u64> {
    let lines = KNOWN.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter_map(|line| line.parse().ok())
}

impl Batch {
    /// Runs seeds on this many threads. Unless it is to `keep_going`, it ends with the first that breaks a rule.
    ///
    /// # Errors
    /// When this machine can't run them.
    pub fn run(seeds: &[u64], threads: usize, keep_going: bool) -> anyhow::Result<Self> {
        let began = Instant::now();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let batch = Mutex::new(Self::default());
        let worker = || -> anyhow::Result<()> {
            while !stop.load(Ordering::Relaxed)
                && let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let report = run(*seed, false)?;
                stop.fetch_or(report.violation.is_some() && !keep_going, Ordering::Relaxed);
                batch.lock().unwrap_or_else(PoisonError::into_inner).add(*seed, report);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the simulation itself panicked")))
            })
        })?;
        let mut batch = batch.into_inner().unwrap_or_else(PoisonError::into_inner);
        batch.took = began.elapsed();
        batch.broken.sort_by_key(|(seed, _)| *seed);
        Ok(batch)
    }

    /// What should have happened in these seeds and did not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        COVERAGE.iter().copied().filter(|what| !self.counts.contains_key(what)).collect()
    }

    fn add(&mut self, seed: u64, report: crate::Report) {
        self.seeds += 1;
        self.virtual_ms += report.virtual_ms;
        for (what, times) in report.counts {
            *self.counts.entry(what).or_default() += times;
        }
        self.broken.extend(report.violation.map(|violation| (seed, violation)));
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.took.as_secs_f64();
        let faults: u64 =
            self.counts.iter().filter(|(what, _)| what.starts_with("fault")).map(|(_, times)| times).sum();
        let count = |what: &str| self.counts.get(what).copied().unwrap_or(0);
        for (what, times) in &self.counts {
            writeln!(f, "{times:>9} {what}")?;
        }
        for what in self.missing() {
            writeln!(f, "{:>9} {what}", "never")?;
        }
        writeln!(
            f,
            "{} seeds in {took:.1} s ({:.1} seeds/s): {:.1} hours of virtual time, {} builds, {} attempts, {faults} faults",
            self.seeds,
            self.seeds as f64 / took,
            self.virtual_ms as f64 / 3_600_000.0,
            count("build accepted"),
            count("attempt made"),
        )?;
        for (seed, violation) in &self.broken {
            writeln!(f, "seed {seed}: {violation}")?;
        }
        if self.broken.is_empty() {
            writeln!(f, "every rule holds in all of them")?;
        } else {
            writeln!(f, "a rule is broken in {} of them", self.broken.len())?;
        }
        Ok(())
    }
}
