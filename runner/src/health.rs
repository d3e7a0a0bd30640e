//! Whether this runner can run builds at all: its engine answers, and its disk has room.
//!
//! While it can't, a build that comes waits a little, which is what an engine's restart takes, and then ends as the
//! infrastructure's failure, so that another runner gets it. It is over by itself as soon as the cause is.

use std::{path::PathBuf, time::Duration};

use caisson_protocol::ErrorReason;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    builds::Builds,
    sweep::{self, SharedNetwork},
    workspace::blocking,
};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why no build can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sickness {
    /// The cause, for programs.
    pub reason: ErrorReason,
    /// The cause and what to do, for people.
    pub message: String,
}

/// How the runner is.
#[derive(Debug, Default)]
pub struct Health {
    sickness: watch::Sender<Option<Sickness>>,
    doubt: Notify,
}

impl Health {
    /// Why no build can run, if that is so.
    #[must_use]
    pub fn sickness(&self) -> Option<Sickness> {
        self.sickness.borrow().clone()
    }

    /// Returns when builds can run.
    pub async fn recovered(&self) {
        // The sender is a part of ourselves, so it is there.
        let _ = self.sickness.subscribe().wait_for(Option::is_none).await;
    }

    /// Something went wrong that may have a lasting cause: it is looked at once.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }
}

/// Keeps looking. What is left behind by a cause that is over is swept at once.
pub async fn watch(builds: &Builds) {
    let health = &builds.host().health;
    loop {
        let _ = timeout(LOOK_EVERY, health.doubt.notified()).await;
        let (before, found) = (health.sickness(), look(builds).await);
        match (&before, &found) {
            (None, None) => continue,
            (Some(_), None) => info!("healthy again: builds are taken"),
            (Some(before), Some(found)) if before == found => continue,
            (_, Some(found)) => warn!("unhealthy, no builds are run: {}", found.message),
        }
        health.sickness.send_replace(found.clone());
        if found.is_none() {
            sweep::once(builds, SharedNetwork::Keep).await;
        }
    }
}

async fn look(builds: &Builds) -> Option<Sickness> {
    let host = builds.host();
    if let Err(error) = host.engine.check().await {
        return Some(Sickness { reason: ErrorReason::EngineFailed, message: error.to_string() });
    }
    let free = free_bytes(host.workspaces.root().to_owned()).await?;
    let wanted = host.config.disk_free_min;
    (free < wanted.0).then(|| Sickness {
        reason: ErrorReason::DiskFull,
        message: format!(
            "the disk of work_dir has {} MiB left, less than disk_free_min ({wanted}): make room on it",
            free / (1024 * 1024)
        ),
    })
}

/// What is free under a folder. `None` where the system does not say, which is no reason to run nothing.
async fn free_bytes(folder: PathBuf) -> Option<u64> {
    let asked = blocking(move || {
        let disk = rustix::fs::statvfs(&folder)?;
        Ok(disk.f_bavail * disk.f_frsize)
    });
    asked.await.ok()
}
