//! The coordinator, proven: its store by laws, its API and its channel from outside, and the program as a user starts
//! it. Every test has a folder and a port of its own, so all of them run side by side.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what helps a test fails like a test")]

mod access;
mod api;
mod channel;
mod dispatcher;
mod door;
mod outage;
mod program;
mod store;
mod support;
