//! The roll and the audit log in one SQLite file, which several programs may have open: the coordinator, and its
//! subcommands that people run beside it.

mod read;
mod write;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior};

use super::{
    audit::{AuditFilter, Entry, Recorded},
    roll::{Change, Roll},
    secret::Digest,
    store::{AccessStore, Version},
};
use crate::{
    blocking::Blocking,
    store::{Millis, StoreError, sqlite},
};

/// What makes each version of the schema from the one before.
const MIGRATIONS: [&str; 1] = [include_str!("sqlite/schema-1.sql")];
/// How long a statement waits for another process to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The roll and the audit log in a SQLite file.
#[derive(Clone)]
pub struct SqliteAccess {
    writer: Arc<Mutex<Connection>>,
    /// A search through a long audit log keeps nobody from signing in.
    reader: Arc<Mutex<Connection>>,
    blocking: Blocking,
}

impl SqliteAccess {
    /// Opens the file, makes it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// When it can't be opened, is damaged, or was written by a newer release.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let writer = sqlite::open(path, BUSY_TIMEOUT, &MIGRATIONS)?;
        let reader = sqlite::open(path, BUSY_TIMEOUT, &MIGRATIONS)?;
        let [writer, reader] = [writer, reader].map(|connection| Arc::new(Mutex::new(connection)));
        Ok(Self { writer, reader, blocking: Blocking::Aside })
    }

    /// In memory, for who starts anew each time.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn in_memory(blocking: Blocking) -> Result<Self, StoreError> {
        let connection = sqlite::open(Path::new(":memory:"), BUSY_TIMEOUT, &MIGRATIONS)?;
        let writer = Arc::new(Mutex::new(connection));
        Ok(Self { reader: Arc::clone(&writer), writer, blocking })
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = Arc::clone(&self.reader);
        let found = self.blocking.run(move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            // One moment for all that is read.
            let transaction = reader.transaction()?;
            query(&transaction)
        });
        Ok(found.await.map_err(|panic| StoreError::Broken(panic.to_string()))??)
    }

    /// Does all of it, or nothing: also when it gives nothing.
    async fn write<T: Send + 'static>(
        &self,
        statements: impl FnOnce(&Connection) -> rusqlite::Result<Option<T>> + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        let writer = Arc::clone(&self.writer);
        let written = self.blocking.run(move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let Some(written) = statements(&transaction)? else { return Ok(None) };
            transaction.commit()?;
            Ok::<_, rusqlite::Error>(Some(written))
        });
        Ok(written.await.map_err(|panic| StoreError::Broken(panic.to_string()))??)
    }
}

#[async_trait]
impl AccessStore for SqliteAccess {
    async fn roll(&self) -> Result<(Roll, Version), StoreError> {
        self.read(|reader| Ok((read::roll(reader)?, read::version(reader)?))).await
    }

    async fn version(&self) -> Result<Version, StoreError> {
        self.read(read::version).await
    }

    async fn commit(
        &self,
        seen: Version,
        changes: &[Change],
        entries: &[Entry],
    ) -> Result<Option<Version>, StoreError> {
        let (changes, entries) = (changes.to_vec(), entries.to_vec());
        self.write(move |transaction| {
            if read::version(transaction)? != seen {
                return Ok(None);
            }
            changes.iter().try_for_each(|change| write::apply(transaction, change))?;
            write::record(transaction, &entries)?;
            write::version(transaction, seen + 1)?;
            Ok(Some(seen + 1))
        })
        .await
    }

    async fn record(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.write(move |transaction| write::record(transaction, &entries).map(Some)).await?;
        Ok(())
    }

    async fn note_uses(&self, uses: &[(Digest, Millis)]) -> Result<(), StoreError> {
        let uses = uses.to_vec();
        self.write(move |transaction| write::uses(transaction, &uses).map(Some)).await?;
        Ok(())
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<Recorded>, StoreError> {
        let filter = filter.clone();
        self.read(move |reader| read::audit(reader, &filter)).await
    }

    async fn forget(&self, before: Millis) -> Result<(), StoreError> {
        self.write(move |transaction| write::forget(transaction, before).map(Some)).await?;
        Ok(())
    }
}
