//! Connections that say nothing, or hear nothing.

use caisson_protocol::{FRAME_BYTES_MAX, HELD_MAX, HeldPhase, Registration};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{House, Runner, attempt, eventually, in_time, registration};

#[tokio::test]
async fn a_connection_that_does_not_say_who_it_is_is_closed() {
    let house = House::start().await;
    let mut runner = Runner::connect(&house, "r1").await;
    runner.is_cut_off().await;
}

#[tokio::test]
async fn a_request_whose_head_never_ends_is_closed() {
    let house = House::start().await;
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\nhost: local").await.unwrap();
    let mut heard = Vec::new();
    // Whether it is told so or cut is the server's choice.
    let _ = in_time("the connection ends", stream.read_to_end(&mut heard)).await;
}

#[tokio::test]
async fn a_runner_that_does_not_read_is_cut_off_and_goes_on_when_it_comes_back() {
    let house = House::start().await;
    let said = Registration { capacity: 500, ..registration("r1") };
    let (mut deaf, _) = Runner::register(&house, said.clone()).await;
    let command = "x".repeat(64 * 1024);
    house.submits_many(&command, 300).await;
    eventually("the runner that does not read is cut off", async || {
        let shown = house.get("/api/v1/runners").await.json();
        (shown["runners"][0]["status"] == "disconnected").then_some(())
    })
    .await;
    let first = deaf.assigned().await;
    let mut runner = Runner::resume(&house, &said, &[(first, HeldPhase::Preparing)]).await;
    // What it never read is given out again, and what it has is not. What came after the cut was never given to it.
    let mut given_again = 0;
    for _ in 0..299 {
        let attempt = runner.assigned().await;
        assert!(attempt.build != first.build && attempt.number <= 2, "{attempt}");
        given_again += usize::from(attempt.number == 2);
    }
    assert!(given_again > 0);
    assert_eq!(house.build(&first.build.to_string()).await["attempt"], 1);
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_the_connection() {
    let house = House::start().await;
    for frame in
        [Message::text("x".repeat(FRAME_BYTES_MAX + 1)), Message::binary(vec![1; FRAME_BYTES_MAX + 1])]
    {
        let mut runner = Runner::named(&house, "r1").await;
        runner.send(frame).await;
        runner.is_cut_off().await;
    }
}

#[tokio::test]
async fn a_runner_that_lists_too_much_is_cut_off() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let one = attempt("019aac1e-7c00-7000-8000-000000000001", 1);
    runner.keeps_alive(&vec![(one, HeldPhase::Running); HELD_MAX + 1]).await;
    runner.is_cut_off().await;
    let shown = house.get("/api/v1/runners").await.json();
    assert_eq!(shown["runners"][0]["builds"], json!([]));
}
