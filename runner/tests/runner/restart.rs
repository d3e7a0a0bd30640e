//! The runner's own end: asked for, asked for twice, and not asked for at all.

use std::{os::unix::fs::PermissionsExt, path::Path};

use caisson_protocol::{CoordinatorMessage, HeldPhase, Outcome, RunnerMessage, Stream};

use super::World;
use crate::world::{Runner, docker, names, new_image, new_name, owned, until};

#[tokio::test]
async fn a_finished_result_survives_the_runners_death() {
    let mut world = World::new().await;
    let attempt = world.submit("echo ready; while [ ! -e go ]; do sleep 0.05; done; echo done");
    world.coordinator.prints(attempt, "ready").await;
    world.coordinator.look(|seen| seen.away = true);
    world.coordinator.cut();
    let work_dir = world.runner.work_dir();
    world.go(attempt);
    let report = work_dir.join("spool").join(attempt.to_string()).join("report.json");
    until("the report is on disk", async || report.exists()).await;

    world.runner.kill();
    world.coordinator.look(|seen| seen.away = false);
    world.runner.restart();
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "ready\ndone\n");
    world.coordinator.look(|seen| {
        let last = seen.registrations.last().unwrap();
        assert_eq!((last.held[0].attempt, last.held[0].phase), (attempt, HeldPhase::Finished));
    });
    world.ends_clean().await;
}

#[tokio::test]
async fn an_attempt_that_died_with_its_runner_is_cleaned_up_and_not_claimed() {
    let mut world = World::with(&["network=bridge"]).await;
    let attempt = world.submit("echo ready; while :; do sleep 1; done");
    world.coordinator.prints(attempt, "ready").await;
    world.runner.kill();
    assert!(owned(&world.runner.name).await.iter().any(|owned| owned.attempt == Some(attempt)));

    world.runner.restart();
    world.coordinator.wait("the runner registers again", |seen| seen.registrations.len() == 2).await;
    world.coordinator.look(|seen| assert_eq!(seen.registrations[1].held, []));
    world.runner.becomes_empty().await;
    assert!(world.runner.log().contains("sweep: removed 1 containers"), "{}", world.runner.log());
    world.ends_clean().await;
}

#[tokio::test]
async fn the_sweep_leaves_other_runners_alone() {
    let world = World::new().await;
    let attempt = world.submit("echo ready; while [ ! -e go ]; do sleep 0.05; done; echo alive");
    world.coordinator.prints(attempt, "ready").await;
    // A second runner starts, sweeps, and ends, which sweeps again.
    let home = tempfile::tempdir().unwrap();
    let mut other = Runner::start_at(home.path(), "http://127.0.0.1:1", &["connect.attempts=1"]);
    assert_eq!(other.exit_code().await, Some(1));
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "ready\nalive\n");
    world.ends_clean().await;
}

/// Of another coordinator, on one engine. And an image that somebody makes of a build's container has its labels.
#[tokio::test]
async fn the_sweep_leaves_a_namesake_alone_and_what_only_bears_its_labels() {
    let mut world = World::new().await;
    let attempt = world.submit("echo ready; while [ ! -e go ]; do sleep 0.05; done; echo alive");
    world.coordinator.prints(attempt, "ready").await;
    let (copy, image) = (new_name(), new_image());
    docker(&["commit", &format!("caisson-{attempt}"), &image]);
    docker(&["run", "--detach", "--network", "none", "--name", &copy, "--entrypoint", "sleep", &image, "1000"]);
    let home = tempfile::tempdir().unwrap();
    let name = format!("name={}", world.runner.name);
    let mut namesake = Runner::start_at(home.path(), "http://127.0.0.1:1", &["connect.attempts=1", &name]);
    assert_eq!(namesake.exit_code().await, Some(1));
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "ready\nalive\n");
    world.coordinator.cleaned(attempt).await;

    // Neither at its start nor at its end.
    assert_eq!(world.runner.end().await, Some(0));
    assert_eq!(docker(&["ps", "--filter", &format!("name={copy}"), "--format", "{{.Names}}"]), copy);
    docker(&["rm", "--force", &copy]);
    docker(&["rmi", &image]);
    world.runner.has_left_nothing().await;
}

#[tokio::test]
async fn the_first_signal_lets_builds_finish() {
    let mut world = World::with(&["capacity=2"]).await;
    let attempt = world.submit("echo ready; while [ ! -e go ]; do sleep 0.05; done; echo done");
    world.coordinator.prints(attempt, "ready").await;
    world.runner.terminate();
    let draining = |m: &RunnerMessage| matches!(m, RunnerMessage::Draining { .. });
    world.coordinator.wait("it drains", |seen| seen.messages.iter().any(draining)).await;

    // What comes now is given back, and signs of life go on.
    let late = world.submit("true");
    let released = |m: &RunnerMessage| *m == RunnerMessage::Released { attempt: late };
    world.coordinator.wait("a late build is given back", |seen| seen.messages.iter().any(released)).await;
    let heard = world.coordinator.look(|seen| seen.keep_alives.len());
    world.coordinator.wait("it gives signs of life", |seen| seen.keep_alives.len() > heard).await;

    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.runner.exit_code().await, Some(0));
    world.runner.has_left_nothing().await;
}

#[tokio::test]
async fn a_coordinator_can_drain_a_runner() {
    let mut world = World::new().await;
    world.coordinator.say(CoordinatorMessage::Drain);
    assert_eq!(world.runner.exit_code().await, Some(0));
    world.runner.has_left_nothing().await;
}

#[tokio::test]
async fn the_second_signal_gives_builds_back() {
    let mut world = World::new().await;
    let attempt = world.submit("echo ready; trap '' TERM; while :; do sleep 1; done");
    world.coordinator.prints(attempt, "ready").await;
    assert_eq!(world.runner.end().await, Some(0));
    world.coordinator.look(|seen| {
        assert!(seen.messages.contains(&RunnerMessage::Released { attempt }), "{:?}", seen.messages);
        assert!(seen.finished.is_empty());
    });
    world.runner.has_left_nothing().await;
}

#[tokio::test]
async fn a_result_that_could_not_be_delivered_waits_for_the_next_start() {
    let mut world = World::new().await;
    world.coordinator.look(|seen| seen.acknowledges_no_end = true);
    let attempt = world.submit("true");
    let told = |m: &RunnerMessage| matches!(m, RunnerMessage::Finished { .. });
    world.coordinator.wait("the end is told", |seen| seen.messages.iter().any(told)).await;
    assert_eq!(world.runner.end().await, Some(0));
    assert_eq!(names(&world.runner.work_dir().join("spool")), [attempt.to_string()]);

    world.coordinator.look(|seen| seen.acknowledges_no_end = false);
    world.runner.restart();
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.ends_clean().await;
}

#[tokio::test]
async fn s57_nobody_else_on_its_host_reads_what_a_runner_keeps() {
    let home = tempfile::tempdir().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // Also where the folder was there before.
    std::fs::create_dir_all(home.path().join("runner/work/spool")).unwrap();
    let world = World::within(home, &[]).await;
    let attempt = world.submit("true");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    for folder in ["spool", "mirrors", "tmp"] {
        assert_eq!(mode(&world.runner.work_dir().join(folder)), 0o700, "{folder}");
    }
    assert_eq!(mode(&world.runner.work_dir().join("credential")), 0o600);
    world.ends_clean().await;
}

#[tokio::test]
async fn two_processes_never_share_a_folder() {
    let world = World::new().await;
    let mut twin = world.runner.twin();
    let mut code = None;
    until("the second process ends", async || {
        code = twin.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    })
    .await;
    assert_eq!(code, Some(Some(1)));
    let attempt = world.submit("true");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.ends_clean().await;
}
