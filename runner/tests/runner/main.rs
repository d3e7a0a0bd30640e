//! The runner as its users see it: real processes, a real Docker engine, real git servers, and a coordinator of the
//! tests' own that speaks the channel.
//!
//! Every test has its own runner, coordinator, folders and labels, so all of them run side by side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test that fails panics")]

mod checkout;
mod connection;
mod endings;
mod engine;
mod faults;
mod images;
mod isolation;
mod output;
mod restart;
mod soak;
mod world;
