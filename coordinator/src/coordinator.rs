//! The parts of a coordinator, put together. `main` and the tests start the same one.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use caisson_protocol::BuildId;
use caisson_settings::Secret;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;
use uuid::Uuid;

use crate::{
    access::{Access, Notes, Passwords, SqliteAccess},
    blocking::Blocking,
    dispatcher::{Dispatcher, News},
    http::{self, App, Certificate, ConnectionLimits, Door, EventHub, Front, Limiter},
    logs::{FileLogs, LogWatch},
    metrics::Metrics,
    settings::Checked,
    store::SqliteStore,
};

/// How long the dispatcher has to end after the last connection.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A coordinator that is ready to run.
pub struct Coordinator {
    app: Arc<App>,
    door: Door,
    url: String,
    certificate: Option<Certificate>,
    dispatcher: Dispatcher,
    news: mpsc::UnboundedReceiver<News>,
    notes: Notes,
    /// Held as long as the coordinator lives: two on one folder would each undo what the other does.
    _lock: File,
}

impl Coordinator {
    /// Opens the data folder, listens, and takes up what was left.
    ///
    /// # Errors
    /// When any of it can't be done: the error names the thing and the cause.
    pub async fn start(settings: Checked) -> anyhow::Result<Self> {
        let data_dir = &settings.data_dir;
        make_folder(data_dir).with_context(|| format!("data_dir {}", data_dir.display()))?;
        let lock = lock(&data_dir.join("lock"))?;
        let access = data_dir.join("access.db");
        let access = SqliteAccess::open(&access).with_context(|| access.display().to_string())?;
        let passwords = Passwords::new(Blocking::default());
        let (access, notes) = Access::open(data_dir, Arc::new(access), settings.access, passwords).await?;
        let store = data_dir.join("caisson.db");
        let store = Arc::new(SqliteStore::open(&store).with_context(|| store.display().to_string())?);
        let logs = data_dir.join("logs");
        let logs =
            Arc::new(FileLogs::open(&logs, Blocking::default()).with_context(|| logs.display().to_string())?);
        let certificate = settings.tls.clone().map(Certificate::read).transpose()?;
        let door = open_door(&settings, certificate.as_ref()).await?;
        let url = url(&settings, door.listener.local_addr()?);
        let metrics = Arc::new(Metrics::default());
        let (news_sender, news) = mpsc::unbounded_channel();
        let (dispatcher, handle) =
            Dispatcher::start(settings.rules, Arc::clone(&store) as _, Arc::clone(&metrics), news_sender)
                .await?;
        let app = Arc::new(App {
            dispatcher: handle,
            store,
            logs,
            watch: Arc::new(LogWatch::default()),
            events: EventHub::default(),
            metrics,
            access: Arc::new(access),
            new_build: || BuildId(Uuid::now_v7()),
            front: Front {
                names: settings.names(),
                behind_proxy: settings.behind_proxy,
                tls: settings.tls.is_some(),
                limiter: Limiter::new(
                    settings.limits.requests_per_second,
                    settings.limits.sign_in_failures_per_minute,
                ),
            },
            defaults: settings.defaults,
            stopping: CancellationToken::new(),
            followers: TaskTracker::new(),
        });
        let coordinator = Self { app, door, url, certificate, dispatcher, news, notes, _lock: lock };
        let address = data_dir.join("address");
        tell(&address, &coordinator.address()?.to_string()).with_context(|| address.display().to_string())?;
        Ok(coordinator)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.door.listener.local_addr()?)
    }

    /// The address that people use.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A new code for the sign-in link.
    pub fn sign_in_code(&self) -> Secret {
        self.app.access.sign_in_code()
    }

    /// Cancelled to stop it.
    pub fn stopping(&self) -> CancellationToken {
        self.app.stopping.clone()
    }

    /// Works until it is stopped. Builds that run go on meanwhile, on their runners.
    ///
    /// # Errors
    /// When the store is broken.
    pub async fn run(self) -> anyhow::Result<()> {
        let stopping = self.app.stopping.clone();
        let publisher = tokio::spawn(http::publish(Arc::clone(&self.app), self.news));
        let dispatcher = tokio::spawn({
            let stopping = stopping.clone();
            async move {
                let ended = self.dispatcher.run().await;
                stopping.cancel();
                ended
            }
        });
        let closed = CancellationToken::new();
        let access = tokio::spawn(Arc::clone(&self.app.access).keep(self.notes, closed.clone()));
        let certificate = self.certificate.map(|certificate| tokio::spawn(certificate.keep_current()));
        http::serve(self.app, self.door).await;
        if let Some(certificate) = certificate {
            certificate.abort();
        }
        closed.cancel();
        if tokio::time::timeout(STOP_TIMEOUT, access).await.is_err() {
            warn!("the audit log did not take in the last entries within {STOP_TIMEOUT:?}");
        }
        // The dispatcher ends when the last handle to it is gone: those of the connections are, this is the other.
        publisher.abort();
        match tokio::time::timeout(STOP_TIMEOUT, dispatcher).await {
            Ok(ended) => ended?.context("the coordinator stops, and takes up its work at the next start"),
            // A connection that was cut still holds one. What was answered is stored, so nothing is lost with it.
            Err(_) => Ok(()),
        }
    }
}

/// Environments and logs of builds are in there: they are nobody else's on this machine.
fn make_folder(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Written beside its place and moved there, so that who waits for the file never reads a half.
fn tell(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    fs::write(&draft, text)?;
    fs::rename(draft, path)
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let file =
        File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is held by another coordinator: stop it, or use another data_dir", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Where people find it. Who listens on every address has none of its own to tell.
fn url(settings: &Checked, address: SocketAddr) -> String {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    settings.public_url.as_ref().map_or_else(|| format!("{scheme}://{address}"), ToString::to_string)
}

async fn open_door(settings: &Checked, certificate: Option<&Certificate>) -> anyhow::Result<Door> {
    // Each connection needs a file, and so do logs and the store.
    let files = open_files();
    let total = settings.limits.connections.min(files / 4 * 3);
    if total < settings.limits.connections {
        warn!(
            "limits.connections: {total} instead of {}, as this process may open {files} files only",
            settings.limits.connections
        );
    }
    // All of a proxy's connections come from one address.
    let alone = if settings.behind_proxy { usize::MAX } else { settings.limits.connections_per_address };
    Ok(Door {
        listener: listen(settings.listen).await?,
        tls: certificate.map(Certificate::acceptor).transpose()?,
        limits: ConnectionLimits { total, per_address: alone },
    })
}

/// How many files this process may have open: as many as the system lets it have.
fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, most).is_ok() { limit.maximum } else { limit.current };
    current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("can't listen on {address}: stop what does, or choose another with --listen")
    })
}
