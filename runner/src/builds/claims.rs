//! Who may have something of a build on this host: one attempt of it, or the sweep.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use caisson_protocol::{AttemptId, BuildId};
use tokio::sync::watch;

/// The builds that may have a container or a workspace on this host.
#[derive(Debug, Clone)]
pub struct Claims {
    builds: Arc<Mutex<BTreeMap<BuildId, Holder>>>,
    /// Told whenever a claim ends.
    news: Arc<watch::Sender<()>>,
}

/// Who has a build on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Attempt(AttemptId),
    Sweep,
}

/// The right to make or remove what belongs to a build, as long as it is held.
#[derive(Debug)]
pub struct Claim {
    build: BuildId,
    claims: Claims,
}

/// The right to remove what an attempt has left: its build is nobody's, or another attempt's.
#[derive(Debug)]
pub struct Clearance {
    _claim: Option<Claim>,
}

impl Claims {
    pub(super) fn new(news: Arc<watch::Sender<()>>) -> Self {
        Self { builds: Arc::default(), news }
    }

    /// Claims a build for a sweep, unless someone has it.
    pub fn try_claim(&self, build: BuildId) -> Option<Claim> {
        self.hand_out(build, Holder::Sweep)
    }

    /// Clears what an attempt made for removal, unless it is that very attempt which has its build.
    pub fn try_clear(&self, attempt: AttemptId) -> Option<Clearance> {
        let claim = self.try_claim(attempt.build);
        let of_another = |holder| matches!(holder, Holder::Attempt(holder) if holder != attempt);
        let is_free = claim.is_some() || self.lock().get(&attempt.build).copied().is_some_and(of_another);
        is_free.then_some(Clearance { _claim: claim })
    }

    /// Claims a build as soon as nobody has it: an earlier attempt of it may still be cleaned up.
    pub(super) async fn claim(&self, attempt: AttemptId) -> Claim {
        let mut news = self.news.subscribe();
        loop {
            news.borrow_and_update();
            if let Some(claim) = self.hand_out(attempt.build, Holder::Attempt(attempt)) {
                return claim;
            }
            // The sender is a part of ourselves, so it is there.
            let _ = news.changed().await;
        }
    }

    /// Whether nothing is left on this host.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn hand_out(&self, build: BuildId, holder: Holder) -> Option<Claim> {
        let mut builds = self.lock();
        let is_free = !builds.contains_key(&build);
        is_free.then(|| {
            builds.insert(build, holder);
            Claim { build, claims: self.clone() }
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BuildId, Holder>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.build);
        self.claims.news.send_replace(());
    }
}
