//! The whole: a coordinator and runners as real processes, a real engine, and whatever can happen to them.
//!
//! Needs the binaries (`cargo build --workspace`), a Docker engine (`scripts/engine`), the test image
//! (`scripts/images`) and git. A test that misses one of them fails and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod chaos_proxy;
mod endings;
mod enrolment;
mod faults;
mod harness;
mod network_faults;
mod repositories;
mod ssh_server;
mod tls;
mod traces;
