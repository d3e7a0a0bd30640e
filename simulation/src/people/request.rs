//! One request over one connection, as plain as HTTP can be.

use std::{fmt::Write as _, sync::Arc};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{life::Life, network::Link};

/// A request.
pub(super) struct Request {
    head: String,
    body: String,
}

/// An answer that came in whole.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing was sent.
    NotConnected,
    /// It may have been done or not.
    Unknown,
}

impl Request {
    pub(super) fn get(path: &str) -> Self {
        Self { head: head("GET", path), body: String::new() }
    }

    pub(super) fn post(path: &str, body: &Value) -> Self {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Self { head: head("POST", path), body }
    }

    /// Names the submission, so that it can be repeated.
    pub(super) fn key(&mut self, key: &str) {
        // Writing into a String does not fail.
        let _ = write!(self.head, "Idempotency-Key: {key}\r\n");
    }

    pub(super) async fn send(&self, link: &Arc<Link>, life: &Arc<Life>) -> Result<Answer, Lost> {
        let mut end = link.connect(life).await.map_err(|_| Lost::NotConnected)?;
        let token = crate::ADMIN_TOKEN;
        let length = self.body.len();
        let request = format!(
            "{}Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{}",
            self.head, self.body
        );
        end.write_all(request.as_bytes()).await.map_err(|_| Lost::Unknown)?;
        let mut answer = Vec::new();
        end.read_to_end(&mut answer).await.map_err(|_| Lost::Unknown)?;
        read(&answer).ok_or(Lost::Unknown)
    }
}

fn head(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: coordinator\r\nConnection: close\r\n")
}

/// Reads an answer. `None` when it was cut off.
fn read(answer: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    if length.trim().parse() != Ok(body.len()) {
        return None;
    }
    Some(Answer { status, body: serde_json::from_str(body).unwrap_or(Value::Null) })
}
