//! What all parts of a run share: its plan, its clock, what was seen, and whether a rule was broken.

use std::{
    collections::BTreeMap,
    fmt::{self, Arguments, Write as _},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use caisson_protocol::{AttemptId, BuildId};
use tokio::{sync::Notify, time::Instant};

use crate::{books::Books, dice::Dice, ledger::Ledger, plan::Plan};

/// A run.
pub struct World {
    /// What is to happen.
    pub plan: Plan,
    /// Where chance comes from.
    pub dice: Dice,
    began: Instant,
    /// What was committed.
    pub books: Mutex<Books>,
    /// What runners did.
    pub ledger: Mutex<Ledger>,
    seen: Mutex<Seen>,
    broken: Notify,
    peace: AtomicBool,
}

/// What a run leaves behind.
#[derive(Debug, Default)]
struct Seen {
    show: bool,
    line: String,
    hash: u64,
    counts: BTreeMap<&'static str, u64>,
    violation: Option<Violation>,
}

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// Where it breaks.
    pub found: String,
    /// When.
    pub at_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} ms: {}: {}", self.at_ms, self.rule, self.found)
    }
}

impl World {
    /// A world in which this is to happen. With `show`, its trace is printed.
    #[must_use]
    pub fn new(plan: Plan, dice: Dice, show: bool) -> Self {
        let seen = Seen { show, hash: 0xcbf2_9ce4_8422_2325, ..Seen::default() };
        Self {
            books: Mutex::new(Books::new(&plan)),
            ledger: Mutex::default(),
            plan,
            dice,
            began: Instant::now(),
            seen: Mutex::new(seen),
            broken: Notify::new(),
            peace: AtomicBool::new(false),
        }
    }

    /// How long the run has lasted, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// From now on nothing goes wrong any more.
    pub fn make_peace(&self) {
        self.peace.store(true, Ordering::Relaxed);
    }

    /// Whether nothing goes wrong any more.
    pub fn is_peaceful(&self) -> bool {
        self.peace.load(Ordering::Relaxed)
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: Arguments<'_>) {
        let now = self.now_ms();
        let mut seen = self.seen();
        let mut line = std::mem::take(&mut seen.line);
        line.clear();
        // Writing into a String does not fail.
        let _ = writeln!(line, "{:>7}.{:03} {what}", now / 1000, now % 1000);
        seen.hash = line
            .bytes()
            .fold(seen.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        if seen.show {
            crate::print(&line);
        }
        seen.line = line;
    }

    /// Counts something that the seeds have to bring about now and then.
    pub fn count(&self, what: &'static str) {
        *self.seen().counts.entry(what).or_default() += 1;
    }

    /// A rule must hold.
    pub fn hold(&self, rule: &'static str, holds: Result<(), String>) {
        let Err(found) = holds else { return };
        self.note(format_args!("VIOLATION of {rule}: {found}"));
        let at_ms = self.now_ms();
        self.seen().violation.get_or_insert(Violation { rule, found, at_ms });
        self.broken.notify_one();
    }

    /// Returns when a rule was broken.
    pub async fn broken(&self) {
        self.broken.notified().await;
    }

    /// The first rule that was broken.
    pub fn violation(&self) -> Option<Violation> {
        self.seen().violation.clone()
    }

    /// What was counted, and what the trace comes to.
    pub fn summary(&self) -> (BTreeMap<&'static str, u64>, u64) {
        let seen = self.seen();
        (seen.counts.clone(), seen.hash)
    }

    /// What was committed.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runners did.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build, in short.
#[must_use]
pub fn short(build: BuildId) -> String {
    format!("b{}", build.0.as_u128() & 0xffff)
}

/// An attempt, in short.
#[must_use]
pub fn short_attempt(attempt: AttemptId) -> String {
    format!("{}.{}", short(attempt.build), attempt.number)
}
