//! Worlds that were thought of rather than thrown, each for one promise. What a story leaves open, such as how long a
//! message takes, is thrown several times.

use std::time::Duration;

use caisson_scheduler::Rules;
use caisson_simulation::{
    Report,
    plan::{Fault, Plan, Script, StationPlan, Trouble},
    play,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_coordinator_that_is_away_for_an_hour_finds_every_build_where_it_was() {
    let faults = [
        (20, Fault::KillCoordinator(HOUR)),
        // What this runner had has ended by then; its next process delivers it.
        (1800, Fault::KillRunner(0, Duration::from_secs(5))),
    ];
    for seed in 0..2 {
        let report = happens(HOUR, seed, builds_of_an_hour(), &faults);
        every_build_ran_once_and_succeeded(&report, 6);
        assert!(report.counts.contains_key("end delivered by a later process"));
        assert!(report.counts.contains_key("attempts resumed"));
    }
}

#[test]
fn a_coordinator_that_stands_still_for_an_hour_finds_every_build_where_it_was() {
    for seed in 0..2 {
        let report = happens(HOUR, seed, builds_of_an_hour(), &[(20, Fault::FreezeCoordinator(HOUR))]);
        every_build_ran_once_and_succeeded(&report, 6);
    }
}

#[test]
fn a_store_that_takes_nothing_for_an_hour_costs_no_build() {
    let report = happens(HOUR, 0, builds_of_an_hour(), &[(20, Fault::StoreDown(HOUR))]);
    every_build_ran_once_and_succeeded(&report, 6);
    assert!(report.counts.contains_key("store refuses"));
}

/// What runners said in the meantime lies unread when their deadlines are looked at.
#[test]
fn a_coordinator_that_stood_still_for_about_the_timeout_removes_nobody() {
    for (seed, pause) in (15_000..25_000).step_by(500).enumerate() {
        let silent = Script { pieces: vec![(90_000, 10)], ..build(1, 0) };
        let faults = [(20 + seed as u64 % 10, Fault::FreezeCoordinator(Duration::from_millis(pause)))];
        let report = happens(MINUTE, seed as u64, vec![silent], &faults);
        every_build_ran_once_and_succeeded(&report, 1);
    }
}

/// While the store took its time over a build that was given out, its runner listed what it held: not that build.
#[test]
fn a_store_that_stalls_while_a_build_is_given_out_does_not_take_it_back() {
    for seed in 0..5 {
        let stall = Fault::StoreStalls(Duration::from_secs(25));
        let report = happens(MINUTE, seed, vec![build(21, 10)], &[(20, stall)]);
        every_build_ran_once_and_succeeded(&report, 1);
    }
}

/// All of it was acknowledged: its runner has said all it had to say.
#[test]
fn a_log_that_went_with_the_power_before_its_end_was_stored_is_taken_in_again() {
    let mut lost = 0;
    for seed in 0..40 {
        let report = happens(Duration::ZERO, seed, vec![build(1, 10)], &[(0, Fault::PowerLossBeforeSeal)]);
        every_build_ran_once_and_succeeded(&report, 1);
        lost += report.counts.get("log lost with the power").copied().unwrap_or(0);
    }
    assert!(lost > 0);
}

/// Two builds that end within a minute, on the first runner; two that take most of an hour and more, on the second; and two
/// that wait for a place.
fn builds_of_an_hour() -> Vec<Script> {
    let labelled = Script { labelled: true, ..build(1, 60) };
    vec![labelled.clone(), labelled, build(5, 3000), build(5, 4000), build(10, 30), build(10, 30)]
}

/// A build that is submitted after so many seconds, and takes so many more.
fn build(submit_at_seconds: u64, seconds: usize) -> Script {
    Script {
        submit_at: Duration::from_secs(submit_at_seconds),
        keyed: true,
        labelled: false,
        prepare_ms: 500,
        pieces: vec![(10_000, 400); seconds.div_ceil(10)],
        exit_code: 0,
        trouble: Trouble::None,
        cancel_after: None,
        timeout_seconds: 7200,
    }
}

/// Two runners of two places each, and what goes wrong after how many seconds; it lasts no longer than `trouble`.
fn happens(trouble: Duration, seed: u64, scripts: Vec<Script>, faults: &[(u64, Fault)]) -> Report {
    let station =
        |name: &str, labelled| StationPlan { name: name.into(), labelled, capacity: 2, latency_ms: 20 };
    let faults = faults.iter().map(|(at, fault)| (Duration::from_secs(*at), *fault)).collect();
    let rules = Rules {
        queue_capacity: 1000,
        max_attempts: 3,
        interval_ms: 10_000,
        timeout_ms: 20_000,
        log_bytes_max: 1 << 28,
    };
    let plan = Plan {
        rules,
        stations: vec![station("r0", true), station("r1", false)],
        scripts,
        faults,
        trouble: trouble + MINUTE,
        mischief_percent: 0,
        commit_ms: 5,
    };
    let report = play(plan, seed, false).unwrap();
    assert_eq!(report.violation, None);
    report
}

/// The rules hold, so each has its end and its whole log as well.
fn every_build_ran_once_and_succeeded(report: &Report, builds: u64) {
    for what in ["build accepted", "attempt made", "attempt run by a runner", "succeeded"] {
        assert_eq!(report.counts.get(what), Some(&builds), "{what}: {:#?}", report.counts);
    }
}
