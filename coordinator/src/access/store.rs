//! The port to where people, tokens, runners' credentials and the audit log are kept. It is apart from the store of
//! builds: neither is slowed down, or taken along when it fails, by the other.

use async_trait::async_trait;

use super::{
    audit::{AuditFilter, Entry, Recorded},
    roll::{Change, Roll},
    secret::Digest,
};
use crate::store::{Millis, StoreError};

/// Which state of the roll somebody has seen. It grows with every commit.
pub type Version = u64;

/// Where the roll and the audit log are kept.
#[async_trait]
pub trait AccessStore: Send + Sync {
    /// All of the roll, and its version.
    async fn roll(&self) -> Result<(Roll, Version), StoreError>;

    /// The version of the roll: another program may have changed it.
    async fn version(&self) -> Result<Version, StoreError>;

    /// Stores changes and what is told of them, all of it or nothing, and returns when it is durable. Nothing is
    /// stored, and nothing returned, when the roll is not as it was `seen`.
    async fn commit(
        &self,
        seen: Version,
        changes: &[Change],
        entries: &[Entry],
    ) -> Result<Option<Version>, StoreError>;

    /// Adds to the audit log, and returns when it is durable.
    async fn record(&self, entries: &[Entry]) -> Result<(), StoreError>;

    /// Notes when secrets were last shown. That is no new version.
    async fn note_uses(&self, uses: &[(Digest, Millis)]) -> Result<(), StoreError>;

    /// The entries of the audit log that match, newest first.
    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<Recorded>, StoreError>;

    /// Forgets the entries of the audit log, and credentials that ended, from before this moment.
    async fn forget(&self, before: Millis) -> Result<(), StoreError>;
}
