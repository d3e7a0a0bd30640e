//! Disks that fill up: the runner's trouble and no build's failure, and over when there is room.

use std::time::Duration;

use caisson_protocol::{Outcome, RunnerMessage};
use tempfile::TempDir;

use super::World;
use crate::world::{
    Bind, Dockerd, Kind, Registry, Repository, Tmpfs, Upload, WorldWith, coordinator::Seen, spec, until,
};

const MIB: u64 = 1024 * 1024;

/// A world whose runner has its folder on a disk of its own.
async fn on_a_disk(options: &str, settings: &[&str]) -> (World, Tmpfs) {
    let home = TempDir::new().unwrap();
    let disk = Tmpfs::mount(&home.path().join("runner/work"), options);
    (World::within(home, settings).await, disk)
}

fn reason(outcome: &Outcome) -> &'static str {
    outcome.reason().unwrap_or("none")
}

/// As soon as its runner has found out that it is healthy: until then builds are given back.
async fn runs_builds_again<K: Kind>(world: &WorldWith<K>) {
    loop {
        world.coordinator.healthy().await;
        let after = world.submit("true");
        let given_back = RunnerMessage::Released { attempt: after };
        let ended = |seen: &Seen| seen.finished.contains_key(&after) || seen.messages.contains(&given_back);
        world.coordinator.wait("the build is run or given back", ended).await;
        if let Some(report) = world.coordinator.look(|seen| seen.finished.get(&after).cloned()) {
            assert_eq!(report.outcome, Outcome::Succeeded);
            return;
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_gets_no_builds_until_there_is_room() {
    let (world, disk) = on_a_disk("size=32m", &["disk_free_min=8MiB"]).await;
    let before = world.submit("true");
    assert_eq!(world.outcome(before).await, Outcome::Succeeded);
    disk.fill_up_to(4 * MIB);
    let why = world.coordinator.unhealthy().await;
    assert!(why.contains("work_dir") && why.contains("disk_free_min"), "{why}");
    let meanwhile = world.submit("true");
    world.coordinator.released(meanwhile).await;
    disk.empty();
    runs_builds_again(&world).await;
    world.ends_clean().await;
}

/// However soon after the disk is full: no attempt is wasted on it.
#[tokio::test]
async fn a_build_that_crosses_a_full_disk_is_given_back() {
    let (world, disk) = on_a_disk("size=16m", &["disk_free_min=64KiB"]).await;
    disk.fill_up_to(0);
    let attempt = world.submit("true");
    world.coordinator.released(attempt).await;
    disk.empty();
    runs_builds_again(&world).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_disk_that_takes_no_more_files_is_full_as_well() {
    let (world, disk) = on_a_disk("size=32m,nr_inodes=3000", &["disk_free_min=1MiB"]).await;
    disk.fill_with_files_up_to(10);
    let why = world.coordinator.unhealthy().await;
    assert!(why.contains("files"), "{why}");
    disk.empty();
    runs_builds_again(&world).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_while_it_clones_is_not_the_repositorys_fault() {
    let (world, _disk) = on_a_disk("size=8m", &["disk_free_min=1MiB"]).await;
    let elsewhere = TempDir::new().unwrap();
    let large = Repository::make(&elsewhere.path().join("large"), &[("zeros.txt", &"0".repeat(16 << 20))]);
    let attempt = world.coordinator.assign(spec(&large.url(), "main", "true"));
    let outcome = world.outcome(attempt).await;
    assert_eq!(reason(&outcome), "disk_full", "{outcome:?}");
    // What it could write is gone.
    runs_builds_again(&world).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_log_that_finds_no_room_is_not_the_commands_fault() {
    let (world, _disk) = on_a_disk("size=8m", &["disk_free_min=1MiB"]).await;
    // Nothing of it is sent away meanwhile.
    world.coordinator.look(|seen| seen.acknowledges_no_log = true);
    let attempt = world.submit("seq 1 3000000");
    world.coordinator.started(attempt).await;
    until("it has ended", async || world.runner.log().contains("can't write the build's log")).await;
    world.coordinator.look(|seen| seen.acknowledges_no_log = false);
    world.coordinator.cut();
    let outcome = world.outcome(attempt).await;
    assert_eq!(reason(&outcome), "disk_full", "{outcome:?}");
    runs_builds_again(&world).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn an_engine_whose_disk_is_full_is_given_no_builds_until_there_is_room() {
    engines_disk_fills_up::<Bind>().await;
}

#[tokio::test]
async fn an_engine_whose_disk_is_full_is_given_no_builds_though_workspaces_are_uploaded() {
    engines_disk_fills_up::<Upload>().await;
}

async fn engines_disk_fills_up<K: Kind>() {
    let engine = Dockerd::start_on("size=24m").await;
    let world = WorldWith::<K>::on(&engine, &["disk_free_min=4MiB"]).await;
    engine.disk().fill_up_to(2 * MIB);
    let why = world.coordinator.unhealthy().await;
    assert!(why.contains("the disk of the engine"), "{why}");
    let meanwhile = world.submit("true");
    world.coordinator.released(meanwhile).await;
    engine.disk().empty();
    runs_builds_again(&world).await;
    world.ends_clean().await;
}

#[tokio::test]
async fn an_engine_whose_disk_fills_up_while_it_pulls_says_so_and_is_not_the_images_fault() {
    let engine = Dockerd::start_on("size=24m").await;
    let world = World::on(&engine, &["disk_free_min=1KiB"]).await;
    let registry = Registry::with(&["app"], Duration::ZERO).await;
    engine.disk().fill_up_to(MIB / 4);
    let attempt = world.submit_in(&registry.image("app"), "true");
    let outcome = world.outcome(attempt).await;
    assert!(outcome.is_infrastructure(), "{outcome:?}");
    assert!(outcome.message().unwrap().contains("no space left"), "{outcome:?}");
    engine.disk().empty();
    let again = world.submit_in(&registry.image("app"), "true");
    assert_eq!(world.outcome(again).await, Outcome::Succeeded);
    world.ends_clean().await;
}
