//! The network: a link for each place that reaches the coordinator, and the connections on it.
//!
//! It keeps what TCP promises: bytes of a connection arrive in order, once, or not at all. Within that everything may
//! happen to them: they come late, are held, end in the middle of a frame, or vanish while both sides believe that
//! the connection lives.

mod mischief;
mod pipe;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{dice::Dice, life::Life};

pub use mischief::Mischief;
use pipe::Connection;
pub use pipe::{End, Way};

/// How often who connects asks whether the way is free again.
const KNOCK_EVERY: Duration = Duration::from_millis(500);

/// Who takes connections on the other side of a link.
pub trait Door: Send + Sync {
    /// The process that listens, if one does.
    fn listener(&self) -> Option<Arc<Life>>;
    /// Takes a connection.
    fn accept(&self, end: End);
}

/// The way between a place and the coordinator.
pub struct Link {
    door: Arc<dyn Door>,
    /// Who stands in between, if somebody does.
    mischief: Option<Arc<Mischief>>,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    /// How long a piece of a stream takes at most, in milliseconds.
    latency_ms: u64,
    slow_until: Instant,
    /// Until when nothing gets through: towards the coordinator, and from it.
    held_until: [Instant; 2],
    connections: Vec<Weak<Connection>>,
}

impl Link {
    /// A link to this door on which nothing takes longer than `latency_ms`.
    pub fn new(
        door: Arc<dyn Door>,
        dice: Dice,
        latency_ms: u64,
        mischief: Option<Arc<Mischief>>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let state =
            State { dice, latency_ms, slow_until: now, held_until: [now; 2], connections: Vec::new() };
        Arc::new(Self { door, mischief, state: Mutex::new(state) })
    }

    /// Connects a process to the coordinator.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(self: &Arc<Self>, from: &Arc<Life>) -> io::Result<End> {
        sleep(self.latency()).await;
        while Way::BOTH.iter().any(|way| self.held_until(*way) > Instant::now()) {
            sleep(KNOCK_EVERY).await;
        }
        sleep(self.latency()).await;
        let listener = self.door.listener().ok_or(io::ErrorKind::ConnectionRefused)?;
        let taker = self.mischief.as_ref().map_or(&listener, |mischief| mischief.life());
        let (near, far, connection) = pipe::connection(self, from, taker);
        let mut state = self.state();
        state.connections.retain(|one| one.strong_count() > 0);
        state.connections.push(Arc::downgrade(&connection));
        drop(state);
        match &self.mischief {
            None => self.door.accept(far),
            Some(mischief) => mischief.accept(far),
        }
        Ok(near)
    }

    /// Nothing gets through on this way for a while; what was sent arrives after.
    pub fn hold(&self, way: Way, pause: Duration) {
        let mut state = self.state();
        let until = &mut state.held_until[way as usize];
        *until = (*until).max(Instant::now() + pause);
    }

    /// Everything takes up to `latency_ms` longer for a while.
    pub fn slow(&self, pause: Duration) {
        self.state().slow_until = Instant::now() + pause;
    }

    /// Ends every connection: both sides are told.
    pub fn reset(&self) {
        self.connections().iter().for_each(|connection| connection.reset());
    }

    /// From now on nothing arrives on the connections there are, and nobody is told.
    pub fn void(&self) {
        self.connections().iter().for_each(|connection| connection.void());
    }

    /// Ends every connection after so many more bytes on this way.
    pub fn cut_after(&self, way: Way, bytes: usize) {
        self.connections().iter().for_each(|connection| connection.cut_after(way, bytes));
    }

    /// The faults of the link are over. Connections on which bytes vanished stay as they are.
    pub fn heal(&self) {
        let now = Instant::now();
        let mut state = self.state();
        state.held_until = [now; 2];
        state.slow_until = now;
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        self.state().connections.iter().filter_map(Weak::upgrade).collect()
    }

    fn latency(&self) -> Duration {
        /// What is added at most while a link is slow, in milliseconds.
        const SLOW_MS: u64 = 1500;
        let mut state = self.state();
        let slow_ms = if state.slow_until > Instant::now() { SLOW_MS } else { 0 };
        let most = state.latency_ms + slow_ms;
        Duration::from_millis(state.dice.within(0..=most))
    }

    fn held_until(&self, way: Way) -> Instant {
        self.state().held_until[way as usize]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
