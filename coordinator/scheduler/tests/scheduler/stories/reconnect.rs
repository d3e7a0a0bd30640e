//! A lost connection is not a dead runner; another process under the same name is another runner's end.

use caisson_protocol::{AttemptId, HeldAttempt, HeldPhase};
use caisson_scheduler::RunnerEvent;
use uuid::Uuid;

use crate::{words::*, world::World};

#[test]
fn a_runner_that_comes_back_in_time_goes_on() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.loses_connection("r1");
    world.passes(19_999);
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []"]);
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
}

#[test]
fn a_runner_without_a_connection_gets_nothing_new() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.loses_connection("r1");
    let a = world.submit("a");
    world.expect(a, "queued");
    world.connects("r1");
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn what_ended_without_a_connection_is_delivered_after_it() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.loses_connection("r1");
    world.finishes_unheard("r1", a);
    world.connects("r1");
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
}

#[test]
fn an_assignment_that_was_lost_with_the_connection_is_made_again_without_penalty() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.loses_assignments("r1");
    let a = world.submit("a");
    world.receives_assignments("r1");
    world.connects("r1");
    world.expect(a, "assigned, attempt 2 on r1");
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
}

#[test]
fn a_start_that_was_lost_with_the_connection_is_learnt_from_the_list() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let attempt = world.held("r1", a);
    world.says(
        "r1",
        RunnerEvent::KeepAlive { held: vec![HeldAttempt { attempt, phase: HeldPhase::Running }] },
    );
    world.expect(a, "running, attempt 1 on r1");
}

#[test]
fn another_process_takes_the_place_of_the_first_which_is_sent_away() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.told("r1");
    let session = world.new_session();
    world.register(session, registration("r1", 77, 1));
    assert_eq!(world.told("r1"), ["superseded", "closed"]);
    world.expect(a, "assigned, attempt 2 on r1");
    assert_eq!(world.store.row(a).unwrap().charged(), 1);
}

#[test]
fn the_same_process_is_not_sent_away_when_it_connects_again() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered"]);
    assert_eq!(world.runners(), ["r1"]);
}

#[test]
fn the_builds_of_a_process_that_was_replaced_are_another_runners() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.runner("r2", 1);
    let b = world.submit("b");
    world.succeeds("r2", b);
    let session = world.new_session();
    // It takes fewer builds than the one before.
    world.register(session, registration("r1", 77, 0));
    world.expect(a, "assigned, attempt 2 on r2");
}

#[test]
fn a_process_that_restarts_with_an_ended_build_delivers_it() {
    let mut world = World::new();
    world.runner("r1", 2);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.loses_connection("r1");
    world.finishes_unheard("r1", a);
    world.told("r1");
    world.restarts("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []", "assign b.2"]);
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
    world.expect(b, "assigned, attempt 2 on r1");
}

#[test]
fn a_runner_is_told_what_to_keep_and_what_to_drop() {
    let mut world = World::new();
    world.runner("r1", 2);
    let (a, b) = (world.submit("a"), world.submit("b"));
    let stranger = AttemptId { build: build_id(99), number: 4 };
    let held = [world.held("r1", a), stranger, AttemptId { number: 7, ..world.held("r1", b) }];
    let held = held.map(|attempt| HeldAttempt { attempt, phase: HeldPhase::Preparing }).to_vec();
    world.told("r1");
    let session = world.new_session();
    let said = world.registration("r1");
    world.register(session, caisson_protocol::Registration { held, ..said });
    let effects = format!("{:?}", world.last_step().effects);
    assert!(
        effects.contains(&format!("keep: [{:?}], drop: [{stranger:?}, ", world.held("r1", a))),
        "{effects}"
    );
    world.expect(a, "assigned, attempt 1 on r1");
    world.expect(b, "assigned, attempt 2 on r1");
}

#[test]
fn a_runner_that_comes_back_smaller_keeps_what_it_brings() {
    let mut world = World::new();
    world.runner("r1", 2);
    let (a, b, c) = (world.submit("a"), world.submit("b"), world.submit("c"));
    world.changes_capacity("r1", 1);
    world.connects("r1");
    world.succeeds("r1", a);
    world.expect(b, "assigned, attempt 1 on r1");
    world.expect(c, "queued");
    world.succeeds("r1", b);
    world.expect(c, "assigned, attempt 1 on r1");
}

#[test]
fn two_processes_that_take_turns_under_one_name_end_no_build_but_by_the_cap() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    for instance in [91, 92] {
        let session = world.new_session();
        let said = registration("r1", instance, 1);
        assert_ne!(said.instance, Uuid::nil());
        world.register(session, said);
    }
    world.expect(a, "assigned, attempt 3 on r1");
}

#[test]
fn a_registration_that_a_later_connection_has_overtaken_is_closed() {
    let mut world = World::new();
    world.runner("r1", 1);
    let slow = world.new_session();
    let older = registration("r1", 900, 1);
    world.connects("r1");
    let a = world.submit("a");
    world.register(slow, older.clone());
    assert_eq!(format!("{:?}", world.last_step().effects), format!("[Close {{ session: {slow:?} }}]"));
    world.loses_connection("r1");
    world.register(slow, older);
    world.expect(a, "assigned, attempt 1 on r1");
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
}

#[test]
fn a_connection_on_which_somebody_registers_again_is_closed() {
    for name in ["r1", "r2"] {
        let mut world = World::new();
        world.runner("r1", 1);
        let a = world.submit("a");
        let session = world.session("r1").unwrap();
        world.told("r1");
        world.register(session, registration(name, 900, 1));
        assert_eq!(world.told("r1"), ["closed"]);
        assert_eq!(world.runners(), ["r1"]);
        world.expect(a, "assigned, attempt 1 on r1");
    }
}
