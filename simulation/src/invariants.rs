//! What must hold, by the numbers of `DESIGN.md`, section 3.4. Each rule is a function with a name.

use caisson_protocol::{AttemptId, AttemptReport, BuildId, Outcome, Status};
use caisson_scheduler::{AttemptEnd, Change, LiveBuild, Restored};

use crate::{
    books::{Books, Standing, build_of},
    ledger::Ledger,
    plan::Script,
    world::{World, short, short_attempt},
};

/// Whether a rule holds, or where it breaks.
pub type Held = Result<(), String>;

/// Checks what is about to be written into the books, change by change, and writes it.
pub fn commit(world: &World, changes: &[Change]) {
    let mut books = world.books();
    let ledger = world.ledger();
    // Where messages are lost on the way, nobody can tell a runner that is well.
    let now_ms = if world.plan.mischief_percent == 0 { world.now_ms() } else { 0 };
    for change in changes {
        for (rule, holds) in before(&books, &ledger, &world.plan.scripts, change, now_ms) {
            world.hold(rule, holds);
        }
        books.apply(change);
    }
    world.hold("I1: every build is in one place", i1_every_build_is_in_one_place(&books));
}

/// The rules for one change, as long as it is not written down.
fn before(
    books: &Books,
    ledger: &Ledger,
    scripts: &[Script],
    change: &Change,
    now_ms: u64,
) -> [(&'static str, Held); 9] {
    [
        ("I2: a terminal state is final", i2_a_terminal_state_is_final(books, change)),
        ("I3: only the current attempt changes a build", i3_only_the_current_attempt_counts(books, change)),
        ("I3: an end has a cause", i3_an_end_has_a_cause(books, scripts, change)),
        ("I3: a report is what the runner said", i3_a_report_is_what_the_runner_said(ledger, change)),
        ("I4: one current attempt, within the capacity", i4_one_attempt_within_capacity(books, change)),
        ("I5: the queue is bounded", i5_the_queue_is_bounded(books, change)),
        ("I6: dispatch in order of submission", i6_dispatch_in_order(books, change)),
        ("rule 4: no healthy runner is removed", rule_4_no_healthy_runner_is_removed(ledger, change, now_ms)),
        ("rule 5: attempts are capped", rule_5_attempts_are_capped(books, change)),
    ]
}

fn i1_every_build_is_in_one_place(books: &Books) -> Held {
    let between = books.builds.iter().find(|(_, entry)| matches!(entry.standing, Standing::Between { .. }));
    match between {
        Some((id, _)) => Err(format!("the attempt of {} ended, and nothing follows", short(*id))),
        None => Ok(()),
    }
}

fn i2_a_terminal_state_is_final(books: &Books, change: &Change) -> Held {
    let entry = build_of(change).and_then(|build| Some((build, books.get(build)?)));
    match entry {
        Some((id, entry)) if matches!(entry.standing, Standing::Ended(_)) => {
            Err(format!("{} had ended: {change:?}", short(id)))
        }
        _ => Ok(()),
    }
}

fn i3_only_the_current_attempt_counts(books: &Books, change: &Change) -> Held {
    match change {
        Change::Started { attempt, .. } | Change::AttemptEnded { attempt, .. }
            if !books.is_current(*attempt) =>
        {
            Err(format!("{} is not current: {change:?}", short_attempt(*attempt)))
        }
        _ => Ok(()),
    }
}

/// A build ends by its attempt's report, by a person's wish, or because too many attempts were lost. What is on its
/// way to canceled ends canceled.
fn i3_an_end_has_a_cause(books: &Books, scripts: &[Script], change: &Change) -> Held {
    let (id, entry) = match change {
        Change::Requeued { build } | Change::Ended { build, .. } => match books.get(*build) {
            Some(entry) => (*build, entry),
            None => return Err(format!("{} is not there", short(*build))),
        },
        _ => return Ok(()),
    };
    let latest = entry.ends.get(&entry.attempts);
    let wrong =
        || Err(format!("{} was {:?}, its attempt ended {latest:?}: {change:?}", short(id), entry.standing));
    let Change::Ended { outcome, .. } = change else {
        let again = matches!(entry.standing, Standing::Between { canceling: false, .. });
        return if again { Ok(()) } else { wrong() };
    };
    let has_cause = match (&entry.standing, latest) {
        (Standing::Queued | Standing::Between { canceling: true, .. }, _) => *outcome == Outcome::Canceled,
        (Standing::Between { canceling: false, .. }, Some(AttemptEnd::Reported(report))) => {
            *outcome == report.outcome
        }
        (Standing::Between { canceling: false, .. }, Some(AttemptEnd::RunnerLost)) => {
            outcome.status() == Status::Errored
        }
        _ => false,
    };
    let meant = scripts.get(entry.script).map(|script| script.exit_code);
    let code_is_right = outcome.exit_code().is_none_or(|code| Some(code) == meant);
    if has_cause && code_is_right { Ok(()) } else { wrong() }
}

fn i3_a_report_is_what_the_runner_said(ledger: &Ledger, change: &Change) -> Held {
    let Change::AttemptEnded { attempt, end: AttemptEnd::Reported(report), .. } = change else {
        return Ok(());
    };
    let said = ledger.runs(*attempt).iter().any(|run| run.report.as_ref() == Some(report));
    if said { Ok(()) } else { Err(format!("{}: nobody said {report:?}", short_attempt(*attempt))) }
}

fn i4_one_attempt_within_capacity(books: &Books, change: &Change) -> Held {
    let Change::Assigned { attempt, runner } = change else { return Ok(()) };
    let Some(entry) = books.get(attempt.build) else {
        return Err(format!("{} is not there", short_attempt(*attempt)));
    };
    if entry.standing != Standing::Queued || attempt.number != entry.attempts + 1 {
        return Err(format!("{} beside {entry:?}", short_attempt(*attempt)));
    }
    let has = books.of_runner(runner.id).count();
    if has < books.capacity(runner.id) {
        Ok(())
    } else {
        Err(format!("{} has {has}, and is given {}", runner.name, short_attempt(*attempt)))
    }
}

/// A submission is refused when the queue is full. Only builds that come back may make it longer.
fn i5_the_queue_is_bounded(books: &Books, change: &Change) -> Held {
    let waiting = books.waiting().count();
    match change {
        Change::Submitted { .. } if waiting >= books.queue_capacity => {
            Err(format!("{waiting} wait, and another is accepted"))
        }
        _ => Ok(()),
    }
}

fn i6_dispatch_in_order(books: &Books, change: &Change) -> Held {
    let Change::Assigned { attempt, runner } = change else { return Ok(()) };
    let number = books.get(attempt.build).map_or(0, |entry| entry.number);
    let passed_over = books.waiting().find(|entry| entry.number < number && books.suits(entry, runner.id));
    match passed_over {
        Some(older) => Err(format!("build {number} was given out before build {}", older.number)),
        None => Ok(()),
    }
}

fn rule_4_no_healthy_runner_is_removed(ledger: &Ledger, change: &Change, now_ms: u64) -> Held {
    let Change::AttemptEnded { attempt, end, .. } = change else { return Ok(()) };
    let taken = matches!(end, AttemptEnd::RunnerLost | AttemptEnd::NeverReceived);
    if taken && ledger.is_in_good_hands(*attempt, now_ms) {
        return Err(format!("{} was taken from a runner that is well: {end:?}", short_attempt(*attempt)));
    }
    Ok(())
}

fn rule_5_attempts_are_capped(books: &Books, change: &Change) -> Held {
    match change {
        Change::Assigned { attempt, .. } => match books.get(attempt.build) {
            Some(entry) if entry.charged >= books.max_attempts => {
                Err(format!("{} is one too many", short_attempt(*attempt)))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// I7: what a restart finds is what was committed.
pub fn i7_what_was_committed_survives(books: &Books, restored: &Restored) -> Held {
    let expected =
        books.builds.values().filter(|entry| !matches!(entry.standing, Standing::Ended(_))).count();
    if restored.builds.len() != expected {
        return Err(format!("{} live builds were found, and {expected} committed", restored.builds.len()));
    }
    let latest = books.builds.values().map(|entry| entry.number).max().unwrap_or(0);
    if restored.latest_number != latest {
        return Err(format!("the latest number is {}, and {latest} was committed", restored.latest_number));
    }
    restored.builds.iter().try_for_each(|live| is_as_committed(books, live))
}

fn is_as_committed(books: &Books, live: &LiveBuild) -> Held {
    let wrong = || Err(format!("{} was found as {live:?}, and is {:?}", short(live.id), books.get(live.id)));
    let Some(entry) = books.get(live.id) else { return wrong() };
    let status = match entry.standing {
        Standing::Queued => Status::Queued,
        Standing::Assigned(_) => Status::Assigned,
        Standing::Running(_) => Status::Running,
        Standing::Canceling(_) => Status::Canceling,
        Standing::Between { .. } | Standing::Ended(_) => return wrong(),
    };
    let same = live.status == status
        && live.number == entry.number
        && live.attempts_made == entry.attempts
        && live.attempts_charged == entry.charged
        && live.failed_on == entry.failed_on
        && live.runner.as_ref().map(|runner| runner.id) == entry.standing.runner();
    if same { Ok(()) } else { wrong() }
}

/// I7: an attempt that a runner is told of is committed.
pub fn i7_an_assignment_is_committed(books: &Books, attempt: AttemptId) -> Held {
    let made = books.get(attempt.build).is_some_and(|entry| entry.attempts >= attempt.number);
    if made { Ok(()) } else { Err(format!("{} is not there", short_attempt(attempt))) }
}

/// I7: an end that a runner is told to forget is committed.
pub fn i7_an_acknowledged_end_is_committed(books: &Books, attempt: AttemptId) -> Held {
    let end = books.get(attempt.build).and_then(|entry| entry.ends.get(&attempt.number));
    match end {
        Some(AttemptEnd::Reported(_)) => Ok(()),
        other => Err(format!("{} ended {other:?}", short_attempt(attempt))),
    }
}

/// I7: an attempt that a runner is told to drop is not current.
pub fn i7_a_dropped_attempt_is_stale(books: &Books, attempt: AttemptId) -> Held {
    if books.is_current(attempt) { Err(format!("{} is current", short_attempt(attempt))) } else { Ok(()) }
}

/// I7: a build that a runner is told to stop is being canceled, or has ended.
pub fn i7_a_canceled_build_is_committed(books: &Books, build: BuildId) -> Held {
    match books.get(build).map(|entry| &entry.standing) {
        Some(Standing::Canceling(_) | Standing::Ended(_)) => Ok(()),
        other => Err(format!("{} is {other:?}", short(build))),
    }
}

/// I8: before an attempt's end is committed all of its log is there.
pub fn i8_the_log_is_whole(ledger: &Ledger, attempt: AttemptId, report: &AttemptReport, log: &[u8]) -> Held {
    let runs = ledger.runs(attempt);
    let written = runs.iter().find(|run| run.report.as_ref() == Some(report) && run.log == log);
    match written {
        Some(_) => Ok(()),
        None => Err(format!(
            "{}: {} bytes are there, {} were announced, written were {:?}",
            short_attempt(attempt),
            log.len(),
            report.log_bytes,
            runs.iter().map(|run| run.log.len()).collect::<Vec<_>>()
        )),
    }
}

/// I8: what stands in a log from an offset on is what its attempt wrote there: without a gap, in order, nothing twice.
pub fn i8_a_log_is_what_its_attempt_wrote(
    ledger: &Ledger,
    attempt: AttemptId,
    offset: u64,
    log: &[u8],
) -> Held {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let runs = ledger.runs(attempt).iter().map(|run| run.log.get(offset..).unwrap_or_default());
    if log.is_empty() || runs.clone().any(|written| written.starts_with(log)) {
        return Ok(());
    }
    let same = runs.map(|written| written.iter().zip(log).take_while(|(a, b)| a == b).count()).max();
    Err(format!(
        "{}: of the {} bytes at {offset} only the first {} are what was written",
        short_attempt(attempt),
        log.len(),
        same.unwrap_or(0)
    ))
}
