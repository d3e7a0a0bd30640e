//! What is done with bytes from outside, each as one function that panics where a promise about it is broken.
//!
//! `scripts/fuzz` lets a fuzzer look for such bytes; `tests/corpus.rs` tries again, in every run of the tests, what is in
//! `corpus/`: an example of each rule, and whatever a fuzzer has found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a panic is what is looked for"
)]

mod channel;
mod files;
mod names;
mod requests;

/// Takes bytes in. Panics where a promise is broken.
pub type Target = fn(&[u8]);

/// Every target: its name, which is that of its folder in `corpus/`, and what it does.
pub const TARGETS: [(&str, Target); 11] = [
    ("submission", requests::submission),
    ("edits", requests::edits),
    ("head", requests::head),
    ("repository_url", names::repository_url),
    ("names", names::names),
    ("runner_message", channel::runner_message),
    ("coordinator_message", channel::coordinator_message),
    ("log_frame", channel::log_frame),
    ("log_file", files::log_file),
    ("lines", files::lines),
    ("settings", files::settings),
];
