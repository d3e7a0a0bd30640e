//! What the end of a container says of a build. Nothing here does anything: it only decides.

use caisson_protocol::{ErrorReason, FailureNote, Outcome};

use crate::{
    checkout::CheckoutError,
    engine::{EngineError, Exit, ImageError},
    output::shortened,
};

/// A shell's exit code for "found, but can't be run".
pub(super) const EXIT_NOT_EXECUTABLE: i64 = 126;
/// A shell's exit code for "not found", and that of the engine's init where it finds no shell.
pub(super) const EXIT_NOT_FOUND: i64 = 127;
/// The exit code of what was ended by SIGKILL.
const EXIT_KILLED: u8 = SIGNAL_BASE + 9;
/// What is added to the number of the signal that ended a process.
const SIGNAL_BASE: u8 = 128;
/// The highest number of a signal.
const SIGNAL_MAX: u8 = 64;
/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How a command that ended by itself has ended. The exit code decides; what else is known is a note.
pub(super) fn of_exit(exit: &Exit) -> Outcome {
    if let Some(error) = &exit.engine_error {
        return engine_failed(format!("the engine failed while the command ran: {error}"));
    }
    let Ok(exit_code) = u8::try_from(exit.code) else {
        return engine_failed(format!("the engine gave the exit code {}, which no command has", exit.code));
    };
    match exit_code {
        0 => Outcome::Succeeded,
        _ => Outcome::Failed { exit_code, note: note(exit_code, exit.out_of_memory) },
    }
}

fn note(exit_code: u8, out_of_memory: bool) -> Option<FailureNote> {
    match exit_code.checked_sub(SIGNAL_BASE) {
        _ if out_of_memory => Some(FailureNote::OutOfMemory),
        Some(1..=SIGNAL_MAX) => Some(FailureNote::KilledBySignal),
        _ => None,
    }
}

/// A command that was killed since it had written too much. One that had ended by then has ended as it did.
pub(super) fn killed_for_disk(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { exit_code: EXIT_KILLED, .. } => {
            Outcome::Failed { exit_code: EXIT_KILLED, note: Some(FailureNote::DiskLimit) }
        }
        ended => ended,
    }
}

/// A build that the engine could not run.
pub(super) fn engine_failed(message: String) -> Outcome {
    errored(ErrorReason::EngineFailed, message)
}

/// A build that could not be run. What others say of it (a registry says anything) has to fit into a message.
pub(super) fn errored(reason: ErrorReason, message: impl Into<String>) -> Outcome {
    Outcome::Errored { reason, message: shortened(message.into(), MESSAGE_BYTES_MAX) }
}

impl From<CheckoutError> for Outcome {
    fn from(error: CheckoutError) -> Self {
        errored(error.reason, error.message)
    }
}

impl From<EngineError> for Outcome {
    fn from(error: EngineError) -> Self {
        engine_failed(error.to_string())
    }
}

impl From<ImageError> for Outcome {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::NotFound(message) => errored(ErrorReason::ImageNotFound, message),
            ImageError::Denied(message) => errored(ErrorReason::ImageDenied, message),
            ImageError::Registry(message) => errored(ErrorReason::ImageFailed, message),
            ImageError::Engine(error) => error.into(),
        }
    }
}

/// A failure of the runner's own disk.
pub(super) fn of_disk(error: &std::io::Error, what: &str) -> Outcome {
    let reason = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorReason::DiskFull,
        _ => ErrorReason::RunnerFailed,
    };
    errored(reason, format!("{what}: {error}"))
}

/// The outcome in a few words, as the last line of a build's log.
pub(super) fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded => "The command succeeded".into(),
        Outcome::Failed { exit_code, note: None } => format!("The command failed with exit code {exit_code}"),
        Outcome::Failed { exit_code, note: Some(FailureNote::OutOfMemory) } => {
            format!("The command failed with exit code {exit_code}: the container ran out of memory")
        }
        Outcome::Failed { exit_code, note: Some(FailureNote::DiskLimit) } => {
            format!("The command was killed (exit code {exit_code}): it had written too much")
        }
        Outcome::Failed { exit_code, note: Some(FailureNote::KilledBySignal) } => {
            let signal = exit_code.saturating_sub(SIGNAL_BASE);
            format!("The command was killed by signal {signal} (exit code {exit_code})")
        }
        Outcome::TimedOut => "Stopped: the time limit was reached".into(),
        Outcome::Canceled => "Stopped: the build was canceled".into(),
        Outcome::Errored { message, .. } => format!("The build could not be run: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i64) -> Exit {
        Exit { code, out_of_memory: false, engine_error: None }
    }

    #[test]
    fn every_exit_code_is_reported_as_it_is() {
        assert_eq!(of_exit(&exit(0)), Outcome::Succeeded);
        for code in 1..=255 {
            assert_eq!(of_exit(&exit(code)).exit_code(), u8::try_from(code).ok());
        }
    }

    #[test]
    fn only_codes_of_real_signals_are_noted_as_such() {
        let noted = |code| of_exit(&exit(code)).reason();
        for code in [1, 126, 127, 128, 193, 255] {
            assert_eq!(noted(code), None, "{code}");
        }
        for code in [129, 130, 137, 143, 192] {
            assert_eq!(noted(code), Some("killed_by_signal"), "{code}");
        }
    }

    #[test]
    fn a_child_that_was_killed_for_memory_does_not_fail_a_command_that_coped() {
        let exit = |code| Exit { code, out_of_memory: true, engine_error: None };
        assert_eq!(of_exit(&exit(0)), Outcome::Succeeded);
        assert_eq!(of_exit(&exit(137)).reason(), Some("out_of_memory"));
    }

    #[test]
    fn a_command_that_ended_before_it_was_killed_for_disk_ended_as_it_did() {
        assert_eq!(killed_for_disk(of_exit(&exit(137))).reason(), Some("disk_limit"));
        assert_eq!(killed_for_disk(of_exit(&exit(1))), of_exit(&exit(1)));
        assert_eq!(killed_for_disk(of_exit(&exit(0))), Outcome::Succeeded);
    }

    #[test]
    fn a_message_fits_whatever_others_have_to_say() {
        let Outcome::Errored { message, .. } = engine_failed("ü".repeat(3_000_000)) else { unreachable!() };
        assert!(message.len() <= MESSAGE_BYTES_MAX && message.ends_with("ü…"), "{} bytes", message.len());
    }

    #[test]
    fn what_the_engine_did_is_not_laid_at_the_commands_door() {
        let failed = Exit { engine_error: Some("shim died".into()), ..exit(137) };
        assert!(of_exit(&failed).is_infrastructure());
        assert!(of_exit(&exit(-1)).is_infrastructure());
        assert!(of_exit(&exit(256)).is_infrastructure());
    }
}
