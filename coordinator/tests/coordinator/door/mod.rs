//! The door: who gets a connection, for how long, how often, and what every answer tells a browser.

mod headers;
mod inputs;
mod limits;
mod slow;
mod tls;

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::support::in_time;

/// Whether it took so many seconds of virtual time, or some more: while bytes are on their way through the kernel, the
/// clock leaps to whatever timer is next.
pub(super) fn is_about(seconds: u64, since: Instant) -> bool {
    (seconds..3 * seconds).contains(&since.elapsed().as_secs())
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
        let _ = in_time("the end of the connection", self.0.read_to_end(&mut heard)).await;
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
