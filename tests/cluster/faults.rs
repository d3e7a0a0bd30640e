//! Processes die, stand still and come back. No build is lost, none ends twice, nothing is left behind.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::sleep;

use crate::harness::{Cluster, Repository, Wishes, containers, eventually};

/// Writes numbered lines for a while, so that a fault hits it in the middle, and a missing or doubled line shows.
const COUNTS: &str = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 3";

fn counted() -> Vec<u8> {
    (0..40).flat_map(|number| format!("line {number}\n").into_bytes()).collect()
}

/// Checks that a build that counts ended as it should, and what it wrote in its last attempt.
async fn has_counted(cluster: &Cluster, id: &str) -> Value {
    let build = cluster.ended(id).await;
    assert_eq!((&build["status"], &build["exit_code"]), (&"failed".into(), &3.into()), "{build:#}");
    assert_eq!(
        String::from_utf8(cluster.log(id, "stream=stdout").await).unwrap(),
        String::from_utf8(counted()).unwrap()
    );
    build
}

/// The points in a build's life at which somebody is killed.
const STEPS: [&str; 3] = ["assigned", "running", "late"];

async fn reach(cluster: &Cluster, id: &str, step: &str) {
    match step {
        "assigned" => drop(
            eventually("it is handed out", async || {
                cluster.build(id).await["attempt"].as_u64().filter(|n| *n > 0)
            })
            .await,
        ),
        "running" => cluster.log_says(id, "line 3\n").await,
        _ => cluster.log_says(id, "line 38\n").await,
    }
}

#[tokio::test]
async fn a_coordinator_killed_at_any_step_of_a_build_goes_on_with_it() {
    let mut cluster = Cluster::small("kill-coordinator").await;
    let repository = Repository::new(&cluster, &[]);
    for step in STEPS {
        let running = cluster.submit(repository.build(COUNTS)).await;
        let waiting = cluster.submit(repository.build("true")).await;
        reach(&cluster, &running, step).await;
        cluster.kill_coordinator();
        cluster.restart_coordinator().await;
        let build = has_counted(&cluster, &running).await;
        assert_eq!(build["attempt"], 1, "killed when {step}: it ran on and must not run twice: {build:#}");
        cluster.is(&waiting, "succeeded").await;
    }
    cluster.is_clean().await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_runner_killed_at_any_step_of_a_build_comes_back_and_runs_it_anew() {
    let mut cluster = Cluster::small("kill-runner").await;
    let repository = Repository::new(&cluster, &[]);
    for step in STEPS {
        let running = cluster.submit(repository.build(COUNTS)).await;
        let waiting = cluster.submit(repository.build("true")).await;
        reach(&cluster, &running, step).await;
        cluster.kill_runner(0);
        cluster.restart_runner(0);
        let build = has_counted(&cluster, &running).await;
        let attempts = build["attempts"].as_array().unwrap();
        if build["attempt"] == 2 {
            assert_eq!(attempts[0]["outcome"]["reason"], "runner_lost", "{build:#}");
        }
        let waited = cluster.is(&waiting, "succeeded").await;
        assert!(
            waited["started_at"].as_str() >= build["started_at"].as_str(),
            "it stands behind the older one"
        );
    }
    cluster.is_clean().await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_build_whose_runner_is_gone_for_good_runs_on_another() {
    let mut cluster = Cluster::start("gone", Wishes { runners: &[1], ..Wishes::default() }).await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build(COUNTS)).await;
    reach(&cluster, &id, "running").await;
    cluster.kill_runner(0);
    cluster.add_runner(1, None).await;
    let build = has_counted(&cluster, &id).await;
    assert_eq!(build["attempt"], 2);
    assert_eq!(build["runner"]["name"], cluster.runners[1].name.as_str());
    assert_eq!(build["attempts"][0]["outcome"]["reason"], "runner_lost");
    // Its first attempt's container is removed when the runner is there again.
    assert_eq!(containers(&cluster.runners[0].name).len(), 1);
    cluster.restart_runner(0);
    cluster.is_clean().await;
    let name = cluster.runners[0].name.clone();
    cluster.runner_is(&name, "ready").await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_frozen_runner_that_wakes_up_after_its_build_ended_elsewhere_changes_nothing() {
    let mut cluster = Cluster::small("frozen").await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build(COUNTS)).await;
    reach(&cluster, &id, "running").await;
    cluster.runners[0].process.signal(Signal::STOP);
    cluster.add_runner(1, None).await;
    let before = has_counted(&cluster, &id).await;
    assert_eq!(before["runner"]["name"], cluster.runners[1].name.as_str());

    cluster.runners[0].process.signal(Signal::CONT);
    let name = cluster.runners[0].name.clone();
    cluster.runner_is(&name, "ready").await;
    cluster.is_clean().await;
    assert_eq!(without_cleanup(cluster.build(&id).await), without_cleanup(before));
    has_counted(&cluster, &id).await;
    cluster.stops_without_a_trace().await;
}

/// How long a removal took may be told at any time after the end.
fn without_cleanup(mut build: Value) -> Value {
    for attempt in build["attempts"].as_array_mut().unwrap() {
        attempt["phases"].as_object_mut().unwrap().remove("cleanup");
    }
    build
}

#[tokio::test]
async fn a_runner_frozen_for_less_than_the_timeout_keeps_its_build() {
    let cluster = Cluster::small("nap").await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build(COUNTS)).await;
    reach(&cluster, &id, "running").await;
    cluster.runners[0].process.signal(Signal::STOP);
    // The freeze is the fault itself: half of what the keep-alive terms allow.
    sleep(Duration::from_millis(1000)).await;
    cluster.runners[0].process.signal(Signal::CONT);
    assert_eq!(has_counted(&cluster, &id).await["attempt"], 1);
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_coordinator_that_stood_still_blames_no_runner() {
    let cluster = Cluster::start("stall", Wishes { runners: &[1, 1], ..Wishes::default() }).await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build(COUNTS)).await;
    reach(&cluster, &id, "running").await;
    cluster.coordinator.signal(Signal::STOP);
    // The stall is the fault itself: longer than runners may be silent.
    sleep(Duration::from_secs(5)).await;
    cluster.coordinator.signal(Signal::CONT);
    assert_eq!(has_counted(&cluster, &id).await["attempt"], 1);
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_result_waits_for_a_coordinator_that_is_away_even_over_a_restart_of_the_runner() {
    let mut cluster = Cluster::small("away").await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build(COUNTS)).await;
    reach(&cluster, &id, "running").await;
    cluster.kill_coordinator();
    let spool =
        cluster.folder().join(&cluster.runners[0].name).join("spool").join(format!("{id}.1/report.json"));
    eventually("the result is spooled", async || spool.exists().then_some(())).await;
    cluster.kill_runner(0);
    cluster.restart_runner(0);
    cluster.restart_coordinator().await;
    assert_eq!(has_counted(&cluster, &id).await["attempt"], 1, "its result was there and must be taken");
    cluster.is_clean().await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_build_that_takes_its_runner_down_does_not_travel_for_ever() {
    let settings = &["build.max_attempts=2"];
    let mut cluster =
        Cluster::start("poison", Wishes { runners: &[1], coordinator: settings, ..Wishes::default() }).await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build("echo begun; sleep 1000")).await;
    for attempt in 1..=2 {
        eventually("the attempt runs", async || {
            let build = cluster.build(&id).await;
            (build["attempt"] == attempt && build["status"] == "running").then_some(())
        })
        .await;
        cluster.kill_runner(0);
        cluster.restart_runner(0);
    }
    let build = cluster.ended(&id).await;
    assert_eq!((&build["status"], &build["reason"]), (&"errored".into(), &"runner_lost".into()), "{build:#}");
    cluster.is_clean().await;
    let name = cluster.runners[0].name.clone();
    cluster.runner_is(&name, "ready").await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_restart_storm_of_everyone_loses_nothing() {
    let mut cluster = Cluster::start(
        "storm",
        Wishes { runners: &[2, 2], coordinator: &["build.max_attempts=100"], ..Wishes::default() },
    )
    .await;
    let repository = Repository::new(&cluster, &[]);
    let mut builds = Vec::new();
    for _ in 0..8 {
        builds.push(cluster.submit(repository.build(COUNTS)).await);
    }
    for round in 0..6 {
        cluster.kill_coordinator();
        if round % 2 == 0 {
            let at = (round / 2) % 2;
            cluster.kill_runner(at);
            cluster.restart_runner(at);
        }
        cluster.restart_coordinator().await;
    }
    for id in &builds {
        has_counted(&cluster, id).await;
    }
    cluster.is_clean().await;
    for at in 0..2 {
        let name = cluster.runners[at].name.clone();
        cluster.runner_is(&name, "ready").await;
    }
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_runner_that_drains_ends_what_it_has_and_goes() {
    let mut cluster = Cluster::small("drain").await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build(COUNTS)).await;
    let waiting = cluster.submit(repository.build("true")).await;
    reach(&cluster, &id, "running").await;
    cluster.runners[0].process.signal(Signal::TERM);
    assert_eq!(has_counted(&cluster, &id).await["attempt"], 1);
    assert!(cluster.runners[0].process.ended().await.success());
    cluster.runner_is_removed(0).await;
    assert_eq!(cluster.build(&waiting).await["waiting_for"]["code"], "no_runner");
    cluster.restart_runner(0);
    cluster.is(&waiting, "succeeded").await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_runner_told_twice_to_stop_gives_its_builds_back() {
    let mut cluster = Cluster::small("give-back").await;
    let repository = Repository::new(&cluster, &[]);
    let id = cluster.submit(repository.build("echo begun; sleep 1000")).await;
    cluster.log_says(&id, "begun").await;
    let name = cluster.runners[0].name.clone();
    cluster.runners[0].process.signal(Signal::TERM);
    cluster.runner_is(&name, "draining").await;
    cluster.runners[0].process.signal(Signal::TERM);
    let build = cluster.is(&id, "queued").await;
    assert_eq!(build["attempts"][0]["outcome"]["reason"], "given_back", "{build:#}");
    assert!(cluster.runners[0].process.ended().await.success());
    cluster.is_clean().await;
    cluster.cancel(&id).await;
    cluster.restart_runner(0);
    cluster.runner_is(&name, "ready").await;
    cluster.stops_without_a_trace().await;
}
