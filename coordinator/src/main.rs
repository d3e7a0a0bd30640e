//! `caisson-coordinator`: reads its settings, starts the coordinator, stops it on a signal.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use caisson_coordinator::{
    command::{self, UserCommand},
    coordinator::Coordinator,
    settings::{ENV_PREFIX, Settings},
};
use caisson_settings::Sources;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The coordinator of Caisson: takes builds in, hands them to runners, keeps their logs.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Address and port to listen on; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Folder that everything is kept in.
    #[arg(long, value_name = "FOLDER", global = true)]
    data_dir: Option<PathBuf>,
    /// Repository of builds that name none.
    #[arg(long, value_name = "URL")]
    repository_url: Option<String>,
    #[command(flatten)]
    sources: Sources,
    #[command(subcommand)]
    task: Option<Task>,
}

/// What to do instead of running.
#[derive(Subcommand)]
enum Task {
    /// Says who may sign in, whether or not the coordinator runs: for the first admin, and a lost password.
    #[command(subcommand)]
    User(UserCommand),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "caisson-coordinator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let given = [
        ("listen", arguments.listen.clone()),
        ("data_dir", arguments.data_dir.as_ref().map(|folder| folder.display().to_string())),
        ("repository_url", arguments.repository_url.clone()),
    ];
    let loaded = arguments.sources.load::<Settings>(ENV_PREFIX, &given)?;
    if arguments.sources.print_config {
        return Ok(std::io::stdout().write_all(loaded.print().as_bytes())?);
    }
    let settings = loaded.settings.check().map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Runtime::new().context("the async runtime")?;
    let ended = runtime.block_on(async {
        if let Some(Task::User(command)) = arguments.task {
            return command::user(&settings.data_dir, command).await;
        }
        // Heard from the first moment on: who reads where it listens may already want it to stop.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let coordinator = Coordinator::start(settings).await?;
        announce(&coordinator)?;
        let stopping = coordinator.stopping();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping; builds that run go on, and are taken up at the next start");
            stopping.cancel();
        });
        coordinator.run().await
    });
    // Someone may still read from a disk that does not answer. What was acknowledged is durable already.
    runtime.shutdown_background();
    ended
}

/// Says where it is, and how to get in.
fn announce(coordinator: &Coordinator) -> anyhow::Result<()> {
    let url = coordinator.url();
    let code = coordinator.sign_in_code();
    let mut out = std::io::stdout();
    writeln!(out, "caisson-coordinator listens on {url}")?;
    writeln!(out, "sign in: {url}/sign-in?code={}", code.expose())?;
    Ok(out.flush()?)
}
