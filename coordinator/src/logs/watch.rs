//! Word that there is more to read: for those who follow a build's log.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use caisson_protocol::BuildId;
use tokio::sync::watch;

/// Tells followers of a build that its log has grown or its state has changed. It says *that*, never *what*: a
/// follower reads for itself, as fast as it can, so a slow one costs nothing.
#[derive(Debug, Default)]
pub struct LogWatch {
    builds: Mutex<HashMap<BuildId, watch::Sender<()>>>,
}

impl LogWatch {
    /// A receiver that changes whenever there may be more to read.
    #[must_use]
    pub fn follow(&self, build: BuildId) -> watch::Receiver<()> {
        let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        builds.retain(|_, sender| sender.receiver_count() > 0);
        builds.entry(build).or_default().subscribe()
    }

    /// Says that there may be more to read.
    pub fn notify(&self, build: BuildId) {
        let builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = builds.get(&build) {
            sender.send_replace(());
        }
    }
}
