//! The runner's side of the channel, over real WebSocket frames. See `connection` of the real runner.

use std::{pin::pin, sync::Arc, time::Duration};

use caisson_protocol::{
    Condition, CoordinatorMessage, FRAME_BYTES_MAX, HeldAttempt, KeepAliveTerms, PROTOCOL_VERSION,
    Registration, RunnerMessage,
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Bytes, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};
use uuid::Uuid;

use super::{
    Wish,
    held::{Builds, Delivery, Stop},
    work::work,
};
use crate::{
    books::Books,
    invariants,
    network::{End, Link},
    plan::StationPlan,
    world::{World, short_attempt},
};

/// How often a runner that was never registered tries, and how long it waits in between.
const ATTEMPTS: u32 = 5;
const DELAY_MS: u64 = 10_000;
/// The first pause before a lost connection is made again, in milliseconds.
const PAUSE_MIN_MS: u64 = 200;
/// How long it may take to connect, register and be answered.
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);
/// How often an end that is not acknowledged is told again.
const REPEAT_EVERY: Duration = Duration::from_secs(5);
/// How often is looked for what is to be repeated.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a runner looks whether it is done.
const DONE_EVERY: Duration = Duration::from_millis(250);
/// How long results have to be delivered when the runner leaves.
const DELIVER_DEADLINE: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<End>;

/// A runner's process.
pub(super) struct Runner {
    pub(super) builds: Arc<Builds>,
    pub(super) link: Arc<Link>,
    pub(super) plan: StationPlan,
    pub(super) instance: Uuid,
}

/// How a connection ended.
enum Ended {
    Done,
    Refused,
    Lost { registered: bool },
}

impl Runner {
    /// Runs until there is nothing more to do, and tells why.
    pub(super) async fn serve(self, wish: watch::Receiver<Wish>) -> &'static str {
        tokio::select! {
            biased;
            why = self.connect() => why,
            () = self.obey(wish) => "left",
            () = work(&self.builds) => "out of work",
        }
    }

    async fn obey(&self, mut wish: watch::Receiver<Wish>) {
        if wish.wait_for(|wish| *wish >= Wish::Drain).await.is_err() {
            return std::future::pending().await;
        }
        self.builds.drain();
        if wish.wait_for(|wish| *wish >= Wish::Leave).await.is_err() {
            return std::future::pending().await;
        }
        self.builds.release_all();
        while !self.builds.is_idle() {
            sleep(Duration::from_millis(50)).await;
        }
        if self.builds.is_connected() {
            sleep(DELIVER_DEADLINE).await;
        }
    }

    async fn connect(&self) -> &'static str {
        let (mut attempts, mut known, mut pause_ms) = (0, false, PAUSE_MIN_MS);
        loop {
            if self.builds.is_done() {
                return "drained";
            }
            let ended = self.connect_once().await;
            self.builds.close_outbox();
            let registered = match ended {
                Ended::Done => return "drained",
                Ended::Refused => return "refused",
                Ended::Lost { registered } => registered,
            };
            attempts += 1;
            if registered {
                (known, pause_ms) = (true, PAUSE_MIN_MS);
            }
            if !known && attempts >= ATTEMPTS {
                return "the coordinator is not there";
            }
            let whole = if known { pause_ms } else { DELAY_MS };
            pause_ms = (pause_ms * 2).min(DELAY_MS);
            sleep(Duration::from_millis(whole - self.builds.dice(0..=whole / 4))).await;
        }
    }

    async fn connect_once(&self) -> Ended {
        let Ok(Ok((socket, terms))) = timeout(REGISTER_DEADLINE, self.register()).await else {
            return Ended::Lost { registered: false };
        };
        self.world().count("connection made");
        self.session(socket, terms).await
    }

    async fn register(&self) -> Result<(Socket, KeepAliveTerms), Ended> {
        let lost = |_: &dyn std::error::Error| Ended::Lost { registered: false };
        let end = self.link.connect(&self.builds.life).await.map_err(|error| lost(&error))?;
        let mut request =
            "ws://coordinator/api/v1/runner/channel".into_client_request().map_err(|error| lost(&error))?;
        let bearer = format!("Bearer {}", crate::credential(&self.plan.name));
        let bearer = bearer.parse().map_err(|_| Ended::Refused)?;
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
        let config = WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .max_message_size(Some(FRAME_BYTES_MAX))
            .max_frame_size(Some(FRAME_BYTES_MAX));
        let (mut socket, _) =
            client_async_with_config(request, end, Some(config)).await.map_err(|error| lost(&error))?;
        let held = self.builds.held();
        let registration = text(&RunnerMessage::Register(self.registration(held.clone())));
        socket.send(registration).await.map_err(|error| lost(&error))?;
        let terms = self.answer(&mut socket, &held).await?;
        Ok((socket, terms))
    }

    fn registration(&self, held: Vec<HeldAttempt>) -> Registration {
        Registration {
            protocol: PROTOCOL_VERSION,
            name: self.plan.name.clone(),
            instance: self.instance,
            labels: crate::people::labels(self.plan.labelled),
            capacity: self.plan.capacity,
            version: "1".into(),
            engine: "none".into(),
            held,
            draining: self.builds.is_draining(),
            condition: Condition::default(),
        }
    }

    async fn answer(&self, socket: &mut Socket, listed: &[HeldAttempt]) -> Result<KeepAliveTerms, Ended> {
        loop {
            let message = match socket.next().await {
                Some(Ok(Message::Text(message))) => message,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                _ => return Err(Ended::Lost { registered: false }),
            };
            return match serde_json::from_str(&message) {
                Ok(CoordinatorMessage::Registered { keep_alive, keep, drop, .. }) => {
                    for attempt in drop {
                        self.check("I7: what is dropped is stale", |books| {
                            invariants::i7_a_dropped_attempt_is_stale(books, attempt)
                        });
                    }
                    self.builds.settle(listed, &keep);
                    if !keep.is_empty() {
                        self.world().count("attempts resumed");
                    }
                    Ok(keep_alive)
                }
                Ok(CoordinatorMessage::Refused { reason, .. }) => {
                    self.world().note(format_args!("{} is refused: {reason:?}", self.builds.name()));
                    Err(Ended::Refused)
                }
                _ => Err(Ended::Lost { registered: false }),
            };
        }
    }

    async fn session(&self, socket: Socket, terms: KeepAliveTerms) -> Ended {
        let (sink, stream) = socket.split();
        let outbox = self.builds.open_outbox();
        let tick = Duration::from_millis(terms.interval_ms);
        let silence = Duration::from_millis(terms.timeout_ms);
        let mut write = pin!(self.write(sink, outbox, tick));
        let ended = tokio::select! {
            biased;
            ended = self.read(stream, silence) => ended,
            () = &mut write => Ended::Lost { registered: true },
            () = self.done() => Ended::Done,
        };
        if matches!(ended, Ended::Done) {
            self.builds.close_outbox();
            let _ = timeout(DELIVER_DEADLINE, write).await;
        }
        ended
    }

    async fn done(&self) {
        while !self.builds.is_done() {
            sleep(DONE_EVERY).await;
        }
    }

    async fn read(&self, mut stream: SplitStream<Socket>, silence: Duration) -> Ended {
        loop {
            let Ok(Some(Ok(message))) = timeout(silence, stream.next()).await else {
                return Ended::Lost { registered: true };
            };
            match message {
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(CoordinatorMessage::Refused { reason, .. }) => {
                        self.world().count("runner superseded");
                        self.world().note(format_args!("{} is refused: {reason:?}", self.builds.name()));
                        return Ended::Refused;
                    }
                    Ok(message) => self.handle(message),
                    Err(error) => self.world().hold("messages can be read", Err(error.to_string())),
                },
                Message::Close(_) => return Ended::Lost { registered: true },
                Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
            }
        }
    }

    fn handle(&self, message: CoordinatorMessage) {
        match message {
            CoordinatorMessage::Assign { attempt, spec, .. } => {
                self.check("I7: what is assigned is committed", |books| {
                    invariants::i7_an_assignment_is_committed(books, attempt)
                });
                self.world().note(format_args!("{} gets {}", self.builds.name(), short_attempt(attempt)));
                self.builds.assign(attempt, spec);
            }
            CoordinatorMessage::Cancel { attempt } => {
                self.check("I7: what is canceled is committed", |books| {
                    invariants::i7_a_canceled_build_is_committed(books, attempt.build)
                });
                self.builds.stop(attempt, Stop::Cancel);
            }
            CoordinatorMessage::Drop { attempt } => {
                self.check("I7: what is dropped is stale", |books| {
                    invariants::i7_a_dropped_attempt_is_stale(books, attempt)
                });
                self.builds.drop_attempt(attempt);
            }
            CoordinatorMessage::LogAck { attempt, offset, resend } => {
                self.builds.acknowledge_log(attempt, offset, resend);
            }
            CoordinatorMessage::FinishedAck { attempt } => {
                self.check("I7: what is acknowledged is committed", |books| {
                    invariants::i7_an_acknowledged_end_is_committed(books, attempt)
                });
                self.builds.acknowledge_finished(attempt);
            }
            CoordinatorMessage::Drain => self.builds.drain(),
            CoordinatorMessage::Registered { .. } | CoordinatorMessage::Refused { .. } => {}
        }
    }

    async fn write(
        &self,
        mut sink: SplitSink<Socket, Message>,
        mut outbox: mpsc::UnboundedReceiver<RunnerMessage>,
        tick: Duration,
    ) {
        let mut tick = interval(tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(messages) = self.next_words(&mut outbox, &mut tick).await {
            for message in messages {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        }
        let _ = sink.close().await;
    }

    /// What is to be written next. `None` when there is nothing more to say.
    async fn next_words(
        &self,
        outbox: &mut mpsc::UnboundedReceiver<RunnerMessage>,
        tick: &mut Interval,
    ) -> Option<Vec<Message>> {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                let keep_alive = RunnerMessage::KeepAlive { held: self.builds.held() };
                Some(vec![text(&keep_alive), Message::Ping(Bytes::new())])
            }
            message = outbox.recv() => message.map(|message| vec![text(&message)]),
            delivery = self.delivery() => Some(vec![delivery]),
        }
    }

    async fn delivery(&self) -> Message {
        loop {
            match self.builds.delivery(REPEAT_EVERY) {
                Some(Delivery::Message(message)) => return text(&message),
                Some(Delivery::Log(frame)) => return Message::binary(frame.encode()),
                None => {
                    let _ = timeout(LOOK_EVERY, self.builds.news.notified()).await;
                }
            }
        }
    }

    fn check(&self, rule: &'static str, holds: impl FnOnce(&Books) -> invariants::Held) {
        let holds = holds(&self.world().books());
        self.world().hold(rule, holds);
    }

    fn world(&self) -> &World {
        &self.builds.world
    }
}

/// A message as it goes over the wire.
fn text(message: &RunnerMessage) -> Message {
    // Every message is made of texts, numbers and lists, all of which JSON has.
    Message::text(serde_json::to_string(message).unwrap_or_default())
}
