//! Signs of life, deadlines, and what becomes of the builds of a runner that is gone.

use caisson_scheduler::{Event, RunnerEvent};

use crate::world::World;

#[test]
fn a_silent_runner_is_removed_at_its_deadline_and_not_before() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.freezes("r1");
    world.passes(19_999);
    world.wakes();
    world.expect(a, "assigned, attempt 1 on r1");
    world.passes(1);
    world.expect(a, "queued, attempt 1");
    assert!(world.runners().is_empty());
    assert_eq!(world.told("r1").last().unwrap(), "closed");
}

#[test]
fn a_runner_that_says_it_lives_stays() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.passes(10 * 60_000);
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn any_frame_is_a_sign_of_life() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.freezes("r1");
    let attempt = world.held("r1", a);
    let said = [
        RunnerEvent::Heard,
        RunnerEvent::Accepted { attempt },
        RunnerEvent::KeepAlive { held: vec![] },
        RunnerEvent::Cleaned { attempt, cleanup_ms: 7 },
    ];
    for event in said {
        world.passes(19_999);
        world.says("r1", event);
    }
    world.passes(19_999);
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn the_end_of_a_connection_is_no_sign_of_life() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.freezes("r1");
    world.passes(15_000);
    world.loses_connection("r1");
    world.passes(4_999);
    world.expect(a, "assigned, attempt 1 on r1");
    world.passes(1);
    world.expect(a, "queued, attempt 1");
}

#[test]
fn what_was_said_in_time_counts_before_the_timer() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.freezes("r1");
    world.passes(19_999);
    world.now = world.now.after_ms(1);
    world.keeps_alive("r1");
    world.wakes();
    world.expect(a, "assigned, attempt 1 on r1");
}

#[test]
fn a_late_timer_removes_nobody_and_grants_a_full_timeout() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.freezes("r1");
    world.freezes("r2");
    world.stalls(60_000);
    world.passes(19_999);
    world.expect(a, "assigned, attempt 1 on r1");
    world.expect(b, "assigned, attempt 1 on r2");
    world.passes(1);
    world.expect(a, "queued, attempt 1");
    world.expect(b, "queued, attempt 1");
}

#[test]
fn a_coordinator_that_was_away_grants_a_full_timeout_however_short_it_was_away() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    world.freezes("r1");
    world.now = world.now.after_ms(20_000);
    world.apply(Event::Resumed);
    world.wakes();
    world.passes(19_999);
    world.expect(a, "assigned, attempt 1 on r1");
    world.passes(1);
    world.expect(a, "queued, attempt 1");
}

#[test]
fn a_removal_is_told_apart_from_a_stall_by_half_an_interval() {
    for (late_ms, status) in [(4_999, "queued, attempt 1"), (5_000, "assigned, attempt 1 on r1")] {
        let mut world = World::new();
        world.runner("r1", 1);
        let a = world.submit("a");
        world.freezes("r1");
        world.stalls(20_000 + late_ms);
        world.expect(a, status);
    }
}

#[test]
fn only_the_silent_runner_is_removed() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.runner("r2", 1);
    let (a, b) = (world.submit("a"), world.submit("b"));
    world.freezes("r1");
    world.passes(25_000);
    world.expect(a, "queued, attempt 1");
    world.expect(b, "assigned, attempt 1 on r2");
}

#[test]
fn a_removed_runner_that_speaks_again_is_closed_and_learns_what_became_of_its_builds() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let session = world.session("r1").unwrap();
    world.starts("r1", a);
    world.freezes("r1");
    world.passes(20_000);
    world.told("r1");
    world.says_on(session, RunnerEvent::Heard);
    assert!(world.last_step().changes.is_empty());
    world.runner("r2", 1);
    world.connects("r1");
    assert_eq!(world.told("r1"), ["registered, keep [] drop [a.1]"]);
    world.expect(a, "assigned, attempt 2 on r2");
}

#[test]
fn a_build_in_the_hands_of_its_runner_knows_no_deadline_where_there_is_no_runner() {
    let mut world = World::new();
    world.submit("a");
    assert_eq!(world.scheduler.next_deadline(), None);
    world.apply(Event::Wake);
    assert_eq!(world.queue(), ["a"]);
}

#[test]
fn an_attempt_that_two_lists_in_a_row_leave_out_is_taken_back_without_penalty() {
    let mut world = World::new();
    world.runner("r1", 1);
    world.loses_assignments("r1");
    let a = world.submit("a");
    world.keeps_alive("r1");
    world.expect(a, "assigned, attempt 1 on r1");
    world.receives_assignments("r1");
    world.keeps_alive("r1");
    world.expect(a, "assigned, attempt 2 on r1");
    assert_eq!(world.store.row(a).unwrap().charged(), 0);
}

#[test]
fn an_assignment_may_cross_one_list_on_its_way() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    for _ in 0..3 {
        world.says("r1", RunnerEvent::KeepAlive { held: vec![] });
        world.keeps_alive("r1");
        world.expect(a, "assigned, attempt 1 on r1");
    }
}

#[test]
fn an_acknowledged_assignment_is_not_counted_as_left_out() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.submit("a");
    let attempt = world.held("r1", a);
    world.says("r1", RunnerEvent::KeepAlive { held: vec![] });
    world.says("r1", RunnerEvent::Accepted { attempt });
    world.says("r1", RunnerEvent::KeepAlive { held: vec![] });
    world.expect(a, "assigned, attempt 1 on r1");
}
