//! Engines that are reached in another way, or are others: the same laws hold on them.
//!
//! `CAISSON_TEST_ENGINE=unix:///run/podman/podman.sock cargo test -p caisson-runner --test runner laws` asks another
//! engine than the machine's.

use std::process::Command;

use caisson_protocol::{CoordinatorMessage, Outcome};
use caisson_runner::engine::{Owned, OwnedKind};

use crate::{
    laws,
    world::{Auto, Dockerd, EngineProxy, Gate, Kind, Podman, Runner, Upload, WorldWith},
};

const SETTINGS: [&str; 4] = ["capacity=4", "limits.memory=64MiB", "limits.disk=64MiB", "limits.nofile=1024"];
/// What a runner has by default. An engine of the tests' own may not touch the machine's firewall, and so can't.
const BRIDGE: &str = "network=bridge";

fn with<'a>(settings: &'a [String], further: &[&'a str]) -> Vec<&'a str> {
    settings.iter().map(String::as_str).chain(further.iter().copied()).collect()
}

#[tokio::test]
async fn the_laws_hold_on_the_machines_engine() {
    let engine =
        std::env::var("CAISSON_TEST_ENGINE").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let host = format!("engine.host={engine}");
    let mut world = WorldWith::<Auto>::with(&with(&[host, BRIDGE.into()], &SETTINGS)).await;
    world.runner.looked_at_through(&engine);
    laws::builds_dont_meet(&world).await;
    laws::hold_in(&world).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn the_laws_hold_on_podman() {
    hold_on_podman::<Auto>().await;
}

#[tokio::test]
async fn the_laws_hold_on_podman_into_which_workspaces_are_uploaded() {
    hold_on_podman::<Upload>().await;
}

async fn hold_on_podman<K: Kind>() {
    let engine = Podman::start().await;
    let world = on_podman::<K>(&engine).await;
    assert!(world.runner.log().contains("Podman"), "{}", world.runner.log());
    laws::builds_dont_meet(&world).await;
    laws::hold_in(&world).await;
    world.ends_clean().await;
}

async fn on_podman<K: Kind>(engine: &Podman) -> WorldWith<K> {
    let host = engine.host();
    let settings = [format!("engine.host={host}"), BRIDGE.into()];
    let mut world = WorldWith::<K>::with(&with(&settings, &SETTINGS)).await;
    world.runner.looked_at_through(&host);
    world
}

/// Podman keeps networks apart, and not what is in one.
#[tokio::test]
async fn on_podman_each_attempt_has_a_network_of_its_own_that_goes_with_it() {
    let engine = Podman::start().await;
    let mut world = on_podman::<Auto>(&engine).await;
    let has_network = |owned: &[Owned], attempt| {
        owned.iter().any(|owned| owned.kind == OwnedKind::Network && owned.attempt == Some(attempt))
    };
    let attempts = [(); 2].map(|()| world.submit("echo ready; while :; do sleep 1; done"));
    for attempt in attempts {
        world.coordinator.prints(attempt, "ready").await;
        assert!(has_network(&world.runner.owned().await, attempt));
    }
    world.coordinator.say(CoordinatorMessage::Cancel { attempt: attempts[0] });
    world.coordinator.cleaned(attempts[0]).await;
    assert!(!has_network(&world.runner.owned().await, attempts[0]), "{}", world.runner.log());

    // A network without its container is what a runner leaves that is killed between the two.
    world.runner.kill();
    world.runner.docker(&["rm", "-f", &format!("caisson-{}", attempts[1])]);
    assert!(has_network(&world.runner.owned().await, attempts[1]));
    world.runner.restart();
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

/// Nobody is left who could have noted how the command ended, and a Podman that comes up again gives the exit code 0.
#[tokio::test]
async fn a_podman_whose_host_loses_its_power_and_comes_back_does_not_make_a_build_succeed() {
    let mut engine = Podman::start().await;
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::before(engine.socket(), home.path().join("podman.sock"));
    let settings = [proxy.setting(), "engine.deadline=10s".into()];
    let mut world = WorldWith::<Auto>::with(&with(&settings, &SETTINGS)).await;
    world.runner.looked_at_through(&engine.host());
    let attempt = world.submit("echo ready; while :; do sleep 0.1; done");
    world.coordinator.prints(attempt, "ready").await;
    proxy.set(Gate::Dead);
    engine.lose_power();
    engine.revive().await;
    proxy.set(Gate::Open);
    let outcome = world.outcome(attempt).await;
    assert_eq!(outcome.reason(), Some("engine_failed"), "{outcome:?}");
    world.coordinator.healthy().await;
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn the_laws_hold_on_an_engine_elsewhere_and_it_is_found_again_when_it_was_away() {
    let far_from_it = tempfile::tempdir().unwrap();
    let mut engine = Dockerd::start_remote(far_from_it.path()).await;
    let home = tempfile::tempdir_in(far_from_it.path()).unwrap();
    let settings = [engine.remote_settings(), vec!["engine.deadline=5s".into()]].concat();
    let mut world = WorldWith::<Auto>::within(home, &with(&settings, &SETTINGS)).await;
    world.runner.looked_at_through(&engine.host());
    let log = world.runner.log();
    assert!(log.contains("workspaces uploaded: the engine does not see the runner's files"), "{log}");
    laws::hold_in(&world).await;

    let attempt = world.submit("echo ready; sleep 1000");
    world.coordinator.prints(attempt, "ready").await;
    engine.kill();
    assert_eq!(world.outcome(attempt).await.reason(), Some("engine_failed"));
    engine.revive().await;
    world.coordinator.healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}

/// The last line of a runner that does not start.
async fn refusal(settings: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut runner = Runner::start_at(home.path(), "http://127.0.0.1:1", settings);
    assert_eq!(runner.exit_code().await, Some(1));
    runner.log().lines().last().unwrap().to_owned()
}

#[tokio::test]
async fn a_remote_engine_without_certificates_is_refused_with_a_reason() {
    let plain = refusal(&["engine.host=tcp://127.0.0.1:2375"]).await;
    assert!(plain.contains("needs engine.tls"), "{plain}");
    let missing = refusal(&[
        "engine.host=tcp://127.0.0.1:2376",
        "engine.tls.ca=/nowhere/ca.pem",
        "engine.tls.cert=/nowhere/cert.pem",
        "engine.tls.key=/nowhere/key.pem",
    ])
    .await;
    assert!(missing.contains("engine.tls.ca /nowhere/ca.pem"), "{missing}");
}

#[tokio::test]
async fn neither_side_talks_to_who_can_t_show_who_it_is() {
    let far_from_it = tempfile::tempdir().unwrap();
    let engine = Dockerd::start_remote(far_from_it.path()).await;
    let settings = engine.remote_settings();
    // Certificates of the same names that another authority has signed.
    let others = tempfile::tempdir().unwrap();
    crate::world::certificates::make(others.path());
    let other = |name: &str| others.path().join(name).display().to_string();
    let runners = [
        format!("engine.tls.cert={}", other("runner.pem")),
        format!("engine.tls.key={}", other("runner-key.pem")),
    ];
    let engine_refuses = refusal(&with(&settings, &[&runners[0], &runners[1]])).await;
    assert!(engine_refuses.contains("can't be reached"), "{engine_refuses}");
    let authority = format!("engine.tls.ca={}", other("ca.pem"));
    let runner_refuses = refusal(&with(&settings, &[&authority])).await;
    assert!(runner_refuses.contains("certificate"), "{runner_refuses}");
    // Nor does it help that the system trusts who has signed the engine's.
    let systems = settings.iter().find_map(|setting| setting.strip_prefix("engine.tls.ca=")).unwrap();
    let mut trusting = Command::new(env!("CARGO_BIN_EXE_caisson-runner"));
    trusting.env("SSL_CERT_FILE", systems).current_dir(others.path()).args(["--set", "token=a-token"]);
    for setting in with(&settings, &[&authority]) {
        trusting.args(["--set", setting]);
    }
    let ended = tokio::task::spawn_blocking(move || trusting.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.lines().last().unwrap().contains("certificate"), "{said}");
}
