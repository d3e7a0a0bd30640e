//! A machine with a runner: the processes that run there, one after the other or two at once, and their disks.
//!
//! The processes are made for the simulation and follow the rules of the real runner, room by room: `channel` is its
//! `connection`, `held` its `builds` and `spool`, `work` its `builds::run`. The real one reads its spool on other
//! threads and dials a socket of the system, neither of which can be repeated from a seed.

mod channel;
mod held;
mod work;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{
    dice::Dice,
    life::{Condition, Life},
    network::Link,
    plan::StationPlan,
    world::World,
};
use held::{Builds, Spool};

/// How often is looked whether a process has to be started.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many processes one machine may have at once: the runner, and another one with its name.
const SEATS: usize = 2;

/// What the one who started a runner wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Run,
    Drain,
    Leave,
}

/// A machine with a runner.
pub struct Station {
    world: Arc<World>,
    number: usize,
    plan: StationPlan,
    link: Arc<Link>,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    processes: u64,
    start_at: Instant,
    seats: [Seat; SEATS],
}

/// The place of one process: its disk outlives it.
#[derive(Default)]
struct Seat {
    spool: Arc<Mutex<Spool>>,
    process: Option<Process>,
}

struct Process {
    life: Arc<Life>,
    wish: watch::Sender<Wish>,
}

impl Station {
    /// A machine on which a runner is kept running.
    pub fn begin(world: Arc<World>, number: usize, link: Arc<Link>) -> Arc<Self> {
        let plan = world.plan.stations[number].clone();
        let state = State {
            dice: world.dice.of(&plan.name),
            processes: 0,
            start_at: Instant::now(),
            seats: Default::default(),
        };
        let station = Arc::new(Self { world, number, plan, link, state: Mutex::new(state) });
        tokio::spawn(Arc::clone(&station).keep());
        station
    }

    /// Ends all its processes, wherever they are.
    pub fn kill(&self, pause: Duration) {
        let mut state = self.state();
        state.start_at = Instant::now() + pause;
        state.living().for_each(|process| process.life.kill());
    }

    /// Stops its processes for a while.
    pub fn freeze(&self, pause: Duration) {
        for life in self.lives() {
            life.freeze();
            tokio::spawn(async move {
                sleep(pause).await;
                life.thaw();
            });
        }
    }

    /// Sends the signal that drains a runner.
    pub fn drain(&self) {
        self.wish(Wish::Drain);
    }

    /// Sends that signal twice.
    pub fn leave(&self) {
        self.wish(Wish::Leave);
    }

    /// Starts another process with the same name.
    pub fn twin(self: &Arc<Self>) {
        let free = self.state().seats.iter().position(|seat| !seat.is_alive());
        if let Some(seat) = free {
            self.start(seat);
        }
    }

    /// The faults are over.
    pub fn heal(&self) {
        self.state().start_at = Instant::now();
        self.lives().iter().for_each(|life| life.thaw());
    }

    /// Whether none of its processes that live has anything on its disk.
    pub fn is_clean(&self) -> bool {
        let mut state = self.state();
        let seats = state.seats.iter_mut().filter(|seat| seat.is_alive());
        seats.into_iter().all(|seat| {
            let spool = seat.spool.lock().unwrap_or_else(PoisonError::into_inner);
            spool.is_empty()
        })
    }

    fn wish(&self, wish: Wish) {
        for process in self.state().living() {
            process.wish.send_if_modified(|before| {
                let more = *before < wish;
                *before = wish.max(*before);
                more
            });
        }
    }

    fn lives(&self) -> Vec<Arc<Life>> {
        self.state().living().map(|process| Arc::clone(&process.life)).collect()
    }

    async fn keep(self: Arc<Self>) {
        loop {
            let (none, start_at) = {
                let state = self.state();
                (state.living().next().is_none(), state.start_at)
            };
            if none && start_at <= Instant::now() {
                self.start(0);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn start(self: &Arc<Self>, seat: usize) {
        let life = Life::new();
        let (wish, wished) = watch::channel(Wish::Run);
        let (spool, number, dice, instance) = {
            let mut state = self.state();
            state.processes += 1;
            let number = state.processes;
            let mut dice = state.dice.of(&number.to_string());
            let instance = Uuid::from_u64_pair(dice.throw(), dice.throw());
            let place = &mut state.seats[seat];
            place.process = Some(Process { life: Arc::clone(&life), wish });
            (Arc::clone(&place.spool), number, dice, instance)
        };
        let id = self.world.ledger().started(self.number, &life, self.world.now_ms());
        let name = format!("{}#{number}", self.plan.name);
        self.world.note(format_args!("{name} starts"));
        let builds = Builds::new(Arc::clone(&self.world), Arc::clone(&life), id, name, spool, dice);
        let runner =
            channel::Runner { builds, link: Arc::clone(&self.link), plan: self.plan.clone(), instance };
        tokio::spawn(Arc::clone(self).process(life, runner, wished));
    }

    async fn process(self: Arc<Self>, life: Arc<Life>, runner: channel::Runner, wish: watch::Receiver<Wish>) {
        let name = runner.builds.name().to_owned();
        let ended = Arc::clone(&life).run(runner.serve(wish)).await;
        self.world.note(format_args!("{name} ended: {}", ended.unwrap_or("killed")));
        life.kill();
        let mut state = self.state();
        let pause = Duration::from_millis(state.dice.within(500..=10_000));
        state.start_at = state.start_at.max(Instant::now() + pause);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn living(&self) -> impl Iterator<Item = &Process> {
        let processes = self.seats.iter().filter_map(|seat| seat.process.as_ref());
        processes.filter(|process| process.life.condition() != Condition::Dead)
    }
}

impl Seat {
    fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.life.is_dead())
    }
}
