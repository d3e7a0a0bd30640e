//! Cancel works wherever a build stands, as often as one likes, and sticks.

use caisson_protocol::{ErrorReason, Outcome};
use caisson_scheduler::Answer;

use crate::{words::*, world::World};

#[test]
fn a_waiting_build_is_canceled_at_once() {
    let mut world = World::new();
    let (a, b) = (world.submit("a"), world.submit("b"));
    assert_eq!(world.cancel(a), Answer::Canceling);
    world.expect(a, "canceled");
    assert_eq!(world.queue(), ["b"]);
    world.runner("r1", 1);
    world.expect(b, "assigned, attempt 1 on r1");
}

#[test]
fn an_assigned_or_running_build_is_stopped_by_its_runner() {
    for started in [false, true] {
        let mut world = World::new();
        world.runner("r1", 1);
        let a = world.submit("a");
        if started {
            world.starts("r1", a);
        }
        assert_eq!(world.cancel(a), Answer::Canceling);
        world.expect(a, "canceling, attempt 1 on r1");
        world.finishes("r1", a, Outcome::Canceled);
        world.expect(a, "canceled, attempt 1");
        assert_eq!(world.told("r1"), ["registered", "assign a.1", "cancel a.1", "ack a.1"]);
    }
}

#[test]
fn cancel_may_be_said_again() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    assert_eq!(world.cancel(a), Answer::Canceling);
    assert_eq!(world.cancel(a), Answer::Canceling);
    world.expect(a, "canceling, attempt 1 on r1");
    world.finishes("r1", a, Outcome::Canceled);
    assert_eq!(world.cancel(a), Answer::BuildNotLive);
    world.expect(a, "canceled, attempt 1");
}

#[test]
fn a_build_that_ended_or_never_was_can_not_be_canceled() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.succeeds("r1", a);
    assert_eq!(world.cancel(a), Answer::BuildNotLive);
    assert_eq!(world.cancel(build_id(99)), Answer::BuildNotLive);
    world.expect(a, "succeeded, attempt 1");
}

#[test]
fn a_canceled_build_never_succeeds_fails_or_is_tried_again() {
    let reports = [Outcome::Succeeded, failed(1), Outcome::TimedOut, errored(ErrorReason::EngineFailed)];
    for outcome in reports {
        let mut world = World::new();
        world.runner("r1", 1);
        let a = world.submit("a");
        world.starts("r1", a);
        world.cancel(a);
        world.finishes("r1", a, outcome);
        world.expect(a, "canceled, attempt 1");
    }
}

#[test]
fn a_late_start_does_not_undo_a_cancel() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.cancel(a);
    world.starts("r1", a);
    world.keeps_alive("r1");
    world.expect(a, "canceling, attempt 1 on r1");
}

#[test]
fn the_removal_of_the_runner_completes_a_cancel() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let a = world.submit("a");
    world.cancel(a);
    world.freezes("r1");
    world.passes(20_000);
    world.expect(a, "canceled, attempt 1");
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
}

#[test]
fn so_does_another_process_in_its_place() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.cancel(a);
    world.restarts("r1");
    world.expect(a, "canceled, attempt 1");
}

#[test]
fn a_canceled_build_that_is_given_back_or_was_never_received_is_canceled() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.cancel(a);
    world.releases("r1", a);
    world.expect(a, "canceled, attempt 1");

    world.loses_assignments("r1");
    let b = world.submit("b");
    world.cancel(b);
    world.keeps_alive("r1");
    world.keeps_alive("r1");
    world.expect(b, "canceled, attempt 1");
}

#[test]
fn a_cancel_that_was_lost_with_the_connection_is_said_again() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.loses_connection("r1");
    assert_eq!(world.cancel(a), Answer::Canceling);
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []", "cancel a.1"]);
}

#[test]
fn a_cancel_survives_the_coordinator() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.cancel(a);
    world.coordinator_restarts();
    world.expect(a, "canceling, attempt 1 on r1");
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []", "cancel a.1"]);
    world.succeeds("r1", a);
    world.expect(a, "canceled, attempt 1");
}

#[test]
fn the_place_of_a_canceled_build_is_free_once_its_runner_has_stopped_it() {
    let mut world = World::new();
    world.runner("r1", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.cancel(a);
    world.expect(b, "queued");
    world.finishes("r1", a, Outcome::Canceled);
    world.expect(b, "assigned, attempt 1 on r1");
}
