//! The bounded queue, and who stands where in it.

use caisson_scheduler::Answer;

use crate::world::World;

#[test]
fn builds_run_in_the_order_of_their_submission() {
    let mut world = World::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| world.submit(name));
    world.runner("r1", 1);
    for build in [a, b, c] {
        world.expect(build, "assigned, attempt 1 on r1");
        world.starts("r1", build);
        world.succeeds("r1", build);
        world.expect(build, "succeeded, attempt 1");
    }
    assert_eq!(
        world.told("r1"),
        ["registered", "assign a.1", "ack a.1", "assign b.1", "ack b.1", "assign c.1", "ack c.1"]
    );
}

#[test]
fn a_runner_that_gets_free_gets_the_next_build_in_the_same_step() {
    let mut world = World::new();
    world.runner("r1", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.expect(b, "queued");
    world.succeeds("r1", a);
    world.expect(b, "assigned, attempt 1 on r1");
}

#[test]
fn a_submission_past_the_bound_is_refused_and_told_why() {
    let mut world = World::new();
    let _ = ["a", "b", "c"].map(|name| world.submit(name));
    let d = world.fresh("d");
    assert_eq!(world.ask_submit(d.clone()), Answer::QueueFull { limit: 3, depth: 3 });
    assert!(world.last_step().changes.is_empty(), "a refused build is stored");
    assert!(world.store.row(d.id).is_none());
    assert_eq!(world.queue(), ["a", "b", "c"]);
}

#[test]
fn only_builds_that_wait_count_for_the_bound() {
    let mut world = World::new();
    world.runner("r1", 2);
    let a = world.submit("a");
    let _ = ["b", "c", "d", "e"].map(|name| world.submit(name));
    let f = world.fresh("f");
    assert_eq!(world.ask_submit(f.clone()), Answer::QueueFull { limit: 3, depth: 3 });
    world.succeeds("r1", a);
    assert_eq!(world.ask_submit(f.clone()), Answer::Accepted { build: f.id });
}

#[test]
fn the_bound_never_drops_a_requeued_build_which_stands_before_younger_ones() {
    let mut world = World::new();
    world.runner("r1", 2);
    let _ = ["a", "b", "c", "d", "e"].map(|name| world.submit(name));
    world.freezes("r1");
    world.passes(20_000);
    assert_eq!(world.queue(), ["a", "b", "c", "d", "e"]);
    let f = world.fresh("f");
    assert_eq!(world.ask_submit(f), Answer::QueueFull { limit: 3, depth: 5 });
    world.runner("r2", 1);
    assert_eq!(world.told("r2"), ["registered", "assign a.2"]);
}

#[test]
fn a_requeued_build_goes_to_a_free_runner_in_the_same_step() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.runner("r2", 1);
    world.freezes("r1");
    world.passes(20_000);
    world.expect(a, "assigned, attempt 2 on r2");
    assert_eq!(world.told("r2"), ["registered", "assign a.2"]);
}

#[test]
fn a_waiting_build_is_told_its_position() {
    let mut world = World::new();
    let (a, b) = (world.submit("a"), world.submit("b"));
    assert_eq!(world.scheduler.waiting_build(b).unwrap().position, 2);
    assert_eq!((world.scheduler.waiting(), world.scheduler.running()), (2, 0));
    world.runner("r1", 1);
    assert_eq!(world.scheduler.waiting_build(a), None);
    assert_eq!(world.scheduler.waiting_build(b).unwrap().position, 1);
    assert_eq!((world.scheduler.waiting(), world.scheduler.running()), (1, 1));
}
