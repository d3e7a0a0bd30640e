//! One attempt that this runner holds: how far it is, what is to become of it, and how far its log has been delivered.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caisson_protocol::{AttemptId, AttemptReport, HeldAttempt, HeldPhase, ResolvedCommit};
use tokio::{sync::watch, time::Instant};

use super::outcome;
use crate::spool::{Assignment, Folder};

/// How much of an attempt's log may be on its way without an acknowledgement, in bytes.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// How often in a row the log of an attempt that has ended may defy being read.
const UNREADABLE_MAX: u32 = 5;

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The command does not run yet.
    Preparing,
    /// The command runs.
    Running {
        /// The commit that was checked out.
        resolved_commit: ResolvedCommit,
        /// The digest of its image.
        image_digest: Option<String>,
    },
    /// It has ended, and its report waits to be acknowledged.
    Finished(AttemptReport),
}

/// Why an attempt is to be stopped. A later one outranks an earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// A person wants it stopped: report it as canceled.
    Cancel,
    /// The runner goes away: give it back.
    Release,
    /// It is somebody else's business: say nothing more of it.
    Drop,
}

/// What ends a wait before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The time limit.
    TimedOut,
    /// Someone's wish.
    Stop(Stop),
}

impl Interrupt {
    /// Whether the command gets the time to tidy up: there is someone who will read what it says.
    #[must_use]
    pub(super) fn is_gentle(self) -> bool {
        matches!(self, Self::TimedOut | Self::Stop(Stop::Cancel))
    }
}

/// An attempt that this runner holds.
#[derive(Debug)]
pub struct Attempt {
    /// What was handed to this runner.
    pub assignment: Assignment,
    /// Its place on the runner's disk.
    pub folder: Folder,
    stop: watch::Sender<Option<Stop>>,
    state: Mutex<State>,
    /// Told whenever there may be something to deliver.
    news: Arc<watch::Sender<()>>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    log_end: u64,
    acknowledged: u64,
    /// Where the next piece of log begins that is to be sent over this connection.
    sent: u64,
    /// When its end was told over this connection.
    told: Option<Instant>,
    /// How often in a row its log could not be read.
    unreadable: u32,
}

impl Attempt {
    pub(super) fn new(
        assignment: Assignment,
        folder: Folder,
        stage: Stage,
        news: Arc<watch::Sender<()>>,
    ) -> Self {
        let log_end = if let Stage::Finished(report) = &stage { report.log_bytes } else { 0 };
        let state = State { stage, log_end, acknowledged: 0, sent: 0, told: None, unreadable: 0 };
        Self { assignment, folder, stop: watch::Sender::new(None), state: Mutex::new(state), news }
    }

    /// Which attempt this is.
    pub fn id(&self) -> AttemptId {
        self.assignment.attempt
    }

    /// The attempt as it is listed to the coordinator.
    pub fn held(&self) -> HeldAttempt {
        let phase = match self.state().stage {
            Stage::Preparing => HeldPhase::Preparing,
            Stage::Running { .. } => HeldPhase::Running,
            Stage::Finished(_) => HeldPhase::Finished,
        };
        HeldAttempt { attempt: self.id(), phase }
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.state().stage.clone()
    }

    pub(super) fn enter(&self, stage: Stage) {
        {
            let mut state = self.state();
            if let Stage::Finished(report) = &stage {
                state.log_end = report.log_bytes;
            }
            state.stage = stage;
        }
        self.news.send_replace(());
    }

    pub(super) fn log_grew(&self, end: u64) {
        self.state().log_end = end;
        self.news.send_replace(());
    }

    /// Wants it stopped.
    pub(super) fn stop(&self, stop: Stop) {
        self.stop.send_if_modified(|wanted| {
            let outranks = wanted.is_none_or(|wanted| wanted < stop);
            if outranks {
                *wanted = Some(stop);
            }
            outranks
        });
    }

    /// Returns when the attempt is to be stopped, or its time is over.
    pub(super) async fn interrupted(&self, deadline: Instant) -> Interrupt {
        tokio::select! {
            biased;
            stop = self.wanted(|_| true) => Interrupt::Stop(stop),
            () = tokio::time::sleep_until(deadline) => Interrupt::TimedOut,
        }
    }

    /// Returns when nobody is interested in how it ends any more.
    pub(super) async fn abandoned(&self) -> Stop {
        self.wanted(|stop| stop > Stop::Cancel).await
    }

    async fn wanted(&self, such: impl Fn(Stop) -> bool) -> Stop {
        let mut stop = self.stop.subscribe();
        loop {
            let wanted = *stop.borrow_and_update();
            match wanted {
                Some(wanted) if such(wanted) => return wanted,
                // The sender is a part of this attempt, so it is there.
                _ => drop(stop.changed().await),
            }
        }
    }

    /// On a new connection everything that was not acknowledged is sent again.
    pub fn begin_delivery(&self) {
        let mut state = self.state();
        state.sent = state.acknowledged;
        state.told = None;
    }

    /// Which piece of the log is to be sent next: its offset, and how many bytes at most.
    pub fn next_piece(&self) -> Option<(u64, u64)> {
        let state = self.state();
        let end = state.log_end.min(state.acknowledged + WINDOW_BYTES);
        (state.sent < end).then(|| (state.sent, end - state.sent))
    }

    /// Notes that a piece is being sent. Not so where another was asked for in between: then it is not to be sent.
    pub fn sending(&self, from: u64, to: u64) -> bool {
        let mut state = self.state();
        let expected = state.sent == from;
        if expected {
            state.sent = to;
            state.unreadable = 0;
        }
        expected
    }

    /// The coordinator has the log up to `offset`, and with `resend` wants it again from there.
    pub(super) fn acknowledge(&self, offset: u64, resend: bool) {
        {
            let mut state = self.state();
            let offset = offset.min(state.log_end);
            if resend {
                (state.acknowledged, state.sent) = (offset, offset);
            } else {
                state.acknowledged = state.acknowledged.max(offset);
                state.sent = state.sent.max(offset);
            }
        }
        self.news.send_replace(());
    }

    /// Its log could not be read. Once it has ended, that goes on only so often: then its end is told with what was
    /// delivered, as the runner's own failure, since nobody would wait for the rest with any use.
    pub fn log_unreadable(&self, error: &std::io::Error) {
        let mut state = self.state();
        state.unreadable += 1;
        let (unreadable, acknowledged) = (state.unreadable, state.acknowledged);
        if let Stage::Finished(report) = &mut state.stage
            && unreadable >= UNREADABLE_MAX
        {
            report.outcome = outcome::of_disk(error, "the runner can't read the build's log");
            report.log_bytes = acknowledged;
            (state.log_end, state.sent) = (acknowledged, acknowledged);
        }
    }

    /// The report, where it is time to tell it: all of the log has been acknowledged, and it was not told over this
    /// connection within the last `repeat_every`.
    pub fn report_to_tell(&self, repeat_every: Duration) -> Option<AttemptReport> {
        let mut state = self.state();
        let Stage::Finished(report) = &state.stage else { return None };
        let due = state.told.is_none_or(|told| told.elapsed() >= repeat_every);
        let report = (due && state.acknowledged >= report.log_bytes).then(|| report.clone())?;
        state.told = Some(Instant::now());
        Some(report)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and if it did, each field would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use caisson_protocol::{Outcome, Phases};

    use super::*;
    use crate::spool::Spool;

    fn attempt(home: &tempfile::TempDir) -> Attempt {
        let spec = serde_json::json!({
            "repository_url": "https://example.org/app.git", "commit": "main", "command": "true",
            "image": "busybox", "timeout_seconds": 60,
        });
        let assignment = Assignment {
            attempt: "019aac1e-7c00-7000-8000-000000000001.1".parse().unwrap(),
            spec: serde_json::from_value(spec).unwrap(),
            log_bytes_max: 1 << 30,
        };
        let folder = Spool::open(home.path()).unwrap().folder(assignment.attempt);
        Attempt::new(assignment, folder, Stage::Preparing, Arc::new(watch::Sender::new(())))
    }

    fn finish(attempt: &Attempt, log_bytes: u64) {
        let report = AttemptReport {
            outcome: Outcome::Succeeded,
            phases: Phases::default(),
            resolved_commit: None,
            image_digest: None,
            log_bytes,
        };
        attempt.enter(Stage::Finished(report));
    }

    #[tokio::test]
    async fn at_most_a_window_is_on_its_way() {
        let home = tempfile::tempdir().unwrap();
        let attempt = attempt(&home);
        attempt.log_grew(3 * WINDOW_BYTES);
        assert_eq!(attempt.next_piece(), Some((0, WINDOW_BYTES)));
        assert!(attempt.sending(0, WINDOW_BYTES));
        assert_eq!(attempt.next_piece(), None);
        attempt.acknowledge(1000, false);
        assert_eq!(attempt.next_piece(), Some((WINDOW_BYTES, 1000)));
    }

    #[tokio::test]
    async fn what_was_lost_is_sent_again_and_what_is_known_is_not() {
        let home = tempfile::tempdir().unwrap();
        let attempt = attempt(&home);
        attempt.log_grew(1000);
        assert!(attempt.sending(0, 1000));
        attempt.acknowledge(400, false);
        attempt.begin_delivery();
        assert_eq!(attempt.next_piece(), Some((400, 600)));
        attempt.acknowledge(100, true);
        assert!(!attempt.sending(400, 1000), "a piece was sent that is no longer the next one");
        assert_eq!(attempt.next_piece(), Some((100, 900)));
        attempt.acknowledge(u64::MAX, false);
        assert_eq!(attempt.next_piece(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_told_after_all_of_the_log_and_again_until_it_is_acknowledged() {
        let home = tempfile::tempdir().unwrap();
        let attempt = attempt(&home);
        let every = Duration::from_secs(5);
        assert_eq!(attempt.report_to_tell(every), None);
        finish(&attempt, 10);
        assert_eq!(attempt.report_to_tell(every), None);
        attempt.acknowledge(10, false);
        assert!(attempt.report_to_tell(every).is_some());
        assert_eq!(attempt.report_to_tell(every), None);
        tokio::time::advance(every).await;
        assert!(attempt.report_to_tell(every).is_some());
        attempt.begin_delivery();
        assert!(attempt.report_to_tell(every).is_some());
    }

    #[tokio::test]
    async fn a_log_that_can_not_be_read_holds_no_end_up_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let attempt = attempt(&home);
        let every = Duration::from_secs(5);
        attempt.log_grew(100);
        assert!(attempt.sending(0, 100));
        attempt.acknowledge(40, false);
        finish(&attempt, 100);
        for _ in 0..UNREADABLE_MAX {
            assert_eq!(attempt.report_to_tell(every), None);
            attempt.log_unreadable(&std::io::Error::other("it is gone"));
        }
        let report = attempt.report_to_tell(every).unwrap();
        assert_eq!((report.outcome.reason(), report.log_bytes), (Some("runner_failed"), 40));
        assert_eq!(attempt.next_piece(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stronger_wish_outranks_a_weaker() {
        let home = tempfile::tempdir().unwrap();
        let attempt = attempt(&home);
        let soon = Instant::now() + Duration::from_secs(1);
        assert_eq!(attempt.interrupted(soon).await, Interrupt::TimedOut);
        attempt.stop(Stop::Drop);
        attempt.stop(Stop::Cancel);
        assert_eq!(attempt.interrupted(soon).await, Interrupt::Stop(Stop::Drop));
        assert_eq!(attempt.abandoned().await, Stop::Drop);
    }
}
