//! What builds have left: found while the runner lives, and never taken from under what still runs.

use caisson_protocol::{AttemptId, BuildId, CoordinatorMessage, Outcome, RunnerMessage, Stream};
use caisson_runner::config::CoordinatorUrl;

use super::World;
use crate::world::{Dockerd, IMAGE, coordinator::Seen, docker, names, until};

const WAITS: &str = "ls; echo ready; while [ ! -e /workspace/go ]; do sleep 0.05; done";

fn new_build() -> impl Fn(u32) -> AttemptId {
    let build = BuildId(uuid::Uuid::now_v7());
    move |number| AttemptId { build, number }
}

/// A container that runs on, though its attempt has ended.
async fn left_by(world: &World, attempt: AttemptId) {
    let coordinator = CoordinatorUrl::try_from(world.coordinator.url()).unwrap();
    let arguments = format!(
        "run --detach --network none --name caisson-{attempt} --label caisson.attempt={attempt} --label caisson.runner={} \
         --label caisson.coordinator={coordinator} --entrypoint sleep {IMAGE} 1000",
        world.runner.name
    );
    engine(arguments).await;
}

async fn is_there(attempt: AttemptId) -> bool {
    !engine(format!("ps --all --quiet --filter name=caisson-{attempt}")).await.is_empty()
}

/// The coordinator hears what the runner says meanwhile.
async fn engine(arguments: String) -> String {
    let call = move || docker(&arguments.split(' ').collect::<Vec<_>>());
    tokio::task::spawn_blocking(call).await.unwrap()
}

fn run(world: &World, attempt: AttemptId, command: &str) {
    let spec = world.spec(command).into();
    world.coordinator.say(CoordinatorMessage::Assign { attempt, spec, log_bytes_max: 1 << 20 });
}

async fn is_swept(world: &World, attempt: AttemptId) {
    world.coordinator.wait("it is swept and counted", |seen| seen.condition.swept == 1).await;
    assert!(!is_there(attempt).await, "{}", world.runner.log());
    assert!(world.runner.log().contains("sweep: removed 1 containers"), "{}", world.runner.log());
}

#[tokio::test]
async fn what_is_left_while_a_runner_lives_is_swept_and_counted() {
    let world = World::with(&["sweep.interval=1s"]).await;
    let attempt = new_build()(1);
    left_by(&world, attempt).await;
    is_swept(&world, attempt).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn what_an_earlier_attempt_left_is_swept_though_a_later_one_runs() {
    let world = World::with(&["sweep.interval=1s"]).await;
    let attempt = new_build();
    run(&world, attempt(2), WAITS);
    world.coordinator.prints(attempt(2), "ready").await;
    left_by(&world, attempt(1)).await;
    is_swept(&world, attempt(1)).await;
    world.go(attempt(2));
    assert_eq!(world.outcome(attempt(2)).await, Outcome::Succeeded);
    world.ends_clean().await;
}

/// It would write into what the next one is given.
#[tokio::test]
async fn what_an_earlier_attempt_left_is_gone_before_the_next_one_begins() {
    let world = World::with(&["sweep.interval=1h"]).await;
    let attempt = new_build();
    let workspace = world.runner.work_dir().join("tmp").join(attempt(1).build.to_string());
    std::fs::create_dir_all(workspace.join("theirs")).unwrap();
    left_by(&world, attempt(1)).await;
    run(&world, attempt(2), WAITS);
    world.coordinator.prints(attempt(2), "ready").await;
    assert!(!is_there(attempt(1)).await, "two attempts of a build share its workspace");
    world.go(attempt(2));
    assert_eq!(world.outcome(attempt(2)).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt(2), Stream::Stdout), "file.txt\nready\n");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_workspace_that_may_still_be_written_to_is_left_until_the_engine_is_back() {
    let engine = Dockerd::start().await;
    let world = World::on(&engine, &["engine.deadline=3s"]).await;
    let attempt = world.submit("echo ready; i=0; while :; do i=$((i+1)); echo > $i; sleep 0.01; done");
    world.coordinator.prints(attempt, "ready").await;
    let workspace = world.runner.work_dir().join("tmp").join(attempt.build.to_string());
    let is_written_to = async || {
        let before = names(&workspace).len();
        until("the build writes on", async || names(&workspace).len() > before).await;
    };

    engine.freeze();
    world.coordinator.say(CoordinatorMessage::Cancel { attempt });
    assert_eq!(world.outcome(attempt).await, Outcome::Canceled);
    world.coordinator.cleaned(attempt).await;
    is_written_to().await;
    let both_are_counted = |seen: &Seen| {
        let conditions = seen.messages.iter().filter_map(|message| match message {
            RunnerMessage::Condition(condition) => Some(condition.left_behind),
            _ => None,
        });
        conditions.max() == Some(2)
    };
    world.coordinator.wait("container and workspace are counted", both_are_counted).await;
    until("a sweep has failed", async || world.runner.log().contains("sweep: something is left")).await;
    is_written_to().await;

    engine.thaw();
    world.coordinator.wait("nothing is left", |seen| seen.condition.left_behind == 0).await;
    world.runner.becomes_empty().await;
    world.ends_clean().await;
    assert_eq!(engine.containers(), "");
}
