//! One JSON example of each message of the channel. A change of these files is a change of the protocol: a runner
//! of the version before would not understand it.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::{fs, path::PathBuf};

use caisson_protocol::{CoordinatorMessage, RunnerMessage};
use serde::{Serialize, de::DeserializeOwned};

fn reads_and_writes<T: DeserializeOwned + Serialize>(side: &str, names: &[&str]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(side);
    for name in names {
        let text =
            fs::read_to_string(folder.join(format!("{name}.json"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        let message: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let written = serde_json::to_value(&message).unwrap();
        assert_eq!(written, golden, "{name} is written otherwise than the golden file says");
        assert_eq!(written["type"], *name.split('-').next().unwrap());
    }
    let files = fs::read_dir(folder).unwrap().count();
    assert_eq!(files, names.len(), "a golden file of the {side} is not listed here");
}

#[test]
fn what_a_runner_says() {
    reads_and_writes::<RunnerMessage>(
        "runner",
        &[
            "register",
            "keep_alive",
            "accepted",
            "started",
            "finished-succeeded",
            "finished-failed",
            "finished-timed_out",
            "finished-canceled",
            "finished-errored",
            "cleaned",
            "draining",
            "condition",
            "condition-unhealthy",
            "released",
        ],
    );
}

#[test]
fn what_the_coordinator_says() {
    reads_and_writes::<CoordinatorMessage>(
        "coordinator",
        &[
            "registered",
            "refused",
            "refused-credential_revoked",
            "refused-foreign_name",
            "assign",
            "cancel",
            "drop",
            "log_ack",
            "log_ack-resend",
            "finished_ack",
            "drain",
        ],
    );
}

#[test]
fn a_message_of_another_kind_is_an_error_and_not_a_guess() {
    for text in
        ["{}", "[]", r#"{"type":"hello"}"#, r#"{"type":"accepted"}"#, r#"{"type":"accepted","attempt":"7"}"#]
    {
        assert!(serde_json::from_str::<RunnerMessage>(text).is_err(), "{text}");
    }
}
