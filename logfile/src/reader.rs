//! Reading a log, while it is written or after.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use caisson_protocol::{LOG_CHUNK_BYTES_MAX, LogChunk, Stream};

use crate::{ENTRY_BYTES, ENTRY_LEN, Entry, index_path, log_path, read_entry};

/// How many index entries are read at once.
const BATCH_ENTRIES: u64 = 1024;

/// Bytes of one stream that came at one time: where they stand, without the bytes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where they begin in the log.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    /// When they came, in milliseconds since 1970.
    pub time_ms: u64,
    /// Where they came from.
    pub stream: Stream,
}

/// A log that is read from any place, also while it grows.
#[derive(Debug)]
pub struct LogReader {
    log: File,
    index: File,
}

impl LogReader {
    /// Opens the log at `<base>.log` and `<base>.idx`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    pub fn open(base: &Path) -> io::Result<Self> {
        let open = |path: PathBuf| File::open(path);
        Ok(Self { log: open(log_path(base))?, index: open(index_path(base))? })
    }

    /// Where the log ends, in bytes.
    ///
    /// # Errors
    /// When the file can't be asked.
    pub fn end(&self) -> io::Result<u64> {
        Ok(self.log.metadata()?.len())
    }

    /// Reads from `offset` on, at most `bytes_max` bytes, in chunks of one stream and time each. Nothing at the end.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn read(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<LogChunk>> {
        let mut chunks = Vec::new();
        let mut left = bytes_max as u64;
        for span in self.spans(offset)? {
            let span = span?;
            if left == 0 {
                break;
            }
            let wanted = span.bytes.min(left);
            self.read_span(Span { bytes: wanted, ..span }, &mut chunks)?;
            left -= wanted;
        }
        Ok(chunks)
    }

    /// Reads `bytes` of the log's text from `offset` on, or up to its end.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_text(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut text = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            match self.log.read_at(&mut text[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        text.truncate(filled);
        Ok(text)
    }

    /// What the log is made of, from `offset` to its present end.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn spans(&self, offset: u64) -> io::Result<impl Iterator<Item = io::Result<Span>>> {
        // The log's end is asked before the index's: an entry is written before its bytes, so each byte counted here
        // has its entry by then.
        let end = self.end()?;
        let entries = self.index.metadata()?.len() / ENTRY_BYTES;
        let first = self.entry_at(offset, entries)?;
        let found = Entries { index: &self.index, next: first, entries, batch: Vec::new().into_iter() };
        let mut found = found.peekable();
        Ok(std::iter::from_fn(move || {
            let entry = match found.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let until = match found.peek() {
                Some(Ok(next)) => next.offset.min(end),
                _ => end,
            };
            let from = entry.offset.max(offset);
            let span = Span {
                offset: from,
                bytes: until.saturating_sub(from),
                time_ms: entry.time_ms,
                stream: entry.stream,
            };
            (span.bytes > 0).then_some(Ok(span))
        }))
    }

    /// The number of the entry that `offset` belongs to.
    fn entry_at(&self, offset: u64, entries: u64) -> io::Result<u64> {
        let (mut low, mut high) = (0, entries);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if read_entry(&self.index, middle)?.offset <= offset { low = middle } else { high = middle }
        }
        Ok(low)
    }

    fn read_span(&self, span: Span, chunks: &mut Vec<LogChunk>) -> io::Result<()> {
        let mut offset = span.offset;
        let end = span.offset + span.bytes;
        while offset < end {
            let wanted = (end - offset).min(LOG_CHUNK_BYTES_MAX as u64);
            let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(LOG_CHUNK_BYTES_MAX)];
            self.log.read_exact_at(&mut bytes, offset)?;
            chunks.push(LogChunk { offset, stream: span.stream, time_ms: span.time_ms, bytes });
            offset += wanted;
        }
        Ok(())
    }
}

/// The entries of an index in order, read in batches.
struct Entries<'a> {
    index: &'a File,
    next: u64,
    entries: u64,
    batch: std::vec::IntoIter<Entry>,
}

impl Entries<'_> {
    fn read_batch(&mut self) -> io::Result<()> {
        let count = BATCH_ENTRIES.min(self.entries - self.next);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * ENTRY_LEN];
        self.index.read_exact_at(&mut bytes, self.next * ENTRY_BYTES)?;
        let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
        let batch: Vec<Entry> =
            entries.iter().map(|entry| Entry::decode(*entry)).collect::<io::Result<_>>()?;
        self.batch = batch.into_iter();
        self.next += count;
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.len() == 0
            && self.next < self.entries
            && let Err(error) = self.read_batch()
        {
            self.next = self.entries;
            return Some(Err(error));
        }
        self.batch.next().map(Ok)
    }
}
