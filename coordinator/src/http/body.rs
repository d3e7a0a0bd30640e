//! The body of a request: how large it may be, and by when it must have come as a whole, however it drips.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::problem::Problem;

/// The largest body: the longest command and environment, escaped as JSON, fit.
pub(super) const BYTES_MAX: usize = 1024 * 1024;
/// How long a client may take to send a body, all in all.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Refuses a body that is announced to be too large, and gives any other its time.
pub(super) async fn bounded(request: Request, next: Next) -> Response {
    if request.body().size_hint().lower() > BYTES_MAX as u64 {
        let detail = format!("a body has at most {BYTES_MAX} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).into_response();
    }
    let late = Arc::new(AtomicBool::new(false));
    let request = request.map(|body| {
        let deadline = Box::pin(sleep(BODY_TIMEOUT));
        Body::new(Timed { body: body.boxed_unsync(), deadline, late: Arc::clone(&late) })
    });
    let response = next.run(request).await;
    if late.load(Ordering::Relaxed) && response.status().is_client_error() {
        let detail = format!("the body was not here within {} s", BODY_TIMEOUT.as_secs());
        return Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail).into_response();
    }
    response
}

struct Timed {
    body: http_body_util::combinators::UnsyncBoxBody<Bytes, axum::Error>,
    deadline: Pin<Box<Sleep>>,
    late: Arc<AtomicBool>,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() && self.deadline.as_mut().poll(cx).is_ready() {
            self.late.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(axum::Error::new("the body did not come in time"))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
