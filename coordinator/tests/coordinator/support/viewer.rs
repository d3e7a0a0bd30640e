//! Somebody who watches over a WebSocket.

use caisson_protocol::Stream;
use futures_util::StreamExt;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{House, Runner, in_time, runner::Socket};

pub(crate) struct Viewer(Socket);

/// What a viewer is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Said(Value),
    Log { stream: Stream, offset: u64, bytes: Vec<u8> },
    End,
}

impl Viewer {
    pub(crate) async fn watch(house: &House, path: &str) -> Self {
        Self(Runner::dial(house, path, &house.admin_token).await.unwrap())
    }

    pub(crate) async fn with_token(house: &House, path: &str, token: &str) -> Self {
        Self(Runner::dial(house, path, token).await.unwrap())
    }

    pub(crate) async fn with_cookie(house: &House, path: &str, cookie: &str) -> Self {
        Self(Runner::dial_as(house, path, "cookie", cookie).await.unwrap())
    }

    pub(crate) async fn see(&mut self) -> Seen {
        in_time("something to see", self.next()).await
    }

    /// Watches until there is nothing more to see.
    pub(crate) async fn is_cut_off(&mut self) {
        in_time("the end of what is watched", async { while self.next().await != Seen::End {} }).await;
    }

    async fn next(&mut self) -> Seen {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Seen::Said(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Binary(frame))) => return log_piece(&frame),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return Seen::End,
            }
        }
    }

    pub(crate) async fn said(&mut self) -> Value {
        match self.see().await {
            Seen::Said(said) => said,
            other => panic!("expected something said, saw {other:?}"),
        }
    }

    /// Watches until something is said that is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let said = self.said().await;
            if wanted(&said) {
                return said;
            }
        }
    }

    /// Reads log until there are `bytes` of it.
    pub(crate) async fn reads(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < bytes {
            match self.see().await {
                Seen::Log { bytes, .. } => read.extend(bytes),
                other => panic!("expected log, saw {other:?} after {read:?}"),
            }
        }
        read
    }
}

fn log_piece(frame: &[u8]) -> Seen {
    let offset = u64::from_be_bytes(frame[1..9].try_into().unwrap());
    Seen::Log { stream: Stream::from_code(frame[0]).unwrap(), offset, bytes: frame[17..].to_vec() }
}
