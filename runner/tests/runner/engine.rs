//! The engine: not there, going away in the middle of a build, and doing things behind the runner's back.

use axum::http::StatusCode;
use caisson_protocol::Outcome;
use caisson_runner::{
    config::Config,
    engine::{Engine, EngineError, Owned, OwnedKind, docker::DockerEngine},
};

use super::World;
use crate::world::{
    Call, EngineProxy, Gate, Runner, docker, new_name, owned, servers::engine_that_says, until,
};

#[tokio::test]
async fn an_engine_that_is_not_there_is_named_in_one_clear_line() {
    let home = tempfile::tempdir().unwrap();
    let mut runner =
        Runner::start_at(home.path(), "http://127.0.0.1:1", &["engine.host=unix:///nowhere/docker.sock"]);
    assert_eq!(runner.exit_code().await, Some(1));
    let log = runner.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains("unix:///nowhere/docker.sock") && last.contains("systemctl start docker"), "{log}");
}

#[tokio::test]
async fn an_engine_that_lets_builds_make_any_system_call_is_told_of_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let body = r#"{"SecurityOptions": ["name=seccomp,profile=unconfined", "name=cgroupns"]}"#;
    proxy.set(Gate::Answers { path: "/info", status: "200 OK", body });
    let world = World::with(&[&proxy.setting()]).await;
    assert!(world.runner.log().contains("builds can make any system call"), "{}", world.runner.log());
    world.ends_clean().await;
}

/// The engine says so where two remove a container at once, which can't be brought about at will.
#[tokio::test]
async fn what_is_in_use_or_being_removed_already_is_not_taken_for_removed() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("docker.sock");
    engine_that_says(&socket, StatusCode::CONFLICT, "removal of container x is already in progress").await;
    let mut config = Config::default().engine;
    config.host = format!("unix://{}", socket.display()).try_into().unwrap();
    let engine = DockerEngine::at(&config).unwrap();
    let owned = |kind| Owned { kind, id: "x".into(), attempt: None };
    for kind in [OwnedKind::Container, OwnedKind::Volume, OwnedKind::Network] {
        let removed = engine.remove(&owned(kind)).await;
        assert!(matches!(removed, Err(EngineError::Busy(_))), "{removed:?}");
    }
}

#[tokio::test]
async fn what_is_gone_already_does_not_count_as_removed() {
    let engine = DockerEngine::at(&Config::default().engine).unwrap();
    for kind in [OwnedKind::Container, OwnedKind::Network] {
        let gone = Owned { kind, id: new_name(), attempt: None };
        assert!(!engine.remove(&gone).await.unwrap(), "{kind}");
    }
}

fn engine_failed(outcome: &Outcome) -> bool {
    outcome.reason() == Some("engine_failed")
}

#[tokio::test]
async fn an_engine_that_dies_is_not_the_builds_failure() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting()]).await;
    let attempt = world.submit("echo ready; while :; do sleep 1; done");
    world.coordinator.prints(attempt, "ready").await;
    proxy.set(Gate::Shut);
    let outcome = world.outcome(attempt).await;
    assert!(engine_failed(&outcome), "{outcome:?}");
    world.coordinator.cleaned(attempt).await;
    assert!(world.runner.log().contains("left to the sweep"));

    // While it is away builds are given back, and when it is back they run.
    let meanwhile = world.submit("true");
    world.coordinator.released(meanwhile).await;
    proxy.set(Gate::Open);
    world.coordinator.healthy().await;
    let after = world.submit("true");
    assert_eq!(world.outcome(after).await, Outcome::Succeeded);
    world.ends_clean().await;
}

#[tokio::test]
async fn an_engine_that_shuts_down_and_ends_its_containers_is_not_the_builds_failure() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting()]).await;
    let attempt = world.submit("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done");
    world.coordinator.prints(attempt, "ready").await;
    proxy.set(Gate::NothingNew);
    docker(&["kill", "--signal", "TERM", &format!("caisson-{attempt}")]);
    let outcome = world.outcome(attempt).await;
    assert!(engine_failed(&outcome), "{outcome:?}");
    proxy.set(Gate::Open);
    world.ends_clean().await;
}

#[tokio::test]
async fn whichever_question_is_lost_no_build_fails_and_nothing_is_left() {
    each_call_is_lost(Gate::LosesQuestion).await;
}

#[tokio::test]
async fn whichever_answer_is_lost_no_build_fails_and_nothing_is_left() {
    each_call_is_lost(Gate::LosesAnswer).await;
}

async fn each_call_is_lost(how: fn(Call) -> Gate) {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting(), "engine.deadline=10s"]).await;
    for call in Call::OF_A_BUILD {
        proxy.set(how(call));
        let attempt = world.submit("true");
        proxy.is_open_again().await;
        let outcome = world.outcome(attempt).await;
        // How a command that runs gets on is asked in more ways than one.
        let may_succeed = matches!(call, Call::Wait | Call::Inspect | Call::Remove);
        let expected = engine_failed(&outcome) || may_succeed && outcome == Outcome::Succeeded;
        assert!(expected, "{call:?}: {outcome:?}");
        world.coordinator.cleaned(attempt).await;
        // What nobody was told of is removed with its build, and not left to a sweep.
        let is_left = world.runner.owned().await.iter().any(|owned| owned.attempt == Some(attempt));
        assert!(!is_left || call == Call::Remove, "{call:?}: {}", world.runner.log());
    }
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_removal_that_hangs_in_the_engine_is_counted_until_it_is_done() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting(), "engine.deadline=10s"]).await;
    proxy.set(Gate::LosesQuestion(Call::Remove));
    let attempt = world.submit("true");
    proxy.is_open_again().await;
    // The engine says so from then on.
    proxy.set(Gate::Removing);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    let condition = || world.coordinator.look(|seen| seen.condition.clone());
    let told = "something is left for the next one: the Docker engine can't do it now: removal of container";
    let has_swept = async || world.runner.log().contains(told) || condition().swept > 0;
    until("a sweep comes by", has_swept).await;
    assert!(condition().left_behind > 0 && condition().swept == 0, "{:?}", condition());
    proxy.set(Gate::Open);
    world.coordinator.wait("it is swept", |seen| seen.condition.left_behind == 0).await;
    assert!(condition().swept > 0, "{:?}", condition());
    world.ends_clean().await;
}

#[tokio::test]
async fn a_build_whose_container_somebody_else_is_removing_is_done_at_once() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting()]).await;
    proxy.set(Gate::Removing);
    let attempt = world.submit("true");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.coordinator.cleaned(attempt).await;
    assert!(!world.runner.log().contains("its container is left to the sweep"), "{}", world.runner.log());
    docker(&["rm", "-f", &format!("caisson-{attempt}")]);
    proxy.set(Gate::Open);
    world.ends_clean().await;
}

/// Its connections stay open for ever, and nothing comes over them.
#[tokio::test]
async fn an_engine_whose_host_has_lost_its_power_holds_no_build_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting(), "engine.deadline=4s"]).await;
    let mut value = serde_json::to_value(world.spec("echo ready; while :; do sleep 1; done")).unwrap();
    value["timeout_seconds"] = 3600.into();
    let attempt = world.coordinator.assign(serde_json::from_value(value).unwrap());
    world.coordinator.prints(attempt, "ready").await;
    proxy.set(Gate::Dead);
    let outcome = world.outcome(attempt).await;
    assert!(engine_failed(&outcome), "{outcome:?}");
    proxy.set(Gate::Open);
    world.coordinator.healthy().await;
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_build_that_writes_too_much_and_can_not_be_killed_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting(), "limits.disk=8MiB"]).await;
    let attempt = world.submit("echo ready; head -c 20m /dev/zero > large; while :; do sleep 1; done");
    world.coordinator.prints(attempt, "ready").await;
    let cant = r#"{"message": "can't kill"}"#;
    proxy.set(Gate::Answers { path: "/kill?", status: "500 Internal Server Error", body: cant });
    let outcome = world.outcome(attempt).await;
    assert!(engine_failed(&outcome) && outcome.message().unwrap().contains("can't kill"), "{outcome:?}");
    proxy.set(Gate::Open);
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_container_that_someone_removes_is_not_the_builds_failure() {
    let world = World::new().await;
    let attempt = world.submit("echo ready; while :; do sleep 1; done");
    world.coordinator.prints(attempt, "ready").await;
    docker(&["rm", "-f", &format!("caisson-{attempt}")]);
    let outcome = world.outcome(attempt).await;
    assert!(engine_failed(&outcome) && outcome.message().unwrap().contains("removed by someone"), "{outcome:?}");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_paused_container_is_stopped_at_its_time_limit_all_the_same() {
    let world = World::new().await;
    let mut value = serde_json::to_value(world.spec("echo ready; while :; do sleep 1; done")).unwrap();
    value["timeout_seconds"] = 10.into();
    let attempt = world.coordinator.assign(serde_json::from_value(value).unwrap());
    world.coordinator.prints(attempt, "ready").await;
    docker(&["pause", &format!("caisson-{attempt}")]);
    assert_eq!(world.outcome(attempt).await, Outcome::TimedOut);
    world.runner.becomes_empty().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn the_runners_network_comes_back_when_someone_removes_it_and_goes_with_the_runner() {
    let world = World::with(&["network=bridge"]).await;
    let first = world.submit("true");
    assert_eq!(world.outcome(first).await, Outcome::Succeeded);
    world.coordinator.cleaned(first).await;
    docker(&["network", "rm", &network(&world.runner.name)]);
    let second = world.submit("true");
    assert_eq!(world.outcome(second).await, Outcome::Succeeded);
    assert_eq!(owned(&world.runner.name).await.iter().filter(|owned| owned.attempt.is_none()).count(), 1);
    world.ends_clean().await;
}

#[tokio::test]
async fn what_an_engine_warns_of_when_it_makes_a_network_is_told() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting(), "network=bridge"]).await;
    let body = r#"{"Id": "0123", "Warning": "enable_icc is not a recognized option"}"#;
    proxy.set(Gate::Answers { path: "/networks/create", status: "201 Created", body });
    let attempt = world.submit("true");
    // There is no such network.
    assert!(engine_failed(&world.outcome(attempt).await));
    assert!(world.runner.log().contains("enable_icc is not a recognized option"), "{}", world.runner.log());
    proxy.set(Gate::Open);
    world.ends_clean().await;
}

#[tokio::test]
async fn builds_on_an_engine_that_makes_no_network_wait_side_by_side() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting(), "network=bridge", "capacity=4", "engine.deadline=6s"]).await;
    proxy.set(Gate::Swallows("/networks/"));
    for attempt in [(); 4].map(|()| world.submit("true")) {
        let report = world.coordinator.finished(attempt).await;
        assert!(engine_failed(&report.outcome), "{:?}", report.outcome);
        let waited_ms = report.phases.create_ms.unwrap();
        assert!((6_000..15_000).contains(&waited_ms), "{waited_ms}");
    }
    proxy.set(Gate::Open);
    world.ends_clean().await;
}

/// What a runner's network is called.
fn network(runner: &str) -> String {
    docker(&["network", "ls", "--filter", &format!("label=caisson.runner={runner}"), "--format", "{{.Name}}"])
}

#[tokio::test]
async fn a_container_is_locked_down() {
    let world = World::with(&["limits.memory=64MiB", "limits.pids=50", "limits.nofile=123"]).await;
    let attempt = world.submit("echo ready; ulimit -n; while [ ! -e go ]; do sleep 0.05; done");
    world.coordinator.prints(attempt, "123").await;
    let container = format!("caisson-{attempt}");
    let status = docker(&["exec", &container, "cat", "/proc/1/status"]);
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE.
    assert_eq!(field("CapEff:"), "00000000000004fb");
    let inspected = docker(&[
        "inspect",
        "--format",
        "{{.HostConfig.Privileged}} {{.HostConfig.PidsLimit}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} \
         {{len .Mounts}} {{.HostConfig.LogConfig.Type}}",
        &container,
    ]);
    assert_eq!(inspected, "false 50 67108864 67108864 1 none");
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    until("nothing is left", async || owned(&world.runner.name).await.is_empty()).await;
    world.ends_clean().await;
}
