//! Seeds, each of them run as `./just simulate --seed …` runs it, and worlds that were thought of.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod stories;

use caisson_simulation::{
    batch::{self, Batch},
    run,
};

/// How many seeds run here when `CAISSON_SIMULATION_SEEDS` does not say; `./just simulate` runs many more.
const SEEDS: u64 = 200;

#[test]
fn every_rule_holds_in_every_world() {
    let seeds = std::env::var("CAISSON_SIMULATION_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let batch = Batch::run(&batch::seeds_to_run(0, seeds.unwrap_or(SEEDS)), 2, false).unwrap();
    assert!(
        batch.broken.is_empty(),
        "{batch}have the first again: ./just simulate --seed {}",
        batch.broken[0].0
    );
    assert_eq!(batch.missing(), [""; 0], "what never happened was not tested: {batch}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in [1, 6, 191, 4711, 1 << 40] {
        let (first, second) = (run(seed, false).unwrap(), run(seed, false).unwrap());
        assert_eq!(first, second, "seed {seed} makes two different runs");
    }
    assert_ne!(run(1, false).unwrap().trace, run(2, false).unwrap().trace);
}
