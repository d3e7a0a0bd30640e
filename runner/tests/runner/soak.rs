//! Many builds on a runner that is killed again and again: none is lost, none runs twice at a time, nothing is left.
//!
//! A few dozen with every run of the tests; `CAISSON_SOAK_BUILDS=500 cargo test -p caisson-runner --test runner
//! soak -- --nocapture` for more, and for the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use caisson_protocol::{AttemptId, CoordinatorMessage, Outcome};

use super::World;
use crate::world::until;

const AT_ONCE: usize = 4;

/// What is expected of each build that is on its way.
type Waiting = BTreeMap<AttemptId, u8>;

/// Somewhere below a limit, differently in each run.
fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

fn submit(world: &World, attempt: Option<AttemptId>, code: u8) -> AttemptId {
    let spec = world.spec(&format!("seq 1 2000; sleep 0.{}; exit {code}", random(4)));
    let Some(before) = attempt else { return world.coordinator.assign(spec) };
    let attempt = AttemptId { number: before.number + 1, ..before };
    world.coordinator.say(CoordinatorMessage::Assign { attempt, spec: spec.into(), log_bytes_max: 1 << 20 });
    attempt
}

/// Takes out what has ended, and checks that each ended as it should.
fn take_ended(world: &World, waiting: &mut Waiting) -> usize {
    let ended: Vec<_> = world.coordinator.look(|seen| {
        let ended = waiting.keys().filter_map(|id| Some((*id, seen.finished.get(id)?.outcome.clone())));
        ended.collect()
    });
    for (attempt, outcome) in &ended {
        let code = waiting.remove(attempt).unwrap();
        let expected =
            if code == 0 { Outcome::Succeeded } else { Outcome::Failed { exit_code: code, note: None } };
        assert_eq!(*outcome, expected, "{attempt}");
    }
    ended.len()
}

/// Kills the runner and starts it anew; what it does not hold any more goes out again, as the scheduler would have it.
async fn kill_and_restart(world: &mut World, waiting: &mut Waiting) {
    let before = world.coordinator.look(|seen| seen.registrations.len());
    world.runner.kill();
    world.runner.restart();
    world.coordinator.wait("the runner is back", |seen| seen.registrations.len() > before).await;
    let held: BTreeSet<AttemptId> = world
        .coordinator
        .look(|seen| seen.registrations[before].held.iter().map(|held| held.attempt).collect());
    let done = world.coordinator.look(|seen| seen.finished.keys().copied().collect::<BTreeSet<_>>());
    let lost: Vec<_> =
        waiting.keys().filter(|id| !held.contains(id) && !done.contains(id)).copied().collect();
    for attempt in lost {
        let code = waiting.remove(&attempt).unwrap();
        waiting.insert(submit(world, Some(attempt), code), code);
    }
}

#[tokio::test]
async fn a_runner_that_is_killed_again_and_again_loses_nothing_and_leaves_nothing() {
    let builds = std::env::var("CAISSON_SOAK_BUILDS").map_or(30, |builds| builds.parse().unwrap());
    let mut world = World::with(&["capacity=4"]).await;
    let (mut begun, mut ended, mut kills) = (0, 0, 0);
    let (mut waiting, mut figures) = (Waiting::new(), Vec::new());
    let start = Instant::now();
    let mut next_kill = start + Duration::from_millis(500 + random(3000));
    while ended < builds {
        while begun < builds && waiting.len() < AT_ONCE {
            let code = u8::try_from(random(3)).unwrap();
            waiting.insert(submit(&world, None, code), code);
            begun += 1;
        }
        // Not a wait for an event: the kill is to come at any time.
        tokio::time::sleep(Duration::from_millis(20)).await;
        ended += take_ended(&world, &mut waiting);
        if Instant::now() >= next_kill {
            figures.push((world.runner.memory_peak_kib(), world.runner.open_files()));
            kill_and_restart(&mut world, &mut waiting).await;
            kills += 1;
            next_kill = Instant::now() + Duration::from_millis(500 + random(3000));
        }
    }
    world.runner.becomes_empty().await;
    until("children and files are gone", async || world.runner.open_files() < 40).await;
    figures.push((world.runner.memory_peak_kib(), world.runner.open_files()));
    let most = figures.iter().map(|(kib, _)| *kib).max().unwrap();
    eprintln!(
        "{ended} builds, {kills} kills, {:.0} s; memory at most {most} KiB, open files at each kill and at the end {:?}",
        start.elapsed().as_secs_f64(),
        figures.iter().map(|(_, files)| *files).collect::<Vec<_>>(),
    );
    assert!(most < 96 * 1024, "the runner had {most} KiB");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_hundredth_build_costs_what_the_tenth_did() {
    let builds = std::env::var("CAISSON_SOAK_BUILDS").map_or(40, |builds| builds.parse().unwrap());
    let world = World::with(&["capacity=4"]).await;
    let mut figures = Vec::new();
    for batch in 0..builds / 10 {
        let attempts: Vec<_> = (0..10).map(|_| world.submit("seq 1 2000")).collect();
        for attempt in attempts {
            assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
        }
        world.runner.becomes_empty().await;
        if batch > 0 {
            figures.push((world.runner.memory_kib(), world.runner.open_files()));
        }
    }
    eprintln!("KiB of memory and open files after each ten builds: {figures:?}");
    let ((first, files), (last, files_last)) = (figures[0], *figures.last().unwrap());
    assert!(last < first + 12 * 1024, "memory grew from {first} to {last} KiB");
    assert!(files_last <= files + 4, "open files grew from {files} to {files_last}");
    world.ends_clean().await;
}
