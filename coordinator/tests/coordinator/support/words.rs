//! Short words for what stories speak of.

use std::sync::Arc;

use caisson_protocol::{
    AttemptId, AttemptReport, BuildId, BuildSpec, ErrorReason, Outcome, Phases, ResolvedCommit, RunnerId,
};
use caisson_scheduler::{RunnerRef, Submission};
use serde_json::json;
use uuid::Uuid;

pub(crate) use super::{runner::registration, viewer::Seen};

pub(crate) fn commit() -> ResolvedCommit {
    "0123456789abcdef0123456789abcdef01234567".parse().unwrap()
}

pub(crate) fn phases() -> Phases {
    Phases { clone_ms: Some(11), image_ms: None, create_ms: Some(22), run_ms: Some(33), cleanup_ms: None }
}

pub(crate) fn report(outcome: Outcome, log_bytes: u64) -> AttemptReport {
    AttemptReport {
        outcome,
        phases: phases(),
        resolved_commit: Some(commit()),
        image_digest: None,
        log_bytes,
    }
}

/// A failure of the infrastructure, which another attempt may not meet.
pub(crate) fn engine_failed() -> Outcome {
    Outcome::Errored { reason: ErrorReason::EngineFailed, message: "the engine is on fire".into() }
}

pub(crate) fn attempt(id: &str, number: u32) -> AttemptId {
    AttemptId { build: id.parse().unwrap(), number }
}

/// Build number `number`, the same whenever it is asked for.
pub(crate) fn id(number: u64) -> BuildId {
    BuildId(Uuid::from_u128(0x019a_ac1e_7c00_7000_8000_0000_0000_0000 + u128::from(number)))
}

pub(crate) fn runner_ref(name: &str) -> RunnerRef {
    RunnerRef { id: RunnerId::of_name(name), name: name.into() }
}

pub(crate) fn spec(command: &str) -> BuildSpec {
    serde_json::from_value(json!({
        "repository_url": "https://example.org/team/app.git",
        "commit": "main",
        "command": command,
        "image": "debian:bookworm-slim",
        "timeout_seconds": 600,
    }))
    .unwrap()
}

pub(crate) fn submission(number: u64, command: &str) -> Submission {
    Submission { id: id(number), spec: Arc::new(spec(command)), key: None }
}
