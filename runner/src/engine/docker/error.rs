//! What bollard's errors mean to us.

use bollard::errors::Error;

use crate::{engine::EngineError, output::shortened};

/// The status of an answer that says: no such container, image, network or volume.
pub(super) const STATUS_NOT_FOUND: u16 = 404;
/// The longest message of an engine, in bytes.
const MESSAGE_BYTES_MAX: usize = 2048;
const STATUS_BAD_REQUEST: u16 = 400;
const STATUS_FORBIDDEN: u16 = 403;
const STATUS_CONFLICT: u16 = 409;

/// What the failure of a call means. An answer that is an error comes from an engine that works; anything else means
/// that it is away.
pub(super) fn of_call(host: &str, error: Error) -> EngineError {
    match error {
        Error::DockerResponseServerError { status_code, message } => of_answer(status_code, message),
        Error::DockerStreamError { error } => EngineError::Failed(shortened(error, MESSAGE_BYTES_MAX)),
        error @ (Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) => {
            EngineError::Failed(error.to_string())
        }
        error => EngineError::Unreachable { host: host.to_owned(), cause: innermost(&error) },
    }
}

/// An engine passes on what registries say, and the names of files that builds have made: at any length.
fn of_answer(status: u16, message: String) -> EngineError {
    let message = shortened(message, MESSAGE_BYTES_MAX);
    match status {
        STATUS_NOT_FOUND => EngineError::NotFound(message),
        STATUS_CONFLICT => EngineError::Busy(message),
        STATUS_BAD_REQUEST | STATUS_FORBIDDEN => EngineError::Refused(message),
        _ => EngineError::Failed(message),
    }
}

/// The last link in a chain of causes, which is the one that tells: "No such file or directory".
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
