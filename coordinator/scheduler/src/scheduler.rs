//! The state machine itself: one function for each thing that can happen.

use std::{collections::BTreeMap, sync::Arc};

use caisson_protocol::{
    AttemptId, AttemptReport, BuildId, Condition, CoordinatorMessage, ErrorReason, HeldAttempt, HeldPhase,
    KeepAliveTerms, Outcome, Refusal, Registration, ResolvedCommit, RunnerId, Status,
};

use crate::{
    Answer, AttemptEnd, Change, Effect, Event, Moment, RequestId, RunnerEvent, SessionId, Step, Submission,
    build::{Build, Lease, State},
    fleet::{Fleet, Runner},
    keys::Keys,
    pick::pick,
    queue::Queue,
};

/// The numbers that decisions depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// How many builds may wait.
    pub queue_capacity: usize,
    /// How many attempts a build has, lost runners and infrastructure failures counted.
    pub max_attempts: u32,
    /// How often a runner gives a sign of life, in milliseconds.
    pub interval_ms: u64,
    /// How long a runner may be silent before it is removed, in milliseconds.
    pub timeout_ms: u64,
    /// How long the log of an attempt may become, in bytes.
    pub log_bytes_max: u64,
}

/// The live state: builds that wait or run, and runners.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scheduler {
    pub(crate) rules: Rules,
    pub(crate) latest_number: u64,
    pub(crate) builds: BTreeMap<BuildId, Build>,
    pub(crate) queue: Queue,
    pub(crate) fleet: Fleet,
    pub(crate) keys: Keys,
}

impl Scheduler {
    /// A scheduler that knows no builds and no runners.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            latest_number: 0,
            builds: BTreeMap::new(),
            queue: Queue::default(),
            fleet: Fleet::default(),
            keys: Keys::default(),
        }
    }

    /// When to apply [`Event::Wake`], if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        self.fleet.next_deadline()
    }

    /// Decides what follows from an event.
    pub fn apply(&mut self, now: Moment, event: Event) -> Step {
        let mut step = Step::default();
        match event {
            Event::Submit { request, submission } => self.submit(request, submission, &mut step),
            Event::Cancel { request, build } => self.cancel(request, build, &mut step),
            Event::Drain { request, runner } => self.drain(request, runner, &mut step),
            Event::Runner { session, event: RunnerEvent::Register { runner, registration } } => {
                self.register(now, session, runner, registration, &mut step);
            }
            Event::Runner { session, event } => self.heard(now, session, event, &mut step),
            Event::Resumed => self.fleet.grant(now.after_ms(self.rules.timeout_ms)),
            Event::Wake => self.wake(now, &mut step),
        }
        self.dispatch(&mut step);
        step
    }

    fn submit(&mut self, request: RequestId, submission: Submission, step: &mut Step) {
        let answer = self.admit(submission, step);
        step.effects.push(Effect::Answer { request, answer });
    }

    fn admit(&mut self, submission: Submission, step: &mut Step) -> Answer {
        if let Some(used) = &submission.key
            && let Some((digest, build)) = self.keys.get(&used.key)
        {
            return if digest == used.digest { Answer::Repeated { build } } else { Answer::KeyReused };
        }
        let (limit, depth) = (self.rules.queue_capacity, self.queue.len());
        if depth >= limit {
            return Answer::QueueFull { limit, depth };
        }
        self.latest_number += 1;
        let (build, number) = (submission.id, self.latest_number);
        self.builds.insert(build, Build::new(&submission, number));
        self.queue.insert(number, build);
        if let Some(key) = submission.key.clone() {
            self.keys.remember(key, build);
        }
        step.changes.push(Change::Submitted { submission, number });
        Answer::Accepted { build }
    }

    fn cancel(&mut self, request: RequestId, id: BuildId, step: &mut Step) {
        let answer = match self.builds.get_mut(&id).map(|build| (build.state, build)) {
            None => Answer::BuildNotLive,
            Some((State::Queued, _)) => {
                self.end(id, Outcome::Canceled, step);
                Answer::Canceling
            }
            Some((State::Assigned(lease) | State::Running(lease), build)) => {
                build.state = State::Canceling(lease);
                let attempt = build.attempt();
                step.changes.push(Change::Canceling { build: id });
                self.send(lease.runner, CoordinatorMessage::Cancel { attempt }, step);
                Answer::Canceling
            }
            Some((State::Canceling(_), _)) => Answer::Canceling,
        };
        step.effects.push(Effect::Answer { request, answer });
    }

    fn drain(&mut self, request: RequestId, id: RunnerId, step: &mut Step) {
        let answer = match self.fleet.get_mut(id) {
            Some(runner) => {
                runner.drain(request);
                self.send(id, CoordinatorMessage::Drain, step);
                Answer::Draining
            }
            None => Answer::RunnerUnknown,
        };
        step.effects.push(Effect::Answer { request, answer });
    }

    fn register(
        &mut self,
        now: Moment,
        session: SessionId,
        id: RunnerId,
        said: Registration,
        step: &mut Step,
    ) {
        let known = self.fleet.get(id);
        // On a connection that a later one has overtaken, or that somebody has registered on already.
        if known.is_some_and(|runner| runner.latest_session >= Some(session))
            || self.fleet.of_session(session).is_some()
        {
            step.effects.push(Effect::Close { session });
            return;
        }
        let before =
            known.and_then(|runner| runner.registration.as_ref().map(|r| (runner.session, r.instance)));
        // Not known of a runner that registers for the first time since this coordinator started.
        let same = before.map(|(_, instance)| instance == said.instance);
        if let Some((Some(old), _)) = before {
            self.replace(old, same == Some(true), &said.name, step);
        }
        let reference = crate::RunnerRef { id, name: said.name.clone() };
        let held = said.held.clone();
        self.fleet.expect(reference, now);
        self.fleet.connect(id, session, said);
        self.keep_from_removal(now, id);

        for build in self.unlisted(id, &held) {
            self.take_back(build, self.why_unlisted(build, same), step);
        }
        let (keep, drop) =
            held.iter().map(|one| one.attempt).partition(|attempt| self.is_current(*attempt, id));
        let terms = KeepAliveTerms { interval_ms: self.rules.interval_ms, timeout_ms: self.rules.timeout_ms };
        let registered = CoordinatorMessage::Registered { runner_id: id, keep_alive: terms, keep, drop };
        self.send(id, registered, step);
        self.note_phases(id, &held, step);
        self.repeat_orders(id, step);
    }

    /// Why a runner that registers does not list a build. The same process lists all it has: what is missing never
    /// reached it. Another one does not have what the one before it had. Where that is not known, what had not begun
    /// to run may have been stored and never sent: the build does not pay for the coordinator's end.
    fn why_unlisted(&self, build: BuildId, same: Option<bool>) -> AttemptEnd {
        let never_received = same.unwrap_or_else(|| self.status(build) == Some(Status::Assigned));
        if never_received { AttemptEnd::NeverReceived } else { AttemptEnd::RunnerLost }
    }

    /// Ends the connection that a new one takes the place of. A process that connects again knows why its old
    /// connection ends; another process is told, so that it does not come back.
    fn replace(&mut self, old: SessionId, resumes: bool, name: &str, step: &mut Step) {
        if !resumes {
            let message = format!(
                "another process has registered under the name {name:?}: give each runner a name of its own"
            );
            let message = CoordinatorMessage::Refused { reason: Refusal::Superseded, message };
            step.effects.push(Effect::Send { session: old, message });
        }
        step.effects.push(Effect::Close { session: old });
    }

    /// Says again what may have been said to a connection that was lost.
    fn repeat_orders(&self, id: RunnerId, step: &mut Step) {
        let Some(runner) = self.fleet.get(id) else { return };
        let held = runner.holds.iter().filter_map(|build| self.builds.get(build));
        for build in held.filter(|build| build.is_canceling()) {
            self.send(id, CoordinatorMessage::Cancel { attempt: build.attempt() }, step);
        }
        if runner.draining {
            self.send(id, CoordinatorMessage::Drain, step);
        }
    }

    fn heard(&mut self, now: Moment, session: SessionId, event: RunnerEvent, step: &mut Step) {
        let Some(runner) = self.fleet.of_session(session) else {
            // Removed or superseded meanwhile: on a new connection it is told what became of its builds.
            if event != RunnerEvent::Disconnected {
                step.effects.push(Effect::Close { session });
            }
            return;
        };
        if event != RunnerEvent::Disconnected {
            self.keep_from_removal(now, runner);
        }
        match event {
            RunnerEvent::Register { .. } | RunnerEvent::Heard => {}
            RunnerEvent::KeepAlive { held } => self.keep_alive(runner, &held, step),
            RunnerEvent::Accepted { attempt } => self.accepted(runner, attempt, step),
            RunnerEvent::Started { attempt, resolved_commit, image_digest } => {
                if self.current_or_drop(attempt, runner, step) {
                    self.started(attempt, Some(resolved_commit), image_digest, step);
                }
            }
            RunnerEvent::Finished { attempt, report } => self.finished(runner, attempt, report, step),
            RunnerEvent::Cleaned { attempt, cleanup_ms } => {
                step.changes.push(Change::Cleaned { attempt, runner, cleanup_ms });
            }
            RunnerEvent::Draining { held } => self.draining(runner, &held, step),
            RunnerEvent::Condition(condition) => self.condition(runner, condition),
            RunnerEvent::Released { attempt } => {
                if self.current_or_drop(attempt, runner, step) {
                    self.take_back(attempt.build, AttemptEnd::GivenBack, step);
                }
            }
            RunnerEvent::Disconnected => self.disconnected(session, runner),
        }
    }

    fn keep_alive(&mut self, runner: RunnerId, held: &[HeldAttempt], step: &mut Step) {
        for stale in held.iter().map(|one| one.attempt).filter(|attempt| !self.is_current(*attempt, runner)) {
            self.send(runner, CoordinatorMessage::Drop { attempt: stale }, step);
        }
        self.note_phases(runner, held, step);
        for id in self.unlisted(runner, held) {
            let Some(lease) = self.builds.get_mut(&id).and_then(Build::lease_mut) else { continue };
            // The first may have crossed the assignment on its way.
            lease.unlisted += 1;
            if lease.unlisted >= 2 {
                self.take_back(id, AttemptEnd::NeverReceived, step);
            }
        }
    }

    fn accepted(&mut self, runner: RunnerId, attempt: AttemptId, step: &mut Step) {
        if self.current_or_drop(attempt, runner, step) {
            self.listed(attempt.build);
        }
    }

    fn started(
        &mut self,
        attempt: AttemptId,
        commit: Option<ResolvedCommit>,
        digest: Option<String>,
        step: &mut Step,
    ) {
        let Some(build) = self.builds.get_mut(&attempt.build) else { return };
        if let State::Assigned(lease) = build.state {
            build.state = State::Running(lease);
            step.changes.push(Change::Started { attempt, resolved_commit: commit, image_digest: digest });
        }
    }

    fn finished(&mut self, runner: RunnerId, attempt: AttemptId, report: AttemptReport, step: &mut Step) {
        if !self.current_or_drop(attempt, runner, step) {
            return;
        }
        let Some(build) = self.builds.get_mut(&attempt.build) else { return };
        let outcome = if build.is_canceling() { Outcome::Canceled } else { report.outcome.clone() };
        let charged = outcome.is_infrastructure();
        if charged {
            build.attempts_charged += 1;
            build.failed_on.insert(runner);
        }
        let again = charged && build.attempts_charged < self.rules.max_attempts;
        step.changes.push(Change::AttemptEnded { attempt, end: AttemptEnd::Reported(report), charged });
        if again {
            self.requeue(attempt.build, step);
        } else {
            self.end(attempt.build, outcome, step);
        }
        self.send(runner, CoordinatorMessage::FinishedAck { attempt }, step);
    }

    fn draining(&mut self, id: RunnerId, held: &[HeldAttempt], step: &mut Step) {
        if let Some(runner) = self.fleet.get_mut(id) {
            runner.draining = true;
            // From here on it says so itself whenever it registers.
            if let Some(said) = &mut runner.registration {
                said.draining = true;
            }
        }
        // What is on its way to it comes in vain, and it may be gone before it could say so.
        for build in self.unlisted(id, held) {
            self.take_back(build, AttemptEnd::NeverReceived, step);
        }
    }

    fn condition(&mut self, id: RunnerId, condition: Condition) {
        if let Some(said) = self.fleet.get_mut(id).and_then(|runner| runner.registration.as_mut()) {
            said.condition = condition;
        }
    }

    /// A lost connection is not a dead runner, unless it had said that it goes and holds nothing. That a person asked
    /// for it is not enough: the word may have been lost with the connection, and is said again on the next one.
    fn disconnected(&mut self, session: SessionId, id: RunnerId) {
        self.fleet.disconnect(session);
        if self.fleet.get(id).is_some_and(Runner::has_left) {
            self.fleet.remove(id);
        }
    }

    fn wake(&mut self, now: Moment, step: &mut Step) {
        let Some(deadline) = self.fleet.next_deadline() else { return };
        // A timer this late means that we were the ones who were away: what runners said may still be on its way in.
        // A runner speaks every interval, so a shorter absence of ours can't have made it look silent for a timeout.
        if now >= deadline.after_ms(self.rules.interval_ms / 2) {
            self.fleet.grant(now.after_ms(self.rules.timeout_ms));
            return;
        }
        for id in self.fleet.overdue(now) {
            self.remove(id, step);
        }
    }

    fn remove(&mut self, id: RunnerId, step: &mut Step) {
        let Some(runner) = self.fleet.get(id) else { return };
        if let Some(session) = runner.session {
            step.effects.push(Effect::Close { session });
        }
        for build in runner.holds.clone() {
            self.take_back(build, AttemptEnd::RunnerLost, step);
        }
        self.fleet.remove(id);
    }

    /// Ends the current attempt of a build from this side. Only a lost runner counts against the cap.
    fn take_back(&mut self, id: BuildId, end: AttemptEnd, step: &mut Step) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        let Some(lease) = build.lease() else { return };
        let charged = end == AttemptEnd::RunnerLost && !build.is_canceling();
        build.attempts_charged += u32::from(charged);
        let spent = charged && build.attempts_charged >= self.rules.max_attempts;
        step.changes.push(Change::AttemptEnded { attempt: build.attempt(), end, charged });
        if build.is_canceling() {
            self.end(id, Outcome::Canceled, step);
        } else if spent {
            let outcome = lost_too_often(build.attempts_charged, &self.fleet.reference(lease.runner).name);
            self.end(id, outcome, step);
        } else {
            self.requeue(id, step);
        }
    }

    /// Puts a build back to its own place.
    fn requeue(&mut self, id: BuildId, step: &mut Step) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        if let Some(lease) = build.lease() {
            self.fleet.free(lease.runner, id);
        }
        build.state = State::Queued;
        self.queue.insert(build.number, id);
        step.changes.push(Change::Requeued { build: id });
    }

    fn end(&mut self, id: BuildId, outcome: Outcome, step: &mut Step) {
        let Some(build) = self.builds.remove(&id) else { return };
        match build.lease() {
            Some(lease) => self.fleet.free(lease.runner, id),
            None => self.queue.remove(build.number),
        }
        step.changes.push(Change::Ended { build: id, outcome });
    }

    /// Hands out what waits, oldest first. A build that nobody can take now holds nobody up.
    fn dispatch(&mut self, step: &mut Step) {
        let mut free: usize = self.fleet.iter().map(|(_, runner)| runner.free()).sum();
        if free == 0 || self.queue.len() == 0 {
            return;
        }
        for id in self.queue.iter().collect::<Vec<_>>() {
            if free == 0 {
                break;
            }
            let Some(runner) = self.builds.get(&id).and_then(|build| pick(build, &self.fleet)) else {
                continue;
            };
            self.assign(id, runner, step);
            free -= 1;
        }
    }

    fn assign(&mut self, id: BuildId, runner: RunnerId, step: &mut Step) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        self.queue.remove(build.number);
        build.attempts_made += 1;
        build.state = State::Assigned(Lease { runner, unlisted: 0 });
        let (attempt, spec) = (build.attempt(), Arc::clone(&build.spec));
        self.fleet.hold(runner, id);
        step.changes.push(Change::Assigned { attempt, runner: self.fleet.reference(runner) });
        let log_bytes_max = self.rules.log_bytes_max;
        let assign = CoordinatorMessage::Assign { attempt, spec, log_bytes_max };
        self.send(runner, assign, step);
    }

    /// The fence: whether an attempt is its build's current one, on this runner.
    fn is_current(&self, attempt: AttemptId, runner: RunnerId) -> bool {
        self.builds.get(&attempt.build).is_some_and(|build| {
            build.attempt() == attempt && build.lease().is_some_and(|lease| lease.runner == runner)
        })
    }

    /// The fence, and word to the runner where it holds.
    fn current_or_drop(&self, attempt: AttemptId, runner: RunnerId, step: &mut Step) -> bool {
        let current = self.is_current(attempt, runner);
        if !current {
            self.send(runner, CoordinatorMessage::Drop { attempt }, step);
        }
        current
    }

    /// The builds that a runner has by our books and did not list.
    fn unlisted(&self, runner: RunnerId, held: &[HeldAttempt]) -> Vec<BuildId> {
        let holds = self.fleet.get(runner).map(|runner| runner.holds.clone()).unwrap_or_default();
        let listed = |build: &BuildId| {
            self.builds.get(build).is_some_and(|build| held.iter().any(|one| one.attempt == build.attempt()))
        };
        holds.into_iter().filter(|build| !listed(build)).collect()
    }

    /// Takes in what a list of held attempts tells: they were received, and some run.
    fn note_phases(&mut self, runner: RunnerId, held: &[HeldAttempt], step: &mut Step) {
        for one in held.iter().filter(|one| self.is_current(one.attempt, runner)).copied().collect::<Vec<_>>()
        {
            self.listed(one.attempt.build);
            if one.phase == HeldPhase::Running {
                self.started(one.attempt, None, None, step);
            }
        }
    }

    fn listed(&mut self, build: BuildId) {
        if let Some(lease) = self.builds.get_mut(&build).and_then(Build::lease_mut) {
            lease.unlisted = 0;
        }
    }

    fn keep_from_removal(&mut self, now: Moment, id: RunnerId) {
        let deadline = now.after_ms(self.rules.timeout_ms);
        if let Some(runner) = self.fleet.get_mut(id) {
            runner.heard = Some(now);
            runner.deadline = deadline;
        }
    }

    fn send(&self, runner: RunnerId, message: CoordinatorMessage, step: &mut Step) {
        if let Some(session) = self.fleet.get(runner).and_then(|runner| runner.session) {
            step.effects.push(Effect::Send { session, message });
        }
    }
}

fn lost_too_often(attempts: u32, runner: &str) -> Outcome {
    let message = format!(
        "{attempts} attempts ended without a result, the last one with the loss of runner {runner}: see whether the \
         build takes its runner down"
    );
    Outcome::Errored { reason: ErrorReason::RunnerLost, message }
}
