//! An attempt's log on its way to the runner's disk: what the command prints, byte for byte, and what the runner says
//! of its own work.
//!
//! A thread of its own writes, so that a slow disk holds up the command it belongs to and nothing else: the way to
//! that thread is bounded, and a full one stops the container's output at its source.

mod cap;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use caisson_logfile::LogFile;
use caisson_protocol::{LOG_CHUNK_BYTES_MAX, Stream};
use futures_util::StreamExt;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::engine::{EngineError, Output};
use cap::{HeadAndTail, Piece, marker};

/// How many pieces may wait to be written. The engine gives at most 32 KiB at once.
const PIECES_WAITING_MAX: usize = 32;

/// How large the index of a log may be without counting as a part of the log. It has an entry for each millisecond in
/// which something came, and for each change between streams: far less than this, but for a command that is after it.
const INDEX_BYTES_FREE: u64 = 1024 * 1024;

/// The longest line of the runner's own, in bytes: registries and git servers have their say in it.
const LINE_BYTES_MAX: usize = 8192;

/// A log that is being written.
pub struct Log {
    sender: LogSender,
    writer: JoinHandle<Written>,
}

/// A way into a log.
#[derive(Clone)]
pub struct LogSender(mpsc::Sender<Piece>);

/// The log takes nothing more: the disk has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log can't be written")]
pub struct LogBroken;

/// What became of a log.
pub struct Written {
    /// Where it ends, in bytes.
    pub end: u64,
    /// Why it is not whole, if it is not.
    pub failure: Option<io::Error>,
}

/// Why the output of a container ended early.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The engine broke it off.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is nowhere to put it.
    #[error(transparent)]
    Log(#[from] LogBroken),
}

impl Log {
    /// Begins a log at `base` that grows to at most `bytes_max` bytes. `grew` is told where it ends.
    #[must_use]
    pub fn begin(base: PathBuf, bytes_max: u64, grew: Arc<dyn Fn(u64) + Send + Sync>) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let writer = tokio::task::spawn_blocking(move || write(&base, bytes_max, pieces, &*grew));
        Self { sender: LogSender(sender), writer }
    }

    /// A way into the log.
    #[must_use]
    pub fn sender(&self) -> LogSender {
        self.sender.clone()
    }

    /// Ends the log: writes what waits and makes it durable. Other ways into it must be gone by then.
    pub async fn close(self) -> Written {
        drop(self.sender);
        let lost = |error| Written { end: 0, failure: Some(io::Error::other(error)) };
        self.writer.await.unwrap_or_else(lost)
    }
}

impl LogSender {
    /// Adds a line of the runner's own. Where the log is broken, closing it tells.
    pub async fn say(&self, line: impl AsRef<str>) {
        let _ = self.0.send(own(line.as_ref())).await;
    }

    /// Adds a line of the runner's own, unless the log is behind: then the line is not worth waiting for.
    pub fn mention(&self, line: impl AsRef<str>) {
        let _ = self.0.try_send(own(line.as_ref()));
    }

    /// Takes in all that a container prints, until it has closed both outputs.
    ///
    /// # Errors
    /// When the engine breaks it off, or the disk refuses.
    pub async fn pump(self, mut output: Output) -> Result<(), PumpError> {
        while let Some(piece) = output.next().await {
            let (stream, bytes) = piece?;
            let piece = Piece { stream, time_ms: now_ms(), bytes: bytes.into() };
            self.0.send(piece).await.map_err(|_| LogBroken)?;
        }
        Ok(())
    }
}

fn own(line: &str) -> Piece {
    let line = shortened(line.to_owned(), LINE_BYTES_MAX);
    Piece { stream: Stream::Caisson, time_ms: now_ms(), bytes: format!("{line}\n").into_bytes() }
}

/// A text of at most `bytes_max` bytes, which says where it is cut off.
pub(crate) fn shortened(mut text: String, bytes_max: usize) -> String {
    const CUT: &str = "…";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(CUT.len())));
        text.push_str(CUT);
    }
    text
}

/// The wall clock, for people: nothing is decided by it.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn write(
    base: &std::path::Path,
    bytes_max: u64,
    pieces: mpsc::Receiver<Piece>,
    grew: &(dyn Fn(u64) + Send + Sync),
) -> Written {
    let mut file = match LogFile::open(base) {
        Ok(file) => file,
        Err(error) => return Written { end: 0, failure: Some(error) },
    };
    let failure = write_all(&mut file, bytes_max, pieces, grew).err();
    Written { end: file.end(), failure }
}

fn write_all(
    file: &mut LogFile,
    bytes_max: u64,
    mut pieces: mpsc::Receiver<Piece>,
    grew: &(dyn Fn(u64) + Send + Sync),
) -> io::Result<()> {
    let mut cap = HeadAndTail::new(bytes_max);
    let mut at_line_start = true;
    let mut append = |file: &mut LogFile, piece: &Piece| {
        let Some(last) = piece.bytes.last() else { return Ok(0) };
        let before = counted(file);
        grew(file.append(piece.stream, piece.time_ms, &piece.bytes)?);
        at_line_start = *last == b'\n';
        Ok(counted(file) - before)
    };
    let mut next = None;
    while let Some(mut piece) = next.take().or_else(|| pieces.blocking_recv()) {
        next = join_waiting(&mut piece, &mut pieces);
        cap.push(piece, |head| append(file, head))?;
    }
    let (missing_bytes, tail) = cap.finish();
    if missing_bytes > 0 {
        let line = marker(missing_bytes, at_line_start);
        grew(file.append(Stream::Caisson, now_ms(), line.as_bytes())?);
    }
    for piece in &tail {
        grew(file.append(piece.stream, piece.time_ms, &piece.bytes)?);
    }
    file.sync()
}

/// What counts as a log's size.
fn counted(file: &LogFile) -> u64 {
    file.end().max(file.disk_bytes().saturating_sub(INDEX_BYTES_FREE))
}

/// Makes one piece of those that wait, while they are of one stream: a command that prints byte by byte then costs an
/// index entry for each run of bytes, not for each byte. Returns the first that does not belong.
fn join_waiting(piece: &mut Piece, pieces: &mut mpsc::Receiver<Piece>) -> Option<Piece> {
    while let Ok(next) = pieces.try_recv() {
        if next.stream != piece.stream || piece.bytes.len() + next.bytes.len() > LOG_CHUNK_BYTES_MAX {
            return Some(next);
        }
        piece.bytes.extend_from_slice(&next.bytes);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_logfile::LogReader;
    use caisson_protocol::LogChunk;

    fn silent() -> Arc<dyn Fn(u64) + Send + Sync> {
        Arc::new(|_| {})
    }

    #[tokio::test]
    async fn a_log_that_is_too_long_says_in_its_middle_what_is_missing() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().join("output");
        let log = Log::begin(base.clone(), 4000, silent());
        let sender = log.sender();
        sender.say("Cloning").await;
        let lines =
            (0..1000).map(|number| Ok((Stream::Stdout, format!("line {number:05}\n").into_bytes().into())));
        sender.pump(futures_util::stream::iter(lines).boxed()).await.unwrap();
        let written = log.close().await;
        assert!(written.failure.is_none());
        assert!(written.end <= 4000);

        let chunks = LogReader::open(&base).unwrap().read(0, 10_000).unwrap();
        let text: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.clone()).collect();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("Cloning\nline 00000\n"), "{text}");
        assert!(text.ends_with("line 00999\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.ends_with("its end follows]")).count(), 1);
        let ours: Vec<u64> =
            chunks.iter().filter(|c| c.stream == Stream::Caisson).map(|c| c.offset).collect();
        assert_eq!(ours.len(), 2);
    }

    #[tokio::test]
    async fn a_command_that_changes_between_its_outputs_fills_no_disk_with_the_index() {
        const LIMIT: u64 = 256 * 1024;
        let home = tempfile::tempdir().unwrap();
        let base = home.path().join("output");
        let log = Log::begin(base.clone(), LIMIT, silent());
        let bytes = (0..150_000).flat_map(|_| [(Stream::Stdout, "a"), (Stream::Stderr, "b")]);
        let pieces = bytes.map(|(stream, byte)| Ok((stream, byte.into())));
        log.sender().pump(futures_util::stream::iter(pieces).boxed()).await.unwrap();
        assert!(log.close().await.failure.is_none());
        let taken: u64 = ["log", "idx"]
            .map(|ending| std::fs::metadata(base.with_extension(ending)).unwrap().len())
            .iter()
            .sum();
        // Beside it there is the index of the end.
        assert!(taken <= LIMIT + INDEX_BYTES_FREE + 150_000, "{taken} bytes");
        // What could be kept of it is kept as it came.
        let chunks = LogReader::open(&base).unwrap().read(0, 1000).unwrap();
        let is_next = |chunks: &[LogChunk]| {
            (chunks[0].stream, &chunks[0].bytes[..]) != (chunks[1].stream, &chunks[1].bytes[..])
        };
        assert!(chunks.len() == 1000 && chunks.windows(2).all(is_next));
    }

    #[test]
    fn what_waits_is_joined_within_its_stream_only() {
        let piece = |stream, text: &str| Piece { stream, time_ms: 0, bytes: text.into() };
        let (sender, mut waiting) = mpsc::channel(PIECES_WAITING_MAX);
        for (stream, text) in [(Stream::Stdout, "b"), (Stream::Stderr, "c"), (Stream::Stdout, "d")] {
            sender.try_send(piece(stream, text)).unwrap();
        }
        let mut first = piece(Stream::Stdout, "a");
        let next = join_waiting(&mut first, &mut waiting);
        assert_eq!(first.bytes, b"ab");
        assert_eq!(next, Some(piece(Stream::Stderr, "c")));
    }

    #[tokio::test]
    async fn a_disk_that_refuses_ends_the_log_and_not_the_program() {
        let log = Log::begin("/nowhere/output".into(), 4000, silent());
        let sender = log.sender();
        let endless = futures_util::stream::repeat_with(|| Ok((Stream::Stdout, vec![b'x'].into())));
        assert!(matches!(sender.pump(endless.boxed()).await, Err(PumpError::Log(LogBroken))));
        assert!(log.close().await.failure.is_some());
    }
}
