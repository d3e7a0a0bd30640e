//! A runner that says what a test has it say.

use caisson_protocol::{
    AttemptId, Condition, CoordinatorMessage, HeldAttempt, HeldPhase, Labels, LogChunk, LogFrame, Outcome,
    PROTOCOL_VERSION, Registration, RunnerMessage, Stream,
};
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest},
};
use uuid::Uuid;

use super::{House, commit, in_time, report};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) struct Runner {
    socket: Socket,
}

/// What a runner called `name` says of itself.
pub(crate) fn registration(name: &str) -> Registration {
    Registration {
        protocol: PROTOCOL_VERSION,
        name: name.into(),
        instance: Uuid::new_v4(),
        labels: Labels::default(),
        capacity: 1,
        version: "1.2.3".into(),
        engine: "test".into(),
        held: Vec::new(),
        draining: false,
        condition: Condition::default(),
    }
}

impl Runner {
    /// Opens a WebSocket as whoever has this token.
    pub(crate) async fn dial(house: &House, path: &str, token: &str) -> Result<Socket, tungstenite::Error> {
        Self::dial_as(house, path, "authorization", &format!("Bearer {token}")).await
    }

    /// Opens a WebSocket as whoever sends this header.
    pub(crate) async fn dial_as(
        house: &House,
        path: &str,
        header: &'static str,
        value: &str,
    ) -> Result<Socket, tungstenite::Error> {
        let mut request = format!("ws://{}{path}", house.address).into_client_request()?;
        request.headers_mut().insert(header, value.parse().unwrap());
        in_time("a WebSocket", tokio_tungstenite::connect_async(request)).await.map(|(socket, _)| socket)
    }

    /// Connects with the credential of the runner of this name, and says nothing.
    pub(crate) async fn connect(house: &House, name: &str) -> Self {
        let credential = house.credential(name).await;
        let socket = Self::dial(house, "/api/v1/runner/channel", &credential).await.unwrap();
        Self { socket }
    }

    /// Connects, registers, and gives what it is answered.
    pub(crate) async fn register(house: &House, registration: Registration) -> (Self, CoordinatorMessage) {
        let mut runner = Self::connect(house, &registration.name).await;
        runner.say(RunnerMessage::Register(registration)).await;
        let answer = runner.hear().await;
        (runner, answer)
    }

    /// A runner of one build at a time that is registered.
    pub(crate) async fn named(house: &House, name: &str) -> Self {
        let (runner, answer) = Self::register(house, registration(name)).await;
        assert!(matches!(answer, CoordinatorMessage::Registered { .. }), "{answer:?}");
        runner
    }

    /// Comes back as the process it was, with what it holds.
    pub(crate) async fn resume(house: &House, said: &Registration, held: &[(AttemptId, HeldPhase)]) -> Self {
        let held =
            held.iter().map(|(attempt, phase)| HeldAttempt { attempt: *attempt, phase: *phase }).collect();
        let (runner, answer) = Self::register(house, Registration { held, ..said.clone() }).await;
        assert!(matches!(answer, CoordinatorMessage::Registered { .. }), "{answer:?}");
        runner
    }

    pub(crate) async fn say(&mut self, message: RunnerMessage) {
        self.send_text(&message).await;
    }

    pub(crate) async fn send_text(&mut self, message: &impl Serialize) {
        self.send(Message::text(serde_json::to_string(message).unwrap())).await;
    }

    /// Sends whatever it is. A connection that is gone shows where something is heard.
    pub(crate) async fn send(&mut self, message: Message) {
        let _ = in_time("sending", self.socket.send(message)).await;
    }

    /// The next message, or nothing when the connection has ended.
    pub(crate) async fn hear_or_end(&mut self) -> Option<CoordinatorMessage> {
        in_time("a message from the coordinator", self.next()).await
    }

    async fn next(&mut self) -> Option<CoordinatorMessage> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(other)) => panic!("unexpected: {other:?}"),
            }
        }
    }

    pub(crate) async fn hear(&mut self) -> CoordinatorMessage {
        self.hear_or_end().await.expect("the connection ended")
    }

    /// The next message that is not merely word of how far a log has come in.
    pub(crate) async fn hear_word(&mut self) -> CoordinatorMessage {
        loop {
            let message = self.hear().await;
            if !matches!(message, CoordinatorMessage::LogAck { resend: false, .. }) {
                return message;
            }
        }
    }

    pub(crate) async fn is_cut_off(&mut self) {
        while self.hear_or_end().await.is_some() {}
    }

    /// Waits to be given a build.
    pub(crate) async fn assigned(&mut self) -> AttemptId {
        match self.hear_word().await {
            CoordinatorMessage::Assign { attempt, .. } => attempt,
            other => panic!("expected an assignment, heard {other:?}"),
        }
    }

    /// Accepts what it is given, and begins to run it.
    pub(crate) async fn runs(&mut self) -> AttemptId {
        let attempt = self.assigned().await;
        self.say(RunnerMessage::Accepted { attempt }).await;
        let image_digest = Some("sha256:feed".into());
        self.say(RunnerMessage::Started { attempt, resolved_commit: commit(), image_digest }).await;
        attempt
    }

    pub(crate) async fn writes(&mut self, attempt: AttemptId, offset: u64, bytes: &[u8]) {
        self.writes_to(Stream::Stdout, attempt, offset, bytes).await;
    }

    pub(crate) async fn writes_to(&mut self, stream: Stream, attempt: AttemptId, offset: u64, bytes: &[u8]) {
        let chunk = LogChunk { offset, stream, time_ms: 1_700_000_000_000, bytes: bytes.to_vec() };
        self.send(Message::binary(LogFrame { attempt, chunk }.encode())).await;
    }

    /// Waits until the log is acknowledged up to `offset`.
    pub(crate) async fn is_acknowledged(&mut self, attempt: AttemptId, offset: u64) {
        loop {
            let heard = self.hear().await;
            if heard == (CoordinatorMessage::LogAck { attempt, offset, resend: false }) {
                return;
            }
            let earlier = matches!(heard, CoordinatorMessage::LogAck { resend: false, .. });
            assert!(earlier, "expected the log up to {offset} to be acknowledged, heard {heard:?}");
        }
    }

    /// Reports an end, and waits until that is committed.
    pub(crate) async fn finishes(&mut self, attempt: AttemptId, outcome: Outcome, log_bytes: u64) {
        self.say(RunnerMessage::Finished { attempt, report: report(outcome, log_bytes) }).await;
        assert_eq!(self.hear_word().await, CoordinatorMessage::FinishedAck { attempt });
    }

    /// Reports the end of an attempt that is not its own: it is told to drop it.
    pub(crate) async fn finishes_anothers(&mut self, attempt: AttemptId, outcome: Outcome) {
        self.say(RunnerMessage::Finished { attempt, report: report(outcome, 0) }).await;
        assert_eq!(self.hear_word().await, CoordinatorMessage::Drop { attempt });
    }

    pub(crate) async fn keeps_alive(&mut self, held: &[(AttemptId, HeldPhase)]) {
        let held =
            held.iter().map(|(attempt, phase)| HeldAttempt { attempt: *attempt, phase: *phase }).collect();
        self.say(RunnerMessage::KeepAlive { held }).await;
    }

    pub(crate) async fn drains(&mut self, held: &[(AttemptId, HeldPhase)]) {
        let held =
            held.iter().map(|(attempt, phase)| HeldAttempt { attempt: *attempt, phase: *phase }).collect();
        self.say(RunnerMessage::Draining { held }).await;
    }
}
