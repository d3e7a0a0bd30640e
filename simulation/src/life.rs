//! The life of a process: it runs, is frozen (SIGSTOP), or is dead (kill -9). What it does happens [within](Life::run)
//! its life, so that it can be stopped between any two steps.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// How a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It goes on.
    Running,
    /// It stands still, and does not know.
    Frozen,
    /// It is gone, with all that it had in memory.
    Dead,
}

/// The life of one process.
#[derive(Debug)]
pub struct Life {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    condition: Condition,
    latest: u64,
    /// Those who wait for something of this process, in the order in which they came.
    waiting: BTreeMap<u64, Waker>,
}

impl Life {
    /// A process that runs.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let state = State { condition: Condition::Running, latest: 0, waiting: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// How it is.
    pub fn condition(&self) -> Condition {
        self.state().condition
    }

    /// Whether it is gone.
    pub fn is_dead(&self) -> bool {
        self.condition() == Condition::Dead
    }

    /// Ends it, wherever it is.
    pub fn kill(&self) {
        self.become_(Condition::Dead);
    }

    /// Stops it for a while.
    pub fn freeze(&self) {
        if !self.is_dead() {
            self.become_(Condition::Frozen);
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if self.condition() == Condition::Frozen {
            self.become_(Condition::Running);
        }
    }

    /// Does something within this life. `None` when it ended before.
    pub async fn run<T>(self: Arc<Self>, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let seat = self.seat();
        poll_fn(|context| match self.poll_condition(seat, context) {
            Condition::Dead => Poll::Ready(None),
            Condition::Frozen => Poll::Pending,
            Condition::Running => match work.as_mut().poll(context) {
                // It may just have ended itself.
                _ if self.is_dead() => Poll::Ready(None),
                done => done.map(Some),
            },
        })
        .await
    }

    /// Returns when it has ended.
    pub async fn ended(&self) {
        let seat = self.seat();
        poll_fn(|context| match self.poll_condition(seat, context) {
            Condition::Dead => Poll::Ready(()),
            Condition::Running | Condition::Frozen => Poll::Pending,
        })
        .await;
    }

    /// A place among those who wait.
    pub fn seat(&self) -> u64 {
        let mut state = self.state();
        state.latest += 1;
        state.latest
    }

    /// How it is; who asks hears of the next change.
    pub fn poll_condition(&self, seat: u64, context: &Context<'_>) -> Condition {
        let mut state = self.state();
        state.waiting.insert(seat, context.waker().clone());
        state.condition
    }

    fn become_(&self, condition: Condition) {
        let woken = {
            let mut state = self.state();
            state.condition = condition;
            std::mem::take(&mut state.waiting)
        };
        woken.into_values().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
