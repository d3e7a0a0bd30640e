//! Removes what this runner made and no build of it needs any more: after a crash, or where a removal failed.
//!
//! What it made bears its label, or lies in its folder; what others made does neither, and is never touched.

use std::{collections::BTreeMap, fmt, time::Duration};

use caisson_protocol::BuildId;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::{
    builds::{Builds, Claims, Host},
    container::may_run,
    engine::{Engine, EngineError, Owned, OwnedKind},
    workspace::blocking,
};

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
pub async fn again_and_again(builds: &Builds) {
    let interval = builds.host().config.sweep.interval.0;
    let pause_min = PAUSE_MIN.min(interval);
    let (mut swept, mut pause) = (Instant::now(), pause_min);
    loop {
        sleep(pause_min).await;
        let is_left = builds.host().health.condition().left_behind > 0;
        let due = if is_left { pause } else { interval };
        if swept.elapsed() >= due {
            once(builds, SharedNetwork::Keep).await;
            swept = Instant::now();
            pause = if is_left { interval.min(2 * pause) } else { pause_min };
        }
    }
}

/// Sweeps, and says in the runner's log how much there was.
pub async fn once(builds: &Builds, network: SharedNetwork) {
    let mut swept = Swept::default();
    if let Err(error) = sweep_all(builds, network, &mut swept).await {
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

/// Removes the containers that attempts of a build have left.
///
/// # Errors
/// When one of them may run on.
pub(crate) async fn remove_containers(host: &Host, build: BuildId) -> Result<(), EngineError> {
    for (_, container) in containers(host).await?.iter().filter(|(of, _)| *of == build) {
        let removed = host.engine.remove(container).await;
        if may_run(&*host.engine, &container.id).await {
            removed?;
            let message = format!("container {} of an earlier attempt still runs", container.id);
            return Err(EngineError::Busy(message));
        }
    }
    Ok(())
}

/// All containers of builds, each with its build.
async fn containers(host: &Host) -> Result<Vec<(BuildId, Owned)>, EngineError> {
    let owned = host.engine.list_owned(&host.config.owner()).await?.into_iter();
    let containers = owned.filter(|owned| owned.kind == OwnedKind::Container);
    Ok(containers.filter_map(|container| Some((container.attempt?.build, container))).collect())
}

/// Workspaces come last, and where it is known that nothing writes there: that, the engine tells.
async fn sweep_all(builds: &Builds, network: SharedNetwork, swept: &mut Swept) -> anyhow::Result<()> {
    sweep_engine(builds, network, swept).await?;
    sweep_workspaces(builds, swept).await
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

/// Removes a thing, if it is still there, unless its attempt is at work; the clearance keeps its build from beginning
/// meanwhile. Tells whether it did.
async fn remove_unclaimed(claims: &Claims, engine: &dyn Engine, owned: &Owned) -> Result<bool, EngineError> {
    let clearance = owned.attempt.map(|attempt| claims.try_clear(attempt));
    if matches!(clearance, Some(None)) {
        return Ok(false);
    }
    let removed = engine.remove(owned).await;
    drop(clearance);
    removed
}

/// Removes the workspaces of builds of which nothing runs any more.
async fn sweep_workspaces(builds: &Builds, swept: &mut Swept) -> anyhow::Result<()> {
    let (host, claims) = (builds.host(), builds.claims());
    let workspaces = &host.workspaces;
    let claimed =
        workspaces.list().await?.into_iter().filter_map(|build| Some((build, claims.try_claim(build)?)));
    let mut claimed: BTreeMap<_, _> = claimed.collect();
    if claimed.is_empty() {
        return Ok(());
    }
    // Asked again, since no container of theirs can be made from here on.
    for (build, container) in containers(host).await? {
        if claimed.contains_key(&build) && may_run(&*host.engine, &container.id).await {
            claimed.remove(&build);
            let path = workspaces.path(build);
            swept.failures.push(format!("{}: a container may still write there", path.display()));
        }
    }
    for (build, _claim) in claimed {
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
