//! Clients that take their time, or send far too much. Time is virtual from where a test says so.

use std::time::Duration;

use serde_json::json;
use tokio::time::{pause, resume, sleep};

use super::{Raw, takes_about};
use crate::support::{Answer, House};

const POST: &str = "POST /api/v1/session HTTP/1.1\r\nhost: localhost\r\n";

#[tokio::test]
async fn s49_a_head_that_does_not_come_is_not_waited_for() {
    let house = House::start().await;
    pause();
    for begun in ["", "GET", "GET / HTTP/1.1\r\nhost: localhost\r\nx: "] {
        let waits = async || {
            let mut client = Raw::connect(house.address).await;
            client.says(begun).await;
            client.hears().await;
        };
        assert!(takes_about(10, waits).await, "{begun:?}");
    }
}

#[tokio::test]
async fn s49_a_head_that_drips_is_not_waited_for() {
    let house = House::start().await;
    pause();
    let drips = async || {
        let mut client = Raw::connect(house.address).await;
        client.says("GET / HTTP/1.1\r\nhost: localhost\r\n").await;
        for line in 0..4 {
            sleep(Duration::from_secs(3)).await;
            client.says(format!("x-{line}: y\r\n")).await;
        }
        client.says("\r\n").await;
        assert!(!client.hears().await.contains("200 OK"));
    };
    assert!(takes_about(12, drips).await);
}

#[tokio::test]
async fn s49_a_connection_on_which_nothing_is_asked_any_more_is_closed() {
    let house = House::start().await;
    let idles = async || {
        let mut client = Raw::connect(house.address).await;
        assert!(client.gets("/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(client.gets("/healthz").await.starts_with("HTTP/1.1 200"), "it can be used again");
        pause();
        assert_eq!(client.hears().await, "");
        resume();
    };
    assert!(takes_about(10, idles).await);
}

#[tokio::test]
async fn s49_a_body_that_drips_is_not_waited_for() {
    let house = House::start().await;
    pause();
    for head in ["content-length: 100\r\n\r\n", "transfer-encoding: chunked\r\n\r\n"] {
        let chunked = head.starts_with("transfer");
        let drips = async || {
            let mut client = Raw::connect(house.address).await;
            client.says(format!("{POST}{head}")).await;
            for _ in 0..7 {
                sleep(Duration::from_secs(5)).await;
                client.says(if chunked { "1\r\n \r\n" } else { " " }).await;
            }
            let heard = client.hears().await;
            assert!(heard.starts_with("HTTP/1.1 408") && heard.contains("\"request_timeout\""), "{heard}");
        };
        assert!(takes_about(35, drips).await, "{head:?}");
    }
}

#[tokio::test]
async fn s49_a_head_that_is_too_large_is_refused() {
    let house = House::start().await;
    for head in [
        format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(70_000)),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(70_000)),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(200)),
    ] {
        let mut client = Raw::connect(house.address).await;
        client.says(&head).await;
        let heard = client.hears().await;
        assert!(heard.starts_with("HTTP/1.1 431") || heard.starts_with("HTTP/1.1 414"), "{heard}");
    }
}

#[tokio::test]
async fn s49_a_body_that_is_announced_to_be_huge_is_refused_before_it_comes() {
    let house = House::start().await;
    let mut client = Raw::connect(house.address).await;
    client.says(format!("{POST}connection: close\r\ncontent-length: 1099511627776\r\n\r\n")).await;
    let heard = client.hears().await;
    assert!(heard.starts_with("HTTP/1.1 413") && heard.contains("\"body_too_large\""), "{heard}");
}

#[tokio::test]
async fn s49_json_without_bottom_is_refused() {
    let house = House::start().await;
    for deep in ["[".repeat(500_000), "{\"env\":".repeat(100_000), format!("{{\"x\":{}", "[".repeat(500_000))]
    {
        let request = house.person(reqwest::Method::POST, "/api/v1/builds").body(deep);
        assert_eq!(Answer::to(request).await.problem(), (400, "malformed_request".into()));
    }
    let packed = house.person(reqwest::Method::POST, "/api/v1/builds").header("content-encoding", "gzip");
    let packed = packed.json(&json!({ "commit": "main", "command": "true" }));
    assert_eq!(Answer::to(packed).await.status, 201, "what is said to be packed is never unpacked");
}

#[tokio::test]
async fn s59_what_is_no_http_costs_nothing_but_its_connection() {
    let house = House::start().await;
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut client = Raw::connect(house.address).await;
        client.says(nonsense).await;
        client.says("\r\n\r\n").await;
        let heard = client.hears().await;
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{heard}");
    }
    assert_eq!(house.get("/healthz").await.status, 200);
}
