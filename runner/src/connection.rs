//! The runner's side of the channel: finding the coordinator, and finding it again.
//!
//! A runner that was never registered tries a few times and gives up. One that was does not: its builds go on, what
//! they say is spooled, and it comes back for as long as it takes.

mod backoff;
mod credential;
mod dial;
mod session;
mod shipping;
mod trust;

use std::{path::PathBuf, sync::Arc, time::Duration};

use caisson_protocol::Refusal;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::builds::Builds;
use backoff::Backoff;
pub use credential::Credentials;
use session::Ended;

/// The first pause before a lost connection is made again.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// What a runner says of itself at registration, beside its settings.
#[derive(Debug)]
pub struct Identity {
    /// Opens the channel.
    pub credentials: Credentials,
    /// This run of the program.
    pub instance: uuid::Uuid,
    /// The engine, for people.
    pub engine: String,
}

/// Why the runner can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The coordinator could not be reached.
    #[error(
        "the coordinator at {url} could not be reached in {attempts} attempts ({cause}): is it running, and is coordinator_url right?"
    )]
    Unreachable {
        /// Where it should be.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// What went wrong last.
        cause: String,
    },
    /// The coordinator does not take the token.
    #[error("the coordinator at {url} does not take this runner's token: set token_file to a current one")]
    Denied {
        /// Where it is.
        url: String,
    },
    /// The coordinator does not take the credential, and says why.
    #[error("the coordinator at {url} does not let this runner in: {cause}")]
    NotLetIn {
        /// Where it is.
        url: String,
        /// What it says.
        cause: String,
    },
    /// The coordinator does not register a runner like this.
    #[error("the coordinator at {url} does not register this runner: {cause}")]
    NotRegistered {
        /// Where it is.
        url: String,
        /// What it says.
        cause: String,
    },
    /// The coordinator does not know the credential, and there is nothing to register with.
    #[error(
        "the coordinator at {url} does not know this runner's credential in {}: set token_file to a registration token, with which it gets another one", file.display()
    )]
    Unknown {
        /// Where it is.
        url: String,
        /// Where the credential is.
        file: PathBuf,
    },
    /// The coordinator sends the runner away.
    #[error("the coordinator refuses this runner: {message}")]
    Refused {
        /// The cause, for programs.
        reason: Refusal,
        /// The cause and what to do, for people.
        message: String,
    },
}

/// Why one try did not lead to a connection that lasted.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// For ever.
    #[error(transparent)]
    Fatal(#[from] ConnectionError),
    /// For now.
    #[error("{cause}")]
    Lost {
        cause: String,
        /// Whether the coordinator had registered the runner.
        registered: bool,
    },
}

/// Keeps the runner connected until it has drained.
///
/// # Errors
/// When the coordinator can't be found at the start, or sends the runner away at any time.
pub async fn run(builds: &Arc<Builds>, identity: &Identity) -> Result<(), ConnectionError> {
    let connect = &builds.host().config.connect;
    trust::warn_in_the_clear(&builds.host().config.coordinator_url);
    let mut backoff = Backoff::new(PAUSE_MIN, connect.delay.0);
    let mut attempts = 0;
    let mut known = false;
    loop {
        let (cause, registered) = match connect_once(builds, identity).await {
            Ok(()) => return Ok(()),
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Lost { cause, registered }) => (cause, registered),
        };
        builds.outbox().close();
        attempts += 1;
        if registered {
            known = true;
            backoff = Backoff::new(PAUSE_MIN, connect.delay.0);
        }
        if !known && connect.attempts > 0 && attempts >= connect.attempts {
            let url = builds.host().config.coordinator_url.to_string();
            return Err(ConnectionError::Unreachable { url, attempts, cause });
        }
        let pause = if known { backoff.next_pause() } else { connect.delay.0 };
        warn!("no connection to the coordinator ({cause}): trying again in {} ms", pause.as_millis());
        tokio::select! {
            () = builds.done() => return Ok(()),
            () = sleep(pause) => {}
        }
    }
}

/// One connection, from dialing to its end. Ends well when the runner has drained.
async fn connect_once(builds: &Arc<Builds>, identity: &Identity) -> Result<(), Failure> {
    let (socket, terms) = tokio::select! {
        () = builds.done() => return Ok(()),
        registered = dial::register(builds, identity) => registered?,
    };
    info!("registered with the coordinator at {}", builds.host().config.coordinator_url);
    match session::run(socket, terms, builds).await {
        Ended::Done => Ok(()),
        Ended::Refused { reason, message } => {
            Err(Failure::Fatal(ConnectionError::Refused { reason, message }))
        }
        Ended::Lost(cause) => Err(Failure::Lost { cause, registered: true }),
    }
}
