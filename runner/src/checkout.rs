//! Getting a commit into a workspace, by a child process of the runner's own binary.
//!
//! libgit2 can hang for ever on a server that is silent, and take all memory for a hostile pack. In a process of its
//! own it is bounded by limits and can be killed at any point. This is the parent's side; what the child does is in
//! [`child`].

pub mod child;
mod export;
mod isolation;
mod limits;
mod listener;
mod mirror;
mod packs;
mod progress;
mod sandbox;
mod shelf;
mod sockets;
mod targets;
mod wire;

use std::{os::unix::process::ExitStatusExt, path::PathBuf, process::Stdio};

use caisson_protocol::{Commit, ErrorReason, RepositoryUrl, ResolvedCommit};
use rustix::process::Signal;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdout, Command},
};
use tracing::{info, warn};

use crate::{
    config::{CoordinatorUrl, Git},
    output::LogSender,
};
use limits::Limits;
use listener::Listener;
use progress::Progress;
use targets::Targets;
use wire::{Event, Request};

/// What the child may see of the environment: where the certificates, the proxy and the ssh agent are.
const ENVIRONMENT_PASSED_ON: [&str; 12] = [
    "PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSH_AUTH_SOCK",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Gets commits into workspaces.
#[derive(Debug, Clone)]
pub struct Checkout {
    program: PathBuf,
    mirrors: PathBuf,
    home: PathBuf,
    git: Git,
    targets: Targets,
}

/// Why a commit is not in its workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CheckoutError {
    /// The cause, for programs.
    pub reason: ErrorReason,
    /// The cause and what to do, for people.
    pub message: String,
}

impl Checkout {
    /// Keeps its mirrors and settings under `work_dir`. `program` is the runner's own executable. Where the coordinator
    /// is tells what the runner may clone from, unless `git` says so. Blocks.
    ///
    /// # Errors
    /// When a folder can't be made, or the file of host keys can't be read.
    pub fn open(
        program: PathBuf,
        work_dir: &std::path::Path,
        git: Git,
        coordinator: &CoordinatorUrl,
    ) -> std::io::Result<Self> {
        let (mirrors, home) = (work_dir.join("mirrors"), work_dir.join("home"));
        std::fs::create_dir_all(&mirrors)?;
        // libgit2 looks for host keys in the home folder, so the child gets one with these and nothing else.
        let ssh = home.join(".ssh");
        std::fs::create_dir_all(&ssh)?;
        let keys = match &git.ssh_known_hosts {
            Some(path) => std::fs::read(path)
                .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
            None => Vec::new(),
        };
        std::fs::write(ssh.join("known_hosts"), keys)?;
        if git.ssh_key_file.is_none() && std::env::var_os("SSH_AUTH_SOCK").is_some() {
            warn!(
                "checkouts over ssh reach the ssh agent, and so whatever else listens at a path, such as the engine: \
                 with git.ssh_key_file they need no agent"
            );
        }
        if let Some(gap) = sandbox::gap() {
            warn!("a hole in libgit2 would let a checkout {gap}");
        }
        let targets = Targets::new(&git, coordinator);
        Ok(Self { program, mirrors, home, git, targets })
    }

    /// Gets `commit` into the empty folder `workspace`, and says in the log how it gets on.
    ///
    /// Dropping the future kills the child.
    ///
    /// # Errors
    /// When it can't be had; the error's reason tells whose fault that is.
    pub async fn run(
        &self,
        repository: &RepositoryUrl,
        commit: &Commit,
        workspace: PathBuf,
        log: &LogSender,
    ) -> Result<ResolvedCommit, CheckoutError> {
        if repository.is_file() && !self.git.allow_file_urls {
            return Err(CheckoutError {
                reason: ErrorReason::RepositoryDenied,
                message: format!(
                    "{repository} is on the runner's own disk, which builds may not read: set git.allow_file_urls on \
                     the runner to allow it"
                ),
            });
        }
        let request = Request {
            repository: repository.clone(),
            commit: commit.clone(),
            workspace,
            mirrors: self.mirrors.clone(),
            mirrors_bytes: self.git.mirrors_size.0,
            limits: Limits {
                stall_ms: self.git.stall.as_millis(),
                memory_bytes: self.git.memory.0,
                fetch_bytes: self.git.fetch_size.0,
                checkout_bytes: self.git.checkout_size.0,
                checkout_files: self.git.checkout_files,
            },
            ssh_key_file: self.git.ssh_key_file.clone(),
            targets: self.targets.clone(),
        };
        let mut child = self.spawn().map_err(|error| broken(&format!("it could not be started: {error}")))?;
        // The child ends when its input does, so it never outlives a runner that is killed.
        let _input = send(&mut child, &request).await.map_err(|error| broken(&error.to_string()))?;
        let Some(output) = child.stdout.take() else { return Err(broken("it has no output")) };
        if let Some(result) = self.follow(output, log).await {
            return result;
        }
        // One that ends by itself has ended by then; another has only fallen silent.
        let _ = child.start_kill();
        Err(match child.wait().await {
            // Where Rust code gets no memory, its process ends itself before it can say so.
            Ok(status) if status.signal() == Some(Signal::ABORT.as_raw()) => {
                limits::out_of_memory(repository, self.git.memory.0)
            }
            Ok(status) => broken(&format!("it ended with {status}")),
            Err(error) => broken(&error.to_string()),
        })
    }

    /// Keeps the mirrors within their size. Blocks.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn trim(&self) -> std::io::Result<usize> {
        shelf::trim(&self.mirrors, self.git.mirrors_size.0)
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let passed_on =
            ENVIRONMENT_PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        Command::new(&self.program)
            .arg("checkout")
            .env_clear()
            .envs(passed_on)
            .env("HOME", &self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal from the terminal is for the runner, which decides what becomes of its children.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Listens to the child until it has ended its work. `None` when it died without a word.
    async fn follow(
        &self,
        output: ChildStdout,
        log: &LogSender,
    ) -> Option<Result<ResolvedCommit, CheckoutError>> {
        let mut listener = Listener::new(output, &self.git);
        let mut progress = Progress::default();
        loop {
            match listener.next().await? {
                Ok(Event::Done { commit }) => return Some(Ok(commit)),
                Ok(Event::Failed { reason, message }) => return Some(Err(CheckoutError { reason, message })),
                Ok(event) => {
                    for line in progress.take(&event) {
                        log.say(line).await;
                    }
                    for_the_owner(&event);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// What is no build's business goes into the runner's own log.
fn for_the_owner(event: &Event) {
    match event {
        Event::Trimmed { removed } => {
            info!("{removed} mirrors were removed: together they were larger than git.mirrors_size");
        }
        Event::Untrimmed { message } => warn!("the mirrors could not be kept in size: {message}"),
        Event::Unguarded { message } => warn!(
            "a hole in libgit2 would reach the engine: this kernel does not limit what a checkout connects to \
             ({message})"
        ),
        _ => {}
    }
}

async fn send(child: &mut Child, request: &Request) -> std::io::Result<tokio::process::ChildStdin> {
    let mut input = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    input.write_all(&line).await?;
    Ok(input)
}

/// The child has broken down, as a pack that wants more memory than there is makes it.
fn broken(how: &str) -> CheckoutError {
    CheckoutError {
        reason: ErrorReason::CloneFailed,
        message: format!("the checkout's process failed: {how}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::Arc, time::Duration};

    use super::*;
    use crate::{config::Config, output::Log};

    /// Why a checkout fails whose process does this.
    async fn failure_of_a_process_that(does: &str) -> CheckoutError {
        let home = tempfile::tempdir().unwrap();
        let program = home.path().join("program");
        // Written by a process of its own: none that is started beside this test holds it open.
        let write = r#"printf '#!/bin/sh\nread request; %s\n' "$1" > "$0"; chmod +x "$0""#;
        assert!(Command::new("sh").args(["-c", write]).arg(&program).arg(does).status().unwrap().success());
        let Config { git, coordinator_url, .. } = Config::default();
        let checkout = Checkout::open(program, home.path(), git, &coordinator_url).unwrap();
        let log = Log::begin(home.path().join("log"), 1000, Arc::new(|_| {})).sender();

        let (url, commit) = ("https://example.org/app".parse().unwrap(), "main".parse().unwrap());
        let run = checkout.run(&url, &commit, home.path().to_owned(), &log);
        let ended = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it is waited for");
        ended.unwrap_err()
    }

    #[tokio::test]
    async fn a_process_that_says_no_more_and_does_not_end_is_ended() {
        let CheckoutError { message, .. } = failure_of_a_process_that("exec >&-; exec sleep 1000").await;
        assert!(message.contains("signal: 9"), "{message}");
    }

    #[tokio::test]
    async fn a_process_that_gets_no_memory_and_can_not_say_so_wanted_too_much() {
        let CheckoutError { reason, message } = failure_of_a_process_that("kill -ABRT $$").await;
        assert_eq!(reason, ErrorReason::TooLarge, "{message}");
        assert!(message.contains("git.memory"), "{message}");
        let CheckoutError { reason, .. } = failure_of_a_process_that("kill -SEGV $$").await;
        assert_eq!(reason, ErrorReason::CloneFailed);
    }
}
