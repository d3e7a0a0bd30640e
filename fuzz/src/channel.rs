//! The channel: what is understood says the same when it is written again.

use std::fmt::Debug;

use caisson_protocol::{CoordinatorMessage, LOG_CHUNK_BYTES_MAX, LogFrame, RunnerMessage};

pub(crate) fn runner_message(bytes: &[u8]) {
    message::<RunnerMessage>(bytes);
}

pub(crate) fn coordinator_message(bytes: &[u8]) {
    message::<CoordinatorMessage>(bytes);
}

fn message<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&message).expect("a message can be written");
    assert_eq!(serde_json::from_slice::<T>(&written).expect("what is written can be read"), message);
}

pub(crate) fn log_frame(bytes: &[u8]) {
    let Ok(frame) = LogFrame::decode(bytes) else { return };
    assert_eq!(frame.encode(), bytes);
    assert!(frame.chunk.bytes.len() <= LOG_CHUNK_BYTES_MAX);
    assert!(i64::try_from(frame.chunk.offset + frame.chunk.bytes.len() as u64).is_ok());
}
