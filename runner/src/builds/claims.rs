//! Who may have something of a build on this host: one attempt of it, or the sweep.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use caisson_protocol::BuildId;
use tokio::sync::watch;

/// The builds that may have a container or a workspace on this host.
#[derive(Debug, Clone)]
pub struct Claims {
    builds: Arc<Mutex<BTreeSet<BuildId>>>,
    /// Told whenever a claim ends.
    news: Arc<watch::Sender<()>>,
}

/// The right to make or remove what belongs to a build, as long as it is held.
#[derive(Debug)]
pub struct Claim {
    build: BuildId,
    claims: Claims,
}

impl Claims {
    pub(super) fn new(news: Arc<watch::Sender<()>>) -> Self {
        Self { builds: Arc::default(), news }
    }

    /// Claims a build, unless someone has it.
    pub fn try_claim(&self, build: BuildId) -> Option<Claim> {
        self.lock().insert(build).then(|| Claim { build, claims: self.clone() })
    }

    /// Claims a build as soon as nobody has it: an earlier attempt of it may still be cleaned up.
    pub(super) async fn claim(&self, build: BuildId) -> Claim {
        let mut news = self.news.subscribe();
        loop {
            news.borrow_and_update();
            if let Some(claim) = self.try_claim(build) {
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

    fn lock(&self) -> MutexGuard<'_, BTreeSet<BuildId>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.build);
        self.claims.news.send_replace(());
    }
}
