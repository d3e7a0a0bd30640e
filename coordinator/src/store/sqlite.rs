//! The store in one SQLite file: write-ahead log, `synchronous=FULL`, one writer and some readers.

mod read;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use caisson_scheduler::{Change, Restored};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{BuildFilter, BuildKey, BuildRecord, Millis, Store, StoreError};

/// What makes each version of the schema from the one before. A file's `user_version` says how many it has seen.
const MIGRATIONS: [&str; 3] = [
    include_str!("sqlite/schema-1.sql"),
    include_str!("sqlite/schema-2.sql"),
    include_str!("sqlite/schema-3.sql"),
];
/// How long a statement waits for another process, such as a backup, to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections for reading are kept open.
const READERS_MAX: usize = 4;

/// Builds in a SQLite file.
#[derive(Clone)]
pub struct SqliteStore {
    file: Arc<File>,
}

struct File {
    path: PathBuf,
    busy_timeout: Duration,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

impl SqliteStore {
    /// Opens the file, makes it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// When it can't be opened, is damaged, or was written by a newer release.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_patient(path, BUSY_TIMEOUT)
    }

    /// The same, for who waits longer or shorter until another process lets go of the file.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_patient(path: &Path, busy_timeout: Duration) -> Result<Self, StoreError> {
        let writer = open(path, busy_timeout, &MIGRATIONS)?;
        let (path, writer) = (path.to_owned(), Mutex::new(writer));
        let file = File { path, busy_timeout, writer, readers: Mutex::default() };
        Ok(Self { file: Arc::new(file) })
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        blocking(move || {
            let reader = file.reader()?;
            let found = query(&reader)?;
            file.put_back(reader);
            Ok(found)
        })
        .await
    }

    async fn write(
        &self,
        statements: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let file = Arc::clone(&self.file);
        blocking(move || {
            let mut writer = file.writer.lock().unwrap_or_else(PoisonError::into_inner);
            // Deferred, a transaction that reads first fails at once when someone else writes, whatever the timeout.
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            statements(&transaction)?;
            transaction.commit()?;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn restore(&self) -> Result<Restored, StoreError> {
        self.read(read::restore).await
    }

    async fn commit(&self, changes: &[Change], at: Millis) -> Result<(), StoreError> {
        let changes = changes.to_vec();
        self.write(move |transaction| {
            changes.iter().try_for_each(|change| write::apply(transaction, change, at))
        })
        .await
    }

    async fn build(&self, which: BuildKey) -> Result<Option<BuildRecord>, StoreError> {
        self.read(move |reader| read::build(reader, which)).await
    }

    async fn builds(&self, filter: &BuildFilter) -> Result<Vec<BuildRecord>, StoreError> {
        let filter = filter.clone();
        self.read(move |reader| read::builds(reader, &filter)).await
    }

    /// Writes something that changes nothing: a full disk shows only then.
    async fn probe(&self) -> Result<(), StoreError> {
        self.write(|transaction| transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64))
            .await
    }
}

impl File {
    fn reader(&self) -> rusqlite::Result<Connection> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(reader) = kept {
            return Ok(reader);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&self.path, flags)?;
        configure(&reader, self.busy_timeout)?;
        Ok(reader)
    }

    fn put_back(&self, reader: Connection) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_MAX {
            readers.push(reader);
        }
    }
}

/// Opens a file for writing, makes it where there is none, and brings its schema up to date.
pub(crate) fn open(
    path: &Path,
    busy_timeout: Duration,
    migrations: &[&str],
) -> Result<Connection, StoreError> {
    let mut writer = Connection::open(path)?;
    configure(&writer, busy_timeout)?;
    writer.pragma_update(None, "journal_mode", "WAL")?;
    writer.pragma_update(None, "synchronous", "FULL")?;
    migrate(&mut writer, migrations)?;
    Ok(writer)
}

fn configure(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy_timeout)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn migrate(writer: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let found: i64 = writer.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = migrations.len() as i64;
    if found > known {
        let message =
            format!("its schema has version {found} and this release knows {known}: install a newer one");
        return Err(StoreError::Broken(message));
    }
    for (version, migration) in (1i64..).zip(migrations).filter(|(version, _)| *version > found) {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another program may have been faster.
        if transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? >= version {
            continue;
        }
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Runs what blocks where it may. A panic in there is a broken store, not a broken dispatcher.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(StoreError::Broken(panic.to_string())))
}

impl From<rusqlite::Error> for StoreError {
    /// SQLite has rolled back, or not begun, what failed because the disk was full or the file busy. After an I/O
    /// error nobody knows what the file holds.
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::ReadOnly,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Broken(error.to_string()),
        }
    }
}
