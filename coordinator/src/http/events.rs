//! News for dashboards: a snapshot, then every change.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, Utf8Bytes, WebSocket},
    },
    response::Response,
};
use serde::Serialize;
use tokio::{
    sync::{broadcast, mpsc},
    time::interval,
};
use tracing::error;
use utoipa::ToSchema;

use super::{
    App,
    access::Caller,
    model::{Build, Queue, Runners},
    person::{present_all, present_queue, present_runners},
    problem::Problem,
};
use crate::{
    dispatcher::News,
    store::{BuildFilter, BuildKey},
};

/// How many messages a viewer may be behind before it gets a new snapshot instead.
const BEHIND_MAX: usize = 1024;
/// How many builds a snapshot has.
const SNAPSHOT_BUILDS: usize = 50;
/// How long a viewer may take to read what it is sent before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the runners' last signs of life are told, which are no news of their own.
const SIGNS_OF_LIFE_EVERY: Duration = Duration::from_secs(10);
/// How often a silent stream says that it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A message to a dashboard. Each has the next `seq`; when one is missing, connect again for a new snapshot.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServerEvent {
    /// Its place among all messages.
    seq: u64,
    /// What it tells.
    #[serde(flatten)]
    what: What,
}

/// What is told.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum What {
    /// Everything, at the beginning.
    Snapshot {
        /// The newest builds.
        builds: Vec<Build>,
        /// What waits.
        queue: Queue,
        /// The runners.
        runners: Runners,
    },
    /// A build is new or has changed.
    Build {
        /// The build.
        build: Box<Build>,
    },
    /// The runners have changed.
    Runners {
        /// All of them.
        runners: Runners,
    },
    /// What waits has changed.
    Queue {
        /// How many builds wait.
        depth: usize,
        /// How many may.
        limit: usize,
    },
}

/// Where messages go out to everyone.
#[derive(Clone)]
pub struct EventHub {
    messages: broadcast::Sender<(u64, Utf8Bytes)>,
    seq: Arc<AtomicU64>,
}

impl Default for EventHub {
    fn default() -> Self {
        Self { messages: broadcast::Sender::new(BEHIND_MAX), seq: Arc::default() }
    }
}

impl EventHub {
    fn send(&self, what: What) {
        let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
        let text = serde_json::to_string(&ServerEvent { seq, what }).unwrap_or_default();
        // Nobody may be there.
        let _ = self.messages.send((seq, text.into()));
    }

    /// Something could not be told: the next message shows that one is missing.
    fn leave_gap(&self) {
        self.seq.fetch_add(1, Ordering::SeqCst);
    }
}

/// Turns the dispatcher's news into messages, until the dispatcher is gone. News that come while one is told are told
/// together, so a busy coordinator tells each build's latest state and not its every step.
pub async fn publish(app: Arc<App>, mut news: mpsc::UnboundedReceiver<News>) {
    let mut signs_of_life = interval(SIGNS_OF_LIFE_EVERY);
    loop {
        let first = tokio::select! {
            first = news.recv() => match first {
                Some(first) => first,
                None => return,
            },
            _ = signs_of_life.tick() => News { runners: true, ..News::default() },
        };
        let mut builds = BTreeSet::from_iter(first.builds);
        let mut runners = first.runners;
        while let Ok(more) = news.try_recv() {
            builds.extend(more.builds);
            runners |= more.runners;
        }
        for build in &builds {
            app.watch.notify(*build);
        }
        if app.events.messages.receiver_count() > 0
            && let Err(problem) = tell(&app, &builds, runners).await
        {
            error!("dashboards could not be told what changed: {problem:?}");
            app.events.leave_gap();
        }
    }
}

async fn tell(app: &App, builds: &BTreeSet<caisson_protocol::BuildId>, runners: bool) -> Result<(), Problem> {
    for id in builds {
        if let Some(record) = app.store.build(BuildKey::Id(*id)).await? {
            let build = present_all(app, &[record]).await?.pop().map(Box::new);
            if let Some(build) = build {
                app.events.send(What::Build { build });
            }
        }
    }
    if runners || !builds.is_empty() {
        app.events.send(What::Runners { runners: present_runners(app).await? });
        let look = |scheduler: &caisson_scheduler::Scheduler| {
            (scheduler.waiting(), scheduler.rules().queue_capacity)
        };
        let (depth, limit) = app.dispatcher.look(look).await?;
        app.events.send(What::Queue { depth, limit });
    }
    Ok(())
}

/// Tells everything that happens over WebSocket: a snapshot, then changes, each with a `seq`.
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "events",
    responses((status = 101, description = "A WebSocket with a `ServerEvent` in each text frame"))
)]
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    caller: Caller,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade.on_upgrade(move |socket| {
        let (stopping, followers) = (app.stopping.clone(), app.followers.clone());
        followers.track_future(async move {
            tokio::select! {
                biased;
                () = send(socket, &app) => {}
                () = stopping.cancelled() => {}
                () = caller.dismissed() => {}
            }
        })
    })
}

async fn send(mut socket: WebSocket, app: &App) {
    loop {
        // Listening before looking: what changes in between is told twice rather than not at all.
        let mut messages = app.events.messages.subscribe();
        let Ok((seen, snapshot)) = snapshot(app).await else { return };
        if !pass(&mut socket, Message::Text(snapshot)).await {
            return;
        }
        if !relay(&mut socket, &mut messages, seen).await {
            return;
        }
    }
}

/// Passes messages on. True when some were lost, and a new snapshot is needed; false when the viewer is gone.
async fn relay(
    socket: &mut WebSocket,
    messages: &mut broadcast::Receiver<(u64, Utf8Bytes)>,
    seen: u64,
) -> bool {
    loop {
        let message = tokio::select! {
            biased;
            message = messages.recv() => match message {
                Ok((seq, _)) if seq <= seen => continue,
                Ok((_, text)) => Message::Text(text),
                Err(broadcast::error::RecvError::Lagged(_)) => return true,
                Err(broadcast::error::RecvError::Closed) => return false,
            },
            heard = socket.recv() => match heard {
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return false,
            },
            () = tokio::time::sleep(PING_EVERY) => Message::Ping(Bytes::new()),
        };
        if !pass(socket, message).await {
            return false;
        }
    }
}

async fn pass(socket: &mut WebSocket, message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(())))
}

async fn snapshot(app: &App) -> Result<(u64, Utf8Bytes), Problem> {
    let seq = app.events.seq.load(Ordering::SeqCst);
    let newest = BuildFilter { limit: SNAPSHOT_BUILDS, ..BuildFilter::default() };
    let builds = app.store.builds(&newest).await?;
    let what = What::Snapshot {
        builds: present_all(app, &builds).await?,
        queue: present_queue(app).await?,
        runners: present_runners(app).await?,
    };
    Ok((seq, serde_json::to_string(&ServerEvent { seq, what }).unwrap_or_default().into()))
}
