//! Servers that runners fetch from: git over http and over its own protocol, an image registry, and ones that fail.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    process::{Child, Command},
};

/// Serves every repository under a folder over http, by git's own backend.
pub(crate) async fn git_over_http(root: &Path) -> SocketAddr {
    let routes = Router::new().fallback(http_backend).with_state(root.to_owned());
    serve(routes).await
}

/// Serves every repository under a folder over `git://`. Ends when it is dropped.
pub(crate) async fn git_daemon(root: &Path) -> (Child, u16) {
    // The daemon can't be told to choose a port, so one that was free a moment ago is taken.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let daemon = Command::new("/usr/lib/git-core/git-daemon")
        .args(["--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
        .arg(format!("--base-path={}", root.display()))
        .arg(root)
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    super::until("git-daemon listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    (daemon, port)
}

/// Says of everything that it is now at `there`.
pub(crate) async fn moved(there: String) -> SocketAddr {
    let routes = Router::new().fallback(async move |request: Request| {
        let rest = request.uri().path_and_query().map_or("/", |rest| rest.as_str());
        (StatusCode::MOVED_PERMANENTLY, [("location", format!("{there}{rest}"))])
    });
    serve(routes).await
}

/// Has one branch after another, over http, without end.
pub(crate) async fn endless_references() -> SocketAddr {
    let routes = Router::new().fallback(async || {
        let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
        let head = format!("{}0000", line("# service=git-upload-pack\n"));
        let id = "1".repeat(40);
        let first = line(&format!("{id} refs/heads/first\0ofs-delta\n"));
        let more = (0_u64..).map(move |from| {
            let names = (1000 * from..1000 * (from + 1)).map(|number| format!("{id} refs/heads/{number}\n"));
            names.map(|name| format!("{:04x}{name}", name.len() + 4)).collect::<String>()
        });
        let pieces = [head, first].into_iter().chain(more).map(Ok::<_, std::io::Error>);
        let headers = [("content-type", "application/x-git-upload-pack-advertisement")];
        (headers, Body::from_stream(stream::iter(pieces)))
    });
    serve(routes).await
}

/// Takes connections and never says anything.
pub(crate) async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    address
}

/// Passes on what another server says: the first bytes as they come, and then one at a time, twenty in a second.
pub(crate) async fn dripping(server: SocketAddr, at_once: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = tokio::net::TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut buffer, mut left) = (vec![0; 4096], at_once);
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    let (now, later) = buffer[..read].split_at(read.min(left));
                    left -= now.len();
                    let _ = to_client.write_all(now).await;
                    for byte in later {
                        if to_client.write_u8(*byte).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
    });
    address
}

/// An image registry that knows no image. It gives none of those under `private/`, nor under `verbose/`, where it says so
/// at length; it breaks under `broken/`, has no time under `busy/`, and says nothing under `silent/`.
pub(crate) async fn registry() -> SocketAddr {
    let routes = Router::new().fallback(async |request: Request| {
        let path = request.uri().path();
        let refusal = |code: &str| Json(json!({"errors": [{"code": code, "message": code}]}));
        if path == "/v2/" {
            StatusCode::OK.into_response()
        } else if path.starts_with("/v2/private/") {
            (StatusCode::FORBIDDEN, refusal("DENIED")).into_response()
        } else if path.starts_with("/v2/broken/") {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        } else if path.starts_with("/v2/busy/") {
            (StatusCode::TOO_MANY_REQUESTS, refusal("TOOMANYREQUESTS")).into_response()
        } else if path.starts_with("/v2/verbose/") {
            (StatusCode::FORBIDDEN, refusal(&"no ".repeat(1_000_000))).into_response()
        } else if path.starts_with("/v2/silent/") {
            std::future::pending().await
        } else {
            (StatusCode::NOT_FOUND, refusal("MANIFEST_UNKNOWN")).into_response()
        }
    });
    serve(routes).await
}

/// An image registry that knows no image, and says so only to who gives `authorization`.
pub(crate) async fn registry_with_password(authorization: String) -> SocketAddr {
    let routes = Router::new().fallback(async move |request: Request| {
        let refusal = |code: &str| Json(json!({"errors": [{"code": code, "message": code}]}));
        let given = request.headers().get("authorization");
        if given.is_none_or(|given| *given != authorization.as_str()) {
            let realm = [("www-authenticate", "Basic realm=\"test\"")];
            return (StatusCode::UNAUTHORIZED, realm, refusal("UNAUTHORIZED")).into_response();
        }
        match request.uri().path() {
            "/v2/" => StatusCode::OK.into_response(),
            _ => (StatusCode::NOT_FOUND, refusal("MANIFEST_UNKNOWN")).into_response(),
        }
    });
    serve(routes).await
}

/// An engine that gives the same answer to whatever it is asked.
pub(crate) async fn engine_that_says(socket: &Path, status: StatusCode, message: &'static str) {
    let routes = Router::new().fallback(async move || (status, Json(json!({ "message": message }))));
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
}

async fn serve(routes: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

/// One request as a CGI program wants it.
async fn http_backend(State(root): State<PathBuf>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 30).await.unwrap();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let mut backend = Command::new("/usr/lib/git-core/git-http-backend")
        .env("GIT_PROJECT_ROOT", &root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding").unwrap_or_default())
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = backend.stdin.take().unwrap();
    tokio::spawn(async move { input.write_all(&body).await });
    let output = backend.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let mut status = StatusCode::OK;
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            status = value[..3].parse().unwrap();
        } else {
            headers
                .insert(axum::http::HeaderName::try_from(name.to_owned()).unwrap(), value.parse().unwrap());
        }
    }
    (status, headers, output[end + 4..].to_vec()).into_response()
}
