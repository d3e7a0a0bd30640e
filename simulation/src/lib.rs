//! The whole coordinator in a world that is made of one seed.
//!
//! What is real: the dispatcher, the scheduler, the channel, the HTTP API down to the bytes of its connections, the
//! logs on disk. What is made up: time, the network, the disk's failures, runners, people, and the ends of processes.
//! A seed is a run: it decides who is there, what is built and what goes wrong when, so a run that breaks a rule can
//! be had again. The rules are in [`invariants`].

pub mod batch;
pub mod books;
pub mod coordinator;
pub mod dice;
pub mod disk;
pub mod invariants;
pub mod ledger;
pub mod life;
pub mod network;
pub mod people;
pub mod plan;
mod run;
pub mod runner;
pub mod world;

use std::io::Write as _;

pub use run::{Report, play, run};
pub use world::Violation;

/// What opens the API.
const ADMIN_TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What opens the channel to the runner of this name.
fn credential(runner: &str) -> String {
    format!("credential-of-{runner}")
}

/// Shows a line of a trace.
fn print(line: &str) {
    // Who does not read it has gone away.
    let _ = std::io::stdout().write_all(line.as_bytes());
}
