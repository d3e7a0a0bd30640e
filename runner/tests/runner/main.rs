//! The runner as its users see it: real processes, a real Docker engine, real git servers, and a coordinator of the
//! tests' own that speaks the channel.
//!
//! Every test has its own runner, coordinator, folders and labels, so all of them run side by side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test that fails panics")]
#![allow(clippy::duplicate_mod, reason = "the same stories are told of two worlds")]

mod checkout;
mod connection;
mod disk;
mod images;
mod laws;
mod remote;
mod sweep;
mod targets;
mod transport;
mod world;

use world::{Bind, Upload, WorldWith};

/// Where nothing depends on it, workspaces are bound.
type World = WorldWith<Bind>;

/// What a build's container has to do with is told for each way in which a workspace gets into it.
macro_rules! told_with {
    ($name:ident, $transport:ty) => {
        #[path = "."]
        mod $name {
            type World = crate::WorldWith<$transport>;

            mod endings;
            mod engine;
            mod faults;
            mod isolation;
            mod output;
            mod restart;
            mod soak;
        }
    };
}

told_with!(bound, crate::Bind);
told_with!(uploaded, crate::Upload);
