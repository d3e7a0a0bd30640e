//! The coordinator: takes builds in, queues them, hands them to runners, keeps their logs, and shows all of it.
//!
//! `http` speaks with people and runners, the `dispatcher` owns every decision (which the scheduler crate makes),
//! `store` and `logs` are ports to what is kept.

pub mod access;
pub mod blocking;
mod clock;
pub mod command;
pub mod coordinator;
pub mod dispatcher;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod settings;
pub mod store;
