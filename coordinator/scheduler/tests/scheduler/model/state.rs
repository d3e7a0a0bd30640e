//! A state of a small world: the coordinator, what is stored, the processes of runners, and what is on its way.

use caisson_protocol::{AttemptId, CoordinatorMessage, HeldAttempt, HeldPhase, Outcome, RunnerId, Status};
use caisson_scheduler::{
    Answer, AttemptEnd, Change, Effect, Event, Moment, RunnerEvent, Scheduler, SessionId, Step,
};

use super::{
    facts::Fact,
    worlds::{Budgets, SmallWorld},
};
use crate::{
    store::{self, Broken, Store, law},
    words::*,
};

/// Laws beyond those of the store.
pub(crate) mod rule {
    pub(crate) const DRAIN: &str = "rule 8: a draining runner gets no new builds";
    pub(crate) const IN_VAIN: &str = "rule 8: nothing is on its way to a runner that drains";
    pub(crate) const KEY: &str = "rule 10: the same key gives the same build";
    pub(crate) const REMOVAL: &str = "rule 4: a removal takes the silent runner, and no other";
    pub(crate) const AN_END: &str = "rule 5: no build travels for ever";
    pub(crate) const OWN_CHECK: &str = "the scheduler's own invariants";
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) now: Moment,
    pub(crate) scheduler: Scheduler,
    pub(crate) store: Store,
    pub(crate) processes: Vec<Process>,
    pub(crate) lines: Vec<Line>,
    pub(crate) left: Budgets,
    pub(crate) submitted: u64,
    pub(crate) sessions: u64,
    /// The connection and process that each runner has by what the coordinator was told.
    pub(crate) known: Vec<Known>,
    /// Which process each current attempt was given to.
    given: Vec<(AttemptId, u64)>,
    /// Processes that a person drained.
    drained: Vec<u64>,
    /// Runners without a connection, the one that is removed first first: times themselves don't count.
    removal_order: Vec<(usize, RunnerId)>,
    commit_fails: bool,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    pub(crate) session: Option<SessionId>,
    pub(crate) instance: Option<u64>,
}

/// A run of a runner's program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) runner: usize,
    pub(crate) instance: u64,
    pub(crate) life: Life,
    pub(crate) session: Option<SessionId>,
    pub(crate) registered: bool,
    pub(crate) draining: bool,
    pub(crate) held: Vec<Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Runs,
    Crashed,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) attempt: AttemptId,
    pub(crate) phase: HeldPhase,
    pub(crate) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum End {
    Succeeded,
    EngineFailed,
    Canceled,
}

/// A connection, with what is on its way in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    pub(crate) session: SessionId,
    pub(crate) runner: usize,
    pub(crate) instance: u64,
    pub(crate) up: Vec<Up>,
    pub(crate) down: Vec<Down>,
}

/// What a runner says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Up {
    Register {
        held: Vec<HeldAttempt>,
        draining: bool,
    },
    KeepAlive(Vec<HeldAttempt>),
    Accepted(AttemptId),
    Started(AttemptId),
    Finished(AttemptId, End),
    Draining(Vec<HeldAttempt>),
    Released(AttemptId),
    /// Not said: the connection is gone. Comes after all that was said.
    Gone,
}

/// What the coordinator says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Down {
    Registered { drop: Vec<AttemptId> },
    Refused,
    Assign(AttemptId),
    Cancel(AttemptId),
    Drop(AttemptId),
    Ack(AttemptId),
    Drain,
    Closed,
}

/// Where a step comes from.
#[derive(Debug, Clone)]
pub(crate) enum Cause {
    Person,
    Removal,
    Said { runner: usize, instance: u64, session: SessionId, what: Up },
}

impl State {
    pub(crate) fn new(world: &SmallWorld) -> Self {
        let runners = world.runners.len();
        let process = |runner: usize| Process {
            runner,
            instance: runner as u64 + 1,
            life: Life::Runs,
            session: None,
            registered: false,
            draining: false,
            held: Vec::new(),
        };
        Self {
            now: Moment(0),
            scheduler: Scheduler::new(world.rules),
            store: Store::new(world.rules),
            processes: (0..runners).map(process).collect(),
            lines: Vec::new(),
            left: world.budgets,
            submitted: 0,
            sessions: 0,
            known: vec![Known::default(); runners],
            given: Vec::new(),
            drained: Vec::new(),
            removal_order: Vec::new(),
            commit_fails: false,
            broken: None,
        }
    }

    pub(crate) fn keeps(&self, law: &str) -> bool {
        self.broken != Some(law)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether nothing more happens by itself, while some runner would take builds.
    pub(crate) fn rests(&self, world: &SmallWorld) -> bool {
        let works = |process: &Process| process.life == Life::Runs && process.registered && !process.draining;
        let mut actions = Vec::new();
        self.processes.iter().any(works) && {
            self.progress(world, &mut actions);
            actions.is_empty()
        }
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.store.rows().all(|(_, row)| row.status.is_terminal())
    }

    pub(crate) fn break_law(&mut self, law: &'static str) {
        self.broken.get_or_insert(law);
    }

    pub(crate) fn commit_will_fail(&self) -> bool {
        self.commit_fails
    }

    pub(crate) fn the_next_commit_fails(&mut self) {
        self.commit_fails = true;
    }

    /// The coordinator dies, and the next one starts with what is stored. Connections and all on them are gone.
    pub(crate) fn coordinator_dies(&mut self, world: &SmallWorld) {
        self.scheduler = Scheduler::restore(world.rules, self.now, self.store.restored());
        self.lines.clear();
        for process in &mut self.processes {
            process.session = None;
            process.registered = false;
        }
        self.known.fill(Known::default());
        self.drained.clear();
        self.agree();
        self.order_removals();
    }

    /// One event: decided, stored, checked, let out.
    pub(crate) fn step(&mut self, world: &SmallWorld, cause: &Cause, event: Event) -> Option<Answer> {
        self.now = self.now.after_ms(1);
        let before = self.known.clone();
        let step = self.scheduler.apply(self.now, event);
        self.note_known(world, cause, &step);
        if std::mem::take(&mut self.commit_fails) && !step.changes.is_empty() {
            world.see(Fact::CommitFailed);
            self.scheduler.recover(self.now, self.store.restored(), &[]);
            self.agree();
            self.hang_up(world, cause);
            return None;
        }
        let held = self
            .check_causes(world, cause, &before, &step)
            .and_then(|()| self.store.commit(&step.changes, &world.offers))
            .and_then(|()| self.store.agrees(&self.scheduler))
            .and_then(|()| self.nobody_has_too_much(world))
            .and_then(|()| self.nobody_travels_for_ever())
            .and_then(|()| self.nothing_is_sent_in_vain(world, cause));
        if let Err(Broken { law, .. }) = held {
            self.break_law(law);
        }
        if self.scheduler.check().is_err() {
            self.break_law(rule::OWN_CHECK);
        }
        self.order_removals();
        self.release(world, step)
    }

    fn agree(&mut self) {
        if let Err(Broken { law, .. }) = self.store.agrees(&self.scheduler) {
            self.break_law(law);
        }
    }

    /// What the coordinator was told last of who a runner is and where.
    fn note_known(&mut self, world: &SmallWorld, cause: &Cause, step: &Step) {
        let Cause::Said { runner, instance, session, what } = cause else { return };
        let taken = step.effects.iter().any(|effect| {
            matches!(effect, Effect::Send { message: CoordinatorMessage::Registered { .. }, .. })
        });
        let known = &mut self.known[*runner];
        match what {
            Up::Register { .. } if taken => {
                *known = Known { session: Some(*session), instance: Some(*instance) }
            }
            Up::Gone if known.session == Some(*session) => {
                known.session = None;
                let id = world.runners[*runner];
                if !self.scheduler.runners().iter().any(|known| known.id == id) {
                    self.runner_is_removed(*runner);
                }
            }
            _ => {}
        }
    }

    /// Once a runner is heard to drain, nothing is on its way to it.
    fn nothing_is_sent_in_vain(&self, world: &SmallWorld, cause: &Cause) -> Result<(), Broken> {
        let Cause::Said { runner, session, what: Up::Draining(held), .. } = cause else { return Ok(()) };
        let id = world.runners[*runner];
        let mut rows = self.store.rows();
        let lost = rows.find(|(build, row)| {
            let attempt = AttemptId { build: *build, number: row.attempts.len() as u32 };
            row.current().is_some_and(|current| current.runner.id == id)
                && !held.iter().any(|one| one.attempt == attempt)
        });
        let heard = self.known[*runner].session == Some(*session);
        law(!heard || lost.is_none(), rule::IN_VAIN, || format!("{lost:?}"))
    }

    /// Each change has a cause that entitles to it.
    fn check_causes(
        &mut self,
        world: &SmallWorld,
        cause: &Cause,
        before: &[Known],
        step: &Step,
    ) -> Result<(), Broken> {
        for change in &step.changes {
            match change {
                Change::AttemptEnded { attempt, end, charged } => {
                    self.may_end(cause, before, *attempt, end, *charged)?;
                    self.note_end(world, cause, *attempt, end);
                    self.given.retain(|(given, _)| given != attempt);
                }
                Change::Assigned { attempt, runner } => self.may_be_given(world, *attempt, runner.id)?,
                Change::Ended { build, outcome } => self.note_outcome(world, cause, *build, outcome),
                _ => {}
            }
        }
        Ok(())
    }

    fn may_end(
        &self,
        cause: &Cause,
        before: &[Known],
        attempt: AttemptId,
        end: &AttemptEnd,
        charged: bool,
    ) -> Result<(), Broken> {
        let given_to = self.given_to(attempt);
        let (may, rule) = match (cause, end) {
            (Cause::Said { runner, session, what: Up::Finished(said, _), .. }, AttemptEnd::Reported(_))
            | (Cause::Said { runner, session, what: Up::Released(said), .. }, AttemptEnd::GivenBack) => {
                (*said == attempt && before[*runner].session == Some(*session), store::RIGHTFUL_END)
            }
            (Cause::Said { what: Up::Register { .. }, instance, .. }, AttemptEnd::RunnerLost) => {
                (!charged || given_to != Some(*instance), store::NO_PENALTY)
            }
            (Cause::Removal, AttemptEnd::RunnerLost) => (true, store::NO_PENALTY),
            (
                Cause::Said { what: Up::KeepAlive(_) | Up::Register { .. } | Up::Draining(_), .. },
                AttemptEnd::NeverReceived,
            ) => (true, store::RIGHTFUL_END),
            _ => (false, store::RIGHTFUL_END),
        };
        law(may, rule, || format!("{attempt}: {end:?} by {cause:?}"))
    }

    fn may_be_given(
        &mut self,
        world: &SmallWorld,
        attempt: AttemptId,
        runner: RunnerId,
    ) -> Result<(), Broken> {
        let known = world.runners.iter().position(|one| *one == runner).map(|at| self.known[at]);
        let Some(Known { session: Some(_), instance: Some(instance) }) = known else {
            return law(false, store::ONE_ATTEMPT, || format!("{attempt} was given to nobody"));
        };
        self.given.push((attempt, instance));
        law(!self.drained.contains(&instance), rule::DRAIN, || format!("{attempt}"))
    }

    fn nobody_has_too_much(&self, world: &SmallWorld) -> Result<(), Broken> {
        for (runner, capacity) in world.runners.iter().zip(world.capacities) {
            let current = self.store.rows().filter_map(|(_, row)| row.current());
            let has = current.filter(|attempt| attempt.runner.id == *runner).count();
            law(has <= *capacity as usize, store::ONE_ATTEMPT, || format!("{runner} has {has} builds"))?;
        }
        Ok(())
    }

    /// What may go wrong is counted, and so is what it costs. Without this law a bug can make a world endless.
    fn nobody_travels_for_ever(&self) -> Result<(), Broken> {
        const ATTEMPTS_MAX: usize = 6;
        let restless = self.store.rows().find(|(_, row)| row.attempts.len() > ATTEMPTS_MAX);
        law(restless.is_none(), rule::AN_END, || format!("{restless:?}"))
    }

    fn note_outcome(
        &self,
        world: &SmallWorld,
        cause: &Cause,
        build: caisson_protocol::BuildId,
        outcome: &Outcome,
    ) {
        let Some(row) = self.store.row(build) else { return };
        let said = match cause {
            Cause::Said { what: Up::Finished(_, end), .. } => Some(*end),
            _ => None,
        };
        match (outcome.status(), said) {
            (Status::Succeeded, _) if row.attempts.len() == 2 => world.see(Fact::RequeuedAndSucceeded),
            (Status::Canceled, Some(End::Succeeded)) => world.see(Fact::CanceledDespiteSuccess),
            (Status::Canceled, None) if matches!(cause, Cause::Removal) => world.see(Fact::CanceledByRemoval),
            (Status::Errored, _) => world.see(Fact::CapReached),
            _ => {}
        }
    }

    fn note_end(&self, world: &SmallWorld, cause: &Cause, attempt: AttemptId, end: &AttemptEnd) {
        match (end, cause) {
            (AttemptEnd::GivenBack, _) => world.see(Fact::GivenBack),
            (AttemptEnd::NeverReceived, _) => world.see(Fact::NeverReceived),
            (AttemptEnd::RunnerLost, Cause::Said { .. }) => world.see(Fact::Superseded),
            (AttemptEnd::Reported(_), Cause::Said { instance, .. })
                if self.given_to(attempt) != Some(*instance) =>
            {
                world.see(Fact::SpoolDelivered);
            }
            _ => {}
        }
    }

    fn given_to(&self, attempt: AttemptId) -> Option<u64> {
        self.given.iter().find(|(given, _)| *given == attempt).map(|(_, instance)| *instance)
    }

    /// Lets the effects out.
    fn release(&mut self, world: &SmallWorld, step: Step) -> Option<Answer> {
        let mut answered = None;
        for effect in step.effects {
            match effect {
                Effect::Answer { answer, .. } => answered = Some(answer),
                Effect::Close { session } => {
                    self.known
                        .iter_mut()
                        .filter(|known| known.session == Some(session))
                        .for_each(|known| known.session = None);
                    self.say(world, session, Down::Closed);
                }
                Effect::Send { session, message } => {
                    if let Some(message) = Down::of(message) {
                        self.say(world, session, message);
                    }
                }
            }
        }
        answered
    }

    /// Puts something on its way to a runner, unless its end of the connection is gone, or hangs up anyway.
    fn say(&mut self, world: &SmallWorld, session: SessionId, message: Down) {
        let listens = self.processes.iter().any(|process| process.session == Some(session));
        let Some(line) = self.lines.iter_mut().find(|line| line.session == session) else { return };
        if listens && !line.down.contains(&Down::Closed) {
            line.down.push(message);
            if world.overtaking {
                line.down.sort();
            }
        }
    }

    /// After a failed commit the connection on which it came ends.
    fn hang_up(&mut self, world: &SmallWorld, cause: &Cause) {
        if let Cause::Said { session, .. } = cause {
            self.say(world, *session, Down::Closed);
        }
    }

    pub(crate) fn drain_is_asked(&mut self, runner: usize) {
        if let Some(instance) = self.known[runner].instance {
            self.drained.push(instance);
        }
    }

    pub(crate) fn runner_is_removed(&mut self, runner: usize) {
        if let Some(instance) = std::mem::take(&mut self.known[runner]).instance {
            self.drained.retain(|drained| *drained != instance);
        }
    }

    fn order_removals(&mut self) {
        self.removal_order.clear();
        if self.known.iter().filter(|known| known.session.is_none()).count() < 2 {
            return;
        }
        let mut absent: Vec<_> = self
            .scheduler
            .runners()
            .into_iter()
            .filter(|runner| !runner.connected)
            .map(|runner| (runner.deadline, runner.id))
            .collect();
        absent.sort();
        let earlier = |deadline: Moment| absent.iter().filter(|(other, _)| *other < deadline).count();
        self.removal_order = absent.iter().map(|(deadline, runner)| (earlier(*deadline), *runner)).collect();
    }
}

impl Down {
    /// None for what runners need no decision for.
    fn of(message: CoordinatorMessage) -> Option<Self> {
        Some(match message {
            CoordinatorMessage::Registered { drop, .. } => Self::Registered { drop },
            CoordinatorMessage::Refused { .. } => Self::Refused,
            CoordinatorMessage::Assign { attempt, .. } => Self::Assign(attempt),
            CoordinatorMessage::Cancel { attempt } => Self::Cancel(attempt),
            CoordinatorMessage::Drop { attempt } => Self::Drop(attempt),
            CoordinatorMessage::FinishedAck { attempt } => Self::Ack(attempt),
            CoordinatorMessage::Drain => Self::Drain,
            CoordinatorMessage::LogAck { .. } => return None,
        })
    }
}

impl End {
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Succeeded => Outcome::Succeeded,
            Self::EngineFailed => errored(caisson_protocol::ErrorReason::EngineFailed),
            Self::Canceled => Outcome::Canceled,
        }
    }
}

impl Line {
    /// What was said, as the scheduler hears it.
    pub(crate) fn event(&self, world: &SmallWorld, what: &Up) -> RunnerEvent {
        match what.clone() {
            Up::Register { held, draining } => {
                let mut registration = world.registrations[self.runner].clone();
                registration.instance = uuid::Uuid::from_u128(self.instance.into());
                registration.held = held;
                registration.draining = draining;
                RunnerEvent::Register { runner: world.runners[self.runner], registration }
            }
            Up::KeepAlive(held) => RunnerEvent::KeepAlive { held },
            Up::Accepted(attempt) => RunnerEvent::Accepted { attempt },
            Up::Started(attempt) => {
                RunnerEvent::Started { attempt, resolved_commit: commit(), image_digest: None }
            }
            Up::Finished(attempt, end) => RunnerEvent::Finished { attempt, report: report(end.outcome()) },
            Up::Draining(held) => RunnerEvent::Draining { held },
            Up::Released(attempt) => RunnerEvent::Released { attempt },
            Up::Gone => RunnerEvent::Disconnected,
        }
    }
}
