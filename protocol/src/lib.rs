//! The words that the coordinator and its runners share: identities, what a build is, how an attempt ends, and
//! the messages on the channel between them.
//!
//! This crate does no I/O and knows no clock. A value that has one of its types is valid: everything is checked
//! where it is parsed, so nothing has to be checked again further in.

mod channel;
mod ids;
mod labels;
mod limits;
mod log;
mod outcome;
mod repository;
mod spec;

pub use channel::{
    AttemptReport, Condition, CoordinatorMessage, FRAME_BYTES_MAX, HELD_MAX, HeldAttempt, HeldPhase,
    KeepAliveTerms, PROTOCOL_VERSION, Refusal, Registration, RunnerMessage,
};
pub use ids::{AttemptId, BuildId, IdError, RunnerId};
pub use labels::{Label, LabelError, Labels};
pub use limits::{BuildLimits, Cpus, Limit, LimitError, Network};
pub use log::{LOG_CHUNK_BYTES_MAX, LogChunk, LogFrame, LogFrameError, Stream};
pub use outcome::{ErrorReason, FailureNote, Outcome, Phases, Status};
pub use repository::{Commit, CommitError, RepositoryUrl, RepositoryUrlError, ResolvedCommit};
pub use spec::{BuildSpec, Command, Environment, ImageRef, SpecError, TimeoutSeconds};
