//! The store port: what is known of builds, beyond what is live.
//!
//! A store holds facts, never log bytes. It decides nothing: the scheduler's changes go in, in order and all or
//! nothing, and what the scheduler needs to start again comes out.

mod memory;
mod record;
pub(crate) mod sqlite;

use async_trait::async_trait;
use caisson_protocol::{BuildId, Status};
use caisson_scheduler::{Change, Restored};

pub use memory::MemoryStore;
pub use record::{AttemptRecord, AttemptResult, BuildRecord, Millis};
pub use sqlite::SqliteStore;

/// Where builds are kept.
#[async_trait]
pub trait Store: Send + Sync {
    /// All that a scheduler is rebuilt from.
    async fn restore(&self) -> Result<Restored, StoreError>;

    /// Stores changes, all of them or none, and returns when they are durable. `at` is for people only.
    async fn commit(&self, changes: &[Change], at: Millis) -> Result<(), StoreError>;

    /// One build, by its identity or its number.
    async fn build(&self, which: BuildKey) -> Result<Option<BuildRecord>, StoreError>;

    /// The builds that match, newest first.
    async fn builds(&self, filter: &BuildFilter) -> Result<Vec<BuildRecord>, StoreError>;

    /// Whether a commit would work right now.
    async fn probe(&self) -> Result<(), StoreError>;
}

/// How a build is named by those who ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildKey {
    /// By its identity.
    Id(BuildId),
    /// By its number.
    Number(u64),
}

/// Which builds to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildFilter {
    /// Only these statuses; all of them when empty.
    pub statuses: Vec<Status>,
    /// Only builds of this repository.
    pub repository_url: Option<String>,
    /// Only builds in whose repository, commit or command this occurs, whatever the case of its ASCII letters.
    pub text: Option<String>,
    /// Only builds with a smaller number.
    pub before: Option<u64>,
    /// At most this many.
    pub limit: usize,
}

/// Why the store can't do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not now, and nothing of what was asked has happened: the disk is full, the database busy. Asking again later
    /// may help.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What the store holds is unknown or damaged. Only starting anew tells.
    #[error("the store is broken: {0}")]
    Broken(String),
}
