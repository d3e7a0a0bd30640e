//! The log of an attempt by lines, for those who look at a part of it: a window, a search, the growing end.
//!
//! However long a log is, an answer is small and comes at once: what it costs is what is seen. Lines are those of the
//! downloaded file, numbered from 1.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{
        Path, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::Response,
};
use caisson_protocol::{AttemptId, LogChunk, Stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    log::which_attempt,
    person::{Parameters, find},
    problem::{Problem, ProblemDocument},
};
use crate::{
    logs::{LineIndex, LineIndexes, LogError, Pattern},
    store::BuildKey,
};

/// How many lines a window has when the caller does not say, and at most.
const WINDOW_DEFAULT: u64 = 200;
const WINDOW_MAX: u64 = 2000;
/// How much of a log is read for a window, in bytes. A window that would need more ends early.
const WINDOW_BYTES_MAX: u64 = 1024 * 1024;
/// How much of a line is shown, in bytes. The rest is in the downloaded log.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// How much is read at once, in bytes.
const PIECE_BYTES: usize = 128 * 1024;
/// How much is searched at once, in bytes.
const SEARCH_PIECE_BYTES: usize = 1024 * 1024;
/// The longest text to search for, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// How many lines a search finds when the caller does not say, and at most.
const HITS_DEFAULT: usize = 1000;
const HITS_MAX: usize = 10_000;
/// How many new lines are told at once to who watches the end. Who needs those before asks for a window.
const TAIL_LINES_MAX: u64 = 300;
/// How often who watches the end is told, at most.
const TAIL_EVERY: Duration = Duration::from_millis(100);
/// How long a viewer may take to read what it is sent before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent stream says that it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(window))
        .routes(routes!(search))
        .routes(routes!(tail))
        .layer(Extension(Arc::<LineIndexes>::default()))
}

/// Some lines of a log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct LogLines {
    /// The attempt whose log it is; 0 when there was none yet.
    attempt: u32,
    /// How many lines the log has.
    lines: u64,
    /// How many bytes it has.
    bytes: u64,
    /// Whether it is complete: nothing will be added.
    ended: bool,
    /// The lines. Fewer than asked for where the log ends, or where they are long.
    items: Vec<LogLine>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct LogLine {
    /// Its number, from 1.
    number: u64,
    /// When its beginning came, in milliseconds since 1970.
    time_ms: u64,
    /// Where its beginning came from.
    stream: Stream,
    /// What it says, without its newline.
    text: String,
    /// How it goes on, where another stream spoke before its end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    rest: Vec<LinePart>,
    /// Whether it is longer than is shown here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    truncated: bool,
}

/// A part of a line that came from one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct LinePart {
    /// Where it came from.
    stream: Stream,
    /// What it says.
    text: String,
}

/// Lines that were found.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct LogHits {
    /// Their numbers.
    hits: Vec<u64>,
    /// The line to go on from, when there may be more.
    #[schema(required)]
    next: Option<u64>,
    /// How many lines the log has.
    lines: u64,
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct WindowQuery {
    /// The log of this attempt; the latest when it is left out.
    attempt: Option<u32>,
    /// The number of the first line, from 1; the last ones when it is left out.
    from: Option<u64>,
    /// How many, 1 to 2000.
    count: Option<u64>,
}

/// Gives some lines of a log, wherever in it they are.
#[utoipa::path(
    get,
    path = "/builds/{id}/log/lines",
    params(("id" = String, Path, description = "The build's id or number"), WindowQuery),
    responses(
        (status = 200, body = LogLines),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn window(
    State(app): State<Arc<App>>,
    Extension(indexes): Extension<Arc<LineIndexes>>,
    Path(id): Path<String>,
    query: Parameters<WindowQuery>,
) -> Result<Json<LogLines>, Problem> {
    let Parameters(WindowQuery { attempt, from, count }) = query;
    let count = bounded("count", count, WINDOW_DEFAULT, WINDOW_MAX)?;
    if from == Some(0) {
        return Err(Problem::invalid("from", "lines are numbered from 1"));
    }
    let log = Log::find(app, indexes, &id, attempt).await?;
    // Whether it has ended is asked first: all that it will ever have is there then.
    let ended = log.has_ended().await?;
    let index = log.index().await?;
    let first = from.map_or(index.lines().saturating_sub(count), |from| from - 1);
    let items = log.lines(&index, first, count).await?;
    Ok(Json(log.told(&index, ended, items)))
}

/// What to look for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// The text, whatever the case of its letters.
    q: String,
    /// Whether `q` is a regular expression.
    #[serde(default)]
    regex: bool,
    /// The log of this attempt; the latest when it is left out.
    attempt: Option<u32>,
    /// The number of the line to begin at, from 1.
    from: Option<u64>,
    /// How many lines to find, 1 to 10000.
    limit: Option<usize>,
}

/// Finds the lines of a log in which a text occurs. Colours and other escape sequences are passed over.
#[utoipa::path(
    get,
    path = "/builds/{id}/log/search",
    params(("id" = String, Path, description = "The build's id or number"), SearchQuery),
    responses(
        (status = 200, body = LogHits),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn search(
    State(app): State<Arc<App>>,
    Extension(indexes): Extension<Arc<LineIndexes>>,
    Path(id): Path<String>,
    query: Parameters<SearchQuery>,
) -> Result<Json<LogHits>, Problem> {
    let Parameters(SearchQuery { q, regex, attempt, from, limit }) = query;
    if q.is_empty() || q.len() > TEXT_BYTES_MAX {
        return Err(Problem::invalid("q", format!("expected 1 to {TEXT_BYTES_MAX} bytes")));
    }
    let limit = bounded("limit", limit, HITS_DEFAULT, HITS_MAX)?;
    let pattern = if regex { Pattern::regex(&q) } else { Pattern::text(&q) };
    let pattern = pattern.map_err(|error| Problem::invalid("q", error))?;
    let log = Log::find(app, indexes, &id, attempt).await?;
    let from = from.unwrap_or(1).max(1) - 1;
    Ok(Json(log.search(&pattern, from, limit).await?))
}

/// Which end to watch.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TailQuery {
    /// The attempt whose log to watch; the latest when it is left out.
    attempt: Option<u32>,
    /// How many lines are known already: those after them are told.
    #[serde(default)]
    from: u64,
}

/// Watches the end of a log over WebSocket.
///
/// Each text frame is a `LogLines` with the newest of the lines that are new, at most 300 of them, and with those that
/// were told before their newline had come. The last one has `ended`.
#[utoipa::path(
    get,
    path = "/builds/{id}/log/tail",
    params(("id" = String, Path, description = "The build's id or number"), TailQuery),
    responses(
        (status = 101, description = "A WebSocket with a `LogLines` in each text frame"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn tail(
    State(app): State<Arc<App>>,
    Extension(indexes): Extension<Arc<LineIndexes>>,
    Path(id): Path<String>,
    query: Parameters<TailQuery>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let log = Log::find(Arc::clone(&app), indexes, &id, query.0.attempt).await?;
    let tail = Tail { changed: app.watch.follow(log.build), log, known: query.0.from, told_bytes: None };
    Ok(upgrade.on_upgrade(move |socket| {
        let stopping = app.stopping.clone();
        app.followers.track_future(async move {
            tokio::select! {
                biased;
                () = send(socket, tail) => {}
                () = stopping.cancelled() => {}
            }
        })
    }))
}

async fn send(mut socket: WebSocket, mut tail: Tail) {
    loop {
        let earliest = Instant::now() + TAIL_EVERY;
        let message = tokio::select! {
            biased;
            next = tail.next() => match next {
                Ok(Some(lines)) => Message::Text(serde_json::to_string(&lines).unwrap_or_default().into()),
                Ok(None) | Err(_) => return,
            },
            heard = socket.recv() => match heard {
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep(PING_EVERY) => Message::Ping(Vec::new().into()),
        };
        if !matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
        sleep_until(earliest).await;
    }
}

/// Somebody's place at the end of a log.
struct Tail {
    log: Log,
    changed: watch::Receiver<()>,
    /// How many complete lines were told.
    known: u64,
    /// How long the log was when it was told last; all was told at its end when there is none.
    told_bytes: Option<(u64, bool)>,
}

impl Tail {
    /// What is new, when there is something. Nothing after the end was told.
    async fn next(&mut self) -> Result<Option<LogLines>, Problem> {
        loop {
            if self.told_bytes.is_some_and(|(_, ended)| ended) {
                return Ok(None);
            }
            // Marked as seen before looking, so that what happens while we look wakes us again.
            self.changed.borrow_and_update();
            let ended = self.log.has_ended().await?;
            let index = self.log.index().await?;
            if ended || self.told_bytes.is_none_or(|(bytes, _)| bytes != index.end()) {
                let first = self.known.max(index.lines().saturating_sub(TAIL_LINES_MAX));
                let items = self.log.lines(&index, first, TAIL_LINES_MAX).await?;
                // Noted last: who is interrupted before has not told it.
                self.told_bytes = Some((index.end(), ended));
                self.known = self.known.max(index.complete());
                return Ok(Some(self.log.told(&index, ended, items)));
            }
            if self.changed.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

/// The log of one attempt.
struct Log {
    app: Arc<App>,
    indexes: Arc<LineIndexes>,
    build: caisson_protocol::BuildId,
    /// `None` while the build was not tried at all.
    attempt: Option<u32>,
}

impl Log {
    async fn find(
        app: Arc<App>,
        indexes: Arc<LineIndexes>,
        id: &str,
        attempt: Option<u32>,
    ) -> Result<Self, Problem> {
        let build = find(&app, id).await?;
        let attempt = which_attempt(&build, attempt)?;
        Ok(Self { app, indexes, build: build.id, attempt })
    }

    /// A build that was never tried has an empty log.
    fn id(&self) -> AttemptId {
        AttemptId { build: self.build, number: self.attempt.unwrap_or(1) }
    }

    async fn has_ended(&self) -> Result<bool, Problem> {
        let build = self.app.store.build(BuildKey::Id(self.build)).await?;
        let build = build.ok_or_else(|| Problem::missing("the build is gone"))?;
        let over = build
            .attempts
            .iter()
            .any(|attempt| Some(attempt.number) == self.attempt && attempt.result.is_some());
        Ok(over || build.status.is_terminal())
    }

    async fn index(&self) -> Result<LineIndex, LogError> {
        self.indexes.of(&*self.app.logs, self.id()).await
    }

    /// At most `count` lines from `first` on, counted from 0.
    async fn lines(&self, index: &LineIndex, first: u64, count: u64) -> Result<Vec<LogLine>, LogError> {
        if first >= index.lines() {
            return Ok(Vec::new());
        }
        let begin = self.indexes.offset(&*self.app.logs, self.id(), first).await?;
        let mut offset = begin;
        let mut lines = Assembly::from(first);
        while lines.done.len() as u64 <= count && offset < index.end() && offset - begin < WINDOW_BYTES_MAX {
            let piece = usize::try_from(index.end() - offset).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let chunks = self.app.logs.read(self.id(), offset, piece).await?;
            if chunks.is_empty() {
                break;
            }
            offset += chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum::<u64>();
            chunks.iter().for_each(|chunk| lines.push(chunk));
        }
        // What the budget cut off in the middle of a line is shown as a long line, or not at all.
        let mut lines = lines.finish(offset < index.end());
        lines.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(lines)
    }

    async fn search(&self, pattern: &Pattern, from: u64, limit: usize) -> Result<LogHits, LogError> {
        let index = self.index().await?;
        let mut offset = self.indexes.offset(&*self.app.logs, self.id(), from).await?;
        let mut line = from;
        let mut hits: Vec<u64> = Vec::new();
        while offset < index.end() && hits.len() < limit {
            let left = usize::try_from(index.end() - offset).unwrap_or(usize::MAX);
            let mut text = self.app.logs.text(self.id(), offset, left.min(SEARCH_PIECE_BYTES)).await?;
            if text.is_empty() {
                break;
            }
            // Up to the last newline, so that no word is cut; a line longer than a piece is taken in parts.
            if text.len() < left
                && let Some(newline) = memchr::memrchr(b'\n', &text)
            {
                text.truncate(newline + 1);
            }
            for hit in pattern.lines_of(&text) {
                let number = line + hit + 1;
                if hits.last() != Some(&number) {
                    hits.push(number);
                }
            }
            line += memchr::memchr_iter(b'\n', &text).count() as u64;
            offset += text.len() as u64;
        }
        let next = if hits.len() > limit {
            hits.truncate(limit);
            hits.last().map(|last| last + 1)
        } else {
            (offset < index.end()).then_some(line + 1)
        };
        Ok(LogHits { hits, next, lines: index.lines() })
    }

    fn told(&self, index: &LineIndex, ended: bool, items: Vec<LogLine>) -> LogLines {
        let attempt = self.attempt.unwrap_or(0);
        LogLines { attempt, lines: index.lines(), bytes: index.end(), ended, items }
    }
}

/// Lines being put together from chunks.
struct Assembly {
    done: Vec<LogLine>,
    /// The number of the line that is being read, counted from 0.
    line: u64,
    time_ms: u64,
    parts: Vec<(Stream, Vec<u8>)>,
    /// How much of it was read.
    bytes: usize,
}

impl Assembly {
    fn from(first: u64) -> Self {
        Self { done: Vec::new(), line: first, time_ms: 0, parts: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, chunk: &LogChunk) {
        let mut rest = chunk.bytes.as_slice();
        while let Some(newline) = memchr::memchr(b'\n', rest) {
            self.add(chunk, &rest[..newline]);
            self.end_line(false);
            rest = &rest[newline + 1..];
        }
        if !rest.is_empty() {
            self.add(chunk, rest);
        }
    }

    fn add(&mut self, chunk: &LogChunk, bytes: &[u8]) {
        if self.parts.is_empty() {
            self.time_ms = chunk.time_ms;
        }
        let room = LINE_BYTES_MAX.saturating_sub(self.bytes).min(bytes.len());
        self.bytes += bytes.len();
        match self.parts.last_mut().filter(|(stream, _)| *stream == chunk.stream) {
            Some((_, text)) => text.extend_from_slice(&bytes[..room]),
            None => self.parts.push((chunk.stream, bytes[..room].to_vec())),
        }
    }

    fn end_line(&mut self, cut: bool) {
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let truncated = cut || self.bytes > LINE_BYTES_MAX;
        let read = |(stream, bytes): (Stream, Vec<u8>)| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            (stream, text)
        };
        if let Some((stream, text)) = parts.next().map(read) {
            let rest = parts.map(read).map(|(stream, text)| LinePart { stream, text }).collect();
            let number = self.line + 1;
            self.done.push(LogLine { number, time_ms: self.time_ms, stream, text, rest, truncated });
        }
        self.line += 1;
        self.bytes = 0;
    }

    /// All lines; the last one without its newline when that has not come. `cut` when it was not read to its end.
    fn finish(mut self, cut: bool) -> Vec<LogLine> {
        if !self.parts.is_empty() && (!cut || self.done.is_empty()) {
            self.end_line(cut);
        }
        self.done
    }
}

/// A number within what is allowed, or the problem with it.
fn bounded<T: PartialOrd + Copy + From<u8> + std::fmt::Display>(
    field: &str,
    asked: Option<T>,
    default: T,
    max: T,
) -> Result<T, Problem> {
    let number = asked.unwrap_or(default);
    if number < T::from(1) || number > max {
        return Err(Problem::invalid(field, format!("expected 1 to {max}")));
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(time_ms: u64, stream: Stream, text: &str) -> LogChunk {
        LogChunk { offset: 0, stream, time_ms, bytes: text.as_bytes().to_vec() }
    }

    fn lines(chunks: &[LogChunk]) -> Vec<LogLine> {
        let mut lines = Assembly::from(0);
        chunks.iter().for_each(|chunk| lines.push(chunk));
        lines.finish(false)
    }

    #[test]
    fn a_line_has_the_time_and_the_stream_of_its_beginning() {
        let found = lines(&[
            chunk(1, Stream::Stdout, "one\ntw"),
            chunk(2, Stream::Stdout, "o\n"),
            chunk(3, Stream::Stderr, "three"),
        ]);
        let seen: Vec<_> = found.iter().map(|line| (line.number, line.time_ms, line.text.as_str())).collect();
        assert_eq!(seen, [(1, 1, "one"), (2, 1, "two"), (3, 3, "three")]);
        assert_eq!(found[2].stream, Stream::Stderr);
    }

    #[test]
    fn an_empty_line_is_a_line() {
        let found = lines(&[chunk(1, Stream::Stdout, "\n\nx\n")]);
        assert_eq!(found.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["", "", "x"]);
    }

    #[test]
    fn streams_that_share_a_line_are_told_apart() {
        let found = lines(&[chunk(1, Stream::Stdout, "ask: "), chunk(2, Stream::Stderr, "no\n")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].rest, [LinePart { stream: Stream::Stderr, text: "no".into() }]);
    }

    #[test]
    fn a_letter_may_come_in_two_parts() {
        let (first, second) = ("ä".as_bytes()[..1].to_vec(), "ä".as_bytes()[1..].to_vec());
        let part = |bytes| LogChunk { offset: 0, stream: Stream::Stdout, time_ms: 1, bytes };
        assert_eq!(lines(&[part(first), part(second)])[0].text, "ä");
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        let found = lines(&[chunk(1, Stream::Stdout, &format!("{long}\nnext\n"))]);
        assert_eq!((found[0].text.len(), found[0].truncated), (LINE_BYTES_MAX, true));
        assert_eq!((found[1].text.as_str(), found[1].truncated), ("next", false));
    }
}
