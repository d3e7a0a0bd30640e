//! Files: a log as a crash may have left it, its lines, and the settings.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use caisson_coordinator::{logs::LineIndex, settings::Settings};
use caisson_logfile::{LogFile, LogReader};
use caisson_protocol::Stream;
use caisson_settings::Sources;
use tempfile::TempDir;

/// Of a log, as long as the first byte says, all that follows is the index.
pub(crate) fn log_file(bytes: &[u8]) {
    let Some((length, index)) = bytes.split_first() else { return };
    let folder = folder();
    let base = folder.path().join("log");
    let text = vec![b'x'; usize::from(*length)];
    fs::write(base.with_extension("log"), &text).expect("a file");
    fs::write(base.with_extension("idx"), index).expect("a file");

    // A reader may come before the writer has put things right.
    let reader = LogReader::open(&base).expect("it is there");
    read_through(&reader);
    let Ok(mut log) = LogFile::open(&base) else { return };
    assert_eq!(log.end(), text.len() as u64, "no byte of the log is given up");
    let end = log.append(Stream::Stderr, 7, b"more").expect("it can be written");
    assert_eq!(end, text.len() as u64 + 4);
    read_through(&reader);
    assert_eq!(reader.read_text(0, 1000).expect("it can be read"), [text.as_slice(), b"more"].concat());
    let last = reader.read(end - 4, 100).map(|chunks| chunks.concat_bytes());
    assert!(last.is_err() || last.is_ok_and(|last| last.is_empty() || b"more".starts_with(&last)));
    drop(log);
    assert_eq!(LogFile::open(&base).map(|log| log.end()).ok(), Some(end), "it can be opened again");
}

/// Whatever an index says, each piece is a piece of the log.
fn read_through(reader: &LogReader) {
    let end = reader.end().expect("it can be asked");
    for offset in [0, 1, end / 2, end, u64::MAX / 2] {
        if let Ok(chunks) = reader.read(offset, 1000) {
            for chunk in chunks {
                assert!(chunk.offset + chunk.bytes.len() as u64 <= end && chunk.offset >= offset);
            }
        }
    }
}

trait Concatenated {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl Concatenated for Vec<caisson_protocol::LogChunk> {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|chunk| chunk.bytes.iter().copied()).collect()
    }
}

/// However a log comes in pieces, its lines are the same; the first byte says how long the pieces are.
pub(crate) fn lines(bytes: &[u8]) {
    let Some((piece, text)) = bytes.split_first() else { return };
    let mut whole = LineIndex::default();
    whole.extend(text);
    let mut pieces = LineIndex::default();
    text.chunks(usize::from(*piece).max(1)).for_each(|piece| pieces.extend(piece));
    assert_eq!(pieces, whole);
    assert_eq!(whole.end(), text.len() as u64);
    let newlines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
    assert_eq!(whole.complete(), newlines);
    for line in 0..=whole.lines() {
        let (number, offset) = whole.mark(line);
        assert!(number <= line && offset <= text.len() as u64);
        assert!(offset == 0 || text[usize::try_from(offset).expect("it is small") - 1] == b'\n');
    }
}

/// A file of settings; what follows a line `--set` are arguments, one in each line.
pub(crate) fn settings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (file, arguments) = text.split_once("\n--set\n").unwrap_or((text, ""));
    let folder = folder();
    let path = folder.path().join("settings.yaml");
    fs::write(&path, file).expect("a file");
    let set = arguments.lines().map(str::to_owned).collect();
    let sources = Sources { config: Some(path), set, print_config: false };
    // No variable of whoever runs this begins so.
    match sources.load::<Settings>("CAISSON_FUZZ_NOBODY_", &[]) {
        Ok(loaded) => {
            assert!(!loaded.print().is_empty());
            let _ = loaded.settings.check();
        }
        Err(error) => assert!(!error.to_string().trim().is_empty(), "what is wrong is said"),
    }
}

/// In memory where there is such a place, since thousands are made in a second.
fn folder() -> TempDir {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let prefix = format!("caisson-fuzz-{}-", COUNT.fetch_add(1, Ordering::Relaxed));
    tempfile::Builder::new().prefix(&prefix).tempdir_in(place).expect("a folder")
}
