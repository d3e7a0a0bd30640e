//! What can happen in a small world: what goes on by itself, and what goes wrong.

use caisson_protocol::{AttemptId, HeldAttempt, HeldPhase, Status};
use caisson_scheduler::{Answer, Event, Moment, RequestId, RunnerEvent, SessionId, Submission};

use super::{
    facts::Fact,
    state::{Cause, Down, End, Held, Life, Line, Process, State, Up, rule},
    worlds::SmallWorld,
};
use crate::{store, words::*};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Submit,
    SubmitAgain(u64),
    Cancel(u64),
    Drain(usize),
    /// The coordinator takes in what a runner said; the number is its place in the line.
    Hear(SessionId, usize),
    HearTwice(SessionId, usize),
    /// A runner takes in what the coordinator said.
    Tell(SessionId, usize),
    TellTwice(SessionId, usize),
    LoseUp(SessionId, usize),
    LoseDown(SessionId, usize),
    Cut(usize),
    /// A process has waited for the answer to its registration for too long.
    GiveUp(usize),
    Connect(usize),
    KeepAlive(usize),
    CrossingKeepAlive(usize),
    Start(usize, AttemptId),
    Finish(usize, AttemptId),
    Fail(usize, AttemptId),
    Report(usize, AttemptId),
    Crash {
        process: usize,
        disk_survives: bool,
    },
    Restart(usize),
    Twin(usize),
    Sigterm(usize),
    GiveBack(usize),
    Leave(usize),
    Remove(usize),
    Stall,
    CoordinatorDies,
    CommitFails,
}

impl State {
    /// What goes on by itself as long as anything is left to do.
    pub(crate) fn progress(&self, world: &SmallWorld, actions: &mut Vec<Action>) {
        if self.is_broken() {
            return;
        }
        if self.submitted < world.builds && self.scheduler.waiting() < world.rules.queue_capacity {
            actions.push(Action::Submit);
        }
        for line in &self.lines {
            actions.extend(line.next_up(world).map(|at| Action::Hear(line.session, at)));
            actions.extend(line.next_down(world).map(|at| Action::Tell(line.session, at)));
        }
        for (at, process) in self.processes.iter().enumerate() {
            self.progress_of(world, at, process, actions);
        }
        for runner in 0..world.runners.len() {
            if self.is_known(world, runner) && !self.may_come_back(runner) {
                actions.push(Action::Remove(runner));
            }
        }
    }

    fn progress_of(&self, world: &SmallWorld, at: usize, process: &Process, actions: &mut Vec<Action>) {
        match (process.life, self.line(process)) {
            (Life::Gone, _) => {}
            (Life::Crashed, _) => actions.push(Action::Restart(at)),
            (Life::Runs, None) => {
                if process.draining && process.held.is_empty() {
                    actions.push(Action::Leave(at));
                } else {
                    actions.push(Action::Connect(at));
                }
                self.work_of(at, process, actions);
            }
            (Life::Runs, Some(line)) => {
                if !process.registered && line.up.is_empty() && line.down.is_empty() {
                    // Neither the registration nor its answer is on its way: it gives up on this connection.
                    actions.push(Action::GiveUp(at));
                }
                if process.registered {
                    self.words_of(world, at, process, line, actions);
                }
                self.work_of(at, process, actions);
            }
        }
    }

    fn work_of(&self, at: usize, process: &Process, actions: &mut Vec<Action>) {
        for held in &process.held {
            match held.phase {
                HeldPhase::Preparing => actions.push(Action::Start(at, held.attempt)),
                HeldPhase::Running => actions.push(Action::Finish(at, held.attempt)),
                HeldPhase::Finished => {}
            }
        }
    }

    fn words_of(
        &self,
        world: &SmallWorld,
        at: usize,
        process: &Process,
        line: &Line,
        actions: &mut Vec<Action>,
    ) {
        for held in process.held.iter().filter(|held| held.phase == HeldPhase::Finished) {
            let said = line.up.contains(&Up::Finished(held.attempt, held.end));
            let answered =
                line.down.contains(&Down::Ack(held.attempt)) || line.down.contains(&Down::Drop(held.attempt));
            if !said && !answered {
                actions.push(Action::Report(at, held.attempt));
            }
        }
        let tells_something = !self.books_agree(world, process);
        if tells_something && line.down.is_empty() && !line.up.contains(&Up::KeepAlive(process.list())) {
            actions.push(Action::KeepAlive(at));
        }
        if process.draining && process.held.is_empty() && line.down.is_empty() {
            actions.push(Action::Leave(at));
        }
    }

    /// What goes wrong, or what people do, as often as the world allows.
    pub(crate) fn faults(&self, world: &SmallWorld, actions: &mut Vec<Action>) {
        if self.is_broken() {
            return;
        }
        self.faults_of_people(world, actions);
        for line in &self.lines {
            self.faults_of_line(world, line, actions);
        }
        for (at, process) in self.processes.iter().enumerate() {
            if process.life == Life::Runs {
                self.faults_of_process(at, process, actions);
            }
        }
        for runner in 0..world.runners.len() {
            if self.left.removals > 0 && self.is_known(world, runner) && self.may_come_back(runner) {
                actions.push(Action::Remove(runner));
            }
            if self.left.twins > 0 && self.processes[runner].registered {
                actions.push(Action::Twin(runner));
            }
        }
        if self.left.deaths > 0 {
            actions.push(Action::CoordinatorDies);
        }
        if self.left.outages > 0 {
            actions.push(Action::CommitFails);
        }
        if self.left.removals > 0 && self.scheduler.next_deadline().is_some() {
            actions.push(Action::Stall);
        }
    }

    fn faults_of_people(&self, world: &SmallWorld, actions: &mut Vec<Action>) {
        if self.submitted < world.builds && self.scheduler.waiting() >= world.rules.queue_capacity {
            actions.push(Action::Submit);
        }
        for (build, row) in self.store.rows() {
            let number = row.number;
            if self.left.cancels > 0 && !row.status.is_terminal() && row.status != Status::Canceling {
                actions.push(Action::Cancel(number));
            }
            if self.left.repeats > 0 && build == build_id(number) {
                actions.push(Action::SubmitAgain(number));
            }
        }
        if self.left.drains > 0 {
            actions.extend(
                (0..world.runners.len()).filter(|runner| self.is_known(world, *runner)).map(Action::Drain),
            );
        }
    }

    fn faults_of_line(&self, world: &SmallWorld, line: &Line, actions: &mut Vec<Action>) {
        if self.left.doubles > 0 {
            let doubled =
                line.next_up(world).filter(|at| !matches!(line.up[*at], Up::Register { .. } | Up::Gone));
            actions.extend(doubled.map(|at| Action::HearTwice(line.session, at)));
            let doubled = line.next_down(world).filter(|at| line.down[*at] != Down::Closed);
            actions.extend(doubled.map(|at| Action::TellTwice(line.session, at)));
        }
        if self.left.losses > 0 {
            let lost = (0..line.up.len()).filter(|at| line.up[*at] != Up::Gone);
            actions.extend(lost.map(|at| Action::LoseUp(line.session, at)));
            let lost = (0..line.down.len()).filter(|at| line.down[*at] != Down::Closed);
            actions.extend(lost.map(|at| Action::LoseDown(line.session, at)));
        }
    }

    fn faults_of_process(&self, at: usize, process: &Process, actions: &mut Vec<Action>) {
        if self.left.cuts > 0 && process.session.is_some() {
            actions.push(Action::Cut(at));
        }
        if self.left.crashes > 0 {
            actions.push(Action::Crash { process: at, disk_survives: false });
            if process.held.iter().any(|held| held.phase == HeldPhase::Finished) {
                actions.push(Action::Crash { process: at, disk_survives: true });
            }
        }
        if self.left.crossings > 0 && process.registered {
            actions.push(Action::CrossingKeepAlive(at));
        }
        if self.left.failures > 0 {
            let unfinished = process.held.iter().filter(|held| held.phase == HeldPhase::Preparing);
            actions.extend(unfinished.map(|held| Action::Fail(at, held.attempt)));
        }
        if self.left.sigterms > 0 && !process.draining {
            actions.push(Action::Sigterm(at));
        }
        let gives_back = process.held.iter().any(|held| held.phase != HeldPhase::Finished);
        if process.draining && gives_back {
            actions.push(Action::GiveBack(at));
        }
    }

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
                self.processes[at].draining = true;
                self.say_up(world, at, Up::Draining);
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
                    self.say_up(world, at, Up::Draining);
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
            Down::Drain => {
                self.processes[at].draining = true;
                self.say_up(world, at, Up::Draining);
            }
            Down::Closed => self.hang_up_of(at),
        }
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

    fn line(&self, process: &Process) -> Option<&Line> {
        self.lines.iter().find(|line| Some(line.session) == process.session)
    }

    fn line_mut(&mut self, session: SessionId) -> &mut Line {
        self.lines.iter_mut().find(|line| line.session == session).unwrap()
    }

    fn held_mut(&mut self, at: usize, attempt: AttemptId) -> &mut Held {
        self.processes[at].held.iter_mut().find(|held| held.attempt == attempt).unwrap()
    }

    /// Whether the coordinator has a runner in its books.
    fn is_known(&self, world: &SmallWorld, runner: usize) -> bool {
        let held = |id| {
            self.store.rows().any(|(_, row)| row.current().is_some_and(|current| current.runner.id == id))
        };
        self.known[runner].instance.is_some()
            && self.scheduler.runners().iter().any(|known| known.id == world.runners[runner])
            || held(world.runners[runner])
    }

    /// Whether some process of a runner may still be heard of.
    fn may_come_back(&self, runner: usize) -> bool {
        self.processes.iter().any(|process| process.runner == runner && process.life != Life::Gone)
            || self.lines.iter().any(|line| line.runner == runner && !line.up.is_empty())
    }

    /// Whether a process holds just what the coordinator thinks it does.
    fn books_agree(&self, world: &SmallWorld, process: &Process) -> bool {
        let id = world.runners[process.runner];
        let rows =
            self.store.rows().filter(|(_, row)| row.current().is_some_and(|current| current.runner.id == id));
        let books = rows.map(|(build, row)| AttemptId { build, number: row.attempts.len() as u32 });
        books.eq(process.held.iter().map(|held| held.attempt))
    }
}

impl Process {
    fn list(&self) -> Vec<HeldAttempt> {
        self.held.iter().map(|held| HeldAttempt { attempt: held.attempt, phase: held.phase }).collect()
    }
}

impl Line {
    /// What can be heard next: the first; or any, where messages overtake each other, but for the registration, which is
    /// always first, and the end, which is always last.
    fn next_up(&self, world: &SmallWorld) -> impl Iterator<Item = usize> {
        let registers = self.up.iter().any(|up| matches!(up, Up::Register { .. }));
        let any = world.overtaking && !registers;
        let last =
            self.up.len().saturating_sub(usize::from(self.up.len() > 1 && self.up.last() == Some(&Up::Gone)));
        0..if any { last } else { self.up.len().min(1) }
    }

    fn next_down(&self, world: &SmallWorld) -> impl Iterator<Item = usize> {
        let last = self
            .down
            .len()
            .saturating_sub(usize::from(self.down.len() > 1 && self.down.last() == Some(&Down::Closed)));
        0..if world.overtaking { last } else { self.down.len().min(1) }
    }

    fn is_over(&self, processes: &[Process]) -> bool {
        self.up.is_empty() && !processes.iter().any(|process| process.session == Some(self.session))
    }
}
