//! The channel: lost, cut, silent and refused connections, and what becomes of builds meanwhile.

use caisson_protocol::{CoordinatorMessage, HeldPhase, Outcome, Refusal, RunnerMessage, Stream};

use super::World;
use crate::world::{Coordinator, Runner, owned, until};

#[tokio::test]
async fn a_lost_connection_costs_a_build_neither_its_life_nor_a_byte() {
    let world = World::new().await;
    world.coordinator.look(|seen| seen.cut_after = Some(300_000));
    let attempt = world.submit("seq 1 200000");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(world.coordinator.log_text(attempt, Stream::Stdout) == expected, "the output differs");
    world.coordinator.look(|seen| {
        assert!(seen.registrations.len() > 1, "the connection was not cut");
        assert_eq!(seen.registrations[1].instance, seen.registrations[0].instance);
        assert_eq!(seen.registrations[1].held[0].attempt, attempt);
    });
    world.ends_clean().await;
}

#[tokio::test]
async fn a_coordinator_that_missed_something_gets_it_again() {
    let world = World::new().await;
    world.coordinator.look(|seen| seen.forget_once = true);
    let attempt = world.submit("seq 1 100000");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(world.coordinator.log_text(attempt, Stream::Stdout) == expected, "the output differs");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_coordinator_that_takes_nothing_in_holds_no_build_up() {
    let world = World::new().await;
    world.coordinator.look(|seen| seen.acknowledges_no_log = true);
    let attempt = world.submit("seq 1 1000000; touch /workspace/done; while :; do sleep 1; done");
    let workspace = world.runner.work_dir().join("tmp").join(attempt.build.to_string());
    until("the command gets past its output", async || workspace.join("done").exists()).await;
    let ahead = world.coordinator.look(|seen| seen.logs[&attempt].ahead_max);
    assert!(ahead <= 1024 * 1024, "{ahead} bytes were sent unacknowledged");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_runner_whose_coordinator_is_away_goes_on_and_delivers_later() {
    // Only who was never registered gives up.
    let world = World::with(&["connect.attempts=1"]).await;
    let attempt = world.submit("echo ready; while [ ! -e go ]; do sleep 0.05; done; echo done");
    world.coordinator.prints(attempt, "ready").await;
    world.coordinator.look(|seen| seen.away = true);
    world.coordinator.cut();
    let work_dir = world.runner.work_dir();
    world.go(attempt);
    let report = work_dir.join("spool").join(attempt.to_string()).join("report.json");
    until("the build ends without a coordinator", async || report.exists()).await;
    world.coordinator.look(|seen| seen.away = false);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "ready\ndone\n");
    world.coordinator.look(|seen| {
        let last = seen.registrations.last().unwrap();
        assert_eq!(last.held[0].phase, HeldPhase::Finished);
    });
    world.ends_clean().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_heard_is_made_anew() {
    let world = World::new().await;
    world.coordinator.look(|seen| seen.silent = true);
    until("the runner notices", async || world.runner.log().contains("nothing was heard")).await;
    world.coordinator.look(|seen| seen.silent = false);
    world.coordinator.wait("the runner comes back", |seen| seen.registrations.len() > 1).await;
    let attempt = world.submit("true");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.ends_clean().await;
}

#[tokio::test]
async fn an_end_is_told_until_it_is_acknowledged() {
    let world = World::new().await;
    world.coordinator.look(|seen| seen.acknowledges_no_end = true);
    let attempt = world.submit("true");
    let told = |count| {
        move |seen: &crate::world::coordinator::Seen| {
            let finished = |m: &&RunnerMessage| matches!(m, RunnerMessage::Finished { .. });
            seen.messages.iter().filter(finished).count() >= count
        }
    };
    world.coordinator.wait("the end is told twice", told(2)).await;
    world.coordinator.look(|seen| seen.acknowledges_no_end = false);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.ends_clean().await;
}

#[tokio::test]
async fn signs_of_life_list_what_is_held_and_how_far_it_is() {
    let world = World::new().await;
    let attempt = world.submit("echo ready; while [ ! -e go ]; do sleep 0.05; done");
    world.coordinator.started(attempt).await;
    world
        .coordinator
        .wait("it is listed as running", |seen| {
            seen.keep_alives.last().is_some_and(|held| {
                held.len() == 1 && held[0].attempt == attempt && held[0].phase == HeldPhase::Running
            })
        })
        .await;
    world.go(attempt);
    world.coordinator.finished(attempt).await;
    world
        .coordinator
        .wait("nothing is listed", |seen| seen.keep_alives.last().is_some_and(Vec::is_empty))
        .await;
    world.ends_clean().await;
}

#[tokio::test]
async fn what_is_dropped_vanishes_without_a_word() {
    let world = World::with(&["capacity=2"]).await;
    let told = world.submit("echo ready; trap '' TERM; while :; do sleep 1; done");
    let not_kept = world.submit("echo ready; trap '' TERM; while :; do sleep 1; done");
    for attempt in [told, not_kept] {
        world.coordinator.prints(attempt, "ready").await;
    }
    world.coordinator.say(CoordinatorMessage::Drop { attempt: told });
    world.coordinator.look(|seen| seen.not_kept.insert(not_kept));
    let of_told = |owned: &Vec<caisson_runner::engine::Owned>| owned.iter().any(|o| o.attempt == Some(told));
    until("its container is gone", async || !of_told(&owned(&world.runner.name).await)).await;
    world.coordinator.cut();
    world.runner.becomes_empty().await;
    world.coordinator.look(|seen| {
        assert!(seen.finished.is_empty());
        assert!(seen.messages.iter().all(|m| !matches!(
            m,
            RunnerMessage::Finished { .. } | RunnerMessage::Released { .. } | RunnerMessage::Cleaned { .. }
        )));
    });
    world.ends_clean().await;
}

#[tokio::test]
async fn what_is_dropped_while_it_ends_vanishes_as_well() {
    let world = World::with(&["stop_grace=2s"]).await;
    let attempt = world.submit("trap 'echo stopping' TERM; echo ready; while :; do sleep 0.1; done");
    world.coordinator.prints(attempt, "ready").await;
    world.coordinator.say(CoordinatorMessage::Cancel { attempt });
    world.coordinator.prints(attempt, "stopping").await;
    world.coordinator.say(CoordinatorMessage::Drop { attempt });
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_log_that_is_lost_holds_no_end_up_for_ever() {
    let mut world = World::new().await;
    world.coordinator.look(|seen| seen.acknowledges_no_log = true);
    let attempt = world.submit("echo hello");
    let folder = world.runner.work_dir().join("spool").join(attempt.to_string());
    until("it has ended", async || folder.join("report.json").exists()).await;
    world.runner.kill();
    std::fs::remove_file(folder.join("output.log")).unwrap();
    world.coordinator.look(|seen| seen.acknowledges_no_log = false);
    world.runner.restart();
    let outcome = world.outcome(attempt).await;
    assert_eq!(outcome.reason(), Some("runner_failed"), "{outcome:?}");
    world.ends_clean().await;
}

#[tokio::test]
async fn an_assignment_that_comes_twice_runs_once() {
    let world = World::new().await;
    let spec = world.spec("echo once >> /workspace/runs; cat /workspace/runs");
    let attempt = world.coordinator.assign(spec.clone());
    world.coordinator.say(CoordinatorMessage::Assign { attempt, spec: spec.into(), log_bytes_max: 1 << 20 });
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "once\n");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_runner_that_finds_no_coordinator_gives_up_with_one_clear_line() {
    let home = tempfile::tempdir().unwrap();
    let mut runner =
        Runner::start_at(home.path(), "http://127.0.0.1:1", &["connect.attempts=3", "connect.delay=50ms"]);
    assert_eq!(runner.exit_code().await, Some(1));
    let log = runner.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains("http://127.0.0.1:1") && last.contains("3 attempts"), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("trying again")).count(), 2, "{log}");
    runner.has_left_nothing().await;
}

#[tokio::test]
async fn a_runner_that_is_not_wanted_goes_at_once() {
    let home = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start().await;
    coordinator.look(|seen| seen.refuses = Some(Refusal::IncompatibleVersion));
    let mut refused = Runner::start(&home.path().join("refused"), &coordinator, &[]);
    assert_eq!(refused.exit_code().await, Some(1));
    assert!(
        refused.log().lines().last().unwrap().contains("refuses this runner: go away"),
        "{}",
        refused.log()
    );

    let mut denied = Runner::start(&home.path().join("denied"), &coordinator, &[]);
    denied.kill();
    std::fs::write(home.path().join("denied/token"), "stale-token").unwrap();
    let _ = std::fs::remove_file(home.path().join("denied/work/credential"));
    denied.restart();
    assert_eq!(denied.exit_code().await, Some(1));
    assert!(denied.log().lines().last().unwrap().contains("does not take this runner's token"));
    assert!(!denied.log().contains("stale-token"));
}

#[tokio::test]
async fn a_runner_that_is_superseded_stops_what_it_runs() {
    let mut world = World::new().await;
    let attempt = world.submit("echo ready; while :; do sleep 1; done");
    world.coordinator.prints(attempt, "ready").await;
    let message = "another process has registered under this name".to_owned();
    world.coordinator.say(CoordinatorMessage::Refused { reason: Refusal::Superseded, message });
    assert_eq!(world.runner.exit_code().await, Some(1));
    assert!(world.runner.log().contains("another process has registered"), "{}", world.runner.log());
    world.runner.has_left_nothing().await;
}
