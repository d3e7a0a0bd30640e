//! What a runner holds in memory, and what of it is on its disk. See `builds` and `spool` of the real runner.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use caisson_protocol::{
    AttemptId, AttemptReport, BuildId, BuildSpec, HeldAttempt, HeldPhase, LOG_CHUNK_BYTES_MAX, LogChunk,
    LogFrame, ResolvedCommit, RunnerMessage, Stream,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use crate::{dice::Dice, life::Life, world::World};

/// How much of an attempt's log may be on its way without an acknowledgement, in bytes. The real runner has more, and
/// real logs are longer.
const WINDOW_BYTES: u64 = 16 * 1024;

/// What is on a runner's disk, by attempt.
pub(super) type Spool = BTreeMap<AttemptId, Folder>;

/// The folder of one attempt.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) chunks: Vec<LogChunk>,
    pub(super) report: Option<AttemptReport>,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Preparing,
    Running(ResolvedCommit),
    Finished(AttemptReport),
}

/// Why an attempt is to be stopped. A later one outranks an earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    Cancel,
    Release,
    Drop,
}

/// An attempt that is held.
pub(super) struct Attempt {
    pub(super) stage: Stage,
    pub(super) spec: Arc<BuildSpec>,
    pub(super) stop: watch::Sender<Option<Stop>>,
    log_end: u64,
    acknowledged: u64,
    sent: u64,
    told: Option<Instant>,
}

/// What a runner holds.
pub(super) struct Builds {
    pub(super) world: Arc<World>,
    pub(super) life: Arc<Life>,
    /// The number of the process in the ledger.
    process: usize,
    name: String,
    spool: Arc<Mutex<Spool>>,
    memory: Mutex<Memory>,
    /// Told whenever there may be something to deliver or to do.
    pub(super) news: Notify,
    /// Told whenever there may be something to run.
    pub(super) orders: Notify,
}

struct Memory {
    dice: Dice,
    held: BTreeMap<AttemptId, Attempt>,
    to_run: Vec<AttemptId>,
    /// Attempts that are run or cleaned up after.
    busy: BTreeMap<BuildId, u32>,
    draining: bool,
    outbox: Option<mpsc::UnboundedSender<RunnerMessage>>,
    turn: usize,
}

impl Builds {
    /// Takes up what an earlier process left on disk: what had ended is delivered, what had not is forgotten.
    pub(super) fn new(
        world: Arc<World>,
        life: Arc<Life>,
        process: usize,
        name: String,
        spool: Arc<Mutex<Spool>>,
        dice: Dice,
    ) -> Arc<Self> {
        let memory = Memory {
            dice,
            held: BTreeMap::new(),
            to_run: Vec::new(),
            busy: BTreeMap::new(),
            draining: false,
            outbox: None,
            turn: 0,
        };
        let builds = Self {
            world,
            life,
            process,
            name,
            spool,
            memory: Mutex::new(memory),
            news: Notify::new(),
            orders: Notify::new(),
        };
        builds.restore();
        Arc::new(builds)
    }

    fn restore(&self) {
        self.spool().retain(|_, folder| folder.report.is_some());
        let left = self.spool().clone();
        for (id, folder) in left {
            let Some(report) = folder.report else { continue };
            self.world.count("end delivered by a later process");
            let attempt = Attempt::new(Stage::Finished(report.clone()), self.any_spec(), report.log_bytes);
            self.memory().held.insert(id, attempt);
        }
        self.tell_ledger();
    }

    /// What a finished attempt was made from plays no part any more.
    fn any_spec(&self) -> Arc<BuildSpec> {
        Arc::new(crate::people::spec(0, &self.world.plan.scripts[0]))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes an attempt on. One that is held already goes on as it is.
    pub(super) fn assign(&self, id: AttemptId, spec: Arc<BuildSpec>) {
        let mut memory = self.memory();
        if memory.held.contains_key(&id) {
            self.world.count("assignment came twice");
            return;
        }
        if memory.draining {
            memory.say(RunnerMessage::Released { attempt: id });
            self.world.count("assignment given back by a draining runner");
            return;
        }
        memory.held.insert(id, Attempt::new(Stage::Preparing, spec, 0));
        memory.to_run.push(id);
        drop(memory);
        self.tell_ledger();
        self.orders.notify_one();
    }

    /// What is to be run next.
    pub(super) fn order(&self) -> Option<AttemptId> {
        self.memory().to_run.pop()
    }

    /// Stops an attempt.
    pub(super) fn stop(&self, id: AttemptId, stop: Stop) {
        if let Some(attempt) = self.memory().held.get(&id) {
            attempt.stop(stop);
        }
    }

    /// Stops an attempt and says nothing more of it.
    pub(super) fn drop_attempt(&self, id: AttemptId) {
        let Some(attempt) = self.memory().held.remove(&id) else { return };
        attempt.stop(Stop::Drop);
        if matches!(attempt.stage, Stage::Finished(_)) {
            self.world.count("stale end refused");
            self.spool().remove(&id);
        } else {
            self.world.count("stale attempt dropped");
        }
        self.tell_ledger();
        self.news.notify_one();
    }

    pub(super) fn acknowledge_log(&self, id: AttemptId, offset: u64, resend: bool) {
        if resend {
            self.world.count("log resent");
        }
        if let Some(attempt) = self.memory().held.get_mut(&id) {
            attempt.acknowledge(offset, resend);
        }
        self.news.notify_one();
    }

    /// The end of an attempt is committed: nothing of it needs to be kept.
    pub(super) fn acknowledge_finished(&self, id: AttemptId) {
        let mut memory = self.memory();
        if memory.held.get(&id).is_some_and(|attempt| matches!(attempt.stage, Stage::Finished(_))) {
            memory.held.remove(&id);
            drop(memory);
            self.spool().remove(&id);
            self.tell_ledger();
            self.news.notify_one();
        }
    }

    /// Of the attempts that were listed, those that are not kept are dropped.
    pub(super) fn settle(&self, listed: &[HeldAttempt], keep: &[AttemptId]) {
        for held in listed.iter().filter(|held| !keep.contains(&held.attempt)) {
            self.drop_attempt(held.attempt);
        }
    }

    /// Takes nothing more on.
    pub(super) fn drain(&self) {
        let mut memory = self.memory();
        if !memory.draining {
            memory.draining = true;
            let held = memory.list();
            memory.say(RunnerMessage::Draining { held });
            self.world.count("runner drains");
            self.news.notify_one();
        }
    }

    /// Gives back everything that has not ended.
    pub(super) fn release_all(&self) {
        self.drain();
        self.memory().held.values().for_each(|attempt| attempt.stop(Stop::Release));
    }

    pub(super) fn is_draining(&self) -> bool {
        self.memory().draining
    }

    /// Whether nothing is run or cleaned up after.
    pub(super) fn is_idle(&self) -> bool {
        self.memory().busy.is_empty()
    }

    /// Whether a draining runner has nothing left to do or to deliver.
    pub(super) fn is_done(&self) -> bool {
        let memory = self.memory();
        memory.draining && memory.held.is_empty() && memory.busy.is_empty()
    }

    pub(super) fn held(&self) -> Vec<HeldAttempt> {
        self.memory().list()
    }

    /// Marks a build as run or cleaned up after. False while an earlier attempt of it is.
    pub(super) fn claim(&self, id: AttemptId) -> bool {
        let mut memory = self.memory();
        if memory.busy.contains_key(&id.build) {
            return false;
        }
        memory.busy.insert(id.build, id.number);
        true
    }

    pub(super) fn unclaim(&self, id: AttemptId) {
        self.memory().busy.remove(&id.build);
        self.news.notify_one();
        self.orders.notify_one();
    }

    /// What an attempt was made from, and who is told that it is to be stopped.
    pub(super) fn assignment(
        &self,
        id: AttemptId,
    ) -> Option<(Arc<BuildSpec>, watch::Receiver<Option<Stop>>)> {
        let memory = self.memory();
        memory.held.get(&id).map(|attempt| (attempt.spec.clone(), attempt.stop.subscribe()))
    }

    /// Makes an attempt's place on disk.
    pub(super) fn spool_begin(&self, id: AttemptId) {
        self.spool().insert(id, Folder { chunks: Vec::new(), report: None });
    }

    /// Adds to an attempt's log on disk, and lets it be delivered.
    pub(super) fn write(&self, id: AttemptId, run: usize, stream: Stream, bytes: Vec<u8>) {
        let time_ms = self.world.now_ms();
        self.world.ledger().run(id, run).log.extend_from_slice(&bytes);
        let mut spool = self.spool();
        let Some(folder) = spool.get_mut(&id) else { return };
        let offset = folder.end();
        folder.chunks.push(LogChunk { offset, stream, time_ms, bytes });
        let end = folder.end();
        drop(spool);
        if let Some(attempt) = self.memory().held.get_mut(&id) {
            attempt.log_end = end;
        }
        self.news.notify_one();
    }

    /// Keeps an attempt's report on disk. It is told from the next step on.
    pub(super) fn keep_report(&self, id: AttemptId, run: usize, mut report: AttemptReport) -> AttemptReport {
        let mut spool = self.spool();
        if let Some(folder) = spool.get_mut(&id) {
            report.log_bytes = folder.end();
            folder.report = Some(report.clone());
        }
        self.world.ledger().run(id, run).report = Some(report.clone());
        report
    }

    pub(super) fn enter(&self, id: AttemptId, stage: Stage) {
        if let Some(attempt) = self.memory().held.get_mut(&id) {
            if let Stage::Finished(report) = &stage {
                attempt.log_end = report.log_bytes;
            }
            attempt.stage = stage;
        }
        self.news.notify_one();
    }

    /// Removes an attempt that ended without a report.
    pub(super) fn forget(&self, id: AttemptId) {
        self.spool().remove(&id);
        self.memory().held.remove(&id);
        self.tell_ledger();
        self.news.notify_one();
    }

    /// Begins a connection, and says again what an earlier one may not have carried.
    pub(super) fn open_outbox(&self) -> mpsc::UnboundedReceiver<RunnerMessage> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut memory = self.memory();
        if memory.draining {
            let _ = sender.send(RunnerMessage::Draining { held: memory.list() });
        }
        for (id, attempt) in &mut memory.held {
            attempt.begin_delivery();
            if let Stage::Running(commit) = &attempt.stage {
                let _ = sender.send(started(*id, commit));
            }
        }
        memory.outbox = Some(sender);
        receiver
    }

    pub(super) fn close_outbox(&self) {
        self.memory().outbox = None;
    }

    pub(super) fn is_connected(&self) -> bool {
        self.memory().outbox.is_some()
    }

    /// Says something over the connection there is, or not at all.
    pub(super) fn say(&self, message: RunnerMessage) {
        self.memory().say(message);
    }

    /// What is to be delivered next: the end of an attempt, or a piece of a log, each attempt in its turn.
    pub(super) fn delivery(&self, repeat_every: Duration) -> Option<Delivery> {
        let mut memory = self.memory();
        let ids: Vec<AttemptId> = memory.held.keys().copied().collect();
        memory.turn += 1;
        for at in 0..ids.len() {
            let id = ids[(memory.turn + at) % ids.len()];
            let Some(attempt) = memory.held.get_mut(&id) else { continue };
            if let Some(report) = attempt.report_to_tell(repeat_every) {
                return Some(Delivery::Message(RunnerMessage::Finished { attempt: id, report }));
            }
            if let Some((from, bytes)) = attempt.next_piece()
                && let Some(chunk) = self.spool().get(&id).and_then(|folder| folder.read(from, bytes))
            {
                attempt.sent = chunk.offset + chunk.bytes.len() as u64;
                return Some(Delivery::Log(LogFrame { attempt: id, chunk }));
            }
        }
        None
    }

    /// A number of the range.
    pub(super) fn dice(&self, range: std::ops::RangeInclusive<u64>) -> u64 {
        self.memory().dice.within(range)
    }

    fn tell_ledger(&self) {
        let held: Vec<AttemptId> = self.memory().held.keys().copied().collect();
        self.world.ledger().holds(self.process, held);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something to deliver from disk.
pub(super) enum Delivery {
    Message(RunnerMessage),
    Log(LogFrame),
}

pub(super) fn started(attempt: AttemptId, commit: &ResolvedCommit) -> RunnerMessage {
    RunnerMessage::Started { attempt, resolved_commit: commit.clone(), image_digest: None }
}

impl Memory {
    fn list(&self) -> Vec<HeldAttempt> {
        let held = self.held.iter();
        held.map(|(id, attempt)| HeldAttempt { attempt: *id, phase: attempt.phase() }).collect()
    }

    fn say(&mut self, message: RunnerMessage) {
        if let Some(outbox) = &self.outbox {
            let _ = outbox.send(message);
        }
    }
}

impl Folder {
    fn end(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.offset + chunk.bytes.len() as u64)
    }

    /// A piece of the log from an offset on, of one stream.
    fn read(&self, from: u64, bytes: u64) -> Option<LogChunk> {
        let chunk = self.chunks.iter().find(|chunk| chunk.offset + chunk.bytes.len() as u64 > from)?;
        let skipped = usize::try_from(from - chunk.offset).ok()?;
        let most = usize::try_from(bytes).unwrap_or(usize::MAX).min(LOG_CHUNK_BYTES_MAX);
        let bytes: Vec<u8> = chunk.bytes[skipped..].iter().copied().take(most).collect();
        Some(LogChunk { offset: from, stream: chunk.stream, time_ms: chunk.time_ms, bytes })
    }
}

impl Attempt {
    fn new(stage: Stage, spec: Arc<BuildSpec>, log_end: u64) -> Self {
        let stop = watch::Sender::new(None);
        Self { stage, spec, stop, log_end, acknowledged: 0, sent: 0, told: None }
    }

    fn phase(&self) -> HeldPhase {
        match self.stage {
            Stage::Preparing => HeldPhase::Preparing,
            Stage::Running(_) => HeldPhase::Running,
            Stage::Finished(_) => HeldPhase::Finished,
        }
    }

    fn stop(&self, stop: Stop) {
        self.stop.send_if_modified(|wanted| {
            let outranks = wanted.is_none_or(|wanted| wanted < stop);
            if outranks {
                *wanted = Some(stop);
            }
            outranks
        });
    }

    /// On a new connection everything that was not acknowledged is sent again.
    fn begin_delivery(&mut self) {
        self.sent = self.acknowledged;
        self.told = None;
    }

    fn next_piece(&self) -> Option<(u64, u64)> {
        let end = self.log_end.min(self.acknowledged + WINDOW_BYTES);
        (self.sent < end).then(|| (self.sent, end - self.sent))
    }

    fn acknowledge(&mut self, offset: u64, resend: bool) {
        let offset = offset.min(self.log_end);
        if resend {
            (self.acknowledged, self.sent) = (offset, offset);
        } else {
            self.acknowledged = self.acknowledged.max(offset);
            self.sent = self.sent.max(offset);
        }
    }

    /// The report, where it is time to tell it: all of the log has been acknowledged, and it was not told lately.
    fn report_to_tell(&mut self, repeat_every: Duration) -> Option<AttemptReport> {
        let Stage::Finished(report) = &self.stage else { return None };
        let due = self.told.is_none_or(|told| told.elapsed() >= repeat_every);
        let report = (due && self.acknowledged >= report.log_bytes).then(|| report.clone())?;
        self.told = Some(Instant::now());
        Some(report)
    }
}
