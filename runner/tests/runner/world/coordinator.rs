//! A coordinator that does what a test tells it to, and remembers all it hears.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use caisson_protocol::{
    AttemptId, AttemptReport, BuildId, BuildSpec, Condition, CoordinatorMessage, HeldAttempt, KeepAliveTerms,
    LogChunk, LogFrame, Refusal, Registration, RunnerId, RunnerMessage, Stream,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::patience;

pub(crate) const TOKEN: &str = "test-token";
/// What a runner is given for it, for the channel.
pub(crate) const CREDENTIAL: &str = "test-credential";

/// What a coordinator has heard, and how it behaves.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) registrations: Vec<Registration>,
    pub(crate) messages: Vec<RunnerMessage>,
    pub(crate) logs: BTreeMap<AttemptId, Log>,
    pub(crate) finished: BTreeMap<AttemptId, AttemptReport>,
    pub(crate) keep_alives: Vec<Vec<HeldAttempt>>,
    pub(crate) condition: Condition,
    /// Attempts that are not kept at the next registration.
    pub(crate) not_kept: BTreeSet<AttemptId>,
    /// Log bytes after which the connection is cut, once.
    pub(crate) cut_after: Option<u64>,
    /// Log bytes of which one frame is forgotten, once.
    pub(crate) forget_once: bool,
    pub(crate) silent: bool,
    pub(crate) acknowledges_no_log: bool,
    pub(crate) acknowledges_no_end: bool,
    pub(crate) away: bool,
    pub(crate) refuses: Option<Refusal>,
    connection: Option<mpsc::UnboundedSender<Order>>,
}

/// The log of one attempt as it came.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) chunks: Vec<LogChunk>,
    pub(crate) end: u64,
    /// How far beyond the acknowledged end the runner has sent.
    pub(crate) ahead_max: u64,
}

impl Log {
    pub(crate) fn bytes(&self, stream: Stream) -> Vec<u8> {
        let of_stream = self.chunks.iter().filter(|chunk| chunk.stream == stream);
        of_stream.flat_map(|chunk| chunk.bytes.clone()).collect()
    }

    pub(crate) fn text(&self, stream: Stream) -> String {
        String::from_utf8_lossy(&self.bytes(stream)).into_owned()
    }
}

enum Order {
    Say(CoordinatorMessage),
    Cut,
}

/// A coordinator at an address of its own.
#[derive(Clone)]
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    news: Arc<watch::Sender<()>>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let coordinator = Self { address, seen: Arc::default(), news: Arc::new(watch::Sender::new(())) };
        let routes = Router::new()
            .route("/api/v1/runner/channel", get(channel))
            .route("/api/v1/runner/credential", post(register))
            .with_state(coordinator.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        coordinator
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Hands out a build, and tells which attempt it became.
    pub(crate) fn assign(&self, spec: BuildSpec) -> AttemptId {
        self.assign_with(spec, 64 * 1024 * 1024)
    }

    pub(crate) fn assign_with(&self, spec: BuildSpec, log_bytes_max: u64) -> AttemptId {
        let attempt = AttemptId { build: BuildId(uuid::Uuid::now_v7()), number: 1 };
        self.say(CoordinatorMessage::Assign { attempt, spec: spec.into(), log_bytes_max });
        attempt
    }

    pub(crate) fn say(&self, message: CoordinatorMessage) {
        self.look(|seen| {
            let connection = seen.connection.as_ref().expect("no runner is connected");
            connection.send(Order::Say(message)).expect("the connection has ended");
        });
    }

    /// Breaks the connection without a word.
    pub(crate) fn cut(&self) {
        self.look(|seen| {
            if let Some(connection) = seen.connection.take() {
                let _ = connection.send(Order::Cut);
            }
        });
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }

    /// Waits until what was heard is so.
    pub(crate) async fn wait(&self, what: &str, so: impl Fn(&Seen) -> bool) {
        let mut news = self.news.subscribe();
        let found = async {
            loop {
                news.borrow_and_update();
                if self.look(|seen| so(seen)) {
                    return;
                }
                news.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(patience(), found).await.is_err() {
            let messages = self.look(|seen| format!("{:#?}", seen.messages));
            panic!("not within {} s: {what}\nheard: {messages}", patience().as_secs());
        }
    }

    pub(crate) async fn finished(&self, attempt: AttemptId) -> AttemptReport {
        self.wait("the attempt finishes", |seen| seen.finished.contains_key(&attempt)).await;
        self.look(|seen| seen.finished[&attempt].clone())
    }

    pub(crate) async fn started(&self, attempt: AttemptId) {
        let started =
            |m: &RunnerMessage| matches!(m, RunnerMessage::Started { attempt: a, .. } if *a == attempt);
        self.wait("the command starts", |seen| seen.messages.iter().any(started)).await;
    }

    pub(crate) async fn released(&self, attempt: AttemptId) {
        let released = RunnerMessage::Released { attempt };
        self.wait("the attempt is given back", |seen| seen.messages.contains(&released)).await;
    }

    /// Waits until the runner says that it can run no builds, and gives what it says.
    pub(crate) async fn unhealthy(&self) -> String {
        self.wait("the runner is unhealthy", |seen| seen.condition.unhealthy.is_some()).await;
        self.look(|seen| seen.condition.unhealthy.clone().unwrap_or_default())
    }

    pub(crate) async fn healthy(&self) {
        self.wait("the runner is healthy", |seen| seen.condition.unhealthy.is_none()).await;
    }

    pub(crate) async fn cleaned(&self, attempt: AttemptId) {
        let cleaned =
            |m: &RunnerMessage| matches!(m, RunnerMessage::Cleaned { attempt: a, .. } if *a == attempt);
        self.wait("the attempt is cleaned up", |seen| seen.messages.iter().any(cleaned)).await;
    }

    /// Waits until the command has printed something.
    pub(crate) async fn prints(&self, attempt: AttemptId, text: &str) {
        let printed =
            |seen: &Seen| seen.logs.get(&attempt).is_some_and(|log| log.text(Stream::Stdout).contains(text));
        self.wait(&format!("the command prints {text:?}"), printed).await;
    }

    pub(crate) fn log(&self, attempt: AttemptId, stream: Stream) -> Vec<u8> {
        self.look(|seen| seen.logs.get(&attempt).map(|log| log.bytes(stream)).unwrap_or_default())
    }

    pub(crate) fn log_text(&self, attempt: AttemptId, stream: Stream) -> String {
        String::from_utf8_lossy(&self.log(attempt, stream)).into_owned()
    }

    fn changed(&self) {
        self.news.send_replace(());
    }

    async fn serve(self, mut socket: WebSocket) {
        let (sender, mut orders) = mpsc::unbounded_channel();
        loop {
            let answers = tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Say(message)) => vec![message],
                    Some(Order::Cut) | None => return,
                },
                message = socket.recv() => match message {
                    Some(Ok(Message::Text(text))) => self.hear(&serde_json::from_str(&text).unwrap(), &sender),
                    Some(Ok(Message::Binary(bytes))) => match self.hear_log(LogFrame::decode(&bytes).unwrap()) {
                        Some(answers) => answers,
                        None => return,
                    },
                    Some(Ok(_)) => Vec::new(),
                    Some(Err(_)) | None => return,
                },
            };
            self.changed();
            if self.look(|seen| seen.silent) {
                std::future::pending::<()>().await;
            }
            for answer in answers {
                let text = serde_json::to_string(&answer).unwrap();
                if socket.send(Message::text(text)).await.is_err() {
                    return;
                }
                if matches!(answer, CoordinatorMessage::Refused { .. }) {
                    return;
                }
            }
        }
    }

    fn hear(
        &self,
        message: &RunnerMessage,
        sender: &mpsc::UnboundedSender<Order>,
    ) -> Vec<CoordinatorMessage> {
        self.look(|seen| {
            seen.messages.push(message.clone());
            match message {
                RunnerMessage::Register(registration) => {
                    seen.registrations.push(registration.clone());
                    seen.condition = registration.condition.clone();
                    if let Some(reason) = seen.refuses {
                        return vec![CoordinatorMessage::Refused { reason, message: "go away".into() }];
                    }
                    seen.connection = Some(sender.clone());
                    let held = registration.held.iter().map(|held| held.attempt);
                    let (drop, keep) = held.partition(|attempt| seen.not_kept.contains(attempt));
                    let runner_id = RunnerId::of_name(&registration.name);
                    let keep_alive = KeepAliveTerms { interval_ms: 100, timeout_ms: 2000 };
                    vec![CoordinatorMessage::Registered { runner_id, keep_alive, keep, drop }]
                }
                RunnerMessage::KeepAlive { held } => {
                    seen.keep_alives.push(held.clone());
                    seen.messages.pop();
                    Vec::new()
                }
                RunnerMessage::Condition(condition) => {
                    seen.condition = condition.clone();
                    Vec::new()
                }
                RunnerMessage::Finished { attempt, report } => {
                    let end = seen.logs.entry(*attempt).or_default().end;
                    assert_eq!(end, report.log_bytes, "the end came before all of the log");
                    if seen.acknowledges_no_end {
                        return Vec::new();
                    }
                    if let Some(before) = seen.finished.insert(*attempt, report.clone()) {
                        assert_eq!(before, *report, "two ends of one attempt");
                    }
                    vec![CoordinatorMessage::FinishedAck { attempt: *attempt }]
                }
                _ => Vec::new(),
            }
        })
    }

    /// `None` cuts the connection.
    fn hear_log(&self, frame: LogFrame) -> Option<Vec<CoordinatorMessage>> {
        self.look(|seen| {
            let LogFrame { attempt, chunk } = frame;
            let log = seen.logs.entry(attempt).or_default();
            let chunk_end = chunk.offset + chunk.bytes.len() as u64;
            log.ahead_max = log.ahead_max.max(chunk_end.saturating_sub(log.end));
            if seen.acknowledges_no_log {
                return Some(Vec::new());
            }
            if std::mem::take(&mut seen.forget_once) {
                return Some(Vec::new());
            }
            if chunk.offset > log.end {
                return Some(vec![CoordinatorMessage::LogAck { attempt, offset: log.end, resend: true }]);
            }
            if chunk_end > log.end {
                let known = usize::try_from(log.end - chunk.offset).unwrap();
                let offset = log.end;
                log.chunks.push(LogChunk { offset, bytes: chunk.bytes[known..].to_vec(), ..chunk });
                log.end = chunk_end;
            }
            if seen.cut_after.is_some_and(|bytes| log.end >= bytes) {
                seen.cut_after = None;
                return None;
            }
            Some(vec![CoordinatorMessage::LogAck { attempt, offset: log.end, resend: false }])
        })
    }
}

async fn register(
    State(coordinator): State<Coordinator>,
    headers: HeaderMap,
) -> Result<(StatusCode, Json<Value>), StatusCode> {
    if coordinator.look(|seen| seen.away) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    if headers.get("authorization").is_none_or(|token| token != format!("Bearer {TOKEN}").as_str()) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    Ok((StatusCode::CREATED, Json(json!({ "credential": CREDENTIAL }))))
}

async fn channel(
    State(coordinator): State<Coordinator>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if coordinator.look(|seen| seen.away) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if headers.get("authorization").is_none_or(|token| token != format!("Bearer {CREDENTIAL}").as_str()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    upgrade.on_upgrade(|socket| coordinator.serve(socket))
}
