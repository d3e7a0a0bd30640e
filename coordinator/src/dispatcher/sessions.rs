//! The connections of runners, as the dispatcher sees them.

use std::collections::BTreeMap;

use caisson_protocol::CoordinatorMessage;
use caisson_scheduler::SessionId;
use tokio::sync::mpsc;
use tracing::warn;

/// What a connection is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Pass this on to the runner.
    Message(CoordinatorMessage),
    /// End, after what was passed on before.
    Close,
}

/// The way to a connection. Bounded: a runner that does not read is cut off, and resumes on a new connection.
pub type SessionLine = mpsc::Sender<Said>;

#[derive(Default)]
pub(super) struct Sessions(BTreeMap<SessionId, SessionLine>);

impl Sessions {
    pub(super) fn add(&mut self, session: SessionId, line: SessionLine) {
        self.0.retain(|_, line| !line.is_closed());
        self.0.insert(session, line);
    }

    pub(super) fn say(&mut self, session: SessionId, message: CoordinatorMessage) {
        let Some(line) = self.0.get(&session) else { return };
        if line.try_send(Said::Message(message)).is_err() {
            warn!("a runner does not read what it is told: its connection is closed");
            // Without its sender the connection ends by itself, and says so.
            self.0.remove(&session);
        }
    }

    pub(super) fn close(&mut self, session: SessionId) {
        if let Some(line) = self.0.remove(&session) {
            let _ = line.try_send(Said::Close);
        }
    }
}
