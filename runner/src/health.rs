//! Whether this runner can run builds at all: its engine answers, and its disks have room.
//!
//! While it can't, the coordinator knows, and gives it none; one that had been on its way is given back. It is over by
//! itself as soon as the cause is.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caisson_protocol::{Condition, RunnerMessage};
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use crate::{
    builds::{Builds, Outbox},
    output::shortened,
    sweep::{self, SharedNetwork},
};

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How the runner is.
#[derive(Debug, Default)]
pub struct Health {
    condition: Mutex<Condition>,
    doubts: watch::Sender<Doubts>,
}

/// What went wrong, counted, and how much of it has been looked into.
#[derive(Debug, Default, Clone, Copy)]
struct Doubts {
    raised: u64,
    settled: u64,
}

impl Health {
    /// How the runner is, as far as it has been looked.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.lock().clone()
    }

    /// Something went wrong that may have a lasting cause: it is looked at once.
    pub fn doubt(&self) {
        self.doubts.send_modify(|doubts| doubts.raised += 1);
    }

    /// Whether builds can run, once all doubts so far are settled.
    pub async fn allows_builds(&self) -> bool {
        let raised = self.doubts.borrow().raised;
        // The sender is a part of ourselves, so it is there.
        let _ = self.doubts.subscribe().wait_for(|doubts| doubts.settled >= raised).await;
        self.lock().unhealthy.is_none()
    }

    /// Changes what is known, and tells the coordinator. Whoever learns of it from here is told later than that.
    pub(crate) fn note(&self, outbox: &Outbox, change: impl FnOnce(&mut Condition)) {
        let mut condition = self.lock();
        let before = condition.clone();
        change(&mut condition);
        if *condition != before {
            outbox.say(RunnerMessage::Condition(condition.clone()));
        }
    }

    /// Tells the coordinator how the runner is.
    pub(crate) fn tell(&self, outbox: &Outbox) {
        outbox.say(RunnerMessage::Condition(self.lock().clone()));
    }

    fn settle(&self, up_to: u64) {
        self.doubts.send_modify(|doubts| doubts.settled = up_to);
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps looking. What is left behind by a cause that is over is swept at once.
pub async fn watch(builds: &Builds) {
    let health = &builds.host().health;
    let mut doubts = health.doubts.subscribe();
    loop {
        let _ = timeout(LOOK_EVERY, doubts.wait_for(|doubts| doubts.raised > doubts.settled)).await;
        let raised = health.doubts.borrow().raised;
        let (before, found) = (health.condition().unhealthy, look(builds).await);
        match (&before, &found) {
            (None, None) => {}
            (Some(_), None) => info!("healthy again: builds are taken"),
            (Some(before), Some(found)) if before == found => {}
            (_, Some(found)) => warn!("unhealthy, no builds are run: {found}"),
        }
        if before.is_some() && found.is_none() {
            sweep::once(builds, SharedNetwork::Keep).await;
        }
        health.note(builds.outbox(), |condition| condition.unhealthy = found);
        health.settle(raised);
    }
}

/// Why no build can run, if that is so.
async fn look(builds: &Builds) -> Option<String> {
    let host = builds.host();
    if let Err(error) = host.engine.check().await {
        return Some(short(error.to_string()));
    }
    host.disks.lack().await.map(short)
}

fn short(why: String) -> String {
    shortened(why, Condition::UNHEALTHY_BYTES_MAX)
}
