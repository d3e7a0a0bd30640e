//! Delivers what is on disk: the logs, in order and never more than a window ahead of what is acknowledged, and the
//! end of each attempt after all of its log.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use caisson_logfile::LogReader;
use caisson_protocol::{AttemptId, LogChunk, LogFrame, RunnerMessage};
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::warn;

use super::dial::text;
use crate::{
    builds::{Attempt, Builds},
    workspace::blocking,
};

/// How much is read of one log before the next one has its turn, in bytes.
const TURN_BYTES: u64 = 256 * 1024;
/// How often an end that is not acknowledged is told again.
const REPEAT_EVERY: Duration = Duration::from_secs(5);
/// How often is looked for what is to be repeated.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The logs that are being read.
type Readers = HashMap<AttemptId, Arc<LogReader>>;

/// Delivers for as long as the connection lasts, and tells why it can't.
pub(super) async fn run(builds: &Builds, frames: mpsc::Sender<Message>) -> String {
    let mut news = builds.subscribe();
    let mut readers = Readers::new();
    loop {
        news.borrow_and_update();
        let held = builds.held();
        readers.retain(|id, _| held.iter().any(|attempt| attempt.id() == *id));
        let mut shipped = false;
        let mut failed = false;
        for attempt in &held {
            match deliver(attempt, &mut readers, &frames).await {
                Ok(some) => shipped |= some,
                Err(Undelivered::Closed) => return "the connection takes nothing more".into(),
                Err(Undelivered::Disk(error)) => {
                    failed = true;
                    let id = attempt.id();
                    warn!(build.id = %id.build, "build {}: its log can't be read: {error}", id.build);
                    attempt.log_unreadable(&error);
                }
            }
        }
        if failed {
            tokio::time::sleep(LOOK_EVERY).await;
        } else if !shipped {
            let _ = timeout(LOOK_EVERY, news.changed()).await;
        }
    }
}

/// Why something was not delivered.
enum Undelivered {
    Closed,
    Disk(io::Error),
}

/// One turn of one attempt. Returns whether there was something to send.
async fn deliver(
    attempt: &Attempt,
    readers: &mut Readers,
    frames: &mpsc::Sender<Message>,
) -> Result<bool, Undelivered> {
    if let Some(report) = attempt.report_to_tell(REPEAT_EVERY) {
        let finished = text(&RunnerMessage::Finished { attempt: attempt.id(), report });
        frames.send(finished).await.map_err(|_| Undelivered::Closed)?;
    }
    let Some((offset, bytes)) = attempt.next_piece() else { return Ok(false) };
    let chunks = read(attempt, readers, offset, bytes.min(TURN_BYTES)).await.map_err(Undelivered::Disk)?;
    let Some(last) = chunks.last() else {
        return Err(Undelivered::Disk(io::ErrorKind::UnexpectedEof.into()));
    };
    if attempt.sending(offset, last.offset + last.bytes.len() as u64) {
        for chunk in chunks {
            let frame = LogFrame { attempt: attempt.id(), chunk }.encode();
            frames.send(Message::binary(frame)).await.map_err(|_| Undelivered::Closed)?;
        }
    }
    Ok(true)
}

async fn read(
    attempt: &Attempt,
    readers: &mut Readers,
    offset: u64,
    bytes: u64,
) -> io::Result<Vec<LogChunk>> {
    let known = readers.get(&attempt.id()).cloned();
    let base = attempt.folder.log_base();
    let (reader, chunks) = blocking(move || {
        let reader = match known {
            Some(reader) => reader,
            None => Arc::new(LogReader::open(&base)?),
        };
        let chunks = reader.read(offset, usize::try_from(bytes).unwrap_or(usize::MAX))?;
        Ok((reader, chunks))
    })
    .await?;
    readers.insert(attempt.id(), reader);
    Ok(chunks)
}
