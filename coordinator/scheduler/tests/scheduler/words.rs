//! The things that tests talk of, in short.

use std::{collections::BTreeSet, sync::Arc};

use caisson_protocol::{
    AttemptReport, BuildId, BuildLimits, BuildSpec, Condition, Environment, ErrorReason, Label, Labels,
    Network, Outcome, Phases, Registration, ResolvedCommit, RunnerId,
};
use caisson_scheduler::{IdempotencyKey, Rules, Submission};
use uuid::Uuid;

/// The ancestor's rhythm, a short queue.
pub(crate) const RULES: Rules = Rules {
    queue_capacity: 3,
    max_attempts: 3,
    interval_ms: 10_000,
    timeout_ms: 20_000,
    log_bytes_max: 1024,
};

pub(crate) fn build_id(number: u64) -> BuildId {
    BuildId(Uuid::from_u128(number.into()))
}

pub(crate) fn runner_id(name: &str) -> RunnerId {
    RunnerId::of_name(name)
}

pub(crate) fn labels(texts: &[&str]) -> Labels {
    let set: BTreeSet<Label> = texts.iter().map(|text| text.parse().unwrap()).collect();
    set.try_into().unwrap()
}

pub(crate) fn spec(wanted: &[&str]) -> Arc<BuildSpec> {
    Arc::new(BuildSpec {
        repository_url: "https://example.org/app.git".parse().unwrap(),
        commit: "main".parse().unwrap(),
        command: "true".parse().unwrap(),
        image: "debian".parse().unwrap(),
        env: Environment::default(),
        labels: labels(wanted),
        timeout_seconds: 60.try_into().unwrap(),
        limits: BuildLimits::default(),
        network: Network::default(),
    })
}

pub(crate) fn submission(number: u64) -> Submission {
    Submission { id: build_id(number), spec: spec(&[]), key: None }
}

pub(crate) fn keyed(number: u64, key: &str, digest: &str) -> Submission {
    let key = Some(IdempotencyKey { key: key.to_owned(), digest: digest.to_owned() });
    Submission { key, ..submission(number) }
}

pub(crate) fn registration(name: &str, instance: u64, capacity: u32) -> Registration {
    Registration {
        protocol: caisson_protocol::PROTOCOL_VERSION,
        name: name.to_owned(),
        instance: Uuid::from_u128(instance.into()),
        labels: Labels::default(),
        capacity,
        version: String::new(),
        engine: String::new(),
        held: Vec::new(),
        draining: false,
        condition: Condition::default(),
    }
}

pub(crate) fn report(outcome: Outcome) -> AttemptReport {
    AttemptReport {
        outcome,
        phases: Phases::default(),
        resolved_commit: None,
        image_digest: None,
        log_bytes: 0,
    }
}

pub(crate) fn commit() -> ResolvedCommit {
    "0123456789abcdef0123456789abcdef01234567".parse().unwrap()
}

pub(crate) fn errored(reason: ErrorReason) -> Outcome {
    Outcome::Errored { reason, message: String::new() }
}

pub(crate) fn failed(exit_code: u8) -> Outcome {
    Outcome::Failed { exit_code, note: None }
}
