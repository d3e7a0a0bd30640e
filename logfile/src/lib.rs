//! The log of one attempt on disk, as the runner spools it and as the coordinator keeps it.
//!
//! Two files share a base name. `<base>.log` holds the bytes of all streams as they came, unaltered, so a byte range
//! of the log is a byte range of the file. `<base>.idx` says where each run of bytes begins, when it came and from
//! which stream, in entries of fixed size, so both an offset and a stream are found without reading the log:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | offset of the first byte, big-endian |
//! | 7 | time, milliseconds since 1970, big-endian |
//! | 1 | stream |
//!
//! A run ends where the next one begins. The entry is written before its bytes, so a process that dies in between
//! leaves at most an entry without bytes, which [`LogFile::open`] drops. Everything here blocks.

mod reader;

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use caisson_protocol::Stream;

pub use reader::{LogReader, Span};

const ENTRY_BYTES: u64 = 16;
const ENTRY_LEN: usize = 16;

/// An index entry: where a run of bytes begins, when it came, from which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    offset: u64,
    time_ms: u64,
    stream: Stream,
}

impl Entry {
    fn encode(self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..].copy_from_slice(&((self.time_ms << 8) | u64::from(self.stream.code())).to_be_bytes());
        bytes
    }

    fn decode(bytes: [u8; ENTRY_LEN]) -> io::Result<Self> {
        let number = |half: &[u8]| half.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
        let (offset, rest) = (number(&bytes[..8]), number(&bytes[8..]));
        let stream = Stream::from_code(bytes[ENTRY_LEN - 1]).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a log's index names an unknown stream")
        })?;
        Ok(Self { offset, time_ms: rest >> 8, stream })
    }
}

/// An attempt's log that is being written. One writer at a time; any number of [`LogReader`]s beside it.
#[derive(Debug)]
pub struct LogFile {
    log: File,
    index: File,
    end: u64,
    index_end: u64,
    last: Option<Entry>,
}

impl LogFile {
    /// Opens the log at `<base>.log` and `<base>.idx`, and makes it where there is none.
    ///
    /// # Errors
    /// When the files can't be opened, or the index is damaged.
    pub fn open(base: &Path) -> io::Result<Self> {
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true);
            options
        };
        let log = options().open(log_path(base))?;
        let index = options().open(index_path(base))?;
        let end = log.metadata()?.len();
        let (index_end, last) = recover(&index, end)?;
        if end > 0 && last.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a log has lost its index"));
        }
        Ok(Self { log, index, end, index_end, last })
    }

    /// Where the log ends, in bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What the log takes on disk, its index included, in bytes.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.end + self.index_end
    }

    /// Adds bytes at the end and tells where it is then.
    ///
    /// Bytes of one stream that come within one millisecond share an index entry.
    ///
    /// # Errors
    /// When they can't be written. What had been written of them is cut off again, so the log stays as it was.
    pub fn append(&mut self, stream: Stream, time_ms: u64, bytes: &[u8]) -> io::Result<u64> {
        if bytes.is_empty() {
            return Ok(self.end);
        }
        let entry = Entry { offset: self.end, time_ms: time_ms & ((1 << 56) - 1), stream };
        let continues = self.last.is_some_and(|last| (last.stream, last.time_ms) == (stream, entry.time_ms));
        let written = self.write(entry, continues, bytes);
        if let Err(error) = written {
            self.index.set_len(self.index_end)?;
            self.log.set_len(self.end)?;
            return Err(error);
        }
        self.end += bytes.len() as u64;
        if !continues {
            self.index_end += ENTRY_BYTES;
            self.last = Some(entry);
        }
        Ok(self.end)
    }

    fn write(&mut self, entry: Entry, continues: bool, bytes: &[u8]) -> io::Result<()> {
        if !continues {
            self.index.write_all(&entry.encode())?;
        }
        self.log.write_all(bytes)
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// When the disk refuses. What it holds then is unknown, and asking again would not tell.
    pub fn sync(&mut self) -> io::Result<()> {
        self.index.sync_data()?;
        self.log.sync_data()
    }
}

/// Removes the log at `<base>.log` and `<base>.idx`. Where there is none, that is fine.
///
/// # Errors
/// When the files can't be removed.
pub fn remove(base: &Path) -> io::Result<()> {
    for path in [log_path(base), index_path(base)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Cuts off what a writer that died left behind it, and finds the last whole entry.
fn recover(index: &File, log_end: u64) -> io::Result<(u64, Option<Entry>)> {
    let found = index.metadata()?.len();
    let mut end = found - found % ENTRY_BYTES;
    let mut last = None;
    while end > 0 {
        let entry = read_entry(index, end / ENTRY_BYTES - 1)?;
        if entry.offset < log_end {
            last = Some(entry);
            break;
        }
        end -= ENTRY_BYTES;
    }
    if end != found {
        index.set_len(end)?;
    }
    Ok((end, last))
}

fn read_entry(index: &File, number: u64) -> io::Result<Entry> {
    let mut bytes = [0; ENTRY_LEN];
    index.read_exact_at(&mut bytes, number * ENTRY_BYTES)?;
    Entry::decode(bytes)
}

fn log_path(base: &Path) -> PathBuf {
    with_ending(base, ".log")
}

fn index_path(base: &Path) -> PathBuf {
    with_ending(base, ".idx")
}

/// A base name may hold dots, so its ending is added, never replaced.
fn with_ending(base: &Path, ending: &str) -> PathBuf {
    let mut path = OsString::from(base);
    path.push(ending);
    path.into()
}
