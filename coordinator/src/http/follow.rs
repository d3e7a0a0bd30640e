//! Following a build's log while it is written.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::Response,
};
use caisson_protocol::{AttemptId, BuildId, LogChunk, Status, Stream};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    access::Caller,
    log::which_attempt,
    person::{Parameters, find},
    problem::{Problem, ProblemDocument},
};
use crate::store::{BuildKey, BuildRecord};

/// How much of a log is read at once, in bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// How long a viewer may take to read what it is sent before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent stream says that it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Where to begin.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    /// The offset in the attempt's log to begin at, in bytes.
    #[serde(default)]
    from: u64,
    /// Only this attempt; the latest, and those that come after it, when it is left out.
    attempt: Option<u32>,
}

/// What a followed log says in text frames. The bytes come in binary frames: stream (1 byte: 1 stdout, 2 stderr,
/// 3 caisson), offset (8 bytes), time in milliseconds since 1970 (8 bytes), all big-endian, then the bytes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum LogMessage {
    /// What follows is the log of this attempt.
    Attempt {
        /// Its number.
        number: u32,
    },
    /// The log is complete.
    End {
        /// Where the build stands.
        status: Status,
    },
}

/// Follows a build's log over WebSocket: all from an offset on, then live until the build ends.
#[utoipa::path(
    get,
    path = "/builds/{id}/log/stream",
    operation_id = "follow_log",
    params(("id" = String, Path, description = "The build's id or number"), StreamQuery),
    responses(
        (status = 101, description = "A WebSocket with `LogMessage`s in text frames and log bytes in binary frames"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Parameters<StreamQuery>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let build = find(&app, &id).await?;
    which_attempt(&build, query.0.attempt)?;
    let mut follower = Follower::new(Arc::clone(&app), build.id, query.0.attempt);
    follower.offset = query.0.from;
    Ok(upgrade.on_upgrade(move |socket| {
        let stopping = app.stopping.clone();
        app.followers.track_future(async move {
            tokio::select! {
                biased;
                () = send(socket, follower) => {}
                () = stopping.cancelled() => {}
                () = caller.dismissed() => {}
            }
        })
    }))
}

async fn send(mut socket: WebSocket, mut follower: Follower) {
    loop {
        let messages = tokio::select! {
            biased;
            next = follower.next() => match next {
                Ok(Followed::Attempt(number)) => vec![text_frame(&LogMessage::Attempt { number })],
                Ok(Followed::Chunks(chunks)) => chunks.iter().map(binary_frame).collect(),
                Ok(Followed::End(status)) => {
                    let _ = socket.send(text_frame(&LogMessage::End { status })).await;
                    return;
                }
                Err(_) => return,
            },
            // Viewers say nothing; what they send is read so that their going away is seen.
            heard = socket.recv() => match heard {
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep(PING_EVERY) => vec![Message::Ping(Bytes::new())],
        };
        for message in messages {
            match tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

fn text_frame(message: &LogMessage) -> Message {
    Message::Text(serde_json::to_string(message).unwrap_or_default().into())
}

fn binary_frame(chunk: &LogChunk) -> Message {
    let mut frame = Vec::with_capacity(17 + chunk.bytes.len());
    frame.push(chunk.stream.code());
    frame.extend_from_slice(&chunk.offset.to_be_bytes());
    frame.extend_from_slice(&chunk.time_ms.to_be_bytes());
    frame.extend_from_slice(&chunk.bytes);
    Message::Binary(frame.into())
}

/// The same as plain text, for terminals. It ends well only when the log has: a reader whose log was cut off by the
/// coordinator's own end sees that.
pub(super) fn text(
    app: Arc<App>,
    caller: Caller,
    build: &BuildRecord,
    attempt: Option<u32>,
    wanted: Option<Stream>,
) -> Body {
    let follower = Follower::new(app, build.id, attempt);
    Body::from_stream(stream::unfold(Some((follower, caller)), move |reader| async move {
        let (mut follower, caller) = reader?;
        loop {
            let next = match next_or_end(&mut follower, &caller).await {
                Ok(next) => next,
                Err(why) => return Some((Err(std::io::Error::other(why)), None)),
            };
            let piece = match next {
                // The first attempt needs no heading.
                Followed::Attempt(1) => continue,
                Followed::Attempt(number) => format!("--- attempt {number} ---\n").into_bytes(),
                Followed::Chunks(chunks) => text_of(chunks, wanted),
                Followed::End(_) => return None,
            };
            if !piece.is_empty() {
                return Some((Ok(Bytes::from(piece)), Some((follower, caller))));
            }
        }
    }))
}

async fn next_or_end(follower: &mut Follower, caller: &Caller) -> Result<Followed, &'static str> {
    let stopping = follower.app.stopping.clone();
    tokio::select! {
        biased;
        next = follower.next() => next.map_err(|_| "the log can't be read"),
        () = stopping.cancelled() => Err("the coordinator stops"),
        () = caller.dismissed() => Err("who follows it is not let in any more"),
    }
}

fn text_of(chunks: Vec<LogChunk>, wanted: Option<Stream>) -> Vec<u8> {
    let chunks = chunks.into_iter().filter(|chunk| wanted.is_none_or(|wanted| wanted == chunk.stream));
    chunks.flat_map(|chunk| chunk.bytes).collect()
}

/// What comes next in a followed log.
enum Followed {
    /// What follows is the log of this attempt.
    Attempt(u32),
    /// More of it.
    Chunks(Vec<LogChunk>),
    /// There is no more, and never will be.
    End(Status),
}

/// Somebody's place in a build's log.
struct Follower {
    app: Arc<App>,
    build: BuildId,
    /// The only attempt to follow, if it is one.
    only: Option<u32>,
    /// The attempt being read, once there is one.
    attempt: Option<u32>,
    offset: u64,
    changed: watch::Receiver<()>,
}

impl Follower {
    fn new(app: Arc<App>, build: BuildId, only: Option<u32>) -> Self {
        let changed = app.watch.follow(build);
        Self { app, build, only, attempt: None, offset: 0, changed }
    }

    async fn next(&mut self) -> Result<Followed, Problem> {
        loop {
            if let Some(chunks) = self.read().await? {
                return Ok(Followed::Chunks(chunks));
            }
            // Marked as seen before looking, so that what happens while we look wakes us again.
            self.changed.borrow_and_update();
            let build = self.app.store.build(BuildKey::Id(self.build)).await?;
            let build = build.ok_or_else(|| Problem::missing("the build is gone"))?;
            // An attempt is over only after all of its log is here, so reading comes after asking.
            if let Some(chunks) = self.read().await? {
                return Ok(Followed::Chunks(chunks));
            }
            if let Some(next) = self.next_attempt(&build) {
                return Ok(Followed::Attempt(next));
            }
            if self.is_over(&build) {
                return Ok(Followed::End(build.status));
            }
            if self.changed.changed().await.is_err() {
                return Ok(Followed::End(build.status));
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Vec<LogChunk>>, Problem> {
        let Some(number) = self.attempt else { return Ok(None) };
        let attempt = AttemptId { build: self.build, number };
        let chunks = self.app.logs.read(attempt, self.offset, PIECE_BYTES).await?;
        self.offset += chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum::<u64>();
        Ok((!chunks.is_empty()).then_some(chunks))
    }

    /// Goes to the first attempt, or from one that is over to the one after it.
    fn next_attempt(&mut self, build: &BuildRecord) -> Option<u32> {
        let next = match (self.attempt, self.only) {
            (None, Some(only)) => Some(only),
            (None, None) => build.attempts.last().map(|attempt| attempt.number),
            (Some(_), Some(_)) => None,
            (Some(current), None) => {
                build.attempts.iter().map(|attempt| attempt.number).find(|next| *next > current)
            }
        }?;
        if self.attempt.is_some() {
            self.offset = 0;
        }
        self.attempt = Some(next);
        Some(next)
    }

    fn is_over(&self, build: &BuildRecord) -> bool {
        let over = |only: u32| {
            build.attempts.iter().any(|attempt| attempt.number == only && attempt.result.is_some())
        };
        build.status.is_terminal() || self.only.is_some_and(over)
    }
}
