//! An engine that is restarted, killed and frozen, and a disk that is full: no build's fault, and over when it is over.

use std::time::Duration;

use caisson_protocol::{CoordinatorMessage, FailureNote, Outcome, RunnerMessage, Stream};

use super::World;
use crate::world::{Call, Dockerd, EngineProxy, Gate, Registry, coordinator::Seen, until};

const QUICK: [&str; 2] = ["engine.deadline=4s", "capacity=4"];
/// Tells when it runs, and runs until it is told to end.
const WAITS: &str = "echo ready; while [ ! -e /workspace/go ]; do sleep 0.05; done; echo done";

fn engine_failed(outcome: &Outcome) -> bool {
    outcome.reason() == Some("engine_failed")
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
    let why = world.coordinator.unhealthy().await;
    assert!(why.contains("docker.sock"), "{why}");
    let meanwhile = world.submit("true");
    world.coordinator.released(meanwhile).await;
    let said = world.coordinator.log_text(meanwhile, Stream::Caisson);
    assert!(!said.contains("Cloning"), "a build began on a sick runner: {said}");

    engine.revive().await;
    world.coordinator.healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

/// Restarts an engine under two commands, which both end as they like when they are told to.
async fn restart_under(mut engine: Dockerd, settings: &[&str], commands: [&str; 2]) {
    let world = World::on(&engine, settings).await;
    let builds = commands.map(|command| world.submit(command));
    for attempt in builds {
        world.coordinator.prints(attempt, "ready").await;
    }
    engine.shut_down().await;
    engine.revive().await;
    for attempt in builds {
        let outcome = world.outcome(attempt).await;
        assert!(engine_failed(&outcome), "{outcome:?}");
    }
    world.coordinator.healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn an_engine_that_is_shut_down_under_a_build_is_not_the_builds_failure() {
    let ends_well = "trap 'exit 0' TERM; echo ready; sleep 1000 & wait";
    restart_under(Dockerd::start().await, &QUICK, [WAITS, ends_well]).await;
}

/// As under systemd: who calls it while it is away is answered by the one that comes after it.
#[tokio::test]
async fn an_engine_that_restarts_behind_a_socket_that_waits_for_it_is_not_the_builds_failure() {
    let ends = [0, 143].map(|code| format!("trap 'exit {code}' TERM; echo ready; while :; do sleep 0.1; done"));
    let engine = Dockerd::start_behind_a_socket().await;
    restart_under(engine, &["capacity=2"], ends.each_ref().map(String::as_str)).await;
}

/// Its connections stay open for ever, and by the time it can be asked again it has found the container ended.
#[tokio::test]
async fn an_engine_whose_host_loses_its_power_and_comes_back_is_not_the_builds_failure() {
    let mut engine = Dockerd::start().await;
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::before(engine.socket(), home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting(), "engine.deadline=10s"]).await;
    let attempt = world.submit(WAITS);
    world.coordinator.prints(attempt, "ready").await;
    proxy.set(Gate::Dead);
    engine.lose_power();
    engine.revive_containerd().await;
    engine.revive().await;
    proxy.set(Gate::Open);
    let outcome = world.outcome(attempt).await;
    assert!(engine_failed(&outcome), "{outcome:?}");
    world.coordinator.healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.runner.becomes_empty().await;
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

/// It answers as ever, and runs nothing.
#[tokio::test]
async fn an_engine_whose_containerd_is_gone_gets_no_builds_until_it_is_back() {
    let mut engine = Dockerd::start().await;
    let world = World::on(&engine, &["capacity=2"]).await;
    engine.kill_containerd();
    let first = world.submit("true");
    let why = world.coordinator.unhealthy().await;
    assert!(why.contains("systemctl restart containerd"), "{why}");
    let meanwhile = world.submit("true");
    world.coordinator.released(meanwhile).await;
    // It was given back or not, as soon as that was found out.
    let is_over = |seen: &Seen| {
        let released = RunnerMessage::Released { attempt: first };
        seen.messages.contains(&released) || seen.finished.get(&first).is_some_and(|report| engine_failed(&report.outcome))
    };
    world.coordinator.wait("the first is over", is_over).await;

    engine.revive_containerd().await;
    world.coordinator.healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.runner.becomes_empty().await;
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
    world.coordinator.unhealthy().await;
    let meanwhile = world.submit("true");
    world.coordinator.released(meanwhile).await;
    engine.thaw();
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "ready\ndone\n");
    world.coordinator.healthy().await;
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn one_build_at_most_pays_for_an_engine_that_is_away() {
    let mut engine = Dockerd::start().await;
    let world = World::on(&engine, &["engine.deadline=4s"]).await;
    // One that is frozen is found out slowly, so there is time for the next build to begin.
    for how in ["killed", "frozen"] {
        if how == "killed" {
            engine.kill();
        } else {
            engine.freeze();
        }
        let first = world.submit("true");
        world
            .coordinator
            .wait("it is not run", |seen| {
                seen.finished.contains_key(&first)
                    || seen.messages.contains(&RunnerMessage::Released { attempt: first })
            })
            .await;
        // However soon the next one comes.
        let second = world.submit("true");
        world.coordinator.released(second).await;
        if how == "killed" {
            engine.revive().await;
        } else {
            engine.thaw();
        }
        world.coordinator.healthy().await;
        let third = world.submit("true");
        assert_eq!(world.outcome(third).await, Outcome::Succeeded, "{how}");
    }
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
    world.coordinator.healthy().await;
    world.runner.becomes_empty().await;
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn at_whichever_call_the_engine_is_killed_no_build_fails_and_nothing_is_left() {
    let mut engine = Dockerd::start().await;
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::before(engine.socket(), home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting()]).await;
    for call in Call::OF_A_BUILD {
        // It has been asked, and dies before it could say what it has done.
        proxy.set(Gate::LosesAnswer(call));
        let attempt = world.submit("true");
        proxy.is_open_again().await;
        engine.kill();
        let outcome = world.outcome(attempt).await;
        let expected = if call == Call::Remove { outcome == Outcome::Succeeded } else { engine_failed(&outcome) };
        assert!(expected, "{call:?}: {outcome:?}");
        world.coordinator.cleaned(attempt).await;
        engine.revive().await;
        world.coordinator.healthy().await;
        world.runner.becomes_empty().await;
        let after = world.submit("true");
        assert_eq!(world.outcome(after).await, Outcome::Succeeded, "{call:?}");
        world.coordinator.cleaned(after).await;
    }
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test]
async fn an_engine_that_is_restarted_while_it_pulls_is_not_the_images_failure() {
    let mut engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let registry = Registry::with(&["app"], Duration::from_secs(1)).await;
    for restart in ["killed", "shut down"] {
        let attempt = world.submit_in(&registry.image("app"), "true");
        let pulls = |seen: &Seen| {
            seen.logs.get(&attempt).is_some_and(|log| log.text(Stream::Caisson).contains("Pulled 0 of"))
        };
        world.coordinator.wait("the image is being pulled", pulls).await;
        if restart == "killed" {
            engine.kill();
        } else {
            engine.shut_down().await;
        }
        let outcome = world.outcome(attempt).await;
        assert!(engine_failed(&outcome), "{restart}: {outcome:?}");
        engine.revive().await;
        world.coordinator.healthy().await;
    }
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

/// The engine reports the same of it as of a command that was killed within its container: exit code 137. So it can't
/// be told whose fault it was, but that it was killed.
#[tokio::test]
async fn a_shim_that_is_killed_ends_its_build_and_leaves_nothing() {
    let engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let attempt = world.submit(WAITS);
    world.coordinator.prints(attempt, "ready").await;
    engine.kill_shims();
    let killed = Outcome::Failed { exit_code: 137, note: Some(FailureNote::KilledBySignal) };
    assert_eq!(world.outcome(attempt).await, killed);
    world.runner.becomes_empty().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

/// A file that nobody can remove, until it is dropped.
struct Fixed(String);

impl Fixed {
    fn fix(path: String) -> Self {
        assert!(chattr("+i", &path), "chattr +i {path}");
        Self(path)
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(flag: &str, path: &str) -> bool {
    std::process::Command::new("chattr").args([flag, path]).status().is_ok_and(|status| status.success())
}

/// A file that can't be removed keeps its container.
#[tokio::test]
async fn a_container_that_cant_be_removed_is_counted_and_tried_again() {
    let engine = Dockerd::start().await;
    let world = World::on(&engine, &QUICK).await;
    let attempt = world.submit("touch /stays; echo ready; while [ ! -e /workspace/go ]; do sleep 0.05; done");
    world.coordinator.prints(attempt, "ready").await;
    let format = "{{.GraphDriver.Data.UpperDir}}/stays";
    let stays = world.runner.docker(&["inspect", "--format", format, &format!("caisson-{attempt}")]);
    let fixed = Fixed::fix(stays);
    world.go(attempt);
    // Its build is none the worse for it, nor is the next.
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let after = world.submit(WAITS);
    world.coordinator.prints(after, "ready").await;
    assert!(world.runner.log().contains("its container is left to the sweep"), "{}", world.runner.log());

    let left_behind = |left: bool| {
        move |seen: &Seen| {
            let conditions = seen.messages.iter().rev().filter_map(|message| match message {
                RunnerMessage::Condition(condition) => Some(condition.left_behind > 0),
                _ => None,
            });
            conditions.take(1).any(|is_left| is_left == left)
        }
    };
    world.coordinator.wait("it is counted", left_behind(true)).await;
    // What has ended writes nowhere.
    let workspace = world.runner.work_dir().join("tmp").join(attempt.build.to_string());
    until("its workspace is gone", async || !workspace.exists()).await;
    drop(fixed);
    world.coordinator.wait("it is removed", left_behind(false)).await;
    // What runs was not swept away with it.
    world.go(after);
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}
