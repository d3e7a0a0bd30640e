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
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    blocking::Blocking,
    dispatcher::{Dispatcher, News},
    http::{self, App, EventHub},
    logs::{FileLogs, LogWatch},
    metrics::Metrics,
    secrets::Guard,
    settings::Checked,
    store::SqliteStore,
};

/// How long the dispatcher has to end after the last connection.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A coordinator that is ready to run.
pub struct Coordinator {
    app: Arc<App>,
    listener: TcpListener,
    dispatcher: Dispatcher,
    news: mpsc::UnboundedReceiver<News>,
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
        let guard = Guard::open(data_dir)?;
        let store = data_dir.join("caisson.db");
        let store = Arc::new(SqliteStore::open(&store).with_context(|| store.display().to_string())?);
        let logs = data_dir.join("logs");
        let logs =
            Arc::new(FileLogs::open(&logs, Blocking::default()).with_context(|| logs.display().to_string())?);
        let listener = listen(settings.listen).await?;
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
            guard,
            new_build: || BuildId(Uuid::now_v7()),
            defaults: settings.defaults,
            local_only: !settings.behind_proxy,
            stopping: CancellationToken::new(),
            followers: TaskTracker::new(),
        });
        let coordinator = Self { app, listener, dispatcher, news, _lock: lock };
        let address = data_dir.join("address");
        tell(&address, &coordinator.address()?.to_string()).with_context(|| address.display().to_string())?;
        Ok(coordinator)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// A new code for the sign-in link.
    pub fn sign_in_code(&self) -> Secret {
        self.app.guard.sign_in_code()
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
        http::serve(self.app, self.listener).await;
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

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("can't listen on {address}: stop what does, or choose another with --listen")
    })
}
