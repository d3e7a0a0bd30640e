//! The coordinator: the real one, from the bytes of its connections to the changes it commits, in a process that can
//! be frozen and killed.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::Router;
use caisson_coordinator::{
    access::{Access, AccessStore, AccessTerms, Passwords, SessionTerms},
    blocking::Blocking,
    dispatcher::Dispatcher,
    http::{self, App, EventHub, Front, Peer},
    logs::LogWatch,
    metrics::Metrics,
    settings::BuildDefaults,
};
use caisson_protocol::BuildId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    disk::{Disk, Mounted},
    life::{Condition, Life},
    network::{Door, End},
    world::World,
};

/// How long a coordinator that is stopped as it should be may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it takes until one that ended by itself is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Where every connection comes from.
const NEAR: Peer = Peer(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// Nobody's session ends in the time that is simulated.
const TERMS: AccessTerms = AccessTerms {
    session: SessionTerms { idle_ms: i64::MAX / 4, lifetime_ms: i64::MAX / 4 },
    audit_ms: i64::MAX / 4,
};

/// The machine with the coordinator.
pub struct Coordinator {
    world: Arc<World>,
    disk: Arc<Disk>,
    logs: PathBuf,
    secrets: PathBuf,
    /// Who may do what. No fault befalls it: a story of its own.
    roll: Arc<dyn AccessStore>,
    state: Mutex<State>,
}

struct State {
    process: Option<Arc<Process>>,
    /// When it may start again.
    start_at: Instant,
}

/// A coordinator that runs.
struct Process {
    life: Arc<Life>,
    app: Arc<App>,
    routes: Router,
    connections: TaskTracker,
}

impl Coordinator {
    /// A machine on which the coordinator is kept running. Logs and secrets are in these folders.
    pub fn begin(
        world: Arc<World>,
        disk: Arc<Disk>,
        logs: PathBuf,
        secrets: PathBuf,
        roll: Arc<dyn AccessStore>,
    ) -> Arc<Self> {
        let state = State { process: None, start_at: Instant::now() };
        let coordinator = Arc::new(Self { world, disk, logs, secrets, roll, state: Mutex::new(state) });
        tokio::spawn(Arc::clone(&coordinator).keep());
        coordinator
    }

    /// Ends it, wherever it is.
    pub fn kill(&self, pause: Duration) {
        self.stays_down(pause);
        if let Some(process) = self.process() {
            process.life.kill();
        }
    }

    /// Asks it to end.
    pub fn stop(&self, pause: Duration) {
        self.stays_down(pause);
        if let Some(process) = self.process() {
            process.app.stopping.cancel();
        }
    }

    /// Stops it for a while.
    pub fn freeze(&self, pause: Duration) {
        let Some(process) = self.process() else { return };
        process.life.freeze();
        tokio::spawn(async move {
            sleep(pause).await;
            process.life.thaw();
        });
    }

    /// The faults are over.
    pub fn heal(&self) {
        self.state().start_at = Instant::now();
        if let Some(process) = self.process() {
            process.life.thaw();
        }
    }

    async fn keep(self: Arc<Self>) {
        loop {
            let start_at = self.state().start_at;
            sleep_until(start_at).await;
            let life = Life::new();
            let lived = Arc::clone(&life).run(self.live(&life)).await;
            life.kill();
            let process = self.state().process.take();
            if let Some(process) = process {
                process.app.stopping.cancel();
                self.violations_are_none(&process.app.metrics);
            }
            self.world.count("coordinator ends");
            self.world.note(format_args!("the coordinator ended: {lived:?}"));
            sleep(RESTART_PAUSE).await;
        }
    }

    /// One life, as `coordinator.rs` of the coordinator lives it.
    async fn live(&self, life: &Arc<Life>) -> Result<(), String> {
        let error = |error: &dyn std::fmt::Display| error.to_string();
        let mounted = Mounted::new(&self.disk, life, &self.logs).map_err(|io| error(&io))?;
        let metrics = Arc::new(Metrics::default());
        let (news_sender, news) = mpsc::unbounded_channel();
        let store = Arc::clone(&mounted);
        let started =
            Dispatcher::start(self.world.plan.rules, store, Arc::clone(&metrics), news_sender).await;
        let (dispatcher, handle) = started.map_err(|store| error(&store))?;
        let passwords = Passwords::new(Blocking::InPlace);
        // Nobody reads what the audit log would be told.
        let (access, _) = Access::open(&self.secrets, Arc::clone(&self.roll), TERMS, passwords)
            .await
            .map_err(|access| error(&access))?;
        let app = Arc::new(App {
            dispatcher: handle,
            store: Arc::clone(&mounted) as _,
            logs: mounted,
            watch: Arc::new(LogWatch::default()),
            events: EventHub::default(),
            metrics,
            access: Arc::new(access),
            new_build: next_build,
            defaults: defaults(),
            front: Front::open(),
            stopping: CancellationToken::new(),
            followers: TaskTracker::new(),
        });
        let routes = http::routes(Arc::clone(&app));
        let publisher = tokio::spawn(Arc::clone(life).run(http::publish(Arc::clone(&app), news)));
        let stopping = app.stopping.clone();
        let process = Process { life: Arc::clone(life), app, routes, connections: TaskTracker::new() };
        let process = Arc::new(process);
        self.state().process = Some(Arc::clone(&process));
        self.world.note(format_args!("the coordinator runs"));

        let mut work = tokio::spawn(Arc::clone(life).run(dispatcher.run()));
        let ended = tokio::select! {
            biased;
            ended = &mut work => Some(ended),
            () = stopping.cancelled() => None,
        };
        stopping.cancel();
        process.connections.close();
        process.app.followers.close();
        self.state().process = None;
        let connections = async {
            process.connections.wait().await;
            process.app.followers.wait().await;
        };
        let _ = timeout(STOP_TIMEOUT, connections).await;
        publisher.abort();
        self.violations_are_none(&process.app.metrics);
        drop(process);
        let ended = match ended {
            Some(ended) => ended,
            None => timeout(STOP_TIMEOUT, work).await.map_err(|late| error(&late))?,
        };
        match ended {
            Ok(Some(ended)) => ended.map_err(|store| error(&store)),
            Ok(None) => Ok(()),
            Err(panic) => {
                self.world.hold("the dispatcher does not panic", Err(panic.to_string()));
                Err(panic.to_string())
            }
        }
    }

    fn violations_are_none(&self, metrics: &Metrics) {
        let found = metrics.violations.get();
        let holds = if found == 0 { Ok(()) } else { Err(format!("{found} were counted")) };
        self.world.hold("the scheduler's own rules hold", holds);
    }

    /// Whether the scheduler's own rules have held so far.
    pub fn check(&self) {
        if let Some(process) = self.process() {
            self.violations_are_none(&process.app.metrics);
        }
    }

    fn stays_down(&self, pause: Duration) {
        self.state().start_at = Instant::now() + pause;
    }

    fn process(&self) -> Option<Arc<Process>> {
        self.state().process.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Door for Coordinator {
    fn listener(&self) -> Option<Arc<Life>> {
        let process = self.process()?;
        (process.life.condition() != Condition::Dead && !process.app.stopping.is_cancelled())
            .then(|| Arc::clone(&process.life))
    }

    fn accept(&self, end: End) {
        if let Some(process) = self.process() {
            let served = http::connection(Arc::clone(&process.app), end, NEAR, process.routes.clone());
            process.connections.spawn(Arc::clone(&process.life).run(served));
        }
    }
}

fn defaults() -> BuildDefaults {
    // These are valid: the simulation would not begin otherwise.
    let valid = |what: &str| format!("the default {what} is valid");
    BuildDefaults {
        repository_url: None,
        image: "debian:bookworm-slim".parse().unwrap_or_else(|_| panic!("{}", valid("image"))),
        timeout: 3600.try_into().unwrap_or_else(|_| panic!("{}", valid("timeout"))),
        allow_file_urls: false,
    }
}

std::thread_local! {
    static BUILDS: std::cell::Cell<u128> = const { std::cell::Cell::new(0) };
}

/// Begins to count builds anew.
pub fn forget_builds() {
    BUILDS.set(0);
}

/// Each build's identity is larger than the one before, as those that are made from the time.
fn next_build() -> BuildId {
    let number = BUILDS.get() + 1;
    BUILDS.set(number);
    BuildId(Uuid::from_u128(0x019a_ac1e_7c00_7000_8000_0000_0000_0000 + number))
}
