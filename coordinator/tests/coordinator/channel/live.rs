//! What people see while it happens.

use caisson_protocol::{Outcome, RunnerMessage, Stream};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::json;

use crate::support::{House, Runner, Seen, Viewer, engine_failed, in_time};

/// A log that is followed as plain text.
struct Text(std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<Vec<u8>>>>>);

impl Text {
    async fn follow(house: &House, path: &str) -> Self {
        let response = in_time("the log begins", house.person(Method::GET, path).send()).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        Self(Box::pin(response.bytes_stream().map(|piece| piece.map(|bytes| bytes.to_vec()))))
    }

    async fn reads(&mut self, bytes: usize) -> String {
        let mut read = Vec::new();
        while read.len() < bytes {
            let piece = in_time("more of the log", self.0.next()).await.expect("the log goes on");
            read.extend(piece.unwrap());
        }
        String::from_utf8(read).unwrap()
    }

    async fn ends(&mut self) -> Option<reqwest::Result<Vec<u8>>> {
        in_time("the log ends", self.0.next()).await
    }
}

fn said(seen: serde_json::Value) -> Seen {
    Seen::Said(seen)
}

#[tokio::test]
async fn a_log_is_read_as_it_comes_and_ends_with_the_build() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let mut text = Text::follow(&house, &format!("/api/v1/builds/{id}/log?follow=true")).await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"one ").await;
    assert_eq!(text.reads(4).await, "one ");
    runner.writes(attempt, 4, b"two").await;
    assert_eq!(text.reads(3).await, "two");
    house.until(&id, "running").await;
    runner.finishes(attempt, Outcome::Succeeded, 7).await;
    assert!(text.ends().await.is_none());
}

#[tokio::test]
async fn a_followed_log_goes_on_with_the_next_attempt() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let path = format!("/api/v1/builds/{id}/log?follow=true");
    let mut text = Text::follow(&house, &path).await;
    let first = runner.runs().await;
    runner.writes(first, 0, b"first").await;
    runner.finishes(first, engine_failed(), 5).await;
    let second = runner.runs().await;
    runner.writes(second, 0, b"second").await;
    assert_eq!(text.reads(5 + 18 + 6).await, "first--- attempt 2 ---\nsecond");
    runner.finishes(second, Outcome::Succeeded, 6).await;
    assert!(text.ends().await.is_none());
    let only = house.get(&format!("{path}&attempt=1")).await;
    assert_eq!(only.text(), "first");
}

#[tokio::test]
async fn a_followed_log_that_the_coordinators_end_cut_off_is_not_taken_for_whole() {
    let mut house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let mut text = Text::follow(&house, &format!("/api/v1/builds/{id}/log?follow=true")).await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"half").await;
    assert_eq!(text.reads(4).await, "half");
    house.stop().await;
    assert!(text.ends().await.is_some_and(|end| end.is_err()));
}

#[tokio::test]
async fn a_viewer_sees_all_from_an_offset_then_what_comes_then_the_end() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"0123456789").await;
    runner.is_acknowledged(attempt, 10).await;
    let mut viewer = Viewer::watch(&house, &format!("/api/v1/builds/{id}/log/stream?from=4")).await;
    assert_eq!(viewer.see().await, said(json!({ "type": "attempt", "number": 1 })));
    let piece = |stream, offset, bytes: &[u8]| Seen::Log { stream, offset, bytes: bytes.to_vec() };
    assert_eq!(viewer.see().await, piece(Stream::Stdout, 4, b"456789"));
    runner.writes_to(Stream::Stderr, attempt, 10, b"oh \xff\x00").await;
    assert_eq!(viewer.see().await, piece(Stream::Stderr, 10, b"oh \xff\x00"));
    runner.finishes(attempt, Outcome::Failed { exit_code: 1, note: None }, 15).await;
    assert_eq!(viewer.see().await, said(json!({ "type": "end", "status": "failed" })));
    assert_eq!(viewer.see().await, Seen::End);
}

#[tokio::test]
async fn a_viewer_follows_a_build_through_a_requeue() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let mut viewer = Viewer::watch(&house, &format!("/api/v1/builds/{id}/log/stream")).await;
    for number in [1, 2] {
        let attempt = runner.runs().await;
        assert_eq!(viewer.see().await, said(json!({ "type": "attempt", "number": number })));
        runner.writes(attempt, 0, b"from the start").await;
        assert_eq!(viewer.reads(14).await, b"from the start");
        let outcome = if number == 1 { engine_failed() } else { Outcome::Succeeded };
        runner.finishes(attempt, outcome, 14).await;
    }
    assert_eq!(viewer.see().await, said(json!({ "type": "end", "status": "succeeded" })));
}

#[tokio::test]
async fn a_viewer_of_an_ended_build_sees_it_whole() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let bytes: Vec<u8> = (0..=255u8).cycle().take(600_000).collect();
    for (at, piece) in bytes.chunks(60_000).enumerate() {
        runner.writes(attempt, at as u64 * 60_000, piece).await;
    }
    runner.finishes(attempt, Outcome::Succeeded, 600_000).await;
    let mut viewer = Viewer::watch(&house, &format!("/api/v1/builds/{id}/log/stream")).await;
    assert_eq!(viewer.see().await, said(json!({ "type": "attempt", "number": 1 })));
    assert!(viewer.reads(600_000).await == bytes, "the log differs");
    assert_eq!(viewer.see().await, said(json!({ "type": "end", "status": "succeeded" })));
}

#[tokio::test]
async fn a_viewer_of_a_build_that_is_canceled_while_it_waits_sees_the_end() {
    let house = House::start().await;
    let id = house.submitted("a").await;
    let mut viewer = Viewer::watch(&house, &format!("/api/v1/builds/{id}/log/stream")).await;
    house.post(&format!("/api/v1/builds/{id}/cancel")).await;
    assert_eq!(viewer.see().await, said(json!({ "type": "end", "status": "canceled" })));
}

#[tokio::test]
async fn a_dashboard_sees_a_snapshot_and_then_every_change() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.assigned().await;
    let mut viewer = Viewer::watch(&house, "/api/v1/events").await;
    let mut other = Viewer::watch(&house, "/api/v1/events").await;
    let snapshot = viewer.said().await;
    assert_eq!((&snapshot["type"], &snapshot["builds"][0]["id"]), (&json!("snapshot"), &json!(id)));
    assert_eq!(
        (&snapshot["queue"]["depth"], &snapshot["runners"]["runners"][0]["name"]),
        (&json!(0), &json!("r1"))
    );
    assert_eq!(other.said().await["type"], "snapshot");

    runner.say(RunnerMessage::Accepted { attempt }).await;
    runner
        .say(RunnerMessage::Started {
            attempt,
            resolved_commit: crate::support::commit(),
            image_digest: None,
        })
        .await;
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    let mut seq = snapshot["seq"].as_u64().unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &serde_json::Value| event["build"]["status"] != "succeeded") {
        let event = viewer.said().await;
        assert!(event["seq"].as_u64().unwrap() > seq, "{event} after {seq}");
        seq = event["seq"].as_u64().unwrap();
        seen.push(event);
    }
    assert_eq!(other.until(|event| event["build"]["status"] == "succeeded").await, seen.pop().unwrap());
}

#[tokio::test]
async fn a_dashboard_sees_runners_come_and_go_and_the_queue_grow() {
    let house = House::start().await;
    let mut viewer = Viewer::watch(&house, "/api/v1/events").await;
    viewer.said().await;
    let runner = Runner::named(&house, "r1").await;
    let status = |event: &serde_json::Value| event["runners"]["runners"][0]["status"].clone();
    viewer.until(|event| status(event) == "ready").await;
    drop(runner);
    viewer.until(|event| status(event) == "disconnected").await;
    house.submitted("a").await;
    viewer.until(|event| event["type"] == "queue" && event["depth"] == 1).await;
}

#[tokio::test]
async fn a_dashboard_that_lags_gets_a_new_snapshot() {
    let house = House::with(|settings| settings.queue.capacity = 10_000).await;
    let mut viewer = Viewer::watch(&house, "/api/v1/events").await;
    let first = viewer.said().await;
    assert_eq!(first["type"], "snapshot");
    // It reads nothing while more is told than connections and the coordinator keep for it.
    let command = "x".repeat(30_000);
    for _ in 0..600 {
        house.submitted(&command).await;
    }
    let snapshot = viewer.until(|event| event["type"] == "snapshot").await;
    assert!(snapshot["seq"].as_u64() > first["seq"].as_u64());
    assert!(snapshot["queue"]["depth"].as_u64() > Some(0));
}
