//! The log of an attempt, as it comes in.

use caisson_protocol::{AttemptId, CoordinatorMessage, Outcome, RunnerMessage, Stream};

use crate::support::{House, Runner, attempt, report};

fn resend(attempt: AttemptId, offset: u64) -> CoordinatorMessage {
    CoordinatorMessage::LogAck { attempt, offset, resend: true }
}

#[tokio::test]
async fn a_gap_is_asked_for_and_nothing_behind_it_is_taken() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"one ").await;
    runner.is_acknowledged(attempt, 4).await;
    runner.writes(attempt, 8, b"three").await;
    assert_eq!(runner.hear().await, resend(attempt, 4));
    assert_eq!(house.log(&id).await, b"one ");
    runner.writes(attempt, 4, b"two ").await;
    runner.writes(attempt, 8, b"three").await;
    runner.is_acknowledged(attempt, 13).await;
    assert_eq!(house.log(&id).await, b"one two three");
}

#[tokio::test]
async fn what_comes_again_is_passed_over_and_what_overlaps_is_trimmed() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    for (offset, bytes) in
        [(0, &b"0123"[..]), (0, b"0123"), (1, b"12"), (2, b"2345"), (0, b"0123456789"), (10, b"")]
    {
        runner.writes(attempt, offset, bytes).await;
    }
    runner.finishes(attempt, Outcome::Succeeded, 10).await;
    assert_eq!(house.log(&id).await, b"0123456789");
}

#[tokio::test]
async fn the_log_of_an_attempt_that_is_not_its_own_is_not_written() {
    let house = House::start().await;
    let mut first = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let theirs = first.runs().await;
    first.writes(theirs, 0, b"mine").await;
    first.is_acknowledged(theirs, 4).await;
    let mut second = Runner::named(&house, "r2").await;
    let nobodys = attempt("019aac1e-7c00-7000-8000-000000000001", 1);
    for foreign in [theirs, nobodys, attempt(&id, 2)] {
        second.writes(foreign, 0, b"forged").await;
        assert_eq!(second.hear().await, CoordinatorMessage::Drop { attempt: foreign });
        second.writes(foreign, 4, b"forged").await;
        assert_eq!(second.hear().await, CoordinatorMessage::Drop { attempt: foreign });
    }
    assert_eq!(house.log(&id).await, b"mine");
    assert_eq!(files_below(&house.data_dir().join("logs")), 2, "one log and its index");
}

fn files_below(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn nothing_is_added_to_a_log_after_its_end_was_acknowledged() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"all").await;
    runner.finishes(attempt, Outcome::Succeeded, 3).await;
    runner.writes(attempt, 3, b" and more").await;
    assert_eq!(runner.hear().await, CoordinatorMessage::Drop { attempt });
    assert_eq!(house.log(&id).await, b"all");
}

#[tokio::test]
async fn an_end_waits_until_all_of_the_log_is_there() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let finished = || RunnerMessage::Finished { attempt, report: report(Outcome::Succeeded, 8) };
    runner.say(finished()).await;
    assert_eq!(runner.hear().await, resend(attempt, 0));
    runner.writes(attempt, 0, b"half").await;
    runner.is_acknowledged(attempt, 4).await;
    runner.say(finished()).await;
    assert_eq!(runner.hear().await, resend(attempt, 4));
    house.until(&id, "running").await;
    runner.writes(attempt, 4, b"half").await;
    runner.finishes(attempt, Outcome::Succeeded, 8).await;
    assert_eq!(house.build(&id).await["status"], "succeeded");
}

#[tokio::test]
async fn a_log_survives_a_restart_and_goes_on_where_it_was() {
    let mut house = House::start().await;
    let said = crate::support::registration("r1");
    let (mut runner, _) = Runner::register(&house, said.clone()).await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.writes(attempt, 0, b"before ").await;
    runner.is_acknowledged(attempt, 7).await;
    house.stop().await;
    house.start_again().await;
    let held = [(attempt, caisson_protocol::HeldPhase::Running)];
    let mut runner = Runner::resume(&house, &said, &held).await;
    runner.writes(attempt, 4, b"re after").await;
    runner.finishes(attempt, Outcome::Succeeded, 12).await;
    assert_eq!(house.log(&id).await, b"before after");
}

#[tokio::test]
async fn much_log_comes_in_whole_and_each_stream_byte_for_byte() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let piece: Vec<u8> = (0..=255u8).cycle().take(64 * 1024).collect();
    let (mut whole, mut errors) = (Vec::new(), Vec::new());
    for number in 0..64 {
        let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
        let piece = &piece[number..];
        runner.writes_to(stream, attempt, whole.len() as u64, piece).await;
        whole.extend_from_slice(piece);
        if stream == Stream::Stderr {
            errors.extend_from_slice(piece);
        }
    }
    runner.finishes(attempt, Outcome::Succeeded, whole.len() as u64).await;
    assert!(house.log(&id).await == whole, "the log differs");
    let path = format!("/api/v1/builds/{id}/log?stream=stderr");
    assert!(house.get(&path).await.body == errors, "the log of stderr differs");
}
