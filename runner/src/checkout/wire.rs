//! What parent and child of a checkout say to each other: one request, then events, each a line of JSON.

use std::path::PathBuf;

use caisson_protocol::{Commit, ErrorReason, RepositoryUrl, ResolvedCommit};
use serde::{Deserialize, Serialize};

use super::{limits::Limits, targets::Targets};

/// What the child is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) repository: RepositoryUrl,
    pub(super) commit: Commit,
    /// An empty folder.
    pub(super) workspace: PathBuf,
    /// The folder of all mirrors.
    pub(super) mirrors: PathBuf,
    /// What they may take together.
    pub(super) mirrors_bytes: u64,
    pub(super) limits: Limits,
    pub(super) ssh_key_file: Option<PathBuf>,
    pub(super) targets: Targets,
}

/// What the child says. The last event is `done` or `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event {
    /// It waits for another checkout of the same repository.
    Waiting,
    /// It asks a server.
    Asking,
    /// The server says how it gets on.
    Alive,
    /// It works on the disks of this host.
    Working,
    /// Something to be said in the log.
    Note { text: String },
    /// Mirrors that were not used for long had to go.
    Trimmed { removed: usize },
    /// They should have, and could not.
    Untrimmed { message: String },
    /// It could connect to what listens at a path on this host.
    Unguarded { message: String },
    /// Objects come in.
    Receiving { objects: usize, total: usize, bytes: usize },
    /// Objects that came as differences are made whole.
    Resolving { deltas: usize, total: usize },
    /// Files are written.
    Writing { files: usize, total: usize },
    /// The commit is in the workspace.
    Done { commit: ResolvedCommit },
    /// It is not, and never will be.
    Failed { reason: ErrorReason, message: String },
}

/// Who is to act for a checkout to get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A server, whose silence is limited.
    Server,
    /// This host, which may say nothing for as long as it takes to copy a large file.
    Host,
    /// Another checkout of the same repository, whose time is not this one's.
    Other,
}

impl Event {
    /// Whose turn it is from here on, if the event tells.
    pub(super) fn turn(&self) -> Option<Turn> {
        match self {
            Self::Asking => Some(Turn::Server),
            // What comes after the last object is written and indexed here.
            Self::Receiving { objects, total, .. } if objects < total => Some(Turn::Server),
            Self::Receiving { .. } | Self::Resolving { .. } | Self::Writing { .. } | Self::Working => {
                Some(Turn::Host)
            }
            Self::Waiting => Some(Turn::Other),
            _ => None,
        }
    }
}
