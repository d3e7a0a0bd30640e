//! One build's way on a runner, as its script tells it. See `builds::run` of the real runner.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use caisson_protocol::{
    AttemptId, AttemptReport, ErrorReason, Outcome, Phases, ResolvedCommit, RunnerMessage, Stream,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::held::{Builds, Stage, Stop, started};
use crate::{
    books::script_of,
    plan::{Script, Trouble},
    world::short_attempt,
};

/// Runs what there is to run, for as long as the process lives.
pub(super) async fn work(builds: &Arc<Builds>) {
    let mut running = FuturesUnordered::new();
    let mut waiting = Vec::new();
    loop {
        waiting.extend(std::iter::from_fn(|| builds.order()));
        waiting.retain(|id| {
            // An earlier attempt of the same build may still be cleaned up.
            let free = builds.claim(*id);
            if free {
                running.push(run(builds, *id));
            }
            !free
        });
        tokio::select! {
            biased;
            Some(()) = running.next() => {}
            () = builds.orders.notified() => {}
        }
    }
}

async fn run(builds: &Arc<Builds>, id: AttemptId) {
    if let Some((spec, stop)) = builds.assignment(id) {
        let script = builds.world.plan.scripts[script_of(spec.command.as_str())].clone();
        let deadline = Instant::now() + Duration::from_secs(script.timeout_seconds.into());
        let run = builds.world.ledger().begins(id);
        builds.world.count("attempt run by a runner");
        let mut build = Build { builds, id, run, script, stop, deadline, resolved_commit: None };
        build.live().await;
    }
    builds.unclaim(id);
}

/// A build on its way.
struct Build<'a> {
    builds: &'a Arc<Builds>,
    id: AttemptId,
    run: usize,
    script: Script,
    stop: watch::Receiver<Option<Stop>>,
    deadline: Instant,
    resolved_commit: Option<ResolvedCommit>,
}

/// Why a build did not come to its own end.
enum Cut {
    TimedOut,
    Stop(Stop),
}

impl Build<'_> {
    async fn live(&mut self) {
        self.moment().await;
        self.builds.spool_begin(self.id);
        self.moment().await;
        self.builds.say(RunnerMessage::Accepted { attempt: self.id });
        let ended = match self.steps().await {
            Ok(outcome) => Ok(outcome),
            Err(Cut::TimedOut) => {
                self.tidy_up().await;
                Ok(Outcome::TimedOut)
            }
            Err(Cut::Stop(Stop::Cancel)) => {
                self.tidy_up().await;
                // While it was stopped, somebody may have lost interest in how it ends.
                match *self.stop.borrow() {
                    Some(stop) if stop > Stop::Cancel => Err(stop),
                    _ => Ok(Outcome::Canceled),
                }
            }
            Err(Cut::Stop(stop)) => Err(stop),
        };
        match ended {
            Ok(outcome) => self.finish(outcome).await,
            Err(stop) => self.give_up(stop).await,
        }
    }

    async fn steps(&mut self) -> Result<Outcome, Cut> {
        self.say("cloning");
        self.wait(self.script.prepare_ms).await?;
        match self.script.trouble {
            Trouble::Infrastructure(times) if self.id.number <= times => {
                self.say("the server of the repository is away");
                return Ok(errored(ErrorReason::CloneFailed));
            }
            Trouble::NoSuchCommit => return Ok(errored(ErrorReason::CommitNotFound)),
            Trouble::Infrastructure(_) | Trouble::Poison(_) | Trouble::None => {}
        }
        let commit: ResolvedCommit = COMMIT.parse().unwrap_or_else(|_| panic!("{COMMIT} is a commit"));
        self.resolved_commit = Some(commit.clone());
        self.builds.say(started(self.id, &commit));
        self.builds.enter(self.id, Stage::Running(commit));
        for (number, (after_ms, bytes)) in self.script.pieces.clone().into_iter().enumerate() {
            self.wait(after_ms).await?;
            let stream = if number % 3 == 2 { Stream::Stderr } else { Stream::Stdout };
            self.write(stream, output(self.id, self.run, number, bytes));
        }
        self.wait(100).await?;
        if matches!(self.script.trouble, Trouble::Poison(times) if self.id.number <= times) {
            self.builds.world.count("runner taken down by a build");
            self.builds.world.note(format_args!("{} takes its runner down", short_attempt(self.id)));
            self.builds.life.kill();
            std::future::pending::<()>().await;
        }
        Ok(match self.script.exit_code {
            0 => Outcome::Succeeded,
            exit_code => Outcome::Failed { exit_code, note: None },
        })
    }

    /// Between any two steps the process may die.
    async fn moment(&self) {
        sleep(Duration::from_millis(self.builds.dice(0..=5))).await;
    }

    async fn wait(&mut self, ms: u64) -> Result<(), Cut> {
        tokio::select! {
            biased;
            stop = wanted(&mut self.stop) => Err(Cut::Stop(stop)),
            () = tokio::time::sleep_until(self.deadline) => Err(Cut::TimedOut),
            () = sleep(Duration::from_millis(ms)) => Ok(()),
        }
    }

    /// The command is given the time to tidy up, and says so.
    async fn tidy_up(&self) {
        sleep(Duration::from_millis(self.builds.dice(0..=2000))).await;
        self.say("stopped");
    }

    fn say(&self, line: &str) {
        self.write(
            Stream::Caisson,
            format!("{} {}: {line}\n", short_attempt(self.id), self.run).into_bytes(),
        );
    }

    fn write(&self, stream: Stream, bytes: Vec<u8>) {
        self.builds.write(self.id, self.run, stream, bytes);
    }

    async fn finish(&self, outcome: Outcome) {
        self.moment().await;
        let resolved_commit = self.resolved_commit.clone();
        let report = AttemptReport {
            outcome,
            phases: Phases::default(),
            resolved_commit,
            image_digest: None,
            log_bytes: 0,
        };
        let report = self.builds.keep_report(self.id, self.run, report);
        self.moment().await;
        self.builds.world.note(format_args!(
            "{}: {} ended {}",
            self.builds.name(),
            short_attempt(self.id),
            report.outcome.status()
        ));
        self.builds.enter(self.id, Stage::Finished(report));
        let cleanup_ms = self.builds.dice(0..=300);
        sleep(Duration::from_millis(cleanup_ms)).await;
        self.builds.say(RunnerMessage::Cleaned { attempt: self.id, cleanup_ms });
    }

    async fn give_up(&self, stop: Stop) {
        sleep(Duration::from_millis(self.builds.dice(0..=300))).await;
        self.builds.forget(self.id);
        if stop == Stop::Release {
            self.builds.say(RunnerMessage::Released { attempt: self.id });
        }
    }
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

async fn wanted(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    loop {
        let wanted = *stop.borrow_and_update();
        if let Some(wanted) = wanted {
            return wanted;
        }
        if stop.changed().await.is_err() {
            // The attempt was dropped, and its sender with it.
            return stop.borrow().unwrap_or(Stop::Drop);
        }
    }
}

fn errored(reason: ErrorReason) -> Outcome {
    Outcome::Errored { reason, message: "so it is written".into() }
}

/// What a run of an attempt writes: no two pieces are alike.
fn output(id: AttemptId, run: usize, number: usize, bytes: usize) -> Vec<u8> {
    let mut text = String::with_capacity(bytes + 64);
    for line in 0.. {
        if text.len() >= bytes {
            break;
        }
        // Writing into a String does not fail.
        let _ = writeln!(text, "{} {run} piece {number} line {line}", short_attempt(id));
    }
    text.truncate(bytes);
    text.into_bytes()
}
