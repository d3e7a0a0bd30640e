//! The coordinator's disk: the real adapters, behind a wrapper that fails as disks do, and that kills the coordinator
//! between any two steps. What is on it survives the coordinator.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use caisson_coordinator::{
    blocking::Blocking,
    logs::{FileLogs, LogError, Logs},
    store::{BuildFilter, BuildKey, BuildRecord, MemoryStore, Millis, Store, StoreError},
};
use caisson_logfile::Span;
use caisson_protocol::{AttemptId, LogChunk};
use caisson_scheduler::{AttemptEnd, Change, Restored};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    dice::Dice,
    invariants,
    life::Life,
    plan::CommitFault,
    world::{World, short_attempt},
};

/// The most that is read of a log.
const LOG_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What survives a coordinator.
pub struct Disk {
    world: Arc<World>,
    store: Box<dyn Store>,
    logs: FileLogs,
    folder: PathBuf,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    down_until: Instant,
    stalled_until: Instant,
    logs_down_until: Instant,
    commit_fault: Option<CommitFault>,
    power_fails_at_seal: bool,
    /// Logs that were written to and not made durable since.
    volatile: BTreeSet<AttemptId>,
}

impl Disk {
    /// An empty disk, whose logs are under `folder`.
    ///
    /// # Errors
    /// When there can't be logs there.
    pub fn new(world: Arc<World>, folder: &Path) -> io::Result<Arc<Self>> {
        let now = Instant::now();
        let state = State {
            dice: world.dice.of("disk"),
            down_until: now,
            stalled_until: now,
            logs_down_until: now,
            commit_fault: None,
            power_fails_at_seal: false,
            volatile: BTreeSet::new(),
        };
        let logs = FileLogs::open(folder, Blocking::InPlace)?;
        let store = Box::new(MemoryStore::default());
        Ok(Arc::new(Self { world, store, logs, folder: folder.to_owned(), state: Mutex::new(state) }))
    }

    /// The store takes nothing for a while.
    pub fn down(&self, pause: Duration) {
        self.state().down_until = Instant::now() + pause;
    }

    /// Nothing comes back from the store for a while.
    pub fn stall(&self, pause: Duration) {
        self.state().stalled_until = Instant::now() + pause;
    }

    /// The logs can't be written for a while.
    pub fn logs_down(&self, pause: Duration) {
        self.state().logs_down_until = Instant::now() + pause;
    }

    /// Something happens around the next commit.
    pub fn fail_commit(&self, fault: CommitFault) {
        self.state().commit_fault = Some(fault);
    }

    /// The power is lost when the next log is to be made durable.
    pub fn lose_power_before_seal(&self) {
        self.state().power_fails_at_seal = true;
    }

    /// Of the logs that were not made durable only a part is left. The store makes durable what it commits.
    pub fn lose_power(&self) {
        let volatile = std::mem::take(&mut self.state().volatile);
        for attempt in volatile {
            let [.., last] = *attempt.build.0.as_bytes();
            let base = self.folder.join(format!("{last:02x}")).join(attempt.to_string());
            // Which of the two files is further on the disk is up to the disk.
            for ending in ["log", "idx"] {
                if self.lose_end_of(&PathBuf::from(format!("{}.{ending}", base.display()))).is_some() {
                    self.world.count("log lost with the power");
                }
            }
        }
    }

    fn lose_end_of(&self, path: &Path) -> Option<()> {
        let file = File::options().write(true).open(path).ok()?;
        let bytes = file.metadata().ok()?.len();
        // All of it or nothing is as likely as a part.
        let left = {
            let dice = &mut self.state().dice;
            let part = dice.within(0..=bytes);
            dice.pick(&[0, part, bytes])
        };
        self.world.note(format_args!("{left} of {bytes} bytes are left"));
        file.set_len(left).ok()
    }

    /// The faults are over.
    pub fn heal(&self) {
        let now = Instant::now();
        let mut state = self.state();
        (state.down_until, state.stalled_until, state.logs_down_until) = (now, now, now);
        state.commit_fault = None;
        state.power_fails_at_seal = false;
    }

    /// A build, as it is stored.
    pub fn build(&self, key: BuildKey) -> Option<BuildRecord> {
        self.store.build(key).now_or_never()?.ok()?
    }

    /// All that was stored, as a start would find it.
    pub fn restored(&self) -> Restored {
        self.store.restore().now_or_never().and_then(Result::ok).unwrap_or_default()
    }

    /// The whole log of an attempt.
    pub fn log(&self, attempt: AttemptId) -> Vec<u8> {
        self.log_from(attempt, 0)
    }

    fn log_from(&self, attempt: AttemptId, offset: u64) -> Vec<u8> {
        let chunks = self.logs.read(attempt, offset, LOG_BYTES_MAX).now_or_never().and_then(Result::ok);
        chunks.unwrap_or_default().into_iter().map(|chunk| chunk.bytes).collect::<Vec<_>>().concat()
    }

    async fn wait(&self) -> Result<(), StoreError> {
        let (stalled_until, pause_ms) = {
            let mut state = self.state();
            (state.stalled_until, state.dice.within(0..=self.world.plan.commit_ms))
        };
        sleep_until(stalled_until).await;
        sleep(Duration::from_millis(pause_ms)).await;
        if self.state().down_until > Instant::now() {
            self.world.count("store refuses");
            return Err(StoreError::Unavailable("the disk is full".into()));
        }
        Ok(())
    }

    async fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let at = Millis::try_from(self.world.now_ms()).unwrap_or(0);
        let written = self.store.commit(changes, at).await;
        if let Err(error) = &written {
            self.world.hold("the store can hold what is committed", Err(error.to_string()));
        }
        self.world.note(format_args!("commit {}", Shown(changes)));
        for change in changes {
            self.world.count(counted(change));
            if let Change::AttemptEnded { attempt, end: AttemptEnd::Reported(report), .. } = change {
                let log = self.log(*attempt);
                let whole = invariants::i8_the_log_is_whole(&self.world.ledger(), *attempt, report, &log);
                self.world.hold("I8: all of the log is there before the end is", whole);
            }
        }
        invariants::commit(&self.world, changes);
        written
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk, as one life of the coordinator sees it.
pub struct Mounted {
    disk: Arc<Disk>,
    life: Arc<Life>,
    /// The logs of attempts as far as they were checked.
    checked: Mutex<BTreeMap<AttemptId, u64>>,
    logs: FileLogs,
}

impl Mounted {
    /// The disk for a coordinator that begins.
    ///
    /// # Errors
    /// When the logs can't be opened.
    pub fn new(disk: &Arc<Disk>, life: &Arc<Life>, folder: &Path) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            disk: Arc::clone(disk),
            life: Arc::clone(life),
            checked: Mutex::default(),
            logs: FileLogs::open(folder, Blocking::InPlace)?,
        }))
    }

    /// Ends the coordinator. Nobody hears of anything after.
    async fn die<T>(&self) -> T {
        self.life.kill();
        std::future::pending().await
    }

    fn logs_work(&self) -> Result<(), LogError> {
        if self.life.is_dead() || self.disk.state().logs_down_until > Instant::now() {
            self.disk.world.count("log refused");
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        Ok(())
    }

    /// Compares what a log is with what its attempt wrote.
    fn check_log(&self, attempt: AttemptId, end: u64) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = checked.insert(attempt, end).unwrap_or(0);
        if before != end {
            let new = self.disk.log_from(attempt, before);
            let ledger = self.disk.world.ledger();
            let holds = invariants::i8_a_log_is_what_its_attempt_wrote(&ledger, attempt, before, &new);
            self.disk.world.hold("I8: a log is what its attempt wrote", holds);
        }
    }
}

#[async_trait]
impl Store for Mounted {
    async fn restore(&self) -> Result<Restored, StoreError> {
        self.disk.wait().await?;
        let restored = self.disk.store.restore().await?;
        let holds = invariants::i7_what_was_committed_survives(&self.disk.world.books(), &restored);
        self.disk.world.hold("I7: what was committed survives", holds);
        Ok(restored)
    }

    async fn commit(&self, changes: &[Change], _: Millis) -> Result<(), StoreError> {
        self.disk.wait().await?;
        let fault = self.disk.state().commit_fault.take();
        if let Some(fault) = fault {
            self.disk.world.note(format_args!("the commit meets {fault:?}"));
        }
        match fault {
            None => self.disk.write(changes).await,
            Some(CommitFault::Refused) => {
                self.disk.world.count("commit refused once");
                Err(StoreError::Unavailable("the disk was full".into()))
            }
            Some(CommitFault::DeathBefore) => {
                self.disk.world.count("coordinator dies before a commit");
                self.die().await
            }
            Some(CommitFault::DeathAfter) => {
                self.disk.write(changes).await?;
                self.disk.world.count("coordinator dies between commit and effects");
                self.die().await
            }
            Some(CommitFault::BrokenBefore) => {
                self.disk.world.count("disk fails before a commit");
                Err(StoreError::Broken("the disk failed".into()))
            }
            Some(CommitFault::BrokenAfter) => {
                self.disk.write(changes).await?;
                self.disk.world.count("disk fails after a commit");
                Err(StoreError::Broken("the disk failed".into()))
            }
        }
    }

    async fn build(&self, which: BuildKey) -> Result<Option<BuildRecord>, StoreError> {
        self.disk.store.build(which).await
    }

    async fn builds(&self, filter: &BuildFilter) -> Result<Vec<BuildRecord>, StoreError> {
        self.disk.store.builds(filter).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.disk.wait().await
    }
}

#[async_trait]
impl Logs for Mounted {
    async fn append(&self, attempt: AttemptId, chunk: LogChunk) -> Result<u64, LogError> {
        self.logs_work()?;
        let before = self.logs.end(attempt).await.unwrap_or(0);
        let appended = self.logs.append(attempt, chunk).await;
        match &appended {
            // What was there already may be durable.
            Ok(end) if *end == before => {}
            Ok(end) => {
                self.disk.state().volatile.insert(attempt);
                self.check_log(attempt, *end);
            }
            Err(LogError::Gap { .. }) => self.disk.world.count("gap in a log found"),
            Err(error) => self.disk.world.hold("logs can be written", Err(error.to_string())),
        }
        appended
    }

    async fn end(&self, attempt: AttemptId) -> Result<u64, LogError> {
        self.logs_work()?;
        self.logs.end(attempt).await
    }

    async fn seal(&self, attempt: AttemptId) -> Result<(), LogError> {
        self.logs_work()?;
        if std::mem::take(&mut self.disk.state().power_fails_at_seal) {
            self.disk.world.count("power lost before a log is durable");
            self.disk.lose_power();
            return self.die().await;
        }
        self.logs.seal(attempt).await?;
        self.disk.state().volatile.remove(&attempt);
        Ok(())
    }

    async fn read(
        &self,
        attempt: AttemptId,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogChunk>, LogError> {
        self.logs.read(attempt, offset, bytes_max).await
    }

    async fn spans(&self, attempt: AttemptId) -> Result<Vec<Span>, LogError> {
        self.logs.spans(attempt).await
    }
}

/// Changes, in short.
struct Shown<'a>(&'a [Change]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::world::short;
        for change in self.0 {
            match change {
                Change::Submitted { submission, number } => {
                    write!(f, "[{} #{number} {}]", short(submission.id), submission.spec.command.as_str())?;
                }
                Change::Assigned { attempt, runner } => {
                    write!(f, "[{} to {}]", short_attempt(*attempt), runner.name)?;
                }
                Change::Started { attempt, .. } => write!(f, "[{} runs]", short_attempt(*attempt))?,
                Change::Canceling { build } => write!(f, "[{} canceling]", short(*build))?,
                Change::AttemptEnded { attempt, end, charged } => {
                    let end = match end {
                        AttemptEnd::Reported(report) => report.outcome.status().as_str(),
                        AttemptEnd::RunnerLost => "runner lost",
                        AttemptEnd::GivenBack => "given back",
                        AttemptEnd::NeverReceived => "never received",
                    };
                    let charged = if *charged { ", charged" } else { "" };
                    write!(f, "[{} {end}{charged}]", short_attempt(*attempt))?;
                }
                Change::Requeued { build } => write!(f, "[{} waits again]", short(*build))?,
                Change::Ended { build, outcome } => write!(f, "[{} {}]", short(*build), outcome.status())?,
                Change::Cleaned { attempt, .. } => write!(f, "[{} cleaned]", short_attempt(*attempt))?,
            }
        }
        Ok(())
    }
}

fn counted(change: &Change) -> &'static str {
    match change {
        Change::Submitted { .. } => "build accepted",
        Change::Assigned { .. } => "attempt made",
        Change::Started { .. } => "attempt runs",
        Change::Canceling { .. } => "cancel of a build on a runner",
        Change::AttemptEnded { end, charged, .. } => match (end, charged) {
            (AttemptEnd::Reported(_), false) => "attempt reported",
            (AttemptEnd::Reported(_), true) => "infrastructure failure",
            (AttemptEnd::RunnerLost, _) => "runner lost",
            (AttemptEnd::GivenBack, _) => "attempt given back",
            (AttemptEnd::NeverReceived, _) => "attempt never received",
        },
        Change::Requeued { .. } => "requeue",
        Change::Ended { outcome, .. } => match outcome {
            caisson_protocol::Outcome::Succeeded => "succeeded",
            caisson_protocol::Outcome::Failed { .. } => "failed",
            caisson_protocol::Outcome::TimedOut => "timed out",
            caisson_protocol::Outcome::Canceled => "canceled",
            caisson_protocol::Outcome::Errored { reason, .. } => match reason {
                caisson_protocol::ErrorReason::RunnerLost => "cap reached by lost runners",
                caisson_protocol::ErrorReason::CommitNotFound => "errored for good",
                _ => "cap reached by failures",
            },
        },
        Change::Cleaned { .. } => "cleaned",
    }
}
