//! What the coordinator counts, for Prometheus.

use std::sync::atomic::AtomicU64;

use caisson_protocol::{Condition, Status};
use caisson_scheduler::{AttemptEnd, Change, Scheduler};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// All counters, and the registry they are shown by.
pub struct Metrics {
    registry: Registry,
    submitted: Counter,
    ended: Family<StatusLabel, Counter>,
    requeued: Counter,
    runners_lost: Counter,
    waiting: Gauge,
    running: Gauge,
    runners: Gauge,
    runners_unhealthy: Gauge,
    swept: Gauge,
    left_behind: Gauge,
    /// Bytes of log that came in.
    pub log_bytes: Counter<u64, AtomicU64>,
    /// How long commits took, in seconds.
    pub commit_seconds: Histogram,
    /// Rules of the scheduler that were seen not to hold: more than none is a fault of ours.
    pub violations: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("caisson"),
            submitted: Counter::default(),
            ended: Family::default(),
            requeued: Counter::default(),
            runners_lost: Counter::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            runners: Gauge::default(),
            runners_unhealthy: Gauge::default(),
            swept: Gauge::default(),
            left_behind: Gauge::default(),
            log_bytes: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            violations: Counter::default(),
        };
        for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
            let _ = metrics.ended.get_or_create(&StatusLabel { status: status.as_str() });
        }
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("builds_submitted", "Builds accepted", self.submitted.clone());
        registry.register("builds_ended", "Builds ended, by status", self.ended.clone());
        registry.register("builds_requeued", "Builds that went back to wait", self.requeued.clone());
        registry.register("attempts_lost", "Attempts whose runner was lost", self.runners_lost.clone());
        registry.register("builds_waiting", "Builds that wait for a runner", self.waiting.clone());
        registry.register("builds_running", "Builds that a runner has", self.running.clone());
        registry.register("runners", "Runners that are connected", self.runners.clone());
        registry.register(
            "runners_unhealthy",
            "Connected runners that can run no builds",
            self.runners_unhealthy.clone(),
        );
        registry.register(
            "swept",
            "Things of earlier builds that the connected runners found and removed",
            self.swept.clone(),
        );
        registry.register(
            "left_behind",
            "Things of earlier builds that the connected runners could not remove yet",
            self.left_behind.clone(),
        );
        registry.register(
            "log_bytes",
            "Bytes of log that came in, those that came again included",
            self.log_bytes.clone(),
        );
        registry.register(
            "commit_seconds",
            "How long commits to the store took",
            self.commit_seconds.clone(),
        );
        registry.register("violations", "Rules of the scheduler seen not to hold", self.violations.clone());
    }

    /// Counts a change that was committed.
    pub(crate) fn count(&self, change: &Change) {
        match change {
            Change::Submitted { .. } => drop(self.submitted.inc()),
            Change::Requeued { .. } => drop(self.requeued.inc()),
            Change::AttemptEnded { end: AttemptEnd::RunnerLost, .. } => drop(self.runners_lost.inc()),
            Change::Ended { outcome, .. } => {
                let status = outcome.status().as_str();
                self.ended.get_or_create(&StatusLabel { status }).inc();
            }
            _ => {}
        }
    }

    /// Takes in how much is live.
    pub(crate) fn live(&self, scheduler: &Scheduler) {
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        let sum = |count: fn(&Condition) -> u64| {
            let sum = scheduler.conditions().map(count).fold(0, u64::saturating_add);
            usize::try_from(sum).unwrap_or(usize::MAX)
        };
        set(&self.waiting, scheduler.waiting());
        set(&self.running, scheduler.running());
        set(&self.runners, scheduler.connected());
        set(&self.runners_unhealthy, sum(|condition| condition.unhealthy.is_some().into()));
        set(&self.swept, sum(|condition| condition.swept));
        set(&self.left_behind, sum(|condition| condition.left_behind));
    }

    /// All of it in the OpenMetrics text format.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
