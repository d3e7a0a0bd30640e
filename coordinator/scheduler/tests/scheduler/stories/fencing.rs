//! Who is not, or not any more, the one to say something changes nothing, and is told to drop it.

use caisson_protocol::{AttemptId, HeldAttempt, HeldPhase, Outcome};
use caisson_scheduler::{Event, RunnerEvent};

use crate::{words::*, world::World};

/// All that can be said of an attempt which would change its build.
fn all_of(attempt: AttemptId) -> [RunnerEvent; 4] {
    [
        RunnerEvent::Accepted { attempt },
        RunnerEvent::Started { attempt, resolved_commit: commit(), image_digest: None },
        RunnerEvent::Finished { attempt, report: report(Outcome::Succeeded) },
        RunnerEvent::Released { attempt },
    ]
}

/// `name` says all of it, nothing changes, and it is told to drop the attempt each time.
fn changes_nothing(world: &mut World, name: &str, attempt: AttemptId, word: &str) {
    for event in all_of(attempt) {
        world.told(name);
        let before = world.store.clone();
        world.says(name, event.clone());
        assert_eq!(world.store, before, "{event:?}");
        assert_eq!(world.told(name), [word], "{event:?}");
    }
}

#[test]
fn an_older_attempt_changes_nothing() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let old = world.held("r1", a);
    world.restarts("r1");
    world.expect(a, "assigned, attempt 2 on r1");
    changes_nothing(&mut world, "r1", old, "drop a.1");
    world.expect(a, "assigned, attempt 2 on r1");
}

#[test]
fn an_attempt_of_a_build_that_waits_again_changes_nothing() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let old = world.held("r1", a);
    world.freezes("r1");
    world.passes(20_000);
    world.changes_capacity("r1", 0);
    world.connects("r1");
    changes_nothing(&mut world, "r1", old, "drop a.1");
    world.expect(a, "queued, attempt 1");
}

#[test]
fn another_runner_changes_nothing() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.runner("r2", 1);
    let attempt = world.held("r1", a);
    changes_nothing(&mut world, "r2", attempt, "drop a.1");
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn an_older_session_changes_nothing_and_is_closed() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let (old, attempt) = (world.session("r1").unwrap(), world.held("r1", a));
    world.connects("r1");
    for event in all_of(attempt) {
        world.says_on(old, event);
        assert!(world.last_step().changes.is_empty());
        assert_eq!(format!("{:?}", world.last_step().effects), format!("[Close {{ session: {old:?} }}]"));
    }
    world.says_on(old, RunnerEvent::Disconnected);
    world.expect(a, "assigned, attempt 1 on r1");
    world.succeeds("r1", a);
    world.expect(a, "succeeded, attempt 1");
}

#[test]
fn a_frozen_runner_that_wakes_up_after_its_build_ended_elsewhere_changes_nothing() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.starts("r1", a);
    world.runner("r2", 1);
    world.freezes("r1");
    world.passes(20_000);
    world.finishes("r2", a, failed(1));
    world.thaws("r1");
    world.told("r1");
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [] drop [a.1]"]);
    world.expect(a, "failed, attempt 2");
}

#[test]
fn a_stale_attempt_in_a_list_is_dropped() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 0);
    let a = world.submit("a");
    world.told("r2");
    let stale = HeldAttempt { attempt: world.held("r1", a), phase: HeldPhase::Running };
    world.says("r2", RunnerEvent::KeepAlive { held: vec![stale] });
    assert_eq!(world.told("r2"), ["drop a.1"]);
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn what_is_said_twice_counts_once() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let attempt = world.held("r1", a);
    for event in all_of(attempt).into_iter().take(3) {
        world.says("r1", event.clone());
        let once = world.store.clone();
        world.says("r1", event);
        assert_eq!(world.store, once);
    }
    assert_eq!(world.told("r1"), ["registered", "assign a.1", "ack a.1", "drop a.1"]);
    world.expect(a, "succeeded, attempt 1");
}

#[test]
fn what_is_given_back_twice_is_given_back_once() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let a = world.submit("a");
    let attempt = world.held("r1", a);
    world.starts_draining("r1");
    world.releases("r1", a);
    world.expect(a, "assigned, attempt 2 on r2");
    world.says("r1", RunnerEvent::Released { attempt });
    world.expect(a, "assigned, attempt 2 on r2");
}

#[test]
fn draining_and_disconnecting_twice_is_draining_and_disconnecting_once() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let session = world.session("r1").unwrap();
    world.starts_draining("r1");
    world.starts_draining("r1");
    world.loses_connection("r1");
    world.says_on(session, RunnerEvent::Disconnected);
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn a_build_that_nobody_knows_changes_nothing() {
    let mut world = World::new();
    world.runner("r1", 1);
    let attempt = AttemptId { build: build_id(99), number: 1 };
    changes_nothing(&mut world, "r1", attempt, "drop ?.1");
}

#[test]
fn who_has_not_registered_is_closed() {
    let mut world = World::new();
    let session = world.new_session();
    world.apply(Event::Runner { session, event: RunnerEvent::KeepAlive { held: vec![] } });
    assert_eq!(world.last_step().effects.len(), 1);
    assert!(world.last_step().changes.is_empty());
}
