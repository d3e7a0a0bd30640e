//! What goes into a log comes out of it, whoever died in between.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
};

use caisson_logfile::{LogFile, LogReader, Span};
use caisson_protocol::{LOG_CHUNK_BYTES_MAX, Stream};
use proptest::prelude::*;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// A base with dots, as attempts have.
    fn base(&self) -> PathBuf {
        self.0.path().join("build.1")
    }

    fn open(&self) -> LogFile {
        LogFile::open(&self.base()).unwrap()
    }

    fn reader(&self) -> LogReader {
        LogReader::open(&self.base()).unwrap()
    }

    /// Appends raw bytes to one of the two files, as a writer that dies half-way does.
    fn scribble(&self, ending: &str, bytes: &[u8]) {
        let path = self.0.path().join(format!("build.1.{ending}"));
        OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    }
}

#[test]
fn streams_are_told_apart_and_bytes_stay_as_they_came() {
    let place = Place::new();
    let mut log = place.open();
    assert_eq!(log.append(Stream::Stdout, 10, b"a\xff\0").unwrap(), 3);
    assert_eq!(log.append(Stream::Stderr, 10, b"oh\n").unwrap(), 6);
    assert_eq!(log.append(Stream::Stdout, 12, b"b").unwrap(), 7);

    let chunks = place.reader().read(0, 100).unwrap();
    let seen: Vec<_> = chunks.iter().map(|c| (c.offset, c.stream, c.time_ms, c.bytes.as_slice())).collect();
    assert_eq!(
        seen,
        [
            (0, Stream::Stdout, 10, &b"a\xff\0"[..]),
            (3, Stream::Stderr, 10, b"oh\n"),
            (6, Stream::Stdout, 12, b"b"),
        ]
    );
    assert_eq!(fs::read(place.0.path().join("build.1.log")).unwrap(), b"a\xff\0oh\nb");
    assert_eq!(place.reader().read_text(2, 3).unwrap(), b"\0oh");
}

#[test]
fn bytes_of_one_moment_share_an_entry() {
    let place = Place::new();
    let mut log = place.open();
    for _ in 0..100 {
        log.append(Stream::Stdout, 5, b"x").unwrap();
    }
    assert_eq!(log.disk_bytes(), 100 + 16);
    let spans: Vec<Span> = place.reader().spans(0).unwrap().map(Result::unwrap).collect();
    assert_eq!(spans, [Span { offset: 0, bytes: 100, time_ms: 5, stream: Stream::Stdout }]);
}

#[test]
fn a_large_run_is_read_in_chunks_that_fit_a_frame() {
    let place = Place::new();
    place.open().append(Stream::Stdout, 1, &vec![7; LOG_CHUNK_BYTES_MAX + 1]).unwrap();
    let sizes: Vec<usize> =
        place.reader().read(0, usize::MAX).unwrap().iter().map(|c| c.bytes.len()).collect();
    assert_eq!(sizes, [LOG_CHUNK_BYTES_MAX, 1]);
}

#[test]
fn a_writer_that_died_between_entry_and_bytes_leaves_a_log_that_goes_on() {
    let place = Place::new();
    place.open().append(Stream::Stdout, 1, b"whole").unwrap();
    let mut entry = 5u64.to_be_bytes().to_vec();
    entry.extend(((9u64 << 8) | 2).to_be_bytes());
    place.scribble("idx", &entry);
    place.scribble("idx", b"half an");

    let mut log = place.open();
    assert_eq!(log.end(), 5);
    log.append(Stream::Stdout, 2, b" again").unwrap();
    let text: Vec<u8> = place.reader().read(0, 100).unwrap().into_iter().flat_map(|c| c.bytes).collect();
    assert_eq!(text, b"whole again");
    assert!(place.reader().read(0, 100).unwrap().iter().all(|c| c.stream == Stream::Stdout));
}

#[test]
fn a_log_without_its_index_is_not_guessed_at() {
    let place = Place::new();
    place.open().append(Stream::Stdout, 1, b"whole").unwrap();
    fs::write(place.0.path().join("build.1.idx"), b"").unwrap();
    assert!(LogFile::open(&place.base()).unwrap_err().to_string().contains("lost its index"));
}

#[test]
fn a_log_that_is_removed_begins_anew() {
    let place = Place::new();
    place.open().append(Stream::Stdout, 1, b"doubtful").unwrap();
    caisson_logfile::remove(&place.base()).unwrap();
    caisson_logfile::remove(&place.base()).unwrap();
    assert!(LogReader::open(&place.base()).is_err());
    assert_eq!(place.open().end(), 0);
}

#[test]
fn a_disk_that_is_full_leaves_the_log_as_it_was() {
    // /dev/full can't stand in here, since a log is two files; a file size limit does the same. It belongs to a
    // process, so the test runs itself in a child.
    if std::env::var_os("CAISSON_LOGFILE_CHILD").is_none() {
        let child = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" a_disk_that_is_full --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .env("CAISSON_LOGFILE_CHILD", "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    let place = Place::new();
    let mut log = place.open();
    log.append(Stream::Stdout, 1, b"fits").unwrap();
    assert!(log.append(Stream::Stdout, 2, &[b'x'; 5000]).is_err());
    assert_eq!(log.end(), 4);
    log.append(Stream::Stdout, 3, b" too").unwrap();
    assert_eq!(place.reader().read_text(0, 100).unwrap(), b"fits too");
}

proptest! {
    #[test]
    fn any_range_of_any_log_reads_as_written(
        pieces in proptest::collection::vec((1u8..=3, 0u64..3, proptest::collection::vec(any::<u8>(), 0..9)), 0..40),
        from in 0u64..200,
        most in 0usize..200,
    ) {
        let place = Place::new();
        let mut log = place.open();
        let mut written: Vec<(u8, Stream)> = Vec::new();
        let mut time_ms = 0;
        for (code, pause, bytes) in pieces {
            time_ms += pause;
            let stream = Stream::from_code(code).unwrap();
            log.append(stream, time_ms, &bytes).unwrap();
            written.extend(bytes.into_iter().map(|byte| (byte, stream)));
        }
        let read: Vec<(u8, Stream)> = place.reader().read(from, most).unwrap().into_iter()
            .flat_map(|chunk| chunk.bytes.into_iter().map(move |byte| (byte, chunk.stream)))
            .collect();
        let start = (from as usize).min(written.len());
        let end = start.saturating_add(most).min(written.len());
        prop_assert_eq!(&read, &written[start..end]);
    }
}
