//! The log port: the bytes that attempts wrote, by attempt and offset.

mod files;
mod lines;
mod search;
mod watch;

use async_trait::async_trait;
use caisson_logfile::Span;
use caisson_protocol::{AttemptId, LogChunk};

pub use files::FileLogs;
pub use lines::{LineIndex, LineIndexes};
pub use search::Pattern;
pub use watch::LogWatch;

/// Where the logs of attempts are kept.
#[async_trait]
pub trait Logs: Send + Sync {
    /// Takes a chunk in and tells where the log ends then. What is there already is passed over, so a chunk may come
    /// twice.
    ///
    /// # Errors
    /// [`LogError::Gap`] when something before the chunk is missing; nothing of it is taken then.
    async fn append(&self, attempt: AttemptId, chunk: LogChunk) -> Result<u64, LogError>;

    /// Where an attempt's log ends, in bytes; 0 when there is none.
    async fn end(&self, attempt: AttemptId) -> Result<u64, LogError>;

    /// Makes an attempt's log durable. Nothing is appended after.
    ///
    /// # Errors
    /// When the disk refuses. The log is gone then, and has to be taken in again from its beginning.
    async fn seal(&self, attempt: AttemptId) -> Result<(), LogError>;

    /// Reads from `offset` on, at most `bytes_max` bytes. Nothing at the end, or when there is no such log.
    async fn read(
        &self,
        attempt: AttemptId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogChunk>, LogError>;

    /// Reads the text alone from `offset` on, at most `bytes_max` bytes. An adapter that has it in one piece gives it
    /// faster than this.
    async fn text(&self, attempt: AttemptId, offset: u64, bytes_max: usize) -> Result<Vec<u8>, LogError> {
        let chunks = self.read(attempt, offset, bytes_max).await?;
        Ok(chunks.into_iter().flat_map(|chunk| chunk.bytes).collect())
    }

    /// What an attempt's log is made of, without the bytes.
    async fn spans(&self, attempt: AttemptId) -> Result<Vec<Span>, LogError>;
}

/// Why a log can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Bytes between the log's end and the chunk are missing.
    #[error("the log ends at {end}")]
    Gap {
        /// Where the log ends.
        end: u64,
    },
    /// The disk refuses.
    #[error("the log of an attempt: {0}")]
    Io(#[from] std::io::Error),
}
