//! What a command prints: every byte of it, each stream in order, up to the log's limit.

use std::time::{SystemTime, UNIX_EPOCH};

use caisson_protocol::{Outcome, Stream};

use super::World;
use crate::world::{EngineProxy, Gate};

#[tokio::test]
async fn both_outputs_are_kept_apart_and_to_the_byte() {
    let world = World::new().await;
    // Every byte there is, zero and invalid UTF-8 included, and no newline at the end.
    let octal: String = (0..=255).map(|byte| format!("\\{byte:03o}")).collect();
    let attempt = world.submit(&format!("printf '{octal}'; printf 'to stderr' >&2; printf 'no newline'"));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let mut expected: Vec<u8> = (0..=255).collect();
    expected.extend_from_slice(b"no newline");
    assert_eq!(world.coordinator.log(attempt, Stream::Stdout), expected);
    assert_eq!(world.coordinator.log(attempt, Stream::Stderr), b"to stderr");
    world.ends_clean().await;
}

#[tokio::test]
async fn megabytes_arrive_whole_and_in_order() {
    let world = World::new().await;
    let attempt = world.submit("seq 1 700000; head -c 1000000 /dev/zero | tr '\\0' x >&2");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let expected: String = (1..=700_000).map(|number| format!("{number}\n")).collect();
    assert!(world.coordinator.log(attempt, Stream::Stdout) == expected.into_bytes(), "the output differs");
    assert!(world.coordinator.log(attempt, Stream::Stderr) == vec![b'x'; 1_000_000]);
    let ahead = world.coordinator.look(|seen| seen.logs[&attempt].ahead_max);
    assert!(ahead <= 1024 * 1024, "{ahead} bytes were sent unacknowledged");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_line_arrives_while_the_command_runs() {
    let world = World::new().await;
    let attempt = world.submit("echo first; while [ ! -e /workspace/go ]; do sleep 0.05; done; echo second");
    world.coordinator.prints(attempt, "first").await;
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "first\nsecond\n");
    world.ends_clean().await;
}

#[tokio::test]
async fn each_line_bears_the_time_at_which_it_came() {
    let world = World::new().await;
    let begun = now_ms();
    let attempt = world.submit("echo first; while [ ! -e /workspace/go ]; do sleep 0.05; done; echo second");
    world.coordinator.prints(attempt, "first").await;
    let first_was_there = now_ms();
    let heard = world.coordinator.look(|seen| seen.keep_alives.len());
    world.coordinator.wait("some time goes by", |seen| seen.keep_alives.len() > heard + 3).await;
    let second_was_not = now_ms();
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let ended = now_ms();

    let chunks = world.coordinator.look(|seen| seen.logs[&attempt].chunks.clone());
    assert!(chunks.is_sorted_by_key(|chunk| chunk.time_ms), "{chunks:?}");
    let printed: Vec<u64> =
        chunks.iter().filter(|chunk| chunk.stream == Stream::Stdout).map(|chunk| chunk.time_ms).collect();
    let [first, second] = printed[..] else { panic!("{chunks:?}") };
    assert!((begun..=first_was_there).contains(&first), "{first} is not in {begun}..={first_was_there}");
    assert!((second_was_not..=ended).contains(&second), "{second} is not in {second_was_not}..={ended}");
    world.ends_clean().await;
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

#[tokio::test]
async fn a_flood_keeps_its_head_and_its_tail_and_costs_no_build() {
    let world = World::new().await;
    let limit = 1024 * 1024;
    let attempt = world.coordinator.assign_with(world.spec("seq 1 5000000"), limit);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let report = world.coordinator.finished(attempt).await;
    assert!(report.log_bytes <= limit && report.log_bytes > limit * 9 / 10, "{}", report.log_bytes);
    let printed = world.coordinator.log_text(attempt, Stream::Stdout);
    assert!(printed.starts_with("1\n2\n3\n"));
    assert!(printed.ends_with("4999999\n5000000\n"));
    let said = world.coordinator.log_text(attempt, Stream::Caisson);
    assert_eq!(said.lines().filter(|line| line.contains("bytes are missing here")).count(), 1, "{said}");
    assert!(said.ends_with("The command succeeded\n"));
    world.ends_clean().await;
}

/// A process that is left ends with its container; but an engine may not notice, or not say so.
#[tokio::test]
async fn the_exit_decides_though_the_output_stays_open() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting()]).await;
    proxy.set(Gate::NeverEnds);
    let attempt = world.submit("(setsid sh -c 'while :; do sleep 1; done' &); echo done; exit 3");
    assert_eq!(world.outcome(attempt).await, Outcome::Failed { exit_code: 3, note: None });
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "done\n");
    let said = world.coordinator.log_text(attempt, Stream::Caisson);
    assert!(said.contains("still open 5 s after the command had ended"), "{said}");
    world.coordinator.cleaned(attempt).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_command_that_closes_its_output_is_waited_for() {
    let world = World::new().await;
    let attempt = world.submit("echo before; exec >&- 2>&-; sleep 1; exit 4");
    assert_eq!(world.outcome(attempt).await, Outcome::Failed { exit_code: 4, note: None });
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "before\n");
    world.ends_clean().await;
}

#[tokio::test]
async fn what_is_written_after_the_end_is_cut_off_and_ends_with_the_container() {
    let world = World::new().await;
    let attempt =
        world.submit("(setsid sh -c 'while :; do echo late; sleep 0.2; done' &); echo done; exit 3");
    assert_eq!(world.outcome(attempt).await, Outcome::Failed { exit_code: 3, note: None });
    assert!(world.coordinator.log_text(attempt, Stream::Stdout).contains("done\n"));
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_flood_on_one_line_costs_neither_memory_nor_a_neighbour() {
    let world = World::with(&["capacity=2"]).await;
    let limit = 1024 * 1024;
    let before = world.runner.memory_peak_kib();
    let flood =
        world.coordinator.assign_with(world.spec("head -c 300m /dev/zero | tr '\\0' x; exit 6"), limit);
    world.coordinator.started(flood).await;
    let neighbour = world.submit("echo fine");
    assert_eq!(world.outcome(neighbour).await, Outcome::Succeeded);
    assert_eq!(world.outcome(flood).await, Outcome::Failed { exit_code: 6, note: None });
    let report = world.coordinator.finished(flood).await;
    assert!(report.log_bytes <= limit, "{}", report.log_bytes);
    let grown = world.runner.memory_peak_kib() - before;
    assert!(grown < 32 * 1024, "the runner grew by {grown} KiB");
    world.ends_clean().await;
}
