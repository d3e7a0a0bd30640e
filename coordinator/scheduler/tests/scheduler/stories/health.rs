//! A runner that can run no builds says so, and is given none.

use caisson_scheduler::WaitingFor;

use crate::{words::*, world::World};

#[test]
fn an_unhealthy_runner_gets_nothing_until_it_is_healthy() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.falls_ill("r1");
    let a = world.submit("a");
    world.passes(60_000);
    world.expect(a, "queued");
    world.recovers("r1");
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn a_build_that_waits_for_it_says_why() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.falls_ill("r1");
    let a = world.submit("a");
    let why = world.scheduler.waiting_build(a).unwrap().waiting_for;
    assert_eq!(why, WaitingFor::UnhealthyRunners("its disk is full".into()));
}

#[test]
fn a_runner_that_registers_as_unhealthy_gets_nothing() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.falls_ill("r1");
    world.loses_connection("r1");
    let a = world.submit("a");
    world.connects("r1");
    world.expect(a, "queued");
}

#[test]
fn what_it_has_goes_on() {
    let mut world = World::new();
    world.runner("r1", 2);
    let a = world.submit("a");
    world.starts("r1", a);
    world.falls_ill("r1");
    world.passes(60_000);
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
}

#[test]
fn an_assignment_that_crossed_the_word_of_it_goes_to_another_runner_without_penalty() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.runner("r2", 1);
    world.falls_ill("r1");
    world.releases("r1", a);
    world.expect(a, "assigned, attempt 2 on r2");
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
}

#[test]
fn a_build_that_failed_elsewhere_does_not_wait_for_an_unhealthy_runner() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    world.falls_ill("r2");
    let a = world.submit("a");
    world.finishes("r1", a, errored(caisson_protocol::ErrorReason::EngineFailed));
    world.expect(a, "assigned, attempt 2 on r1");
}
