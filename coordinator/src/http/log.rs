//! The log of an attempt as text.

use std::{ops::Range, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use caisson_logfile::Span;
use caisson_protocol::{AttemptId, Stream};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    App,
    access::Caller,
    follow,
    person::{Parameters, find},
    problem::{Problem, ProblemDocument},
};
use crate::{
    logs::{LogError, Logs},
    store::BuildRecord,
};

/// How much of a log is read at once, in bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// Which part of a log.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// The log of this attempt; the latest when it is left out.
    attempt: Option<u32>,
    /// Only `stdout`, `stderr` or `caisson` (what the runner itself says).
    #[param(inline)]
    stream: Option<Stream>,
    /// Whether to stay until the build ends, through all of its attempts.
    #[serde(default)]
    follow: bool,
}

/// Gives the log of a build as it came: its bytes, unaltered. Takes `Range`.
#[utoipa::path(
    get,
    path = "/builds/{id}/log",
    operation_id = "log",
    params(("id" = String, Path, description = "The build's id or number"), LogQuery),
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 206, body = String, content_type = "text/plain"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 416, body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn text(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    query: Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let build = find(&app, &id).await?;
    let Parameters(LogQuery { attempt, stream, follow }) = query;
    if follow {
        let file = format!("build-{}.log", build.number);
        return Ok(plain(StatusCode::OK, &file, follow::text(app, caller, &build, attempt, stream)));
    }
    // A build that was never tried has an empty log.
    let number = which_attempt(&build, attempt)?.unwrap_or(1);
    let file = format!("build-{}.{number}.log", build.number);
    let attempt = AttemptId { build: build.id, number };
    let spans: Vec<Span> = match stream {
        None => whole(app.logs.end(attempt).await?),
        Some(stream) => {
            app.logs.spans(attempt).await?.into_iter().filter(|span| span.stream == stream).collect()
        }
    };
    let length = spans.iter().map(|span| span.bytes).sum();
    let Some(range) = requested(&headers, length)? else {
        let body = Body::from_stream(read(Arc::clone(&app.logs), attempt, spans));
        return Ok(with_length(plain(StatusCode::OK, &file, body), length));
    };
    let spans = cut(&spans, &range);
    let body = Body::from_stream(read(Arc::clone(&app.logs), attempt, spans));
    let part = with_length(plain(StatusCode::PARTIAL_CONTENT, &file, body), range.end - range.start);
    let content_range = format!("bytes {}-{}/{length}", range.start, range.end - 1);
    Ok(([(header::CONTENT_RANGE, content_range)], part).into_response())
}

/// The attempt that is asked for, or the latest. `None` when there is none yet.
pub(super) fn which_attempt(build: &BuildRecord, asked: Option<u32>) -> Result<Option<u32>, Problem> {
    let latest = build.attempts.last().map(|attempt| attempt.number);
    match asked {
        None => Ok(latest),
        Some(number) if build.attempts.iter().any(|attempt| attempt.number == number) => Ok(Some(number)),
        Some(number) => Err(Problem::missing(format!("build {} has no attempt {number}", build.number))),
    }
}

fn whole(bytes: u64) -> Vec<Span> {
    // Which stream and time does not matter where nothing is told apart.
    let all = Span { offset: 0, bytes, time_ms: 0, stream: Stream::Stdout };
    if bytes == 0 { Vec::new() } else { vec![all] }
}

/// Log output is data, whatever it looks like: a browser saves it, and takes it for nothing else.
fn plain(status: StatusCode, file: &str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CONTENT_DISPOSITION, &format!("attachment; filename=\"{file}\"")),
        (header::ACCEPT_RANGES, "bytes"),
    ];
    (status, headers, body).into_response()
}

fn with_length(mut response: Response, bytes: u64) -> Response {
    response.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
    response
}

/// The one range that `Range` asks for (RFC 9110, 14.2). Several ranges, and what is no range, give the whole.
fn requested(headers: &HeaderMap, length: u64) -> Result<Option<Range<u64>>, Problem> {
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    let Some((first, last)) = asked.and_then(|asked| asked.trim().split_once('-')) else { return Ok(None) };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..length.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        (Err(_), Ok(count)) if first.is_empty() => length.saturating_sub(count)..length,
        _ => return Ok(None),
    };
    if range.is_empty() {
        let detail = format!("the log has {length} bytes");
        let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
        return Err(problem.with("length", length));
    }
    Ok(Some(range))
}

/// The part of `spans` that is `range` when they are laid end to end.
fn cut(spans: &[Span], range: &Range<u64>) -> Vec<Span> {
    let mut at = 0;
    let mut parts = Vec::new();
    for span in spans {
        let from = range.start.saturating_sub(at).min(span.bytes);
        let until = range.end.saturating_sub(at).min(span.bytes);
        if from < until {
            parts.push(Span { offset: span.offset + from, bytes: until - from, ..*span });
        }
        at += span.bytes;
    }
    parts
}

/// What is left to read of a log.
struct Reading {
    logs: Arc<dyn Logs>,
    attempt: AttemptId,
    spans: std::collections::VecDeque<Span>,
}

fn read(
    logs: Arc<dyn Logs>,
    attempt: AttemptId,
    spans: Vec<Span>,
) -> impl stream::Stream<Item = Result<Bytes, LogError>> {
    let reading = Reading { logs, attempt, spans: spans.into() };
    stream::try_unfold(reading, |mut reading| async move {
        let piece = reading.next().await?;
        Ok(piece.map(|piece| (piece, reading)))
    })
}

impl Reading {
    /// The next piece: all that is wanted within one stretch of the log, so that many short spans cost one read.
    async fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        let Some(first) = self.spans.front().copied() else { return Ok(None) };
        let mut piece = Vec::new();
        for chunk in self.logs.read(self.attempt, first.offset, PIECE_BYTES).await? {
            let end = chunk.offset + chunk.bytes.len() as u64;
            while let Some(span) = self.spans.front_mut().filter(|span| span.offset < end) {
                let from = usize::try_from(span.offset.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
                let until =
                    usize::try_from((span.offset + span.bytes).min(end) - chunk.offset).unwrap_or(usize::MAX);
                piece.extend_from_slice(chunk.bytes.get(from..until).unwrap_or_default());
                let taken = (until - from) as u64;
                if taken < span.bytes {
                    span.offset += taken;
                    span.bytes -= taken;
                    break;
                }
                self.spans.pop_front();
            }
        }
        Ok((!piece.is_empty()).then(|| Bytes::from(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str, length: u64) -> Result<Option<Range<u64>>, ()> {
        let headers = HeaderMap::from_iter([(header::RANGE, text.parse().unwrap())]);
        requested(&headers, length).map_err(|_| ())
    }

    #[test]
    fn ranges_are_read_as_everywhere() {
        assert_eq!(range("bytes=0-9", 100), Ok(Some(0..10)));
        assert_eq!(range("bytes=90-", 100), Ok(Some(90..100)));
        assert_eq!(range("bytes=-10", 100), Ok(Some(90..100)));
        assert_eq!(range("bytes=-200", 100), Ok(Some(0..100)));
        assert_eq!(range("bytes=50-1000", 100), Ok(Some(50..100)));
        assert_eq!(range("bytes=100-", 100), Err(()));
        assert_eq!(range("bytes=-0", 100), Err(()));
        assert_eq!(range("bytes=9-0", 100), Ok(None));
        assert_eq!(range("bytes=0-1,5-6", 100), Ok(None));
        assert_eq!(range("lines=0-1", 100), Ok(None));
    }

    #[test]
    fn a_range_of_one_stream_is_cut_from_its_spans() {
        let span = |offset, bytes| Span { offset, bytes, time_ms: 0, stream: Stream::Stderr };
        let spans = [span(5, 10), span(20, 10)];
        assert_eq!(cut(&spans, &(0..20)), spans);
        assert_eq!(cut(&spans, &(8..12)), [span(13, 2), span(20, 2)]);
        assert_eq!(cut(&spans, &(12..13)), [span(22, 1)]);
    }
}
