//! The program `caisson-runner`: reads the settings, listens for signals, and runs the runner.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use caisson_runner::{
    checkout,
    config::Arguments,
    serve::{Wish, serve},
};
use clap::{Parser, Subcommand};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;

/// Runs builds in containers on this host, for a Caisson coordinator.
#[derive(Parser)]
#[command(name = "caisson-runner", version)]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Checks out one repository, as told on the standard input. The runner starts this by itself.
    #[command(hide = true)]
    Checkout,
}

/// How many threads there may be for what blocks, beside one for each build.
const BLOCKING_THREADS: usize = 512;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    log.with_writer(std::io::stderr).init();

    let cli = Cli::parse();
    let result = match cli.task {
        Some(Task::Checkout) => checkout::child::run().context("checkout"),
        None => run(&cli.arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let loaded = arguments.load()?;
    if arguments.sources.print_config {
        use std::io::Write;
        return Ok(std::io::stdout().write_all(loaded.print().as_bytes())?);
    }
    // Not a path that an upgrade replaces: a child is to be of the same version as its parent.
    let program = PathBuf::from("/proc/self/exe");
    keep_memory_private();
    // Each build's log has a thread that waits for what comes next; what else blocks needs some beside them.
    let capacity = usize::try_from(loaded.settings.capacity.get())?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS + capacity).build()?;
    let ended = runtime.block_on(async {
        let wish = listen()?;
        Ok(serve(loaded.settings, program, wish).await?)
    });
    // Something may still wait for a disk that does not answer. What can't be removed is the next start's.
    runtime.shutdown_background();
    ended
}

/// Nobody else of this user, such as a checkout's process, reads the credential out of this one's memory or a core dump.
fn keep_memory_private() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!("others of this user can look into the runner's memory: {error}");
    }
}

/// The first signal asks the runner to finish what it has, the second to leave at once.
fn listen() -> anyhow::Result<watch::Receiver<Wish>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(Wish::Run);
    tokio::spawn(async move {
        for wish in [Wish::Drain, Wish::Leave] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            sender.send_replace(wish);
        }
        // Kept until the end, so that a third signal changes nothing.
        sender.closed().await;
    });
    Ok(receiver)
}
