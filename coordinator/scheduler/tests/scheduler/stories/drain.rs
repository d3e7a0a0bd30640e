//! A draining runner ends what it has, and gets nothing new.

use caisson_scheduler::{Answer, Event, RequestId};

use crate::{words::*, world::World};

#[test]
fn a_drained_runner_is_told_and_gets_nothing_new() {
    let mut world = World::new();
    world.runner("r1", 2);
    let a = world.submit("a");
    assert_eq!(world.drain("r1"), Answer::Draining);
    let b = world.submit("b");
    world.expect(b, "queued");
    assert_eq!(world.told("r1"), ["registered", "assign a.1", "drain"]);
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
    world.expect(b, "queued");
}

#[test]
fn a_runner_drains_by_itself() {
    let mut world = World::new();
    world.runner("r1", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.starts_draining("r1");
    world.passes(60_000);
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
    world.expect(b, "queued");
}

#[test]
fn it_is_gone_as_soon_as_it_has_ended_everything_and_leaves() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts_draining("r1");
    world.succeeds("r1", a);
    assert_eq!(world.runners(), ["r1"]);
    world.loses_connection("r1");
    assert!(world.runners().is_empty());
}

#[test]
fn it_is_not_gone_while_it_holds_a_build() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts_draining("r1");
    world.loses_connection("r1");
    world.expect(a, "assigned, attempt 1 on r1");
    world.connects("r1");
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
}

#[test]
fn what_it_gives_back_goes_on_at_once_without_penalty() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.runner("r2", 1);
    world.starts_draining("r1");
    world.releases("r1", a);
    world.expect(a, "assigned, attempt 2 on r2");
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
}

#[test]
fn what_is_on_its_way_to_a_runner_that_goes_goes_on_at_once_without_penalty() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.loses_assignments("r1");
    let a = world.submit("a");
    world.runner("r2", 1);
    world.starts_draining("r1");
    world.expect(a, "assigned, attempt 2 on r2");
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
    world.loses_connection("r1");
    assert_eq!(world.runners(), ["r2"]);
}

#[test]
fn what_is_on_its_way_to_a_runner_that_goes_and_is_to_be_canceled_is_canceled() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.loses_assignments("r1");
    let a = world.submit("a");
    world.cancel(a);
    world.starts_draining("r1");
    world.expect(a, "canceled, attempt 1");
}

#[test]
fn what_a_draining_runner_holds_stays_with_it() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.runner("r2", 1);
    world.starts_draining("r1");
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn a_build_may_be_given_back_more_often_than_it_may_fail() {
    let mut world = World::new();
    let a = world.submit("a");
    for round in 1..=5 {
        world.runner("r1", 1);
        world.expect(a, &format!("assigned, attempt {round} on r1"));
        world.starts_draining("r1");
        world.releases("r1", a);
        world.loses_connection("r1");
    }
    world.expect(a, "queued, attempt 5");
}

#[test]
fn a_drain_holds_over_a_lost_connection() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let said = world.registration("r1");
    world.drain("r1");
    world.loses_connection("r1");
    world.told("r1");
    let session = world.new_session();
    // The word of it was lost with the connection.
    world.register(session, said);
    let effects = format!("{:?}", world.last_step().effects);
    assert!(effects.contains("Drain"), "{effects}");
    world.expect(a, "queued, attempt 1");
}

#[test]
fn a_drain_holds_over_a_lost_connection_even_if_the_runner_holds_nothing() {
    let mut world = World::new();
    world.runner("r1", 1);
    let said = world.registration("r1");
    world.drain("r1");
    world.loses_connection("r1");
    let session = world.new_session();
    world.register(session, said);
    let a = world.submit("a");
    world.expect(a, "queued");
}

#[test]
fn a_runner_that_has_not_come_back_after_a_restart_can_be_drained() {
    let mut world = World::new();
    world.runner("r1", 2);
    world.submit("a");
    world.coordinator_restarts();
    assert_eq!(world.drain("r1"), Answer::Draining);
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []", "drain"]);
    let b = world.submit("b");
    world.expect(b, "queued");
}

#[test]
fn a_drain_that_was_refused_with_a_commit_did_not_take_place() {
    let mut world = World::new();
    world.runner("r1", 1);
    let (request, other) = (RequestId(900), RequestId(901));
    let drain = Event::Drain { request, runner: runner_id("r1") };
    let submit = Event::Submit { request: other, submission: world.fresh("a") };
    world.commit_of_all_fails([drain, submit], &[request, other]);
    let b = world.submit("b");
    world.expect(b, "assigned, attempt 1 on r1");
}

#[test]
fn a_drain_that_was_answered_holds_when_a_later_commit_fails() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.drain("r1");
    world.loses_connection("r1");
    let again = Event::Drain { request: RequestId(900), runner: runner_id("r1") };
    let submit = Event::Submit { request: RequestId(901), submission: world.fresh("a") };
    world.commit_of_all_fails([again, submit], &[RequestId(900), RequestId(901)]);
    world.connects("r1");
    let b = world.submit("b");
    world.expect(b, "queued");
}

#[test]
fn another_process_under_the_same_name_does_not_drain() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.drain("r1");
    let session = world.new_session();
    world.register(session, registration("r1", 77, 1));
    let a = world.submit("a");
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn nobody_drains_who_is_not_there() {
    let mut world = World::new();
    assert_eq!(world.drain("r1"), Answer::RunnerUnknown);
}
