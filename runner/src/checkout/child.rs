//! The child process of a checkout: reads one request, says how it gets on, and ends.

use std::{
    cell::Cell,
    io::{self, BufRead, Read, Write},
    time::{Duration, Instant},
};

use caisson_protocol::{ErrorReason, ResolvedCommit};

use super::{
    CheckoutError,
    export::{self, Trouble},
    isolation,
    limits::Watch,
    mirror, sandbox, sockets,
    wire::{Event, Request, Turn},
};

/// How often progress is told. The parent takes a server's silence for a stall, so this is far below any limit.
const NEWS_EVERY: Duration = Duration::from_millis(200);

/// Runs the child. Its result is what it says, so it ends successfully wherever it could say it.
///
/// # Errors
/// When the parent can't be understood or does not listen.
pub fn run() -> io::Result<()> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    // Both before there is a second thread, which they would not hold for.
    let confined = sandbox::confine(&request);
    let guarded = sockets::limit(needs_agent(&request));
    end_with_parent();

    let teller = Teller::new(Watch::new(request.limits));
    if let Err(error) = guarded {
        teller.note(&Event::Unguarded { message: error.to_string() });
    }
    let isolated = confined.and_then(|()| isolation::isolate(&request.limits)).map_err(not_isolated);
    let event = match isolated.and_then(|()| checkout(&request, &teller)) {
        Ok(commit) => Event::Done { commit },
        Err(CheckoutError { reason, message }) => Event::Failed { reason, message },
    };
    tell(&event)
}

/// Whether the server is told who asks by an ssh agent.
fn needs_agent(request: &Request) -> bool {
    let ssh = request.repository.as_str().starts_with("ssh:");
    ssh && request.ssh_key_file.is_none() && std::env::var_os("SSH_AUTH_SOCK").is_some()
}

#[expect(clippy::needless_pass_by_value, reason = "an error that is turned into another")]
fn not_isolated(error: Box<dyn std::error::Error>) -> CheckoutError {
    CheckoutError {
        reason: ErrorReason::RunnerFailed,
        message: format!("the checkout's process could not be limited: {error}"),
    }
}

fn checkout(request: &Request, teller: &Teller) -> Result<ResolvedCommit, CheckoutError> {
    let (mirror, commit) = mirror::with_commit(request, teller, true)?;
    match export::into_workspace(&mirror, &commit, request, teller) {
        Err(Trouble::Damaged(error)) => {
            teller.note(&Event::Note { text: format!("Fetching the repository anew: {error}") });
        }
        result => return result.map(|()| commit).map_err(Trouble::into_error),
    }
    // What the mirror holds is damaged, perhaps by a loss of power. Its lock goes with it.
    drop(mirror);
    let (mirror, commit) = mirror::with_commit(request, teller, false)?;
    export::clear(&request.workspace)?;
    export::into_workspace(&mirror, &commit, request, teller).map_err(Trouble::into_error)?;
    Ok(commit)
}

/// The parent keeps its end of our input open as long as it lives and wants the checkout.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut rest = [0; 16];
        while matches!(io::stdin().lock().read(&mut rest), Ok(read) if read > 0) {}
        std::process::exit(1);
    });
}

fn tell(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)
}

/// Says how it gets on, not too often.
pub(super) struct Teller {
    /// Watches what a server sends.
    pub(super) watch: Watch,
    told: Cell<Option<Instant>>,
    turn: Cell<Turn>,
}

impl Teller {
    pub(super) fn new(watch: Watch) -> Self {
        Self { watch, told: Cell::default(), turn: Cell::new(Turn::Host) }
    }

    /// Says something at once. A parent that does not listen is gone, and so are we soon.
    pub(super) fn note(&self, event: &Event) {
        let _ = tell(event);
    }

    /// Says something unless something was said a moment ago, and it is still the same one's turn.
    pub(super) fn progress(&self, event: &Event) {
        let turn = event.turn().unwrap_or(self.turn.get());
        if self.turn.replace(turn) != turn || self.told.get().is_none_or(|told| told.elapsed() >= NEWS_EVERY)
        {
            self.told.set(Some(Instant::now()));
            let _ = tell(event);
        }
    }

    /// Says that it works on the disks of this host, where something else was waited for.
    pub(super) fn working(&self) {
        if self.turn.get() != Turn::Host {
            self.progress(&Event::Working);
        }
    }
}
