//! What each thing that happens does to a small world.

use caisson_protocol::{AttemptId, HeldPhase};
use caisson_scheduler::{Answer, Event, Moment, RequestId, RunnerEvent, SessionId, Submission};

use super::{
    actions::Action,
    facts::Fact,
    state::{Cause, Down, End, Held, Life, Line, Process, State, Up, rule},
    worlds::SmallWorld,
};
use crate::{store, words::*};

impl State {
    pub(crate) fn act(&mut self, world: &SmallWorld, action: Action) {
        match action {
            Action::Submit => self.submit(world),
            Action::SubmitAgain(number) => self.submit_again(world, number),
            Action::Cancel(number) => self.cancel(world, number),
            Action::Drain(runner) => self.drain(world, runner),
            Action::Hear(session, at) => self.hear(world, session, at, true),
            Action::HearTwice(session, at) => {
                self.left.doubles -= 1;
                self.hear(world, session, at, false);
            }
            Action::Tell(session, at) => self.tell(world, session, at, true),
            Action::TellTwice(session, at) => {
                self.left.doubles -= 1;
                self.tell(world, session, at, false);
            }
            Action::LoseUp(session, at) => {
                self.left.losses -= 1;
                self.line_mut(session).up.remove(at);
            }
            Action::LoseDown(session, at) => {
                self.left.losses -= 1;
                self.line_mut(session).down.remove(at);
            }
            Action::Stall => self.stall(world),
            Action::Remove(runner) => self.remove(world, runner),
            Action::CoordinatorDies => {
                self.left.deaths -= 1;
                self.coordinator_dies(world);
            }
            Action::CommitFails => {
                self.left.outages -= 1;
                self.the_next_commit_fails();
            }
            Action::Twin(runner) => self.twin(runner),
            _ => self.act_of_process(world, action),
        }
        self.lines.retain(|line| !line.is_over(&self.processes));
    }

    fn act_of_process(&mut self, world: &SmallWorld, action: Action) {
        match action {
            Action::Cut(at) => {
                self.left.cuts -= 1;
                self.hang_up_of(at);
            }
            Action::GiveUp(at) => self.hang_up_of(at),
            Action::Connect(at) => self.connect(at),
            Action::KeepAlive(at) => self.keep_alive(world, at),
            Action::CrossingKeepAlive(at) => {
                self.left.crossings -= 1;
                self.keep_alive(world, at);
            }
            Action::Start(at, attempt) => {
                self.held_mut(at, attempt).phase = HeldPhase::Running;
                self.say_up(world, at, Up::Started(attempt));
            }
            Action::Finish(at, attempt) => self.finish(world, at, attempt, End::Succeeded),
            Action::Fail(at, attempt) => {
                self.left.failures -= 1;
                self.finish(world, at, attempt, End::EngineFailed);
            }
            Action::Report(at, attempt) => {
                let end = self.held_mut(at, attempt).end;
                self.say_up(world, at, Up::Finished(attempt, end));
            }
            Action::Crash { process, disk_survives } => self.crash(process, disk_survives),
            Action::Restart(at) => self.restart(at),
            Action::Sigterm(at) => {
                self.left.sigterms -= 1;
                self.drain_process(world, at);
            }
            Action::GiveBack(at) => self.give_back(world, at),
            Action::Leave(at) => {
                self.hang_up_of(at);
                self.processes[at].life = Life::Gone;
            }
            other => unreachable!("{other:?} is not what a process does"),
        }
    }

    // People.

    fn submission(world: &SmallWorld, number: u64) -> Submission {
        let key =
            (world.budgets.repeats > 0).then(|| keyed(number, &number.to_string(), "body").key).flatten();
        Submission { id: build_id(number), spec: world.spec.clone(), key }
    }

    fn submit(&mut self, world: &SmallWorld) {
        let waiting = self.scheduler.waiting();
        let number = self.submitted + 1;
        let submission = Self::submission(world, number);
        let event = Event::Submit { request: RequestId(0), submission };
        match self.step(world, &Cause::Person, event) {
            Some(Answer::Accepted { build }) if build == build_id(number) => self.submitted = number,
            Some(Answer::QueueFull { limit, depth }) => {
                world.see(Fact::BoundRefused);
                if depth != waiting || depth < limit || limit != world.rules.queue_capacity {
                    self.break_law(store::BOUND);
                }
            }
            Some(_) => self.break_law(rule::KEY),
            None => {}
        }
    }

    fn submit_again(&mut self, world: &SmallWorld, number: u64) {
        self.left.repeats -= 1;
        let submission = Submission { id: build_id(100 + number), ..Self::submission(world, number) };
        let event = Event::Submit { request: RequestId(0), submission };
        match self.step(world, &Cause::Person, event) {
            Some(Answer::Repeated { build }) if build == build_id(number) => world.see(Fact::KeyRepeated),
            None => {}
            _ => self.break_law(rule::KEY),
        }
    }

    fn cancel(&mut self, world: &SmallWorld, number: u64) {
        self.left.cancels -= 1;
        let event = Event::Cancel { request: RequestId(0), build: build_id(number) };
        self.step(world, &Cause::Person, event);
    }

    fn drain(&mut self, world: &SmallWorld, runner: usize) {
        self.left.drains -= 1;
        let event = Event::Drain { request: RequestId(0), runner: world.runners[runner] };
        if self.step(world, &Cause::Person, event) == Some(Answer::Draining) {
            self.drain_is_asked(runner);
        }
    }

    // The coordinator's end of a connection.

    fn hear(&mut self, world: &SmallWorld, session: SessionId, at: usize, last: bool) {
        let line = self.line_mut(session);
        let what = if last { line.up.remove(at) } else { line.up[at].clone() };
        let (runner, instance) = (line.runner, line.instance);
        let event = Event::Runner { session, event: line.event(world, &what) };
        let before = self.store.clone();
        let current = self.known[runner].session == Some(session);
        let cause = Cause::Said { runner, instance, session, what: what.clone() };
        self.step(world, &cause, event);
        if self.store == before {
            match what {
                Up::Finished(..) if current => world.see(Fact::StaleFinishRefused),
                Up::Finished(..) => world.see(Fact::OldSessionRefused),
                Up::Register { ref held, .. }
                    if !held.is_empty() && self.left.deaths < world.budgets.deaths =>
                {
                    world.see(Fact::ResumedAfterCoordinator);
                }
                _ => {}
            }
        }
        if matches!(what, Up::Finished(_, End::EngineFailed)) {
            self.note_elsewhere(world, runner);
        }
    }

    fn note_elsewhere(&self, world: &SmallWorld, runner: usize) {
        let current =
            self.store.rows().filter(|(_, row)| row.charged() > 0).filter_map(|(_, row)| row.current());
        if current.into_iter().any(|attempt| attempt.runner.id != world.runners[runner]) {
            world.see(Fact::TriedElsewhere);
        }
    }

    /// A runner is silent past its deadline; the others that have a connection are not.
    fn remove(&mut self, world: &SmallWorld, runner: usize) {
        if self.may_come_back(runner) {
            self.left.removals -= 1;
        }
        let id = world.runners[runner];
        let deadline = |state: &Self| {
            state.scheduler.runners().into_iter().find(|known| known.id == id).map(|known| known.deadline)
        };
        let Some(due) = deadline(self) else { return };
        self.now = self.now.max(Moment(due.0 - 10));
        let others: Vec<SessionId> = self
            .known
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != runner)
            .filter_map(|(_, known)| known.session)
            .collect();
        for session in &others {
            let event = Event::Runner { session: *session, event: RunnerEvent::Heard };
            self.step(world, &Cause::Person, event);
        }
        self.now = Moment(due.0 - 1);
        let count = self.scheduler.runners().iter().filter(|known| known.connected).count();
        let was_connected = self.known[runner].session.is_some();
        let failing = self.commit_will_fail();
        self.runner_is_removed(runner);
        self.step(world, &Cause::Removal, Event::Wake);
        let connected = self.scheduler.runners().iter().filter(|known| known.connected).count();
        if connected + usize::from(was_connected) != count || (!failing && deadline(self).is_some()) {
            self.break_law(rule::REMOVAL);
        }
    }

    /// The coordinator was away for so long that everyone looks silent.
    fn stall(&mut self, world: &SmallWorld) {
        self.left.removals -= 1;
        let Some(due) = self.scheduler.next_deadline() else { return };
        self.now = due.after_ms(world.rules.timeout_ms);
        let runners = self.scheduler.runners().len();
        self.step(world, &Cause::Person, Event::Wake);
        if self.scheduler.runners().len() != runners {
            self.break_law(rule::REMOVAL);
        }
    }

    // The runner's end of a connection.

    fn tell(&mut self, world: &SmallWorld, session: SessionId, at: usize, last: bool) {
        let line = self.line_mut(session);
        let message = if last { line.down.remove(at) } else { line.down[at].clone() };
        let Some(at) = self.processes.iter().position(|process| process.session == Some(session)) else {
            return;
        };
        match message {
            Down::Registered { drop } => {
                let process = &mut self.processes[at];
                process.registered = true;
                process.held.retain(|held| !drop.contains(&held.attempt));
                // It may have begun to drain after it had sent its registration.
                if process.draining {
                    self.drain_process(world, at);
                }
            }
            Down::Refused => self.processes[at].life = Life::Gone,
            Down::Assign(attempt) => self.take(world, at, attempt),
            Down::Cancel(attempt) => {
                let held = self.processes[at].held.iter().find(|held| held.attempt == attempt);
                if held.is_some_and(|held| held.phase != HeldPhase::Finished) {
                    self.finish(world, at, attempt, End::Canceled);
                }
            }
            Down::Drop(attempt) | Down::Ack(attempt) => {
                self.processes[at].held.retain(|held| held.attempt != attempt);
            }
            Down::Drain => self.drain_process(world, at),
            Down::Closed => self.hang_up_of(at),
        }
    }

    fn drain_process(&mut self, world: &SmallWorld, at: usize) {
        self.processes[at].draining = true;
        let list = self.processes[at].list();
        self.say_up(world, at, Up::Draining(list));
    }

    fn take(&mut self, world: &SmallWorld, at: usize, attempt: AttemptId) {
        if self.processes[at].held.iter().any(|held| held.attempt == attempt) {
            return;
        }
        if self.processes[at].draining {
            self.say_up(world, at, Up::Released(attempt));
            return;
        }
        let held = Held { attempt, phase: HeldPhase::Preparing, end: End::Succeeded };
        self.processes[at].held.push(held);
        self.processes[at].held.sort_by_key(|held| held.attempt);
        self.say_up(world, at, Up::Accepted(attempt));
    }

    fn connect(&mut self, at: usize) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let process = &mut self.processes[at];
        process.session = Some(session);
        process.registered = false;
        let register = Up::Register { held: process.list(), draining: process.draining };
        let (runner, instance) = (process.runner, process.instance);
        self.lines.push(Line { session, runner, instance, up: vec![register], down: Vec::new() });
    }

    fn hang_up_of(&mut self, at: usize) {
        let process = &mut self.processes[at];
        process.registered = false;
        if let Some(session) = process.session.take() {
            let line = self.line_mut(session);
            line.down.clear();
            line.up.push(Up::Gone);
        }
    }

    fn keep_alive(&mut self, world: &SmallWorld, at: usize) {
        let list = self.processes[at].list();
        self.say_up(world, at, Up::KeepAlive(list));
    }

    fn finish(&mut self, world: &SmallWorld, at: usize, attempt: AttemptId, end: End) {
        let held = self.held_mut(at, attempt);
        held.phase = HeldPhase::Finished;
        held.end = end;
        self.say_up(world, at, Up::Finished(attempt, end));
    }

    fn give_back(&mut self, world: &SmallWorld, at: usize) {
        let (stay, given): (Vec<Held>, Vec<Held>) =
            self.processes[at].held.iter().partition(|held| held.phase == HeldPhase::Finished);
        self.processes[at].held = stay;
        for held in given {
            self.say_up(world, at, Up::Released(held.attempt));
        }
    }

    fn crash(&mut self, at: usize, disk_survives: bool) {
        self.left.crashes -= 1;
        self.hang_up_of(at);
        let process = &mut self.processes[at];
        process.life = Life::Crashed;
        process.held.retain(|held| disk_survives && held.phase == HeldPhase::Finished);
    }

    fn restart(&mut self, at: usize) {
        let instance = self.next_instance();
        let process = &mut self.processes[at];
        process.life = Life::Runs;
        process.instance = instance;
        process.draining = false;
    }

    fn twin(&mut self, runner: usize) {
        self.left.twins -= 1;
        let instance = self.next_instance();
        let (life, held) = (Life::Runs, Vec::new());
        self.processes.push(Process {
            runner,
            instance,
            life,
            session: None,
            registered: false,
            draining: false,
            held,
        });
    }

    fn next_instance(&self) -> u64 {
        1 + self.processes.iter().map(|process| process.instance).max().unwrap_or_default()
    }

    /// Says something, if there is a connection that stands.
    fn say_up(&mut self, world: &SmallWorld, at: usize, what: Up) {
        let process = &self.processes[at];
        let Some(session) = process.session.filter(|_| process.registered) else { return };
        let line = self.line_mut(session);
        line.up.push(what);
        if world.overtaking {
            line.up.sort();
        }
    }

    fn line_mut(&mut self, session: SessionId) -> &mut Line {
        self.lines.iter_mut().find(|line| line.session == session).unwrap()
    }

    fn held_mut(&mut self, at: usize, attempt: AttemptId) -> &mut Held {
        self.processes[at].held.iter_mut().find(|held| held.attempt == attempt).unwrap()
    }
}
