//! What builds have to say to the coordinator, beside their log and their end: it is said over the connection there
//! is, or not at all. Each of these words is repeated, or not needed, on the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use caisson_protocol::RunnerMessage;
use tokio::sync::mpsc;

/// How many messages may wait to be sent. Each attempt says a handful in all.
const MESSAGES_WAITING_MAX: usize = 1024;

/// The way to the connection there is.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<Option<mpsc::Sender<RunnerMessage>>>);

impl Outbox {
    /// Begins a connection: from now on everything is said to this receiver.
    pub fn open(&self) -> mpsc::Receiver<RunnerMessage> {
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        *self.lock() = Some(sender);
        receiver
    }

    /// Ends a connection: what was said before is still received.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// Whether someone listens.
    pub fn is_open(&self) -> bool {
        self.lock().as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Says something. A connection that takes nothing is given up, and the next one begins with what is true then.
    pub fn say(&self, message: RunnerMessage) {
        let mut sender = self.lock();
        if sender.as_ref().is_some_and(|sender| sender.try_send(message).is_err()) {
            *sender = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<RunnerMessage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
