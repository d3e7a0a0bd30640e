//! The door: who gets a connection, for how long, how often, and what every answer tells a browser.

mod headers;
mod inputs;
mod limits;
mod slow;
mod tls;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::in_time;

/// What is waited for, at most, on a clock that may leap.
const LEAPS_MAX: Duration = Duration::from_secs(3600);

/// Whether something takes so many seconds of virtual time, or a few more. While bytes are on their way through the
/// kernel that clock leaps to whatever timer is next: on a busy machine far, so this is tried a few times.
pub(super) async fn takes_about(seconds: u64, deed: impl AsyncFn()) -> bool {
    for _ in 0..10 {
        let began = Instant::now();
        deed().await;
        if (seconds..2 * seconds).contains(&began.elapsed().as_secs()) {
            return true;
        }
    }
    false
}

/// A client that says what it likes, byte by byte.
pub(super) struct Raw<S = TcpStream>(S);

impl Raw {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Sends bytes. A connection that is gone shows where something is heard.
    pub(super) async fn says(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = in_time("sending", self.0.write_all(bytes.as_ref())).await;
    }

    /// Everything until the other side ends the connection.
    pub(super) async fn hears(&mut self) -> String {
        let mut heard = Vec::new();
        // Cut off with bytes of ours unread, a connection ends in a reset.
        let end = timeout(LEAPS_MAX, self.0.read_to_end(&mut heard)).await;
        let _ = end.expect("the connection ends");
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// One answer to `GET path` on a connection that stays open.
    pub(super) async fn gets(&mut self, path: &str) -> String {
        self.says(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        let mut heard = Vec::new();
        while !heard.ends_with(b"ok\n") {
            let read = in_time("an answer", self.0.read_u8()).await;
            heard.push(read.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&heard))));
        }
        String::from_utf8(heard).unwrap()
    }
}
