//! Which runner gets a build, and why a build waits.

use caisson_scheduler::WaitingFor;

use crate::{words::*, world::World};

#[test]
fn a_build_goes_to_the_runner_with_most_free_capacity() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 3);
    let builds = ["a", "b", "c"].map(|name| world.submit(name));
    world.expect(builds[0], "assigned, attempt 1 on r2");
    world.expect(builds[1], "assigned, attempt 1 on r2");
    // Both have one place left: the one that was not busy meanwhile.
    world.expect(builds[2], "assigned, attempt 1 on r1");
}

#[test]
fn among_equals_it_goes_to_the_one_free_longest() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.succeeds("r2", b);
    world.succeeds("r1", a);
    let (c, d) = (world.submit("c"), world.submit("d"));
    world.expect(c, "assigned, attempt 1 on r2");
    world.expect(d, "assigned, attempt 1 on r1");
}

#[test]
fn a_runner_never_gets_more_than_its_capacity() {
    let mut world = World::new();
    world.runner("r1", 2);
    let builds = ["a", "b", "c"].map(|name| world.submit(name));
    world.expect(builds[2], "queued");
    assert_eq!(world.holds("r1").len(), 2);
}

#[test]
fn a_build_goes_only_where_its_labels_are() {
    let mut world = World::new();
    world.runner_with("r1", 5, &["arm64"]);
    world.runner_with("r2", 1, &["arm64", "gpu"]);
    let a = world.submit_for("a", &["arm64", "gpu"]);
    world.expect(a, "assigned, attempt 1 on r2");
}

#[test]
fn a_build_that_nobody_serves_holds_nobody_up() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit_for("a", &["gpu"]);
    let b = world.submit("b");
    world.expect(a, "queued");
    world.expect(b, "assigned, attempt 1 on r1");
    world.runner_with("r2", 1, &["gpu"]);
    world.expect(a, "assigned, attempt 1 on r2");
}

#[test]
fn a_build_says_why_it_waits() {
    let mut world = World::new();
    let a = world.submit_for("a", &["arm64", "gpu"]);
    let why = |world: &World| world.scheduler.waiting_build(a).unwrap().waiting_for;
    assert_eq!(why(&world), WaitingFor::AnyRunner);

    world.runner("r1", 1);
    assert_eq!(why(&world), WaitingFor::Labels(labels(&["arm64", "gpu"])));
    world.runner_with("r2", 1, &["gpu"]);
    assert_eq!(why(&world), WaitingFor::Labels(labels(&["arm64"])));

    world.runner_with("r3", 0, &["arm64", "gpu"]);
    assert_eq!(why(&world), WaitingFor::FreeRunner { runners: 1 });
    world.loses_connection("r3");
    assert_eq!(why(&world), WaitingFor::LostRunners);
    world.connects("r3");
    world.drain("r3");
    assert_eq!(why(&world), WaitingFor::DrainedRunners);
}

#[test]
fn runners_that_have_not_come_back_after_a_restart_are_none() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.submit("a");
    let b = world.submit("b");
    world.coordinator_restarts();
    assert_eq!(world.scheduler.waiting_build(b).unwrap().waiting_for, WaitingFor::AnyRunner);
}
