//! The cap on a log's size: its head and its tail are kept, and what lay between is counted.

use std::{collections::VecDeque, io};

use caisson_protocol::{LOG_CHUNK_BYTES_MAX, Stream};

/// The most that is kept of the end of a log which is too long.
const TAIL_BYTES_MAX: u64 = 1024 * 1024;
/// What the line that stands for the missing bytes takes at most.
const MARKER_BYTES_MAX: u64 = 160;
/// How many pieces the tail is made of at most, so that single bytes don't cost far more than they hold.
const TAIL_PIECES_MAX: usize = 8192;

/// Bytes of one stream that came at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) stream: Stream,
    pub(super) time_ms: u64,
    pub(super) bytes: Vec<u8>,
}

/// Sorts a log's pieces into those that are written at once and those that are, perhaps, at the end.
#[derive(Debug)]
pub(super) struct HeadAndTail {
    /// What may still be written at once. It is over with the first byte that does not fit.
    head_left: u64,
    tail: VecDeque<Piece>,
    tail_bytes: u64,
    tail_bytes_max: u64,
    missing_bytes: u64,
}

impl HeadAndTail {
    /// For a log of at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: u64) -> Self {
        let tail_bytes_max = TAIL_BYTES_MAX.min(bytes_max / 4);
        Self {
            head_left: bytes_max.saturating_sub(tail_bytes_max + MARKER_BYTES_MAX),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max,
            missing_bytes: 0,
        }
    }

    /// Takes a piece in; what belongs to the head goes to `write`, which tells what it takes of the log's limit.
    pub(super) fn push(
        &mut self,
        mut piece: Piece,
        write: impl FnOnce(&Piece) -> io::Result<u64>,
    ) -> io::Result<()> {
        if self.head_left > 0 {
            let fits = usize::try_from(self.head_left).unwrap_or(usize::MAX).min(piece.bytes.len());
            let rest = piece.bytes.split_off(fits);
            self.head_left = self.head_left.saturating_sub(write(&piece)?);
            piece.bytes = rest;
        }
        if !piece.bytes.is_empty() {
            self.keep(piece);
        }
        Ok(())
    }

    /// How many bytes are missing between the head and the tail, and the tail.
    pub(super) fn finish(self) -> (u64, VecDeque<Piece>) {
        (self.missing_bytes, self.tail)
    }

    fn keep(&mut self, piece: Piece) {
        self.tail_bytes += piece.bytes.len() as u64;
        match self.tail.back_mut() {
            Some(last)
                if last.stream == piece.stream
                    && last.bytes.len() + piece.bytes.len() <= LOG_CHUNK_BYTES_MAX =>
            {
                last.bytes.extend_from_slice(&piece.bytes);
            }
            _ => self.tail.push_back(piece),
        }
        while self.is_too_long() {
            let Some(first) = self.tail.front() else { return };
            let excess = self.tail_bytes.saturating_sub(self.tail_bytes_max);
            let whole = first.bytes.len();
            let too_many = self.tail.len() > TAIL_PIECES_MAX;
            let part = usize::try_from(excess).unwrap_or(whole).min(whole);
            self.drop_from_front(if too_many { whole } else { part });
        }
    }

    /// As long as nothing is missing, the marker's place is free.
    fn is_too_long(&self) -> bool {
        let marker = if self.missing_bytes == 0 { MARKER_BYTES_MAX } else { 0 };
        self.tail_bytes > self.tail_bytes_max + marker || self.tail.len() > TAIL_PIECES_MAX
    }

    fn drop_from_front(&mut self, bytes: usize) {
        if let Some(first) = self.tail.front_mut() {
            first.bytes.drain(..bytes);
            if first.bytes.is_empty() {
                self.tail.pop_front();
            }
        }
        self.tail_bytes -= bytes as u64;
        self.missing_bytes += bytes as u64;
    }
}

/// The line that stands where bytes are missing.
pub(super) fn marker(missing_bytes: u64, at_line_start: bool) -> String {
    let begin = if at_line_start { "" } else { "\n" };
    format!(
        "{begin}[{missing_bytes} bytes are missing here: the log reached its limit, and its end follows]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bytes_max: u64, pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<u8>, u64, Vec<u8>) {
        let mut cap = HeadAndTail::new(bytes_max);
        let mut head = Vec::new();
        for (number, bytes) in pieces.enumerate() {
            let stream = if number % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
            let piece = Piece { stream, time_ms: 0, bytes };
            cap.push(piece, |piece| {
                head.extend_from_slice(&piece.bytes);
                Ok(piece.bytes.len() as u64)
            })
            .unwrap();
        }
        let (missing, tail) = cap.finish();
        (head, missing, tail.into_iter().flat_map(|piece| piece.bytes).collect())
    }

    #[test]
    fn a_log_within_its_limit_is_whole() {
        let all: Vec<u8> = (0..=255).cycle().take(1024).collect();
        let (head, missing, tail) = run(1024, all.chunks(7).map(<[u8]>::to_vec));
        assert_eq!(missing, 0);
        assert_eq!([head, tail].concat(), all);
    }

    #[test]
    fn a_longer_one_keeps_its_head_and_its_tail_and_counts_the_rest() {
        let all: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for size in [1, 7, 1000, 100_000] {
            let (head, missing, tail) = run(10_000, all.chunks(size).map(<[u8]>::to_vec));
            assert!(all.starts_with(&head) && all.ends_with(&tail), "pieces of {size}");
            assert_eq!(head.len() as u64 + missing + tail.len() as u64, 100_000, "pieces of {size}");
            assert_eq!(tail.len(), 2500, "pieces of {size}");
            assert!(head.len() as u64 + tail.len() as u64 + MARKER_BYTES_MAX <= 10_000);
        }
    }

    #[test]
    fn single_bytes_of_two_streams_dont_make_the_tail_costly() {
        let (head, missing, tail) = run(200_000, (0..400_000).map(|_| vec![b'x']));
        assert_eq!(tail.len(), TAIL_PIECES_MAX);
        assert_eq!(head.len() as u64 + missing + tail.len() as u64, 400_000);
    }

    #[test]
    fn the_marker_is_a_line_of_its_own() {
        assert!(marker(u64::MAX, false).len() as u64 <= MARKER_BYTES_MAX);
        assert!(marker(7, false).starts_with("\n[7 bytes"));
        assert!(marker(7, true).starts_with("[7 bytes"));
    }
}
