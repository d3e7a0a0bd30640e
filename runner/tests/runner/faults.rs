//! An engine that is restarted, killed and frozen, and a disk that is full: no build's fault, and over when it is over.

use std::time::Duration;

use caisson_protocol::{CoordinatorMessage, Outcome, Stream};

use crate::world::{Dockerd, World, until};

const QUICK: [&str; 3] = ["engine.deadline=2s", "engine.patience=0s", "capacity=4"];
/// Tells when it runs, and runs until it is told to end.
const WAITS: &str = "echo ready; while [ ! -e /workspace/go ]; do sleep 0.05; done; echo done";

fn engine_failed(outcome: &Outcome) -> bool {
    outcome.reason() == Some("engine_failed")
}

impl World {
    fn go(&self, attempt: caisson_protocol::AttemptId) {
        let workspace = self.runner.work_dir().join("tmp").join(attempt.build.to_string());
        std::fs::write(workspace.join("go"), "").unwrap();
    }

    async fn is_healthy(&self) {
        until("the runner is healthy again", async || {
            let log = self.runner.log();
            log.rfind("healthy again") > log.rfind("unhealthy,")
        })
        .await;
    }
}

#[tokio::test]
async fn an_engine_that_is_killed_under_a_build_is_not_the_builds_failure() {
    let mut engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let attempt = world.submit(WAITS);
    world.coordinator.prints(attempt, "ready").await;
    engine.kill();
    let outcome = world.outcome(attempt).await;
    assert!(engine_failed(&outcome), "{outcome:?}");

    // While it is away builds are another runner's business.
    until("the runner notices", async || world.runner.log().contains("unhealthy,")).await;
    let meanwhile = world.submit("true");
    let outcome = world.outcome(meanwhile).await;
    assert!(engine_failed(&outcome), "{outcome:?}");
    let said = world.coordinator.log_text(meanwhile, Stream::Caisson);
    assert!(!said.contains("Cloning"), "a build began on a sick runner: {said}");

    engine.revive().await;
    world.is_healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn an_engine_that_is_shut_down_under_a_build_is_not_the_builds_failure() {
    let mut engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let builds = [world.submit(WAITS), world.submit("trap 'exit 0' TERM; echo ready; sleep 1000 & wait")];
    for attempt in builds {
        world.coordinator.prints(attempt, "ready").await;
    }
    engine.shut_down().await;
    engine.revive().await;
    for attempt in builds {
        let outcome = world.outcome(attempt).await;
        assert!(engine_failed(&outcome), "{outcome:?}");
    }
    world.is_healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn a_build_outlives_an_engine_that_freezes_for_a_while() {
    let engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let attempt = world.submit(WAITS);
    world.coordinator.prints(attempt, "ready").await;
    engine.freeze();
    until("the runner notices", async || world.runner.log().contains("unhealthy,")).await;
    let meanwhile = world.submit("true");
    assert!(engine_failed(&world.outcome(meanwhile).await));
    world.go(attempt);
    engine.thaw();
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "ready\ndone\n");
    world.is_healthy().await;
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn a_build_waits_out_an_engine_that_restarts() {
    let mut engine = Dockerd::start().await;
    let world = World::on(&engine, &["engine.deadline=2s", "engine.patience=60s"]).await;
    engine.kill();
    until("the runner notices", async || world.runner.log().contains("unhealthy,")).await;
    let attempt = world.submit("true");
    let said = |seen: &crate::world::coordinator::Seen| {
        seen.logs.get(&attempt).is_some_and(|log| log.text(Stream::Caisson).contains("can't run builds"))
    };
    world.coordinator.wait("the build waits", said).await;
    engine.revive().await;
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.ends_clean().await;
}

#[tokio::test]
async fn a_cancel_ends_though_the_engine_is_frozen() {
    let engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let attempt = world.submit(WAITS);
    world.coordinator.prints(attempt, "ready").await;
    engine.freeze();
    world.coordinator.say(CoordinatorMessage::Cancel { attempt });
    assert_eq!(world.outcome(attempt).await, Outcome::Canceled);
    engine.thaw();
    world.is_healthy().await;
    world.runner.becomes_empty().await;
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

/// At whatever point of a build's way it happens: create, attach, start, wait, inspect, remove.
#[tokio::test]
async fn whenever_the_engine_is_killed_or_frozen_no_build_fails_and_nothing_is_left() {
    let mut engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let first = world.submit("true");
    assert_eq!(world.outcome(first).await, Outcome::Succeeded);
    for (number, pause_ms) in [40, 100, 180, 300].into_iter().enumerate() {
        let attempts = [world.submit("echo x; sleep 0.1"), world.submit("true")];
        // The point is to hit different steps, so this waits for a time and not for an event.
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        if number % 2 == 0 {
            engine.kill();
            engine.revive().await;
        } else {
            engine.freeze();
            tokio::time::sleep(Duration::from_millis(2500)).await;
            engine.thaw();
        }
        for attempt in attempts {
            let outcome = world.outcome(attempt).await;
            assert!(outcome == Outcome::Succeeded || engine_failed(&outcome), "{pause_ms} ms: {outcome:?}");
        }
        let healthy = world.submit("true");
        world.outcome(healthy).await;
    }
    world.runner.becomes_empty().await;
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn a_full_disk_is_the_runners_trouble_and_over_when_there_is_room() {
    let world = World::with(&["disk_free_min=1EiB", "engine.patience=0s"]).await;
    until("the runner notices", async || world.runner.log().contains("unhealthy,")).await;
    let attempt = world.submit("true");
    let outcome = world.outcome(attempt).await;
    assert_eq!(outcome.reason(), Some("disk_full"), "{outcome:?}");
    assert!(outcome.message().unwrap().contains("disk_free_min"), "{outcome:?}");
    world.ends_clean().await;
}
