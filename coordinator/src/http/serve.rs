//! The accept loop: hyper with limits on what a client may take its time for, and an end that comes.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{debug, warn};

use super::{
    App, body,
    connections::{ConnectionLimits, Crowd, Line},
    front::Peer,
    headers, problem, router,
};

/// Where connections come in.
pub struct Door {
    /// Takes them.
    pub listener: TcpListener,
    /// Makes them private.
    pub tls: Option<TlsAcceptor>,
    /// How many there may be.
    pub limits: ConnectionLimits,
}

/// How long a client may take to agree on keys.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request, and to begin with the next one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long connections have to end when the coordinator stops. All in all it takes less than the 10 s after which an
/// engine kills a container that it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is said that there are too many connections.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How long to wait after the system refused a connection, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the coordinator is told to stop, then gives connections a moment to end.
pub async fn serve(app: Arc<App>, door: Door) {
    let Door { listener, tls, limits } = door;
    let routes = routes(Arc::clone(&app));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let crowd = Crowd::new(limits);
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = app.stopping.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(place) = crowd.admit(address.ip()) else {
                    if warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
                        warned = Some(Instant::now());
                        warn!(
                            "a connection from {} is one too many, and is closed: see limits.connections",
                            address.ip()
                        );
                    }
                    continue;
                };
                // Answers are small and should not wait for more to come.
                let _ = stream.set_nodelay(true);
                let line = Line::new(stream, place);
                let served = open(Arc::clone(&app), line, Peer(address.ip()), tls.clone(), routes.clone());
                connections.spawn(cut.clone().run_until_cancelled_owned(served));
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
    if timeout(STOP_TIMEOUT, ended).await.is_err() {
        warn!("some connections did not end within {STOP_TIMEOUT:?} and are cut");
        cut.cancel();
        connections.wait().await;
    }
}

/// The routes, with limits on what a request may bring.
pub fn routes(app: Arc<App>) -> Router {
    let tls = app.front.tls;
    router(app)
        .layer(middleware::from_fn(body::bounded))
        .layer(DefaultBodyLimit::max(body::BYTES_MAX))
        .layer(CatchPanicLayer::new())
        .layer(middleware::map_response(problem::uniform))
        .layer(middleware::from_fn(move |request: Request, next: Next| headers::add(tls, request, next)))
}

/// Serves one connection to its end, with TLS where it is spoken.
async fn open<S>(app: Arc<App>, line: Line<S>, peer: Peer, tls: Option<TlsAcceptor>, routes: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = tls else { return connection(app, line, peer, routes).await };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(line)).await {
        Ok(Ok(line)) => connection(app, line, peer, routes).await,
        Ok(Err(error)) => debug!("no TLS with {}: {error}", peer.0),
        Err(_) => debug!("no TLS with {} within {HANDSHAKE_TIMEOUT:?}", peer.0),
    }
}

/// Serves one connection to its end, whatever carries its bytes.
pub async fn connection<S>(app: Arc<App>, stream: S, peer: Peer, routes: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    // The builder that tells HTTP/1 and 2 apart waits without end for a first byte.
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(2 * HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
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
