//! How often a build is tried, where, and what counts against it.

use caisson_protocol::ErrorReason;
use caisson_scheduler::WaitingFor;

use crate::{words::*, world::World};

#[test]
fn a_build_that_loses_its_runner_three_times_is_errored() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let b = world.submit("b");
    world.restarts("r1");
    world.expect(a, "assigned, attempt 2 on r1");
    world.restarts("r1");
    world.expect(a, "assigned, attempt 3 on r1");
    world.restarts("r1");
    world.expect(a, "errored, attempt 3, runner_lost");
    world.expect(b, "assigned, attempt 1 on r1");
}

#[test]
fn removals_count_as_well() {
    let mut world = World::new();
    let a = world.submit("a");
    for _ in 0..3 {
        world.runner("r1", 1);
        world.freezes("r1");
        world.passes(20_000);
    }
    world.expect(a, "errored, attempt 3, runner_lost");
}

#[test]
fn infrastructure_failures_are_tried_again_up_to_the_cap() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    for attempt in 2..=3 {
        world.finishes("r1", a, errored(ErrorReason::EngineFailed));
        world.expect(a, &format!("assigned, attempt {attempt} on r1"));
    }
    world.finishes("r1", a, errored(ErrorReason::DiskFull));
    world.expect(a, "errored, attempt 3, disk_full");
}

#[test]
fn lost_runners_and_infrastructure_failures_add_up() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.finishes("r1", a, errored(ErrorReason::EngineFailed));
    world.restarts("r1");
    world.finishes("r1", a, errored(ErrorReason::EngineFailed));
    world.expect(a, "errored, attempt 3, engine_failed");
}

#[test]
fn a_cause_that_would_stay_the_same_ends_the_build_at_once() {
    for reason in ErrorReason::ALL.iter().filter(|reason| reason.is_permanent()) {
        let mut world = World::new();
        world.runner("r1", 1);
        world.runner("r2", 1);
        let a = world.submit("a");
        world.finishes("r1", a, errored(*reason));
        world.expect(a, &format!("errored, attempt 1, {reason}"));
    }
}

#[test]
fn an_infrastructure_failure_goes_to_another_runner() {
    let mut world = World::new();
    world.runner("r1", 5);
    world.runner("r2", 1);
    let a = world.submit("a");
    world.finishes("r1", a, errored(ErrorReason::CloneFailed));
    world.expect(a, "assigned, attempt 2 on r2");
    world.finishes("r2", a, errored(ErrorReason::CloneFailed));
    world.expect(a, "assigned, attempt 3 on r1");
}

#[test]
fn it_waits_for_the_other_runner_while_that_is_busy_and_says_so() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.finishes("r1", a, errored(ErrorReason::CloneFailed));
    world.expect(a, "queued, attempt 1");
    assert_eq!(world.scheduler.waiting_build(a).unwrap().waiting_for, WaitingFor::AnotherRunner);
    let c = world.submit("c");
    world.expect(c, "assigned, attempt 1 on r1");
    world.succeeds("r2", b);
    world.expect(a, "assigned, attempt 2 on r2");
}

#[test]
fn it_stays_where_no_other_runner_serves_it() {
    let mut world = World::new();
    world.runner_with("r1", 1, &["gpu"]);
    world.runner("r2", 1);
    let a = world.submit_for("a", &["gpu"]);
    world.finishes("r1", a, errored(ErrorReason::CloneFailed));
    world.expect(a, "assigned, attempt 2 on r1");
}

#[test]
fn it_comes_back_when_the_other_runner_goes() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let (a, _) = (world.submit("a"), world.submit("b"));
    world.finishes("r1", a, errored(ErrorReason::CloneFailed));
    world.expect(a, "queued, attempt 1");
    world.drain("r2");
    world.expect(a, "assigned, attempt 2 on r1");
}

#[test]
fn what_the_command_did_is_the_end() {
    for outcome in [failed(1), failed(137), caisson_protocol::Outcome::TimedOut] {
        let mut world = World::new();
        world.runner("r1", 1);
        let a = world.submit("a");
        world.starts("r1", a);
        world.finishes("r1", a, outcome.clone());
        world.expect(a, &format!("{}, attempt 1", outcome.status()));
    }
}
