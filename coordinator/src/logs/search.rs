//! Finding lines of a log by what they say. What a terminal would not show, such as colours, is passed over.

use regex::bytes::{Regex, RegexBuilder};

/// How large a pattern may become in memory, in bytes. Patterns are matched in linear time, whatever they are.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// What is searched for.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// The text itself, whatever the case of its letters.
    ///
    /// # Errors
    /// When it is too long.
    pub fn text(text: &str) -> Result<Self, String> {
        Self::regex(&regex::escape(text))
    }

    /// A regular expression, whatever the case of its letters.
    ///
    /// # Errors
    /// When it is none, or too large.
    pub fn regex(pattern: &str) -> Result<Self, String> {
        RegexBuilder::new(pattern)
            .case_insensitive(true)
            .multi_line(true)
            .crlf(true)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// The lines of `text` in which it occurs, each once, counted from 0.
    pub fn lines_of(&self, text: &[u8]) -> Vec<u64> {
        let plain;
        let text = if memchr::memchr(ESCAPE, text).is_some() {
            plain = without_escapes(text);
            &plain
        } else {
            text
        };
        let mut found = Vec::new();
        let (mut line, mut counted, mut from) = (0, 0, 0);
        while let Some(hit) = self.0.find_at(text, from) {
            line += memchr::memchr_iter(b'\n', &text[counted..hit.start()]).count() as u64;
            counted = hit.start();
            found.push(line);
            // One hit tells of its line: the search goes on in the next.
            let Some(newline) = memchr::memchr(b'\n', &text[hit.start()..]) else { break };
            from = hit.start() + newline + 1;
            if from >= text.len() {
                break;
            }
        }
        found
    }
}

const ESCAPE: u8 = 0x1b;

/// Leaves out escape sequences: `ESC [ … letter`, `ESC ] … BEL` or `ESC \`, and `ESC` with one character. Newlines stay,
/// also where a sequence is broken off by one.
fn without_escapes(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(next) = memchr::memchr(ESCAPE, &text[at..]) {
        plain.extend_from_slice(&text[at..at + next]);
        at += next + escape_length(&text[at + next..]);
    }
    plain.extend_from_slice(&text[at..]);
    plain
}

/// How long the sequence is that `text` begins with.
fn escape_length(text: &[u8]) -> usize {
    let until = |ends: &dyn Fn(usize, u8) -> bool| {
        let found = text.iter().enumerate().skip(2).find(|(at, byte)| **byte == b'\n' || ends(*at, **byte));
        match found {
            Some((at, b'\n')) => at,
            Some((at, _)) => at + 1,
            None => text.len(),
        }
    };
    match text.get(1) {
        Some(b'[') => until(&|_, byte| (0x40..=0x7e).contains(&byte)),
        Some(b']') => until(&|at, byte| byte == 0x07 || (byte == b'\\' && text[at - 1] == ESCAPE)),
        Some(b'\n') | None => 1,
        Some(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pattern: &Pattern, text: &str) -> Vec<u64> {
        pattern.lines_of(text.as_bytes())
    }

    #[test]
    fn text_is_found_whatever_its_case_and_once_for_each_line() {
        let pattern = Pattern::text("Error").unwrap();
        assert_eq!(lines(&pattern, "ok\nan error, one more ERROR\n\nerror"), [1, 3]);
        assert!(lines(&pattern, "").is_empty());
    }

    #[test]
    fn text_is_no_pattern_but_a_pattern_is() {
        assert_eq!(lines(&Pattern::text("a.c").unwrap(), "abc\na.c\n"), [1]);
        assert_eq!(lines(&Pattern::regex("^a.c$").unwrap(), "xabc\nabc\r\na.c\n"), [1, 2]);
        assert!(Pattern::regex("(").is_err());
    }

    #[test]
    fn colours_do_not_hide_a_word() {
        let text = "\x1b[1;31merr\x1b[0mor\nplain\n\x1b]8;;http://error/\x07link\x1b]8;;\x1b\\\n";
        assert_eq!(lines(&Pattern::text("error").unwrap(), text), [0]);
        assert_eq!(lines(&Pattern::text("link").unwrap(), text), [2]);
    }

    #[test]
    fn a_broken_escape_ends_with_its_line() {
        let text = "\x1b[31\nerror\n\x1b]8;;\nerror\n\x1b";
        assert_eq!(lines(&Pattern::text("error").unwrap(), text), [1, 3]);
    }

    #[test]
    fn a_pattern_that_matches_nothing_at_all_ends() {
        assert_eq!(lines(&Pattern::regex("x*").unwrap(), "a\nb\n"), [0, 1]);
    }
}
