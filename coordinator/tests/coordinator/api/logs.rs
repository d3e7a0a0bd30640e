//! The log of a build as text: the bytes as they came.

use caisson_protocol::{Outcome, Stream};
use reqwest::Method;

use crate::support::{Answer, House, Runner};

/// All bytes there are, and none of them text.
fn binary() -> Vec<u8> {
    (0..=255u8).cycle().take(100_000).collect()
}

async fn range(house: &House, id: &str, range: &str) -> Answer {
    Answer::to(house.person(Method::GET, &format!("/api/v1/builds/{id}/log")).header("range", range)).await
}

#[tokio::test]
async fn a_build_that_never_ran_has_an_empty_log() {
    let house = House::start().await;
    let id = house.submitted("a").await;
    let answer = house.get(&format!("/api/v1/builds/{id}/log")).await;
    assert_eq!((answer.status, answer.body.len(), answer.header("content-length")), (200, 0, "0"));
}

#[tokio::test]
async fn a_log_is_given_whole_and_byte_for_byte_and_is_never_taken_for_a_page() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let bytes = binary();
    for (at, piece) in bytes.chunks(60_000).enumerate() {
        runner.writes(attempt, at as u64 * 60_000, piece).await;
    }
    runner.finishes(attempt, Outcome::Succeeded, bytes.len() as u64).await;
    let answer = house.get(&format!("/api/v1/builds/{id}/log")).await;
    assert_eq!(answer.body, bytes);
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("content-length"), "100000");
    assert_eq!(house.build(&id).await["log_bytes"], 100_000);
}

#[tokio::test]
async fn a_part_of_a_log_is_given() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let bytes = binary();
    for (at, piece) in bytes.chunks(60_000).enumerate() {
        runner.writes(attempt, at as u64 * 60_000, piece).await;
    }
    runner.is_acknowledged(attempt, 100_000).await;
    for (asked, part, told) in [
        ("bytes=0-9", 0..10, "bytes 0-9/100000"),
        ("bytes=59990-60009", 59_990..60_010, "bytes 59990-60009/100000"),
        ("bytes=-5", 99_995..100_000, "bytes 99995-99999/100000"),
        ("bytes=99999-200000", 99_999..100_000, "bytes 99999-99999/100000"),
    ] {
        let answer = range(&house, &id, asked).await;
        assert_eq!((answer.status, answer.header("content-range")), (206, told));
        assert_eq!(answer.body, bytes[part], "{asked}");
    }
    assert_eq!(range(&house, &id, "lines=1-2").await.status, 200);
    let beyond = range(&house, &id, "bytes=100000-").await;
    assert_eq!(beyond.problem(), (416, "range_not_satisfiable".into()));
    assert_eq!(beyond.header("content-range"), "bytes */100000");
}

#[tokio::test]
async fn streams_are_told_apart() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.writes_to(Stream::Caisson, attempt, 0, b"cloning\n").await;
    runner.writes_to(Stream::Stdout, attempt, 8, b"out ").await;
    runner.writes_to(Stream::Stderr, attempt, 12, b"err ").await;
    runner.writes_to(Stream::Stdout, attempt, 16, b"out again").await;
    runner.is_acknowledged(attempt, 25).await;
    let log = async |query: &str| house.get(&format!("/api/v1/builds/{id}/log{query}")).await;
    assert_eq!(log("").await.text(), "cloning\nout err out again");
    assert_eq!(log("?stream=stdout").await.text(), "out out again");
    assert_eq!(log("?stream=stderr").await.text(), "err ");
    assert_eq!(log("?stream=caisson").await.text(), "cloning\n");
    assert_eq!(log("?stream=stdin").await.problem(), (400, "malformed_request".into()));
    let path = format!("/api/v1/builds/{id}/log?stream=stdout");
    let part = Answer::to(house.person(Method::GET, &path).header("range", "bytes=2-5")).await;
    assert_eq!((part.text(), part.header("content-range")), ("t ou".into(), "bytes 2-5/13"));
}
