//! The one task that owns the scheduler: *commit, then act*.
//!
//! It takes what has come in from HTTP and the channel, lets the scheduler decide on all of it, commits the changes in
//! one transaction, and only then lets the effects out. While a commit is on its way, the next batch gathers by
//! itself. When a commit fails nothing of its batch took place: callers get an error, and the scheduler goes back to
//! what is stored.

mod handle;
mod sessions;

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use caisson_protocol::BuildId;
use caisson_scheduler::{
    Answer, Change, Effect, Event, Moment, RequestId, Restored, Rules, RunnerEvent, Scheduler, SessionId,
    Step,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    clock,
    metrics::Metrics,
    store::{Store, StoreError},
};
use sessions::Sessions;

pub use handle::{DispatcherHandle, Unavailable};
pub use sessions::{Said, SessionLine};

/// How many inputs one transaction takes at most.
const BATCH_MAX: usize = 1024;
/// How many inputs may wait for the dispatcher before those who bring them have to.
const INPUTS_MAX: usize = 4096;
/// How often a store that failed is asked whether it works again.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// Somebody who waits for an answer.
type Reply = oneshot::Sender<Result<Answer, Unavailable>>;
/// Somebody who wants to see the live state.
type Look = Box<dyn FnOnce(&Scheduler) + Send>;

/// What comes in.
enum Input {
    /// Something that somebody waits to be answered.
    Ask { event: Box<dyn FnOnce(RequestId) -> Event + Send>, reply: Reply },
    /// Something a runner said.
    Runner(SessionId, RunnerEvent),
    /// A runner's connection, before anything is said on it.
    Connect(SessionId, SessionLine),
    /// Somebody wants to see the live state.
    Look(Look),
}

/// Word of what changed, after it was committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// The builds that changed.
    pub builds: Vec<BuildId>,
    /// Whether runners may have changed.
    pub runners: bool,
}

/// Owns the scheduler.
pub struct Dispatcher {
    scheduler: Scheduler,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    inputs: mpsc::Receiver<Input>,
    /// What connections said while the store was unavailable that is decided on when it works again.
    put_off: Vec<(SessionId, RunnerEvent)>,
    sessions: Sessions,
    news: mpsc::UnboundedSender<News>,
    healthy: watch::Sender<bool>,
    began: Instant,
    /// When this task last went on.
    alive: Instant,
    /// Until when what comes in may have lain unread during an absence.
    behind_until: Instant,
    requests: u64,
}

/// A batch that the scheduler has decided on, before it is committed.
#[derive(Default)]
struct Batch {
    step: Step,
    replies: BTreeMap<RequestId, Reply>,
    looks: Vec<Look>,
    /// Connections whose registration is part of the batch.
    registering: Vec<SessionId>,
    /// What runners said in it that they will not repeat.
    said_once: Vec<(SessionId, RunnerEvent)>,
    runners_changed: bool,
}

impl Dispatcher {
    /// A dispatcher that goes on with what is in the store, and the handle to it. `news` hears of every commit.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn start(
        rules: Rules,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        news: mpsc::UnboundedSender<News>,
    ) -> Result<(Self, DispatcherHandle), StoreError> {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let (healthy, health) = watch::channel(true);
        let restored = store.restore().await?;
        if !restored.builds.is_empty() {
            info!("{} builds wait or run from before", restored.builds.len());
        }
        let scheduler = Scheduler::restore(rules, Moment(0), restored);
        let sessions = Sessions::default();
        let began = Instant::now();
        let dispatcher = Self {
            scheduler,
            store,
            metrics,
            inputs,
            put_off: Vec::new(),
            sessions,
            news,
            healthy,
            began,
            alive: began,
            behind_until: began,
            requests: 0,
        };
        Ok((dispatcher, DispatcherHandle::new(sender, health, began)))
    }

    /// Works until every handle is gone.
    ///
    /// # Errors
    /// When the store is broken: what it holds is unknown then, and only a new start tells.
    pub async fn run(mut self) -> Result<(), StoreError> {
        while let Some(inputs) = self.gather().await {
            let batch = self.decide(inputs);
            match self.commit(&batch.step.changes).await {
                Ok(()) => self.release(batch),
                Err(StoreError::Unavailable(cause)) => self.outage(batch, &cause).await?,
                Err(broken) => return Err(broken),
            }
        }
        Ok(())
    }

    /// Waits for something to come in, a deadline to pass or a pulse, and takes all that is there. `None` when nothing
    /// can come any more.
    async fn gather(&mut self) -> Option<Vec<Input>> {
        let put_off = std::mem::take(&mut self.put_off).into_iter();
        let mut inputs: Vec<Input> = put_off.map(|(session, event)| Input::Runner(session, event)).collect();
        if !inputs.is_empty() {
            return Some(inputs);
        }
        let pulse = self.alive + self.absence_max() / 2;
        let deadline = self.scheduler.next_deadline();
        let wake_at = deadline.map(|deadline| pulse.min(self.began + Duration::from_millis(deadline.0)));
        let wake = async {
            match wake_at {
                Some(wake_at) => sleep_until(wake_at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            taken = self.inputs.recv_many(&mut inputs, BATCH_MAX) => (taken > 0).then_some(inputs),
            () = wake => Some(inputs),
        }
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn decide(&mut self, inputs: Vec<Input>) -> Batch {
        let mut batch = Batch::default();
        if self.was_away() {
            self.apply(Event::Resumed, &mut batch);
        }
        for input in inputs {
            match input {
                Input::Ask { event, reply } => {
                    self.requests += 1;
                    let request = RequestId(self.requests);
                    batch.replies.insert(request, reply);
                    batch.runners_changed = true;
                    self.apply(event(request), &mut batch);
                }
                Input::Runner(session, event) => {
                    let event = self.unless_outdated(event);
                    if matches!(event, RunnerEvent::Register { .. }) {
                        batch.registering.push(session);
                    }
                    if is_said_once(&event) {
                        batch.said_once.push((session, event.clone()));
                    }
                    batch.runners_changed |=
                        !matches!(event, RunnerEvent::Heard | RunnerEvent::KeepAlive { .. });
                    self.apply(Event::Runner { session, event }, &mut batch);
                }
                Input::Connect(session, line) => self.sessions.add(session, line),
                Input::Look(look) => batch.looks.push(look),
            }
        }
        // After all that had come in, so that a sign of life that arrived in time counts.
        if self.scheduler.next_deadline().is_some_and(|deadline| deadline <= self.now()) {
            batch.runners_changed = true;
            self.apply(Event::Wake, &mut batch);
        }
        if let Err(violation) = self.scheduler.check() {
            self.metrics.violations.inc();
            error!("a rule of the scheduler does not hold: {}: {}", violation.rule, violation.found);
            debug_assert!(false, "{violation:?}");
        }
        batch
    }

    /// Whether this task stood still for so long that runners may look silent which were not: that a deadline is past
    /// does not tell, for what they said may lie unread. With pulses in between, a gap is an absence, of the whole
    /// process or in a commit.
    fn was_away(&mut self) -> bool {
        let away = self.alive.elapsed() > self.absence_max();
        self.alive = Instant::now();
        if away {
            self.behind_until = self.alive + self.absence_max();
        }
        away
    }

    /// A list of held attempts that lay unread was made before what is let out only now: that it does not name an
    /// attempt tells nothing. It is a sign of life all the same.
    fn unless_outdated(&self, event: RunnerEvent) -> RunnerEvent {
        match event {
            RunnerEvent::KeepAlive { .. } if Instant::now() < self.behind_until => RunnerEvent::Heard,
            event => event,
        }
    }

    /// A runner speaks every interval and is removed after two of them at the earliest, so a shorter absence harms none.
    fn absence_max(&self) -> Duration {
        Duration::from_millis(self.scheduler.rules().interval_ms / 2)
    }

    fn apply(&mut self, event: Event, batch: &mut Batch) {
        let step = self.scheduler.apply(self.now(), event);
        batch.step.changes.extend(step.changes);
        batch.step.effects.extend(step.effects);
    }

    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        self.store.commit(changes, clock::now_ms()).await?;
        self.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        Ok(())
    }

    /// What a batch decided is true now: everyone may know.
    fn release(&mut self, mut batch: Batch) {
        for change in &batch.step.changes {
            self.metrics.count(change);
            log(change);
        }
        for effect in std::mem::take(&mut batch.step.effects) {
            match effect {
                Effect::Send { session, message } => self.sessions.say(session, message),
                Effect::Close { session } => self.sessions.close(session),
                Effect::Answer { request, answer } => {
                    // Who does not wait any more has gone away; what was decided stays.
                    batch.replies.remove(&request).map(|reply| reply.send(Ok(answer)));
                }
            }
        }
        for look in batch.looks {
            look(&self.scheduler);
        }
        self.metrics.live(&self.scheduler);
        let news = News { builds: builds_of(&batch.step.changes), runners: batch.runners_changed };
        if news != News::default() {
            // Nobody listens in some tests.
            let _ = self.news.send(news);
        }
    }

    /// The commit failed. Until the store works again nothing is decided: who asks for something is told so, runners
    /// keep their connections, and what they say is heard again later.
    async fn outage(&mut self, failed: Batch, cause: &str) -> Result<(), StoreError> {
        warn!("the store is unavailable: {cause}; nothing is taken in until it works again");
        self.healthy.send_replace(false);
        self.put_off.extend(failed.said_once);
        failed.registering.into_iter().for_each(|session| self.turn_away(session));
        let refused: Vec<RequestId> = failed.replies.keys().copied().collect();
        refuse(failed.replies, cause);
        // What the batch had decided is not to be seen. Where the store can't be read either, it is until it can.
        if let Ok(restored) = self.store.restore().await {
            self.scheduler.recover(self.now(), restored, &refused);
        }
        self.show(failed.looks);
        let restored = loop {
            let store = Arc::clone(&self.store);
            match self.answer_during(try_again(store), cause).await {
                Ok(restored) => break restored,
                Err(StoreError::Unavailable(_)) => {}
                Err(broken) => return Err(broken),
            }
        };
        self.scheduler.recover(self.now(), restored, &refused);
        for (session, _) in self.put_off.iter().filter(|(_, event)| *event == RunnerEvent::Disconnected) {
            self.sessions.close(*session);
        }
        info!("the store works again");
        self.healthy.send_replace(true);
        Ok(())
    }

    /// Answers what comes in until `work` is done, however long that takes.
    async fn answer_during<T>(&mut self, work: impl Future<Output = T>, cause: &str) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(input) = self.inputs.recv() => self.answer(input, cause),
            }
        }
    }

    fn answer(&mut self, input: Input, cause: &str) {
        match input {
            Input::Ask { reply, .. } => {
                let _ = reply.send(Err(Unavailable::Refused(cause.to_owned())));
            }
            Input::Look(look) => look(&self.scheduler),
            Input::Connect(session, line) => self.sessions.add(session, line),
            Input::Runner(session, RunnerEvent::Register { .. } | RunnerEvent::Disconnected) => {
                self.turn_away(session);
            }
            Input::Runner(session, event) if is_said_once(&event) => self.put_off.push((session, event)),
            // A runner repeats what matters, and all of them get a full timeout afterwards.
            Input::Runner(..) => {}
        }
    }

    /// A registration that is not answered is made again, on a new connection, once the store works again.
    fn turn_away(&mut self, session: SessionId) {
        self.put_off.push((session, RunnerEvent::Disconnected));
    }

    fn show(&self, looks: Vec<Look>) {
        for look in looks {
            look(&self.scheduler);
        }
    }
}

/// Whether a runner does not repeat it, as it does all else that matters.
fn is_said_once(event: &RunnerEvent) -> bool {
    matches!(event, RunnerEvent::Draining { .. } | RunnerEvent::Condition(_) | RunnerEvent::Released { .. })
}

/// Asks a store that failed whether it works again, and if so what it holds.
async fn try_again(store: Arc<dyn Store>) -> Result<Restored, StoreError> {
    sleep(PROBE_EVERY).await;
    store.probe().await?;
    store.restore().await
}

fn refuse(replies: BTreeMap<RequestId, Reply>, cause: &str) {
    for reply in replies.into_values() {
        let _ = reply.send(Err(Unavailable::Refused(cause.to_owned())));
    }
}

/// The builds that changes are about, each once.
fn builds_of(changes: &[Change]) -> Vec<BuildId> {
    let mut builds: Vec<BuildId> = changes.iter().map(build_of).collect();
    builds.sort_unstable();
    builds.dedup();
    builds
}

fn build_of(change: &Change) -> BuildId {
    match change {
        Change::Submitted { submission, .. } => submission.id,
        Change::Assigned { attempt, .. }
        | Change::Started { attempt, .. }
        | Change::AttemptEnded { attempt, .. }
        | Change::Cleaned { attempt, .. } => attempt.build,
        Change::Canceling { build } | Change::Requeued { build } | Change::Ended { build, .. } => *build,
    }
}

fn log(change: &Change) {
    match change {
        Change::Submitted { submission, number } => {
            info!(build.id = %submission.id, "build {number} submitted: {}", submission.spec.repository_url);
        }
        Change::Assigned { attempt, runner } => {
            info!(build.id = %attempt.build, "attempt {attempt} assigned to {}", runner.name);
        }
        Change::Started { attempt, .. } => info!(build.id = %attempt.build, "attempt {attempt} runs"),
        Change::Canceling { build } => info!(build.id = %build, "build {build} is being canceled"),
        Change::AttemptEnded { .. } | Change::Cleaned { .. } => {}
        Change::Requeued { build } => info!(build.id = %build, "build {build} waits again"),
        Change::Ended { build, outcome } => info!(build.id = %build, "build {build} {}", outcome.status()),
    }
}
