//! What can happen in a small world: what goes on by itself, and what goes wrong.

use caisson_protocol::{AttemptId, HeldAttempt, HeldPhase, Status};
use caisson_scheduler::SessionId;

use super::{
    state::{Down, Life, Line, Process, State, Up},
    worlds::SmallWorld,
};
use crate::words::*;

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
        // Whatever else is on its way to it.
        if process.draining && process.held.is_empty() {
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

    fn line(&self, process: &Process) -> Option<&Line> {
        self.lines.iter().find(|line| Some(line.session) == process.session)
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
    pub(super) fn may_come_back(&self, runner: usize) -> bool {
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
    pub(super) fn list(&self) -> Vec<HeldAttempt> {
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

    pub(super) fn is_over(&self, processes: &[Process]) -> bool {
        self.up.is_empty() && !processes.iter().any(|process| process.session == Some(self.session))
    }
}
