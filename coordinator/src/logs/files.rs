//! Logs as files under one folder.

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use caisson_logfile::{LogFile, LogReader, Span};
use caisson_protocol::{AttemptId, LogChunk};
use tracing::warn;

use super::{LogError, Logs};
use crate::blocking::Blocking;

/// Logs in a folder, spread over 256 folders below it so that none grows too large.
#[derive(Debug, Clone)]
pub struct FileLogs {
    files: Arc<Files>,
    blocking: Blocking,
}

#[derive(Debug)]
struct Files {
    folder: PathBuf,
    /// Those that are being written.
    open: Mutex<HashMap<AttemptId, Arc<Mutex<LogFile>>>>,
}

impl FileLogs {
    /// Keeps logs under `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(folder: &Path, blocking: Blocking) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let files = Arc::new(Files { folder: folder.to_owned(), open: Mutex::default() });
        Ok(Self { files, blocking })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let files = Arc::clone(&self.files);
        let done = self.blocking.run(move || work(&files)).await;
        done.unwrap_or_else(|panic| Err(io::Error::other(panic).into()))
    }
}

#[async_trait]
impl Logs for FileLogs {
    async fn append(&self, attempt: AttemptId, chunk: LogChunk) -> Result<u64, LogError> {
        self.blocking(move |files| files.append(attempt, &chunk)).await
    }

    async fn end(&self, attempt: AttemptId) -> Result<u64, LogError> {
        self.blocking(move |files| Ok(files.reader(attempt)?.map_or(Ok(0), |reader| reader.end())?)).await
    }

    async fn seal(&self, attempt: AttemptId) -> Result<(), LogError> {
        self.blocking(move |files| files.seal(attempt)).await
    }

    async fn read(
        &self,
        attempt: AttemptId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogChunk>, LogError> {
        self.blocking(move |files| match files.reader(attempt)? {
            Some(reader) => Ok(reader.read(offset, bytes_max)?),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn text(&self, attempt: AttemptId, offset: u64, bytes_max: usize) -> Result<Vec<u8>, LogError> {
        self.blocking(move |files| match files.reader(attempt)? {
            Some(reader) => Ok(reader.read_text(offset, bytes_max)?),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn spans(&self, attempt: AttemptId) -> Result<Vec<Span>, LogError> {
        self.blocking(move |files| match files.reader(attempt)? {
            Some(reader) => Ok(reader.spans(0)?.collect::<io::Result<_>>()?),
            None => Ok(Vec::new()),
        })
        .await
    }
}

impl Files {
    fn append(&self, attempt: AttemptId, chunk: &LogChunk) -> Result<u64, LogError> {
        let file = self.writer(attempt)?;
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let end = file.end();
        // How much of the chunk is there already.
        let known = end.checked_sub(chunk.offset).ok_or(LogError::Gap { end })?;
        match chunk.bytes.get(usize::try_from(known).unwrap_or(usize::MAX)..) {
            Some(new) => Ok(file.append(chunk.stream, chunk.time_ms, new)?),
            None => Ok(end),
        }
    }

    fn seal(&self, attempt: AttemptId) -> Result<(), LogError> {
        // An attempt that wrote nothing has no log, and none is made for it.
        if self.reader(attempt)?.is_none() {
            return Ok(());
        }
        let file = self.writer(attempt)?;
        let synced = self.sync(attempt, &file);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt);
        if synced.is_err() {
            // After a sync that failed nobody knows what the disk holds, and a second one would not tell. The runner
            // has the whole log until its end is acknowledged: it is asked for all of it again.
            caisson_logfile::remove(&self.base(attempt))?;
        }
        Ok(synced?)
    }

    fn sync(&self, attempt: AttemptId, file: &Mutex<LogFile>) -> io::Result<()> {
        file.lock().unwrap_or_else(PoisonError::into_inner).sync()?;
        // The names of the files and of their folder are as much a part of the log as its bytes.
        fs::File::open(self.shard(attempt))?.sync_all()?;
        fs::File::open(&self.folder)?.sync_all()
    }

    fn writer(&self, attempt: AttemptId) -> io::Result<Arc<Mutex<LogFile>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&attempt) {
            return Ok(Arc::clone(file));
        }
        fs::create_dir_all(self.shard(attempt))?;
        let file = Arc::new(Mutex::new(open_or_begin_anew(&self.base(attempt))?));
        open.insert(attempt, Arc::clone(&file));
        Ok(file)
    }

    fn reader(&self, attempt: AttemptId) -> io::Result<Option<LogReader>> {
        match LogReader::open(&self.base(attempt)) {
            Ok(reader) => Ok(Some(reader)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The end of a build id is random, its beginning is the time.
    fn shard(&self, attempt: AttemptId) -> PathBuf {
        let [.., last] = *attempt.build.0.as_bytes();
        self.folder.join(format!("{last:02x}"))
    }

    fn base(&self, attempt: AttemptId) -> PathBuf {
        self.shard(attempt).join(attempt.to_string())
    }
}

/// What is written to has not ended, so its runner has all of it: a log whose index went with the power is worth less
/// than one that is taken in again from its beginning.
fn open_or_begin_anew(base: &Path) -> io::Result<LogFile> {
    match LogFile::open(base) {
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            warn!("{}: {error}; it is taken in again from its beginning", base.display());
            caisson_logfile::remove(base)?;
            LogFile::open(base)
        }
        opened => opened,
    }
}
