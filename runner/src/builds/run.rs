//! An attempt from its acceptance until nothing is left of it: its steps, then outcome, log and report, then the removal.

use std::{io, sync::Arc, time::Duration};

use caisson_protocol::{AttemptId, AttemptReport, ErrorReason, Limit, Outcome, RunnerMessage};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Attempt, Builds,
    attempt::{Interrupt, Stage, Stop},
    outcome,
    steps::{Build, Cut, elapsed_ms},
};
use crate::{
    container::may_run,
    engine::{EngineError, OwnedKind},
    images::Use,
    output::{Log, LogSender},
    sweep,
    workspace::{Transport, blocking},
};

/// Runs an attempt from its acceptance until nothing is left of it on this host.
pub(super) async fn run(builds: Arc<Builds>, attempt: Arc<Attempt>) {
    let id = attempt.id();
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(attempt.assignment.spec.timeout_seconds.get().into());
    info!(build.id = %id.build, attempt = id.number, "build {}: attempt {} accepted", id.build, id.number);

    let claim = builds.claims.claim(id).await;
    let (folder, assignment) = (attempt.folder.clone(), attempt.assignment.clone());
    let spooled = blocking(move || folder.begin(&assignment)).await;
    if spooled.is_ok() {
        builds.outbox.say(RunnerMessage::Accepted { attempt: id });
    }

    let log = begin_log(&attempt);
    let mut build = Build::new(&builds, &attempt, log.sender(), deadline);
    let ended = match spooled {
        Ok(()) => build.steps().await,
        Err(error) => build.give_back_for_want_of_room(&error).await,
    };
    // The build's own way into the log ends here; only then can the log be closed.
    let Build { log: sender, phases, resolved_commit, image_digest, container_made, image_use, .. } = build;
    let ended = conclude(sender, ended).await;
    match ended {
        Ok(outcome) => {
            if outcome.is_infrastructure() {
                builds.host.health.doubt();
            }
            let report = AttemptReport { outcome, phases, resolved_commit, image_digest, log_bytes: 0 };
            finish(&attempt, log, report).await;
            builds.forget_if_dropped(&attempt).await;
            let cleanup_ms = clean(&builds, id, container_made).await;
            builds.outbox.say(RunnerMessage::Cleaned { attempt: id, cleanup_ms });
        }
        Err(stop) => {
            log.close().await;
            clean(&builds, id, container_made).await;
            builds.forget(&attempt).await;
            if stop == Stop::Release {
                builds.outbox.say(RunnerMessage::Released { attempt: id });
            }
            info!(build.id = %id.build, "build {}: attempt {} {}", id.build, id.number, in_words(stop));
        }
    }
    drop(claim);
    let has_pulled = image_use.as_ref().is_some_and(Use::has_pulled);
    drop(image_use);
    if has_pulled && let Err(error) = sweep::trim_images(&builds.host).await {
        warn!("the images could not be kept in size: {error}");
    }
}

/// The outcome, said in the log; or why nobody wants to know it.
async fn conclude(log: LogSender, ended: Result<Outcome, Cut>) -> Result<Outcome, Stop> {
    let outcome = match ended {
        Ok(outcome) | Err(Cut::Failed(outcome)) => outcome,
        Err(Cut::Interrupted(Interrupt::TimedOut)) => Outcome::TimedOut,
        Err(Cut::Interrupted(Interrupt::Stop(Stop::Cancel))) => Outcome::Canceled,
        Err(Cut::Interrupted(Interrupt::Stop(stop))) => return Err(stop),
    };
    log.say(outcome::in_words(&outcome)).await;
    Ok(outcome)
}

fn in_words(stop: Stop) -> &'static str {
    match stop {
        Stop::Release => "given back",
        Stop::Cancel | Stop::Drop => "dropped",
    }
}

fn begin_log(attempt: &Arc<Attempt>) -> Log {
    let grown = Arc::clone(attempt);
    let grew = Arc::new(move |end| grown.log_grew(end));
    let asked = attempt.assignment.spec.limits.log_bytes.map_or(u64::MAX, Limit::get);
    Log::begin(attempt.folder.log_base(), attempt.assignment.log_bytes_max.min(asked), grew)
}

/// Completes the log, keeps the report on disk, and lets it be told.
async fn finish(attempt: &Attempt, log: Log, mut report: AttemptReport) {
    let id = attempt.id();
    let written = log.close().await;
    report.log_bytes = written.end;
    if let Some(error) = written.failure {
        warn!(build.id = %id.build, "build {}: its log could not be written: {error}", id.build);
        if !is_final_without_log(&report.outcome) {
            report.outcome = outcome::of_disk(&error, "the runner can't write the build's log");
        }
    }
    let (folder, kept) = (attempt.folder.clone(), report.clone());
    if let Err(error) = blocking(move || folder.write_report(&kept)).await {
        // It is told all the same; only a restart of the runner before that would lose it.
        warn!(build.id = %id.build, "build {}: its report could not be spooled: {error}", id.build);
    }
    let status = report.outcome.status();
    match report.outcome.message() {
        Some(message) => warn!(build.id = %id.build, "build {}: {status}: {message}", id.build),
        None => info!(build.id = %id.build, "build {}: {status}", id.build),
    }
    attempt.enter(Stage::Finished(report));
}

/// Whether an outcome stands though the log could not be written: someone's wish, or that the disk took nothing before.
fn is_final_without_log(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Canceled | Outcome::TimedOut => true,
        Outcome::Errored { reason, .. } => {
            matches!(reason, ErrorReason::DiskFull | ErrorReason::RunnerFailed)
        }
        Outcome::Succeeded | Outcome::Failed { .. } => false,
    }
}

/// Removes what the attempt made, and tells how long it took, in milliseconds. What can't be removed is left to the
/// sweep.
async fn clean(builds: &Builds, id: AttemptId, container_made: bool) -> u64 {
    let host = builds.host();
    let (mut left_behind, mut may_be_written) = (0, false);
    let begun = Instant::now();
    if container_made {
        for owned in host.transport.owned(id) {
            let Err(error) = host.engine.remove(&owned).await else { continue };
            may_be_written |= host.transport == Transport::Bind && may_run(&*host.engine, &owned.id).await;
            if matches!(error, EngineError::Busy(_)) && owned.kind == OwnedKind::Container {
                // Somebody is removing it. Where that does not get on, a sweep finds it.
                continue;
            }
            warn!(build.id = %id.build, "build {}: its {} is left to the sweep: {error}", id.build, owned.kind);
            left_behind += 1;
        }
    }
    let removed = match may_be_written {
        true => Err(io::Error::other("its container may still write there")),
        false => host.workspaces.remove(id.build).await,
    };
    if let Err(error) = removed {
        warn!(build.id = %id.build, "build {}: its workspace is left to the sweep: {error}", id.build);
        left_behind += 1;
    }
    host.health.note(&builds.outbox, |condition| condition.left_behind += left_behind);
    elapsed_ms(begun)
}
