//! The accept loop: hyper with limits on what a client may take its time for, and an end that comes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};
use tracing::{debug, warn};

use super::{App, problem, router};

/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may pause in the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body: the longest command and environment, escaped as JSON, fit.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long connections have to end when the coordinator stops. All in all it takes less than the 10 s after which an
/// engine kills a container that it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait after the system refused a connection, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the coordinator is told to stop, then gives connections a moment to end.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let routes = bounded(router(Arc::clone(&app)));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = app.stopping.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Answers are small and should not wait for more to come.
                let _ = stream.set_nodelay(true);
                let connection = connection(Arc::clone(&app), stream, routes.clone());
                connections.spawn(cut.clone().run_until_cancelled_owned(connection));
            }
            Err(error) => {
                warn!("a connection can't be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    app.followers.close();
    let ended = async {
        connections.wait().await;
        app.followers.wait().await;
    };
    if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
        warn!("some connections did not end within {STOP_TIMEOUT:?} and are cut");
        cut.cancel();
        connections.wait().await;
    }
}

/// The routes, with limits on what a request may bring.
pub fn bounded(routes: Router) -> Router {
    routes
        .layer(RequestBodyTimeoutLayer::new(BODY_TIMEOUT))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CatchPanicLayer::new())
        .layer(middleware::map_response(problem::uniform))
}

/// Serves one connection to its end, whatever carries its bytes.
pub async fn connection<S>(app: Arc<App>, stream: S, routes: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        biased;
        ended = served.as_mut() => ended,
        () = app.stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!("a connection ended: {error}");
    }
}
