//! Somebody between a runner and the coordinator who speaks WebSocket to both, and doubles messages, lets one overtake
//! another, or loses some. TCP does none of that; a protocol that stands it relies on less than it is given.

use std::{sync::Arc, time::Duration};

use caisson_protocol::{CoordinatorMessage, RunnerMessage};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::HeaderMap;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        handshake::server::{Request, Response},
    },
};

use super::{Door, End, Link};
use crate::{dice::Dice, life::Life, world::World};

/// How long a message is held at most.
const HELD_MAX: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<End>;

/// Somebody in between.
pub struct Mischief {
    world: Arc<World>,
    name: String,
    life: Arc<Life>,
    /// Nothing goes wrong behind.
    onward: Arc<Link>,
}

impl Mischief {
    /// Somebody in between a runner and the coordinator, in worlds where there is.
    pub fn begin(world: &Arc<World>, name: &str, door: Arc<dyn Door>) -> Option<Arc<Self>> {
        let onward = Link::new(door, world.dice.of("mischief"), 0, None);
        (world.plan.mischief_percent > 0).then(|| {
            Arc::new(Self { world: Arc::clone(world), name: name.to_owned(), life: Life::new(), onward })
        })
    }

    pub(super) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    pub(super) fn accept(self: &Arc<Self>, end: End) {
        tokio::spawn(Arc::clone(self).relay(end));
    }

    async fn relay(self: Arc<Self>, end: End) {
        let Some((runner, coordinator)) = self.shake_hands(end).await else { return };
        let (to_runner, from_runner) = runner.split();
        let (to_coordinator, from_coordinator) = coordinator.split();
        let there = Relay::new(&self, "there", is_lossy_there);
        let back = Relay::new(&self, "back", is_lossy_back);
        tokio::select! {
            biased;
            () = there.pass_on(from_runner, to_coordinator) => {}
            () = back.pass_on(from_coordinator, to_runner) => {}
        }
    }

    // What the library wants to be given has a large error.
    #[allow(clippy::result_large_err)]
    async fn shake_hands(&self, end: End) -> Option<(Socket, Socket)> {
        let mut headers = HeaderMap::new();
        let seen = |request: &Request, response: Response| {
            headers.clone_from(request.headers());
            Ok(response)
        };
        let runner = accept_hdr_async(end, seen).await.ok()?;
        let onward = self.onward.connect(&self.life).await.ok()?;
        let mut request = "ws://coordinator/api/v1/runner/channel".into_client_request().ok()?;
        let bearer = headers.remove(http::header::AUTHORIZATION)?;
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
        let (coordinator, _) = client_async(request, onward).await.ok()?;
        Some((runner, coordinator))
    }
}

/// One direction.
struct Relay {
    world: Arc<World>,
    dice: Dice,
    /// Whether a message may get lost: it is said again, or somebody notices.
    is_lossy: fn(&Message) -> bool,
    /// The first message on a connection is what it is about.
    greeted: bool,
    /// Messages that others overtake, and until when at most.
    held: Vec<(Instant, Message)>,
}

impl Relay {
    fn new(mischief: &Mischief, way: &str, is_lossy: fn(&Message) -> bool) -> Self {
        let world = Arc::clone(&mischief.world);
        let dice = world.dice.of(&format!("mischief {} {way} {}", mischief.name, world.now_ms()));
        Self { world, dice, is_lossy, greeted: false, held: Vec::new() }
    }

    async fn pass_on(mut self, mut from: SplitStream<Socket>, mut to: SplitSink<Socket, Message>) {
        loop {
            let until = self.held.first().map(|(until, _)| *until);
            let wait = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let messages = tokio::select! {
                biased;
                next = from.next() => match next {
                    Some(Ok(message)) => self.treat(message),
                    Some(Err(_)) | None => break,
                },
                () = wait => self.held.drain(..).map(|(_, message)| message).collect(),
            };
            for message in messages {
                if to.send(message).await.is_err() {
                    return;
                }
            }
        }
        let _ = to.close().await;
    }

    /// What is passed on in place of a message, and of those held before.
    fn treat(&mut self, message: Message) -> Vec<Message> {
        let is_ours = matches!(message, Message::Text(_) | Message::Binary(_));
        let treated = is_ours && self.greeted && !self.world.is_peaceful();
        self.greeted |= is_ours;
        if !treated || !self.dice.percent(self.world.plan.mischief_percent) {
            let held = std::mem::take(&mut self.held).into_iter().map(|(_, message)| message);
            return std::iter::once(message).chain(held).collect();
        }
        let until = Instant::now() + Duration::from_millis(self.dice.within(0..=5)) * 1000;
        match self.dice.within(0..=3) {
            0 => {
                self.world.count("message doubled");
                vec![message.clone(), message]
            }
            1 => {
                self.world.count("message doubled later");
                self.held.push((until, message.clone()));
                vec![message]
            }
            2 if (self.is_lossy)(&message) => {
                self.world.count("message lost");
                Vec::new()
            }
            _ => {
                self.world.count("message overtaken");
                self.held.push((until.min(Instant::now() + HELD_MAX), message));
                Vec::new()
            }
        }
    }
}

fn is_lossy_there(message: &Message) -> bool {
    let Message::Text(text) = message else { return false };
    matches!(
        serde_json::from_str(text),
        Ok(RunnerMessage::KeepAlive { .. }
            | RunnerMessage::Accepted { .. }
            | RunnerMessage::Started { .. }
            | RunnerMessage::Finished { .. }
            | RunnerMessage::Cleaned { .. })
    )
}

fn is_lossy_back(message: &Message) -> bool {
    let Message::Text(text) = message else { return false };
    matches!(
        serde_json::from_str(text),
        Ok(CoordinatorMessage::Assign { .. }
            | CoordinatorMessage::Cancel { .. }
            | CoordinatorMessage::Drop { .. }
            | CoordinatorMessage::FinishedAck { .. })
    )
}
