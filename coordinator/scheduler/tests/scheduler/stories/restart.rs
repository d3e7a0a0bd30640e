//! The coordinator dies, is away, or can't store: builds and their order stay, and no runner pays for it.

use caisson_scheduler::{Answer, Event, RequestId, RunnerEvent};

use crate::{words::*, world::World};

#[test]
fn queue_builds_and_order_survive() {
    let mut world = World::new();
    world.runner("r1", 1);
    let (a, b, c) = (world.submit("a"), world.submit("b"), world.submit("c"));
    world.starts("r1", a);
    world.coordinator_restarts();
    assert_eq!(world.queue(), ["b", "c"]);
    world.expect(a, "running, attempt 1 on r1");
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []"]);
    for build in [a, b, c] {
        world.succeeds("r1", build);
        world.expect(build, "succeeded, attempt 1");
    }
    let d = world.submit("d");
    assert_eq!(world.store.row(d).unwrap().number, 4);
}

#[test]
fn runners_have_a_full_timeout_to_come_back() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.freezes("r1");
    world.passes(19_000);
    world.coordinator_restarts();
    world.passes(19_999);
    world.expect(a, "assigned, attempt 1 on r1");
    world.passes(1);
    world.expect(a, "queued, attempt 1");
}

#[test]
fn a_runner_that_comes_back_does_not_get_its_build_twice() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.coordinator_restarts();
    world.connects("r2");
    world.passes(15_000);
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []"]);
    world.expect(a, "running, attempt 1 on r1");
}

#[test]
fn an_assignment_that_was_stored_and_not_sent_is_made_again_without_penalty() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.loses_assignments("r1");
    let a = world.submit("a");
    for attempt in 2..6 {
        world.coordinator_restarts();
        world.connects("r1");
        world.expect(a, &format!("assigned, attempt {attempt} on r1"));
    }
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
}

#[test]
fn a_running_build_whose_runner_comes_back_without_it_was_lost() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.coordinator_restarts();
    world.restarts("r1");
    world.expect(a, "assigned, attempt 2 on r1");
    assert_eq!(world.store.row(a).unwrap().charged(), 1);
}

#[test]
fn what_was_counted_against_a_build_stays_counted() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    for _ in 0..2 {
        world.starts("r1", a);
        world.restarts("r1");
        world.coordinator_restarts();
        world.connects("r1");
    }
    world.starts("r1", a);
    world.restarts("r1");
    world.expect(a, "errored, attempt 3, runner_lost");
}

#[test]
fn where_a_build_failed_stays_known() {
    let mut world = World::new();
    world.runner("r1", 5);
    let a = world.submit("a");
    world.runner("r2", 1);
    let b = world.submit("b");
    world.freezes("r2");
    world.finishes("r1", a, errored(caisson_protocol::ErrorReason::EngineFailed));
    world.coordinator_restarts();
    world.connects("r2");
    world.connects("r1");
    world.expect(a, "assigned, attempt 2 on r2");
    assert_ne!(a, b);
}

#[test]
fn nothing_of_what_could_not_be_stored_took_place() {
    let mut world = World::new();
    world.runner("r1", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    let attempt = world.held("r1", a);
    let session = world.session("r1").unwrap();
    let finished = RunnerEvent::Finished { attempt, report: report(failed(1)) };
    world.commit_fails(Event::Runner { session, event: finished });
    world.expect(a, "assigned, attempt 1 on r1");
    world.expect(b, "queued");
    world.commit_fails(Event::Cancel { request: RequestId(900), build: a });
    world.expect(a, "assigned, attempt 1 on r1");
    let c = world.fresh("c");
    world.commit_fails(Event::Submit { request: RequestId(901), submission: c.clone() });
    assert_eq!((world.queue(), world.answer(RequestId(901))), (vec!["b".to_owned()], None));
    assert_eq!(world.ask_submit(c.clone()), Answer::Accepted { build: c.id });
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
    world.expect(b, "assigned, attempt 1 on r1");
}

#[test]
fn a_removal_that_could_not_be_stored_did_not_take_place() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.freezes("r1");
    world.passes(19_999);
    world.now = world.now.after_ms(1);
    world.commit_fails(Event::Wake);
    world.passes(19_999);
    world.expect(a, "running, attempt 1 on r1");
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [a.1] drop []"]);
}

#[test]
fn after_an_outage_of_the_store_every_runner_has_a_full_timeout() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let a = world.submit("a");
    world.freezes("r1");
    world.freezes("r2");
    world.passes(19_000);
    world.commit_fails(Event::Cancel { request: RequestId(900), build: a });
    world.passes(19_999);
    assert_eq!(world.runners(), ["r1", "r2"]);
    world.passes(1);
    assert!(world.runners().is_empty());
}

#[test]
fn the_next_event_hands_out_what_a_failed_commit_had_held_up() {
    let mut world = World::new();
    world.submit("a");
    let session = world.new_session();
    let (runner, registration) = (runner_id("r1"), registration("r1", 1, 1));
    let event = RunnerEvent::Register { runner, registration };
    world.commit_fails(Event::Runner { session, event });
    assert_eq!(world.queue(), ["a"]);
    world.wakes();
    assert!(world.queue().is_empty());
}
