//! A store in memory: what becomes of the changes, and the laws that hold for the history they tell, written without
//! a look at how the scheduler comes to them.

use std::collections::{BTreeMap, BTreeSet};

use caisson_protocol::{AttemptId, BuildId, ErrorReason, Labels, Outcome, RunnerId, Status};
use caisson_scheduler::{
    AttemptEnd, Change, LiveBuild, RememberedKey, Restored, Rules, RunnerRef, Scheduler, Submission,
};

/// The invariants of the design that a history of changes can break.
pub(crate) const LOST: &str = "I1: an accepted build is never lost";
pub(crate) const ONE_END: &str = "I2: a build has exactly one end, and never leaves it";
pub(crate) const RIGHTFUL_END: &str =
    "I3: an end comes from the current attempt, or from cancel, reaper or cap";
pub(crate) const ONE_ATTEMPT: &str =
    "I4: a build has at most one current attempt, a runner no more than its capacity";
pub(crate) const BOUND: &str = "I5: no more builds wait than may, requeued ones aside";
pub(crate) const ORDER: &str = "I6: builds are handed out in the order of their submission";
pub(crate) const NO_PENALTY: &str =
    "rule 5: only lost runners and infrastructure failures count against the cap";

/// A law that a change breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) law: &'static str,
    pub(crate) found: String,
}

/// All builds that were ever accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    rules: Rules,
    /// In the order of submission: tests number their builds that way.
    rows: BTreeMap<BuildId, Row>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) submission: Submission,
    pub(crate) status: Status,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) runner: RunnerRef,
    /// None while it is the current one.
    pub(crate) end: Option<End>,
    pub(crate) charged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Reported(Outcome),
    RunnerLost,
    GivenBack,
    NeverReceived,
}

impl Store {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, rows: BTreeMap::new() }
    }

    pub(crate) fn row(&self, build: BuildId) -> Option<&Row> {
        self.rows.get(&build)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (BuildId, &Row)> {
        self.rows.iter().map(|(id, row)| (*id, row))
    }

    /// Takes in the changes of one step. `offers` are the labels of the runners that are registered.
    pub(crate) fn commit(
        &mut self,
        changes: &[Change],
        offers: &BTreeMap<RunnerId, Labels>,
    ) -> Result<(), Broken> {
        for change in changes {
            if let Change::Assigned { attempt, runner } = change {
                self.is_oldest(*attempt, runner.id, offers)?;
            }
            self.take(change)?;
        }
        self.nothing_is_half_done()
    }

    fn take(&mut self, change: &Change) -> Result<(), Broken> {
        match change {
            Change::Submitted { submission, number } => self.submitted(submission, *number),
            Change::Assigned { attempt, runner } => self.assigned(*attempt, runner),
            Change::Started { attempt, .. } => self.started(*attempt),
            Change::Canceling { build } => self.canceling(*build),
            Change::AttemptEnded { attempt, end, charged } => self.attempt_ended(*attempt, end, *charged),
            Change::Requeued { build } => self.requeued(*build),
            Change::Ended { build, outcome } => self.ended(*build, outcome),
            Change::Cleaned { .. } => Ok(()),
        }
    }

    fn submitted(&mut self, submission: &Submission, number: u64) -> Result<(), Broken> {
        let fresh = self.rows.values().filter(|row| row.status == Status::Queued && row.attempts.is_empty());
        law(fresh.count() < self.rules.queue_capacity, BOUND, || format!("build {number} was accepted"))?;
        law(number == self.rows.len() as u64 + 1, LOST, || format!("number {number} was given"))?;
        let row = Row {
            number,
            submission: submission.clone(),
            status: Status::Queued,
            outcome: None,
            attempts: Vec::new(),
        };
        let before = self.rows.insert(submission.id, row);
        law(before.is_none(), LOST, || format!("{before:?} was overwritten"))
    }

    fn assigned(&mut self, attempt: AttemptId, runner: &RunnerRef) -> Result<(), Broken> {
        let row = self.known(attempt.build)?;
        law(!row.status.is_terminal(), ONE_END, || format!("{row:?} was assigned"))?;
        law(row.status == Status::Queued, ONE_ATTEMPT, || format!("{row:?} was assigned"))?;
        let next = row.attempts.len() + 1;
        law(attempt.number as usize == next, ONE_ATTEMPT, || format!("{attempt}, expected number {next}"))?;
        row.status = Status::Assigned;
        row.attempts.push(Attempt { runner: runner.clone(), end: None, charged: false });
        Ok(())
    }

    fn started(&mut self, attempt: AttemptId) -> Result<(), Broken> {
        let row = self.current(attempt)?;
        law(row.status == Status::Assigned, RIGHTFUL_END, || format!("{row:?} was started"))?;
        row.status = Status::Running;
        Ok(())
    }

    fn canceling(&mut self, build: BuildId) -> Result<(), Broken> {
        let row = self.known(build)?;
        let live = matches!(row.status, Status::Assigned | Status::Running);
        law(live, ONE_END, || format!("{row:?} was set canceling"))?;
        row.status = Status::Canceling;
        Ok(())
    }

    fn attempt_ended(&mut self, attempt: AttemptId, end: &AttemptEnd, charged: bool) -> Result<(), Broken> {
        let row = self.current(attempt)?;
        let end = match end {
            AttemptEnd::Reported(report) => End::Reported(report.outcome.clone()),
            AttemptEnd::RunnerLost => End::RunnerLost,
            AttemptEnd::GivenBack => End::GivenBack,
            AttemptEnd::NeverReceived => End::NeverReceived,
        };
        let guilty = match &end {
            End::Reported(outcome) => outcome.is_infrastructure(),
            End::RunnerLost => true,
            End::GivenBack | End::NeverReceived => false,
        };
        let wanted = row.status != Status::Canceling;
        law(charged == (guilty && wanted), NO_PENALTY, || format!("{attempt}: {end:?}, charged: {charged}"))?;
        if let Some(current) = row.attempts.last_mut() {
            current.end = Some(end);
            current.charged = charged;
        }
        Ok(())
    }

    fn requeued(&mut self, build: BuildId) -> Result<(), Broken> {
        let attempts_max = self.rules.max_attempts as usize;
        let row = self.known(build)?;
        let live = matches!(row.status, Status::Assigned | Status::Running) && row.current().is_none();
        law(live, RIGHTFUL_END, || format!("{row:?} was requeued"))?;
        law(row.charged() < attempts_max, RIGHTFUL_END, || format!("{row:?} was requeued past its cap"))?;
        row.status = Status::Queued;
        Ok(())
    }

    fn ended(&mut self, build: BuildId, outcome: &Outcome) -> Result<(), Broken> {
        let attempts_max = self.rules.max_attempts as usize;
        let row = self.known(build)?;
        law(!row.status.is_terminal(), ONE_END, || format!("{row:?} ended once more: {outcome:?}"))?;
        let spent = row.charged() >= attempts_max;
        let last = row.attempts.last().and_then(|attempt| attempt.end.as_ref());
        let rightful = match (row.status, last) {
            (Status::Queued, _) => *outcome == Outcome::Canceled,
            (Status::Canceling, Some(_)) => *outcome == Outcome::Canceled,
            (_, Some(End::Reported(said))) => said == outcome && (spent || !said.is_infrastructure()),
            (_, Some(End::RunnerLost)) => {
                spent && matches!(outcome, Outcome::Errored { reason: ErrorReason::RunnerLost, .. })
            }
            _ => false,
        };
        law(rightful, RIGHTFUL_END, || format!("{row:?} ended: {outcome:?}"))?;
        row.status = outcome.status();
        row.outcome = Some(outcome.clone());
        Ok(())
    }

    /// No build that waits longer could have been given to this runner instead.
    fn is_oldest(
        &self,
        attempt: AttemptId,
        runner: RunnerId,
        offers: &BTreeMap<RunnerId, Labels>,
    ) -> Result<(), Broken> {
        let passed_over = self.rows.range(..attempt.build).map(|(_, row)| row).find(|row| {
            row.status == Status::Queued
                && offers.get(&runner).is_some_and(|labels| labels.offer(&row.submission.spec.labels))
                && !row.failed_on().contains(&runner)
        });
        law(passed_over.is_none(), ORDER, || format!("{attempt} before {passed_over:?}"))
    }

    /// The end of an attempt says in the same step what becomes of its build.
    fn nothing_is_half_done(&self) -> Result<(), Broken> {
        let leased = |row: &Row| matches!(row.status, Status::Assigned | Status::Running | Status::Canceling);
        let left = self.rows.values().find(|row| leased(row) != row.current().is_some());
        law(left.is_none(), LOST, || format!("{left:?}"))
    }

    /// What is stored and what the scheduler knows is the same.
    pub(crate) fn agrees(&self, scheduler: &Scheduler) -> Result<(), Broken> {
        for (id, row) in &self.rows {
            let stored = (!row.status.is_terminal()).then_some(row.status);
            let known = scheduler.status(*id);
            law(stored == known, LOST, || format!("stored {row:?}, known as {known:?}"))?;
            let current = row.current().map(|attempt| (row.attempt(*id), attempt.runner.id));
            let known = scheduler.current_attempt(*id);
            law(current == known, ONE_ATTEMPT, || format!("stored {current:?}, known as {known:?}"))?;
        }
        let live = self.rows.values().filter(|row| !row.status.is_terminal()).count();
        let known = scheduler.waiting() + scheduler.running();
        law(live == known, LOST, || format!("{live} live builds are stored, {known} are known"))?;
        let waiting = self.rows.iter().filter(|(_, row)| row.status == Status::Queued).map(|(id, _)| *id);
        let known = scheduler.queue(usize::MAX).into_iter().map(|build| build.id);
        law(waiting.eq(known), ORDER, || format!("{:?}", scheduler.queue(usize::MAX)))
    }

    /// What a scheduler is rebuilt from.
    pub(crate) fn restored(&self) -> Restored {
        let live = self.rows.iter().filter(|(_, row)| !row.status.is_terminal());
        let key = |row: &Row| {
            let build = row.submission.id;
            row.submission.key.clone().map(|key| RememberedKey { key, build })
        };
        Restored {
            builds: live.map(|(_, row)| row.live()).collect(),
            latest_number: self.rows.len() as u64,
            keys: self.rows.values().filter_map(key).collect(),
        }
    }

    fn known(&mut self, build: BuildId) -> Result<&mut Row, Broken> {
        let unknown = || Broken { law: LOST, found: format!("{build} is not stored") };
        self.rows.get_mut(&build).ok_or_else(unknown)
    }

    fn current(&mut self, attempt: AttemptId) -> Result<&mut Row, Broken> {
        let row = self.known(attempt.build)?;
        law(!row.status.is_terminal(), ONE_END, || format!("{attempt} of {row:?}"))?;
        let current = row.current().is_some() && row.attempt(attempt.build) == attempt;
        law(current, RIGHTFUL_END, || format!("{attempt} is not the current one of {row:?}"))?;
        Ok(row)
    }
}

impl Row {
    pub(crate) fn current(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.end.is_none())
    }

    pub(crate) fn charged(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.charged).count()
    }

    fn attempt(&self, build: BuildId) -> AttemptId {
        AttemptId { build, number: u32::try_from(self.attempts.len()).unwrap() }
    }

    /// Runners that reported an infrastructure failure.
    fn failed_on(&self) -> BTreeSet<RunnerId> {
        let failed = |attempt: &&Attempt| attempt.charged && attempt.end != Some(End::RunnerLost);
        self.attempts.iter().filter(failed).map(|attempt| attempt.runner.id).collect()
    }

    fn live(&self) -> LiveBuild {
        LiveBuild {
            id: self.submission.id,
            number: self.number,
            spec: self.submission.spec.clone(),
            status: self.status,
            attempts_made: u32::try_from(self.attempts.len()).unwrap(),
            attempts_charged: u32::try_from(self.charged()).unwrap(),
            failed_on: self.failed_on(),
            runner: self.current().map(|attempt| attempt.runner.clone()),
        }
    }
}

pub(crate) fn law(holds: bool, law: &'static str, found: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken { law, found: found() }) }
}
