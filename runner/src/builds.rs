//! The attempts that this runner holds, from their assignment until the coordinator has their end.
//!
//! It knows nothing of connections: what there is to say goes into the [`Outbox`], what there is to deliver lies ready
//! in each [`Attempt`], and [`Builds::subscribe`] tells when to look.

mod attempt;
mod claims;
mod disk;
mod outbox;
mod outcome;
mod run;
mod steps;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use caisson_protocol::{AttemptId, HeldAttempt, RunnerMessage};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::{
    checkout::Checkout,
    config::Config,
    disks::Disks,
    engine::Engine,
    health::Health,
    images::Images,
    spool::{Assignment, Restored, Spool},
    workspace::{Transport, Workspaces, blocking},
};

pub use attempt::{Attempt, Stage};
pub use claims::Claims;
pub use outbox::Outbox;

use attempt::Stop;

/// What builds run with.
pub struct Host {
    /// The runner's settings.
    pub config: Config,
    /// What runs containers.
    pub engine: Arc<dyn Engine>,
    /// The processor that the engine runs on, by the engine's name for it.
    pub architecture: String,
    /// Where workspaces are.
    pub workspaces: Workspaces,
    /// How they get into containers.
    pub transport: Transport,
    /// What fills them.
    pub checkout: Checkout,
    /// Which images are the runner's own.
    pub images: Images,
    /// What builds need room on.
    pub disks: Disks,
    /// Whether builds can run at all.
    pub health: Health,
}

/// The attempts that this runner holds.
pub struct Builds {
    host: Arc<Host>,
    spool: Spool,
    held: Mutex<BTreeMap<AttemptId, Arc<Attempt>>>,
    claims: Claims,
    outbox: Outbox,
    draining: AtomicBool,
    news: Arc<watch::Sender<()>>,
    tasks: TaskTracker,
}

impl Builds {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(host: Arc<Host>, spool: Spool) -> Arc<Self> {
        let news = Arc::new(watch::Sender::new(()));
        Arc::new(Self {
            host,
            spool,
            held: Mutex::default(),
            claims: Claims::new(Arc::clone(&news)),
            outbox: Outbox::default(),
            draining: AtomicBool::new(false),
            news,
            tasks: TaskTracker::new(),
        })
    }

    /// Takes up what earlier processes left on disk: what had ended is delivered, what had not is forgotten.
    ///
    /// # Errors
    /// When the spool can't be read.
    pub async fn restore(&self) -> std::io::Result<()> {
        let spool = self.spool.clone();
        for restored in blocking(move || spool.restore()).await? {
            match restored {
                Restored::Finished(found) => {
                    let (assignment, report, folder) = *found;
                    let id = assignment.attempt;
                    info!(build.id = %id.build, "build {}: its end is still to be delivered", id.build);
                    let stage = Stage::Finished(report);
                    let attempt = Attempt::new(assignment, folder, stage, Arc::clone(&self.news));
                    self.lock().insert(id, Arc::new(attempt));
                }
                Restored::Interrupted(folder) => {
                    info!(
                        "{}: interrupted by the end of an earlier process, and dropped",
                        folder.path().display()
                    );
                    blocking(move || folder.remove()).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes an attempt on and runs it. One that is held already goes on as it is.
    pub fn assign(self: &Arc<Self>, assignment: Assignment) {
        let id = assignment.attempt;
        let mut held = self.lock();
        if held.contains_key(&id) {
            return;
        }
        if self.is_draining() {
            self.outbox.say(RunnerMessage::Released { attempt: id });
            return;
        }
        let folder = self.spool.folder(id);
        let attempt = Arc::new(Attempt::new(assignment, folder, Stage::Preparing, Arc::clone(&self.news)));
        held.insert(id, Arc::clone(&attempt));
        self.tasks.spawn(run::run(Arc::clone(self), attempt));
    }

    /// Stops an attempt, which then ends as canceled. One that has ended stays as it is.
    pub fn cancel(&self, id: AttemptId) {
        if let Some(attempt) = self.get(id) {
            attempt.stop(Stop::Cancel);
        }
    }

    /// Stops an attempt and says nothing more of it.
    pub fn drop_attempt(self: &Arc<Self>, id: AttemptId) {
        let Some(attempt) = self.lock().remove(&id) else { return };
        self.news.send_replace(());
        attempt.stop(Stop::Drop);
        if matches!(attempt.stage(), Stage::Finished(_)) {
            self.remove_folder(attempt);
        }
    }

    /// The coordinator has an attempt's log up to `offset`; with `resend` it wants it again from there.
    pub fn acknowledge_log(&self, id: AttemptId, offset: u64, resend: bool) {
        if let Some(attempt) = self.get(id) {
            attempt.acknowledge(offset, resend);
        }
    }

    /// The end of an attempt is committed: nothing of it needs to be kept.
    pub fn acknowledge_finished(self: &Arc<Self>, id: AttemptId) {
        let Some(attempt) = self.get(id) else { return };
        if matches!(attempt.stage(), Stage::Finished(_)) {
            self.lock().remove(&id);
            self.remove_folder(attempt);
            self.news.send_replace(());
        }
    }

    /// Of the attempts that were listed to the coordinator, those it does not keep are dropped.
    pub fn settle(self: &Arc<Self>, listed: &[HeldAttempt], keep: &[AttemptId]) {
        for held in listed {
            if !keep.contains(&held.attempt) {
                info!(build.id = %held.attempt.build, "build {}: no longer ours, dropped", held.attempt.build);
                self.drop_attempt(held.attempt);
            }
        }
    }

    /// Takes nothing more on.
    pub fn drain(&self) {
        // Under the lock, so that whatever is assigned is either listed or not taken on.
        let held = self.lock();
        let begins = !self.draining.swap(true, Ordering::Relaxed);
        drop(held);
        if begins {
            info!("draining: no new builds are taken, and the runner ends when those it has are done");
            self.outbox.say(RunnerMessage::Draining { held: self.list() });
            self.news.send_replace(());
        }
    }

    /// Whether nothing more is taken on.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Gives back everything that has not ended.
    pub fn release_all(&self) {
        self.drain();
        for attempt in self.held() {
            attempt.stop(Stop::Release);
        }
    }

    /// Returns when no build runs or is being cleaned up.
    pub async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns when the runner drains and has nothing left to do or to deliver.
    pub async fn done(&self) {
        let mut news = self.subscribe();
        loop {
            news.borrow_and_update();
            if self.is_draining() && self.lock().is_empty() && self.claims.is_empty() {
                return;
            }
            // The sender is a part of ourselves, so it is there.
            let _ = news.changed().await;
        }
    }

    /// Every attempt that is held.
    pub fn held(&self) -> Vec<Arc<Attempt>> {
        self.lock().values().cloned().collect()
    }

    /// The same, as the coordinator is told of it.
    pub fn list(&self) -> Vec<HeldAttempt> {
        self.held().iter().map(|attempt| attempt.held()).collect()
    }

    /// Tells whenever there may be something to deliver, or the last of it is done.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Where builds say what is not delivered from disk.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Who may have something of which build on this host.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What builds run with.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Removes an attempt that ended without a report.
    async fn forget(&self, attempt: &Attempt) {
        let (id, folder) = (attempt.id(), attempt.folder.clone());
        if let Err(error) = blocking(move || folder.remove()).await {
            warn!(build.id = %id.build, "build {}: its spool could not be removed: {error}", id.build);
        }
        self.lock().remove(&id);
        self.news.send_replace(());
    }

    /// Nobody acknowledges the end of an attempt that was dropped while it ended.
    async fn forget_if_dropped(&self, attempt: &Attempt) {
        if self.get(attempt.id()).is_none() {
            self.forget(attempt).await;
        }
    }

    fn remove_folder(self: &Arc<Self>, attempt: Arc<Attempt>) {
        self.tasks.spawn(async move {
            let (id, folder) = (attempt.id(), attempt.folder.clone());
            if let Err(error) = blocking(move || folder.remove()).await {
                warn!(build.id = %id.build, "build {}: its spool could not be removed: {error}", id.build);
            }
        });
    }

    fn get(&self, id: AttemptId) -> Option<Arc<Attempt>> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Arc<Attempt>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
