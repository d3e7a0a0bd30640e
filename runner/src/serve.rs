//! Puts a runner together, runs it, and takes it apart again.

use std::{
    fs::File,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    builds::{Builds, Host},
    checkout::Checkout,
    config::{Config, EngineConfig, TokenError, WantedTransport},
    connection::{self, ConnectionError, Credentials, Identity},
    disks::Disks,
    engine::{Engine, EngineError, EngineInfo, docker::DockerEngine},
    health::{self, Health},
    images::Images,
    spool::Spool,
    sweep::{self, SharedNetwork},
    workspace::{BindNeedsRoot, Transport, Workspaces},
};

/// How often the engine is asked at the start, a second apart: it may be starting as well.
const ENGINE_TRIES: u32 = 5;
/// How long running builds have to be stopped and cleaned up when the runner goes away.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// The folders of code, environments and logs.
const PRIVATE_FOLDERS: [&str; 3] = ["mirrors", "spool", "tmp"];
/// How long results have to be delivered then.
const DELIVER_DEADLINE: Duration = Duration::from_secs(5);

/// What the one who started the runner wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Go on.
    Run,
    /// Finish what you have, then end.
    Drain,
    /// Give back what you have, and end.
    Leave,
}

/// Why a runner does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The engine does not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Workspaces can't get into containers that way.
    #[error(transparent)]
    Transport(#[from] BindNeedsRoot),
    /// The folder can't be used.
    #[error("work_dir {}: {cause}", path.display())]
    WorkDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process uses the folder.
    #[error("work_dir {} is in use by another runner: give each its own", path.display())]
    WorkDirInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The coordinator can't be reached, or does not want this runner.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Runs a runner until it is told to end, or can't go on. `program` is the executable that knows `checkout`.
///
/// # Errors
/// When something it needs is missing, or the coordinator sends it away. What it had made is removed either way.
pub async fn serve(config: Config, program: PathBuf, wish: watch::Receiver<Wish>) -> Result<(), ServeError> {
    let work_dir = open_work_dir(&config)?;
    let credentials = Credentials::open(&config, &work_dir.path)?;
    let (engine, info) = find_engine(&config.engine).await?;
    let workspaces = Workspaces::open(&work_dir.path).map_err(|cause| work_dir.error(cause))?;
    let seen = are_seen(&workspaces, &*engine, &config).await;
    let (transport, reason) = Transport::choose(config.workspace.transport, &info, seen)?;
    let description = format!("{}, workspaces {transport}", info.description);
    info!("builds run on {description}{}", reason.map(|reason| format!(": {reason}")).unwrap_or_default());
    let not_set = config.limits.not_set();
    if !not_set.is_empty() {
        warn!("a build may take all of its host's memory or processors: set {}", not_set.join(" and "));
    }
    let identity = Identity { credentials, instance: uuid::Uuid::new_v4(), engine: description };

    let (spool, checkout) = open_folders(&config, &work_dir, program)?;
    let images = Images::open(&work_dir.path).map_err(|cause| work_dir.error(cause))?;
    let (architecture, health) = (info.architecture, Health::default());
    // Whose files are seen is on one host with the engine. Where that is not known, its address tells.
    let engine_root = info.root.filter(|_| seen.unwrap_or(!config.engine.host.is_remote()));
    let disks = Disks::new(workspaces.root(), engine_root, config.disk_free_min);
    let host = Host { config, engine, architecture, workspaces, transport, checkout, images, disks, health };
    let builds = Builds::new(Arc::new(host), spool);
    builds.restore().await.map_err(|cause| work_dir.error(cause))?;
    sweep::once(&builds, SharedNetwork::Keep).await;

    let result = tokio::select! {
        result = connection::run(&builds, &identity) => result,
        () = obey(&builds, wish) => Ok(()),
        () = sweep::again_and_again(&builds) => Ok(()),
        () = health::watch(&builds) => Ok(()),
    };
    // Whatever it was that ended, nothing that the runner made outlives it.
    builds.release_all();
    if timeout(STOP_DEADLINE, builds.idle()).await.is_err() {
        warn!("not everything was cleaned up within {} s", STOP_DEADLINE.as_secs());
    }
    sweep::once(&builds, SharedNetwork::Remove).await;
    Ok(result?)
}

/// Does what it is told to. Returns when the runner is to end though not everything is delivered: what is not stays
/// on disk for the next start.
async fn obey(builds: &Arc<Builds>, mut wish: watch::Receiver<Wish>) {
    if wish.wait_for(|wish| *wish >= Wish::Drain).await.is_err() {
        return std::future::pending().await;
    }
    builds.drain();
    if wish.wait_for(|wish| *wish >= Wish::Leave).await.is_err() {
        return std::future::pending().await;
    }
    info!("leaving: builds are stopped and given back");
    builds.release_all();
    builds.idle().await;
    if builds.outbox().is_open() {
        sleep(DELIVER_DEADLINE).await;
    }
}

/// The runner's folder, with the lock that keeps others out.
struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    fn error(&self, cause: io::Error) -> ServeError {
        ServeError::WorkDir { path: self.path.clone(), cause }
    }
}

fn open_work_dir(config: &Config) -> Result<WorkDir, ServeError> {
    let wanted = &config.work_dir;
    let error = |cause| ServeError::WorkDir { path: wanted.clone(), cause };
    std::fs::create_dir_all(wanted).map_err(error)?;
    // The engine takes absolute paths only.
    let path = wanted.canonicalize().map_err(error)?;
    PRIVATE_FOLDERS.iter().try_for_each(|name| make_private(&path.join(name))).map_err(error)?;
    let lock = File::options().create(true).append(true).open(path.join("lock")).map_err(error)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(WorkDir { path, _lock: lock }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::WorkDirInUse { path }),
        Err(cause) => Err(error(cause.into())),
    }
}

/// A folder that nobody else on this host looks into, also where it was made before.
fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

async fn find_engine(engine: &EngineConfig) -> Result<(Arc<dyn Engine>, EngineInfo), EngineError> {
    let mut tries = 1;
    loop {
        let found = match DockerEngine::at(engine) {
            Ok(engine) => engine.probe().await.map(|info| (engine, info)),
            Err(error) => Err(error),
        };
        match found {
            Ok((engine, info)) => {
                for warning in &info.warnings {
                    warn!("the engine: {warning}");
                }
                return Ok((Arc::new(engine), info));
            }
            Err(error @ EngineError::Misconfigured(_)) => return Err(error),
            Err(error) if tries >= ENGINE_TRIES => return Err(error),
            Err(error) => warn!("{error} (try {tries} of {ENGINE_TRIES})"),
        }
        tries += 1;
        sleep(Duration::from_secs(1)).await;
    }
}

/// Whether the engine sees the runner's files, as far as that can be found out. Who wants them bound says so.
async fn are_seen(workspaces: &Workspaces, engine: &dyn Engine, config: &Config) -> Option<bool> {
    if config.workspace.transport == WantedTransport::Bind {
        return Some(true);
    }
    let seen = workspaces.are_seen(engine, &config.owner()).await;
    let untold = |error| warn!("whether the engine sees the runner's files could not be found out: {error}");
    seen.map_err(untold).ok()
}

fn open_folders(
    config: &Config,
    work_dir: &WorkDir,
    program: PathBuf,
) -> Result<(Spool, Checkout), ServeError> {
    let spool = Spool::open(&work_dir.path);
    let checkout = Checkout::open(program, &work_dir.path, config.git.clone(), &config.coordinator_url);
    Ok((spool.map_err(|cause| work_dir.error(cause))?, checkout.map_err(|cause| work_dir.error(cause))?))
}
