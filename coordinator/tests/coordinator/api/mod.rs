//! The HTTP API as a person and a program meet it.

mod access;
mod dashboard;
mod document;
mod logs;
mod metrics;
mod read;
mod submit;
