//! One live connection: what comes in, what goes out, and how it ends.
//!
//! Three things go on at once, none of which can hold up another: reading, writing (with the sign of life), and
//! shipping what is delivered from disk. None of them blocks a thread.

use std::{pin::pin, sync::Arc, time::Duration};

use caisson_protocol::{CoordinatorMessage, HeldAttempt, KeepAliveTerms, Refusal, RunnerMessage};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tracing::{info, warn};

use super::{
    dial::{Socket, text},
    shipping,
};
use crate::{
    builds::{Builds, Stage},
    spool::Assignment,
};

/// How many frames of log may wait to be written.
const FRAMES_WAITING_MAX: usize = 4;
/// The shortest interval of keep-alives; a coordinator that names none can't make us spin.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// How long the last words may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// How a connection ended.
pub(super) enum Ended {
    /// The runner has drained, and said all it had to say.
    Done,
    /// The coordinator does not want this runner.
    Refused { reason: Refusal, message: String },
    /// It broke.
    Lost(String),
}

/// Runs a registered connection to its end.
pub(super) async fn run(socket: Socket, terms: KeepAliveTerms, builds: &Arc<Builds>) -> Ended {
    let (sink, stream) = socket.split();
    let outbox = builds.outbox().open();
    say_what_is_true(builds);
    let (frames, waiting) = mpsc::channel(FRAMES_WAITING_MAX);

    let mut write = pin!(write(sink, outbox, waiting, terms, builds));
    let ended = tokio::select! {
        ended = read(stream, terms, builds) => ended,
        error = &mut write => Ended::Lost(error),
        error = shipping::run(builds, frames) => Ended::Lost(error),
        () = builds.done() => Ended::Done,
    };
    if matches!(ended, Ended::Done) {
        builds.outbox().close();
        let _ = timeout(CLOSE_DEADLINE, write).await;
    }
    ended
}

/// Says again what an earlier connection may not have carried, and what has become true since this one registered.
fn say_what_is_true(builds: &Builds) {
    if builds.is_draining() {
        builds.outbox().say(RunnerMessage::Draining { held: builds.list() });
    }
    builds.host().health.tell(builds.outbox());
    for attempt in builds.held() {
        attempt.begin_delivery();
        if let Stage::Running { resolved_commit, image_digest } = attempt.stage() {
            builds.outbox().say(RunnerMessage::Started {
                attempt: attempt.id(),
                resolved_commit,
                image_digest,
            });
        }
    }
}

async fn read(mut stream: SplitStream<Socket>, terms: KeepAliveTerms, builds: &Arc<Builds>) -> Ended {
    // Each ping is answered, so a connection on which nothing comes for this long is dead.
    let silence_max = Duration::from_millis(terms.timeout_ms).max(2 * INTERVAL_MIN);
    loop {
        let message = match timeout(silence_max, stream.next()).await {
            Err(_) => return Ended::Lost(format!("nothing was heard for {} ms", silence_max.as_millis())),
            Ok(None) => return Ended::Lost("the coordinator ended the connection".into()),
            Ok(Some(Err(error))) => return Ended::Lost(error.to_string()),
            Ok(Some(Ok(message))) => message,
        };
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => return Ended::Lost("the coordinator closed the connection".into()),
            Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => continue,
        };
        match serde_json::from_str(&text) {
            Ok(CoordinatorMessage::Refused { reason, message }) => return Ended::Refused { reason, message },
            Ok(message) => handle(builds, message),
            // One message that can't be read, such as one of a later version, does not end the others.
            Err(error) => warn!("a message from the coordinator can't be read: {error}"),
        }
    }
}

fn handle(builds: &Arc<Builds>, message: CoordinatorMessage) {
    match message {
        CoordinatorMessage::Assign { attempt, spec, log_bytes_max } => {
            builds.assign(Assignment { attempt, spec, log_bytes_max });
        }
        CoordinatorMessage::Cancel { attempt } => {
            info!(build.id = %attempt.build, "build {}: to be canceled", attempt.build);
            builds.cancel(attempt);
        }
        CoordinatorMessage::Drop { attempt } => builds.drop_attempt(attempt),
        CoordinatorMessage::LogAck { attempt, offset, resend } => {
            builds.acknowledge_log(attempt, offset, resend);
        }
        CoordinatorMessage::FinishedAck { attempt } => builds.acknowledge_finished(attempt),
        CoordinatorMessage::Drain => builds.drain(),
        CoordinatorMessage::Registered { .. } | CoordinatorMessage::Refused { .. } => {}
    }
}

/// Writes until the outbox is closed or the connection breaks, and tells which.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut outbox: mpsc::Receiver<RunnerMessage>,
    mut frames: mpsc::Receiver<Message>,
    terms: KeepAliveTerms,
    builds: &Builds,
) -> String {
    let mut tick = interval(Duration::from_millis(terms.interval_ms).max(INTERVAL_MIN));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let messages = tokio::select! {
            biased;
            _ = tick.tick() => vec![text(&keep_alive(builds)), Message::Ping(Bytes::new())],
            message = outbox.recv() => match message {
                Some(message) => vec![text(&message)],
                None => break,
            },
            Some(frame) = frames.recv() => vec![frame],
        };
        for message in messages {
            if let Err(error) = sink.send(message).await {
                return error.to_string();
            }
        }
    }
    match sink.close().await {
        Ok(()) => "closed".into(),
        Err(error) => error.to_string(),
    }
}

/// The sign of life. It is given even where other things are said, since only it lists what is held.
fn keep_alive(builds: &Builds) -> RunnerMessage {
    let held: Vec<HeldAttempt> = builds.held().iter().map(|attempt| attempt.held()).collect();
    RunnerMessage::KeepAlive { held }
}
