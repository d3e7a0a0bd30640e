//! The proof of the scheduler, in three layers: stories, one for each promise of the design; properties, which hold
//! for whatever happens in whatever order; and a model check, which tries every order in small worlds.

#![allow(clippy::unwrap_used, reason = "what helps a test fails like a test")]

mod model;
mod properties;
mod store;
mod stories;
mod words;
mod world;
