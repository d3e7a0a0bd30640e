//! Removes what this runner made and no build of it needs any more: after a crash, or where a removal failed.
//!
//! What it made bears its label, or lies in its folder; what others made does neither, and is never touched.

use std::{fmt, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::{
    builds::{Builds, Claims, Host},
    engine::{Engine, EngineError, Owned, OwnedKind},
    workspace::blocking,
};

/// How often it is swept.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How soon what could not be removed is tried again; twice as late after each further time.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// What becomes of the network that all builds of the runner share, where they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedNetwork {
    /// Builds are to come.
    Keep,
    /// The runner ends.
    Remove,
}

/// What a sweep has removed, and what it could not.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    containers: usize,
    networks: usize,
    volumes: usize,
    workspaces: usize,
    failures: Vec<String>,
}

/// Sweeps again and again, and sooner where something is left.
pub async fn every_minute(builds: &Builds) {
    let (mut swept, mut pause) = (Instant::now(), PAUSE_MIN);
    loop {
        sleep(PAUSE_MIN).await;
        let is_left = builds.host().health.condition().left_behind > 0;
        let due = if is_left { pause } else { SWEEP_EVERY };
        if swept.elapsed() >= due {
            once(builds, SharedNetwork::Keep).await;
            swept = Instant::now();
            pause = if is_left { SWEEP_EVERY.min(2 * pause) } else { PAUSE_MIN };
        }
    }
}

/// Sweeps, and says in the runner's log how much there was.
pub async fn once(builds: &Builds, network: SharedNetwork) {
    let mut swept = Swept::default();
    if let Err(error) = sweep_engine(builds, network, &mut swept).await {
        swept.failures.push(error.to_string());
    }
    if let Err(error) = sweep_workspaces(builds, &mut swept).await {
        swept.failures.push(error.to_string());
    }
    let checkout = builds.host().checkout.clone();
    if let Err(error) = blocking(move || checkout.trim()).await {
        swept.failures.push(format!("the mirrors: {error}"));
    }
    if let Err(error) = trim_images(builds.host()).await {
        swept.failures.push(format!("the images: {error}"));
    }
    let (removed, left_behind) = (swept.removed() as u64, swept.failures.len() as u64);
    builds.host().health.note(builds.outbox(), |condition| {
        condition.swept += removed;
        condition.left_behind = left_behind;
    });
    if removed > 0 {
        info!("sweep: removed {swept}");
    }
    for failure in &swept.failures {
        warn!("sweep: something is left for the next one: {failure}");
    }
}

/// Keeps the images that the runner has pulled within their size.
pub(crate) async fn trim_images(host: &Host) -> Result<(), EngineError> {
    let Some(size_max) = host.config.image.size_max else { return Ok(()) };
    let removed = host.images.trim(&*host.engine, size_max.0).await?;
    if removed > 0 {
        info!("{removed} images were removed: together they were larger than image.size_max ({size_max})");
    }
    Ok(())
}

async fn sweep_engine(builds: &Builds, network: SharedNetwork, swept: &mut Swept) -> Result<(), EngineError> {
    let host = builds.host();
    for owned in host.engine.list_owned(&host.config.owner()).await? {
        let is_shared = owned.kind == OwnedKind::Network && owned.attempt.is_none();
        if is_shared && network == SharedNetwork::Keep {
            continue;
        }
        match remove_unclaimed(builds.claims(), &*host.engine, &owned).await {
            Ok(false) => {}
            Ok(true) => match owned.kind {
                OwnedKind::Container => swept.containers += 1,
                OwnedKind::Network => swept.networks += 1,
                OwnedKind::Volume => swept.volumes += 1,
            },
            Err(error) => swept.failures.push(error.to_string()),
        }
    }
    Ok(())
}

/// Removes a thing unless a build has it; the claim keeps a build from beginning meanwhile.
async fn remove_unclaimed(claims: &Claims, engine: &dyn Engine, owned: &Owned) -> Result<bool, EngineError> {
    let claim = match owned.attempt {
        Some(attempt) => match claims.try_claim(attempt.build) {
            Some(claim) => Some(claim),
            None => return Ok(false),
        },
        None => None,
    };
    engine.remove(owned).await?;
    drop(claim);
    Ok(true)
}

async fn sweep_workspaces(builds: &Builds, swept: &mut Swept) -> std::io::Result<()> {
    let workspaces = &builds.host().workspaces;
    for build in workspaces.list().await? {
        let Some(_claim) = builds.claims().try_claim(build) else { continue };
        match workspaces.remove(build).await {
            Ok(()) => swept.workspaces += 1,
            Err(error) => swept.failures.push(format!("{}: {error}", workspaces.path(build).display())),
        }
    }
    Ok(())
}

impl Swept {
    fn removed(&self) -> usize {
        self.containers + self.networks + self.volumes + self.workspaces
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { containers, networks, volumes, workspaces, .. } = self;
        write!(f, "{containers} containers, {networks} networks, {volumes} volumes, {workspaces} workspaces")
    }
}
