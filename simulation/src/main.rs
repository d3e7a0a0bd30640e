//! `simulate`: runs seeds, and tells how to have the ones again that break a rule.

use std::{io::Write, process::ExitCode};

use caisson_simulation::{batch, batch::Batch, run};
use clap::Parser;

/// How many seeds run when nobody says.
const SEEDS: u64 = 200;

/// Runs the coordinator in worlds that are made of seeds, and checks what it promises.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, value_name = "NUMBER", default_value_t = SEEDS)]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Run this one alone.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Show what happens in it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Show what the coordinator logs as well; `RUST_LOG` says how much.
    #[arg(long, requires = "trace")]
    logs: bool,
    /// Tell in how many seeds a rule was broken, instead of ending at the first.
    #[arg(long)]
    keep_going: bool,
    /// How many seeds run at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.logs {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env();
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("debug"));
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_target(false).init();
    }
    if let Some(seed) = arguments.seed {
        return one(seed, arguments.trace);
    }
    let seeds = batch::seeds_to_run(arguments.from, arguments.seeds);
    let batch = Batch::run(&seeds, arguments.threads, arguments.keep_going)?;
    let mut out = std::io::stdout();
    write!(out, "{batch}")?;
    let Some((seed, _)) = batch.broken.first() else { return Ok(ExitCode::SUCCESS) };
    writeln!(out, "have it again: ./just simulate --seed {seed} --trace")?;
    one(*seed, true)
}

fn one(seed: u64, trace: bool) -> anyhow::Result<ExitCode> {
    let report = run(seed, trace)?;
    let mut out = std::io::stdout();
    match report.violation {
        None => writeln!(out, "seed {seed}: every rule holds, trace {:016x}", report.trace)?,
        Some(violation) => {
            writeln!(out, "seed {seed}: {violation}")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
