//! Where the lines of a log are, so that any of them is found without reading what stands before it.
//!
//! A line is what stands between two newlines of the log as it came, all streams together: the numbers are those of
//! the downloaded file. The index is a cache: it is made when somebody looks, by reading the log once, and goes on
//! where it stopped when the log has grown. Nothing of it is stored.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use caisson_protocol::AttemptId;
use tokio::sync::Mutex as AsyncMutex;

use super::{LogError, Logs};

/// How many lines are between two marks.
const MARK_EVERY: u64 = 256;
/// How much of a log is read at once, in bytes.
const PIECE_BYTES: usize = 1024 * 1024;
/// How many logs are remembered; a log of a million lines takes 32 KiB.
const LOGS_MAX: usize = 64;

/// Where lines begin: sparse marks, so that a million lines take some kilobytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineIndex {
    /// How much of the log has been seen.
    end: u64,
    /// How many newlines were in it.
    newlines: u64,
    /// Where the line after the latest newline begins.
    last_line: u64,
    /// Where line 0, `MARK_EVERY`, 2 × `MARK_EVERY` … begin.
    marks: Vec<u64>,
}

impl Default for LineIndex {
    fn default() -> Self {
        Self { end: 0, newlines: 0, last_line: 0, marks: vec![0] }
    }
}

impl LineIndex {
    /// Takes in what comes next in the log.
    pub fn extend(&mut self, bytes: &[u8]) {
        for at in memchr::memchr_iter(b'\n', bytes) {
            self.newlines += 1;
            self.last_line = self.end + at as u64 + 1;
            if self.newlines.is_multiple_of(MARK_EVERY) {
                self.marks.push(self.last_line);
            }
        }
        self.end += bytes.len() as u64;
    }

    /// How much of the log has been seen, in bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many lines there are, one without its newline at the end included.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.newlines + u64::from(self.last_line < self.end)
    }

    /// How many lines are complete.
    #[must_use]
    pub fn complete(&self) -> u64 {
        self.newlines
    }

    /// The nearest line at or before `line`, counted from 0, whose place is known: its number and its offset.
    #[must_use]
    pub fn mark(&self, line: u64) -> (u64, u64) {
        if line >= self.newlines {
            return (self.newlines, self.last_line);
        }
        let at = usize::try_from(line / MARK_EVERY).unwrap_or(usize::MAX);
        let at = at.min(self.marks.len() - 1);
        (at as u64 * MARK_EVERY, self.marks[at])
    }
}

/// The indexes of the logs that were looked at lately.
#[derive(Debug, Default)]
pub struct LineIndexes {
    recent: Mutex<VecDeque<(AttemptId, Arc<AsyncMutex<LineIndex>>)>>,
}

impl LineIndexes {
    /// The index of a log, up to its present end.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn of(&self, logs: &dyn Logs, attempt: AttemptId) -> Result<LineIndex, LogError> {
        let index = self.entry(attempt);
        // Held while the log is read: who comes meanwhile wants the same.
        let mut index = index.lock().await;
        loop {
            let text = logs.text(attempt, index.end(), PIECE_BYTES).await?;
            if text.is_empty() {
                return Ok(index.clone());
            }
            index.extend(&text);
        }
    }

    /// Where `line`, counted from 0, begins. The end of the log when there is no such line.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn offset(&self, logs: &dyn Logs, attempt: AttemptId, line: u64) -> Result<u64, LogError> {
        let index = self.of(logs, attempt).await?;
        if line >= index.lines() {
            return Ok(index.end());
        }
        let (mut at, mut offset) = index.mark(line);
        while at < line {
            let text = logs.text(attempt, offset, PIECE_BYTES).await?;
            if text.is_empty() {
                break;
            }
            let mut passed = text.len();
            for newline in memchr::memchr_iter(b'\n', &text) {
                at += 1;
                if at == line {
                    passed = newline + 1;
                    break;
                }
            }
            offset += passed as u64;
        }
        Ok(offset)
    }

    fn entry(&self, attempt: AttemptId) -> Arc<AsyncMutex<LineIndex>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().position(|(known, _)| *known == attempt).and_then(|at| recent.remove(at));
        let (_, index) = known.unwrap_or_else(|| (attempt, Arc::default()));
        recent.truncate(LOGS_MAX - 1);
        recent.push_front((attempt, Arc::clone(&index)));
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(text: &[u8], piece: usize) -> LineIndex {
        let mut index = LineIndex::default();
        text.chunks(piece).for_each(|piece| index.extend(piece));
        index
    }

    #[test]
    fn a_line_counts_from_its_first_byte_and_is_complete_with_its_newline() {
        for (text, lines, complete) in
            [("", 0, 0), ("a", 1, 0), ("a\n", 1, 1), ("a\nb", 2, 1), ("\n\n", 2, 2)]
        {
            let index = index(text.as_bytes(), 1);
            assert_eq!((index.lines(), index.complete()), (lines, complete), "{text:?}");
        }
    }

    #[test]
    fn it_does_not_matter_in_which_pieces_a_log_is_seen() {
        let text: String = (0..5000).map(|line| format!("{}\n", "x".repeat(line % 7))).collect();
        let whole = index(text.as_bytes(), text.len());
        for piece in [1, 2, 3, 255, 4096] {
            assert_eq!(index(text.as_bytes(), piece), whole, "{piece}");
        }
    }

    #[test]
    fn a_mark_is_the_beginning_of_its_line() {
        let lines: Vec<String> = (0..2000).map(|line| format!("line {line}\n")).collect();
        let index = index(lines.concat().as_bytes(), 1000);
        for line in [0, 1, 255, 256, 257, 1999, 2000, 9999] {
            let (marked, offset) = index.mark(line);
            assert!(marked <= line && line.min(2000) - marked < MARK_EVERY, "{line}");
            let before: usize = lines[..usize::try_from(marked).unwrap()].iter().map(String::len).sum();
            assert_eq!(offset, before as u64, "{line}");
        }
    }
}
