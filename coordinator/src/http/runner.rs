//! The channel: one WebSocket for each runner.
//!
//! It passes on what the runner says to the dispatcher, takes in its logs, and passes back what the dispatcher says.
//! The attempts that this connection may write logs of are those that it was given on this connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::Response,
    routing::get,
};
use caisson_protocol::{
    AttemptId, AttemptReport, Condition, CoordinatorMessage, FRAME_BYTES_MAX, HELD_MAX, LogFrame,
    PROTOCOL_VERSION, Refusal, Registration, RunnerId, RunnerMessage,
};
use caisson_scheduler::{RunnerEvent, SessionId};
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use super::{
    App,
    access::{RunnerCaller, ended},
    enrolment::wrong_with_runner_name,
};
use crate::{
    access::{
        Access, CredentialEnd, CredentialStanding,
        audit::{Action, Actor, ActorKind, Entry},
    },
    clock::now_ms,
    dispatcher::{Said, Unavailable},
    logs::LogError,
};

/// How long a connection may take to say who it is.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a runner may take to read what it is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How many messages may wait for a runner: at its largest capacity, an assignment, a cancel and an acknowledgement each.
const LINE_MAX: usize = 4096;
/// After how many bytes of log, at the latest, they are acknowledged.
const ACK_BYTES: u64 = 256 * 1024;
/// How often a stream of log frames is passed on as a sign of life.
const HEARD_EVERY: Duration = Duration::from_millis(100);
/// The most builds a runner may run at once.
const CAPACITY_MAX: u32 = 1024;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/api/v1/runner/channel", get(channel))
}

async fn channel(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<RunnerCaller>,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade
        .max_message_size(FRAME_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .read_buffer_size(16 * 1024)
        .on_upgrade(move |socket| {
            let (stopping, followers) = (app.stopping.clone(), app.followers.clone());
            followers.track_future(async move {
                tokio::select! {
                    biased;
                    () = serve(app, caller, socket) => {}
                    () = stopping.cancelled() => {}
                }
            })
        })
}

/// Why a connection ends from this side.
enum End {
    /// The runner is gone, or the coordinator is stopping.
    Gone,
    /// What the runner says can't be understood.
    Nonsense(String),
    /// A log could not be written. The runner keeps what it has, and tries again on a new connection.
    Log(LogError),
}

impl From<Unavailable> for End {
    fn from(_: Unavailable) -> Self {
        Self::Gone
    }
}

async fn serve(app: Arc<App>, caller: RunnerCaller, mut socket: WebSocket) {
    let registered = registration(&mut socket, &caller.name);
    let registration = match tokio::time::timeout(REGISTER_TIMEOUT, registered).await {
        Ok(Ok(registration)) => registration,
        Ok(Err(Some((reason, message)))) => {
            warn!("runner {} is refused: {message}", caller.name);
            let actor = Actor::new(ActorKind::Runner, &caller.name);
            let from = Some(caller.from.to_string());
            let entry = Entry::new(now_ms(), actor, from, Action::RunnerRefused, &caller.name);
            app.access.note(entry.with(&message));
            let _ = socket.send(text(&CoordinatorMessage::Refused { reason, message })).await;
            return;
        }
        Ok(Err(None)) | Err(_) => return,
    };
    let (line, said) = mpsc::channel(LINE_MAX);
    let revoked = end_when_revoked(Arc::clone(&app.access), caller, line.clone());
    let Ok(session) = app.dispatcher.connect(line.clone()).await else { return };
    let name = registration.name.clone();
    let (sink, stream) = socket.split();
    let leases = Arc::new(Leases::default());
    let mut connection = Connection {
        app,
        session,
        line,
        leases: Arc::clone(&leases),
        acks: BTreeMap::new(),
        heard: Instant::now(),
    };
    info!("runner {name} connected");
    let ended = tokio::select! {
        biased;
        ended = connection.listen(registration, stream) => ended,
        () = speak(sink, said, leases) => End::Gone,
        () = revoked => End::Gone,
    };
    match ended {
        End::Gone => info!("runner {name} disconnected"),
        End::Nonsense(what) => {
            warn!("runner {name} is cut off, since it says what can't be understood: {what}");
        }
        End::Log(error) => warn!("runner {name} is cut off, since its log can't be written: {error}"),
    }
    let _ = connection.app.dispatcher.runner(session, RunnerEvent::Disconnected).await;
}

/// Tells a runner when its credential is taken from it, and ends when it has had the time to read that.
async fn end_when_revoked(access: Arc<Access>, caller: RunnerCaller, line: mpsc::Sender<Said>) {
    let mut roll = access.follow();
    let revoked = roll.wait_for(|roll| {
        roll.credential(caller.credential) != CredentialStanding::Opens(caller.name.clone())
    });
    let end = match revoked.await.map(|roll| roll.credential(caller.credential)) {
        Ok(CredentialStanding::Ended(end)) => end,
        _ => CredentialEnd::Revoked,
    };
    warn!("runner {} is cut off, since its credential has ended", caller.name);
    let message = ended(end).to_owned();
    let refused = CoordinatorMessage::Refused { reason: Refusal::CredentialRevoked, message };
    let _ = line.try_send(Said::Message(refused));
    let _ = line.try_send(Said::Close);
    tokio::time::sleep(SEND_TIMEOUT).await;
}

/// The attempts whose logs a connection may write. Shared by the two directions: what is said to the runner decides.
#[derive(Default)]
struct Leases(Mutex<BTreeSet<AttemptId>>);

impl Leases {
    fn has(&self, attempt: AttemptId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&attempt)
    }

    fn note(&self, message: &CoordinatorMessage) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            CoordinatorMessage::Registered { keep, .. } => attempts.extend(keep),
            CoordinatorMessage::Assign { attempt, .. } => {
                attempts.insert(*attempt);
            }
            CoordinatorMessage::Drop { attempt } | CoordinatorMessage::FinishedAck { attempt } => {
                attempts.remove(attempt);
            }
            CoordinatorMessage::Refused { .. }
            | CoordinatorMessage::Cancel { .. }
            | CoordinatorMessage::LogAck { .. }
            | CoordinatorMessage::Drain => {}
        }
    }
}

/// Passes on what is said to the runner, in order.
async fn speak(mut sink: SplitSink<WebSocket, Message>, mut said: mpsc::Receiver<Said>, leases: Arc<Leases>) {
    while let Some(Said::Message(message)) = said.recv().await {
        leases.note(&message);
        match tokio::time::timeout(SEND_TIMEOUT, sink.send(text(&message))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _ = tokio::time::timeout(SEND_TIMEOUT, sink.close()).await;
}

/// One direction of a connection: what the runner says.
struct Connection {
    app: Arc<App>,
    session: SessionId,
    line: mpsc::Sender<Said>,
    leases: Arc<Leases>,
    /// Bytes of log that came in and were not acknowledged yet, by attempt: the log's end, and how many.
    acks: BTreeMap<AttemptId, (u64, u64)>,
    /// When the dispatcher last heard of a sign of life.
    heard: Instant,
}

impl Connection {
    async fn listen(&mut self, registration: Registration, mut stream: SplitStream<WebSocket>) -> End {
        let runner = RunnerId::of_name(&registration.name);
        if let Err(end) = self.pass(RunnerEvent::Register { runner, registration }).await {
            return end;
        }
        loop {
            // What has come in is taken in first, and then acknowledged together.
            let next = match stream.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.acknowledge_all();
                    stream.next().await
                }
            };
            let taken = match next {
                Some(Ok(Message::Text(text))) => self.message(&text).await,
                Some(Ok(Message::Binary(frame))) => self.log(&frame).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.sign_of_life().await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    async fn message(&mut self, text: &str) -> Result<(), End> {
        let message = serde_json::from_str(text).map_err(|error| End::Nonsense(error.to_string()))?;
        match message {
            RunnerMessage::Register(_) => Err(End::Nonsense("it registers twice".into())),
            RunnerMessage::KeepAlive { held } | RunnerMessage::Draining { held } if held.len() > HELD_MAX => {
                Err(End::Nonsense(format!("it lists more than {HELD_MAX} attempts")))
            }
            RunnerMessage::KeepAlive { held } => self.pass(RunnerEvent::KeepAlive { held }).await,
            RunnerMessage::Accepted { attempt } => self.pass(RunnerEvent::Accepted { attempt }).await,
            RunnerMessage::Started { attempt, resolved_commit, image_digest } => {
                self.pass(RunnerEvent::Started { attempt, resolved_commit, image_digest }).await
            }
            RunnerMessage::Finished { attempt, report } => self.finished(attempt, report).await,
            RunnerMessage::Cleaned { attempt, cleanup_ms } => {
                self.pass(RunnerEvent::Cleaned { attempt, cleanup_ms }).await
            }
            RunnerMessage::Condition(condition) => match wrong_with_condition(&condition) {
                None => self.pass(RunnerEvent::Condition(condition)).await,
                Some(wrong) => Err(End::Nonsense(wrong)),
            },
            RunnerMessage::Draining { held } => self.pass(RunnerEvent::Draining { held }).await,
            RunnerMessage::Released { attempt } => self.pass(RunnerEvent::Released { attempt }).await,
        }
    }

    /// An attempt's end is passed on after all of its log is here and durable.
    async fn finished(&mut self, attempt: AttemptId, report: AttemptReport) -> Result<(), End> {
        if self.leases.has(attempt) {
            // Before its end is looked at: a log that has lost its index is begun anew.
            self.app.logs.seal(attempt).await.map_err(End::Log)?;
            let end = self.app.logs.end(attempt).await.map_err(End::Log)?;
            if end < report.log_bytes {
                self.say(CoordinatorMessage::LogAck { attempt, offset: end, resend: true });
                return self.sign_of_life().await;
            }
        }
        self.pass(RunnerEvent::Finished { attempt, report }).await
    }

    async fn log(&mut self, frame: &[u8]) -> Result<(), End> {
        let LogFrame { attempt, chunk } =
            LogFrame::decode(frame).map_err(|error| End::Nonsense(error.to_string()))?;
        if !self.leases.has(attempt) {
            self.say(CoordinatorMessage::Drop { attempt });
            return self.sign_of_life().await;
        }
        let bytes = chunk.bytes.len() as u64;
        match self.app.logs.append(attempt, chunk).await {
            Ok(end) => {
                self.app.metrics.log_bytes.inc_by(bytes);
                self.app.watch.notify(attempt.build);
                let (known, pending) = self.acks.entry(attempt).or_default();
                *known = end;
                *pending += bytes;
                if *pending >= ACK_BYTES {
                    self.acknowledge_all();
                }
            }
            Err(LogError::Gap { end }) => {
                self.acks.remove(&attempt);
                self.say(CoordinatorMessage::LogAck { attempt, offset: end, resend: true });
            }
            Err(error) => return Err(End::Log(error)),
        }
        self.sign_of_life().await
    }

    fn acknowledge_all(&mut self) {
        for (attempt, (offset, _)) in std::mem::take(&mut self.acks) {
            self.say(CoordinatorMessage::LogAck { attempt, offset, resend: false });
        }
    }

    async fn sign_of_life(&mut self) -> Result<(), End> {
        if self.heard.elapsed() < HEARD_EVERY {
            return Ok(());
        }
        self.pass(RunnerEvent::Heard).await
    }

    async fn pass(&mut self, event: RunnerEvent) -> Result<(), End> {
        self.heard = Instant::now();
        Ok(self.app.dispatcher.runner(self.session, event).await?)
    }

    /// Says something on this connection. A line that is full belongs to a runner that does not read: it is cut off.
    fn say(&self, message: CoordinatorMessage) {
        if self.line.try_send(Said::Message(message)).is_err() {
            warn!("a runner does not read what it is told");
        }
    }
}

/// The first message on a connection. `Err` holds why the runner is refused, if there is somebody to tell.
async fn registration(socket: &mut WebSocket, name: &str) -> Result<Registration, Option<(Refusal, String)>> {
    let first = loop {
        match socket.recv().await {
            Some(Ok(Message::Text(text))) => break text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return Err(None),
        }
    };
    let refuse = |reason, message: String| Err(Some((reason, message)));
    // The version comes first: all else may look different in another one.
    if let Some(theirs) = spoken_version(&first)
        && theirs != PROTOCOL_VERSION
    {
        let message = format!(
            "the coordinator speaks version {PROTOCOL_VERSION} of the protocol, the runner version {theirs}: install \
             the same release on both"
        );
        return refuse(Refusal::IncompatibleVersion, message);
    }
    match serde_json::from_str(&first) {
        Ok(RunnerMessage::Register(registration)) if registration.name != name => {
            let message = format!(
                "this credential is for a runner {name:?}, and {:?} is another: remove the file `credential` in its \
                 work_dir, and it registers anew",
                registration.name
            );
            refuse(Refusal::ForeignName, message)
        }
        Ok(RunnerMessage::Register(registration)) => match wrong_with(&registration) {
            None => Ok(registration),
            Some(wrong) => refuse(Refusal::InvalidRegistration, wrong),
        },
        Ok(_) => refuse(Refusal::InvalidRegistration, "the first message must be `register`".into()),
        Err(error) => refuse(Refusal::InvalidRegistration, error.to_string()),
    }
}

fn spoken_version(text: &str) -> Option<u32> {
    let message: serde_json::Value = serde_json::from_str(text).ok()?;
    message.get("protocol")?.as_u64().and_then(|version| u32::try_from(version).ok())
}

fn wrong_with(registration: &Registration) -> Option<String> {
    if let Some(wrong) = wrong_with_runner_name(&registration.name) {
        return Some(format!("`name`: {wrong}"));
    }
    if !(1..=CAPACITY_MAX).contains(&registration.capacity) {
        return Some(format!("`capacity`: found {}, expected 1 to {CAPACITY_MAX}", registration.capacity));
    }
    if registration.held.len() > HELD_MAX {
        return Some(format!("`held`: more than {HELD_MAX} attempts"));
    }
    if registration.version.len() > 256 || registration.engine.len() > 256 {
        return Some("`version`, `engine`: longer than 256 bytes".into());
    }
    wrong_with_condition(&registration.condition)
}

fn wrong_with_condition(condition: &Condition) -> Option<String> {
    let long = condition.unhealthy.as_ref().is_some_and(|why| why.len() > Condition::UNHEALTHY_BYTES_MAX);
    long.then(|| format!("`unhealthy`: longer than {} bytes", Condition::UNHEALTHY_BYTES_MAX))
}

fn text(message: &CoordinatorMessage) -> Message {
    // These types have no map with other keys than text, which is all that can fail.
    Message::Text(serde_json::to_string(message).unwrap_or_default().into())
}
