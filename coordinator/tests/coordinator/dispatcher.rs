//! The dispatcher over a store that fails when a test says so: *commit, then act*, and nothing of a batch that failed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_trait::async_trait;
use caisson_coordinator::{
    dispatcher::{Dispatcher, DispatcherHandle, Said},
    metrics::Metrics,
    store::{BuildFilter, BuildKey, BuildRecord, MemoryStore, Millis, Store, StoreError},
};
use caisson_protocol::{AttemptId, CoordinatorMessage, Registration, RunnerId};
use caisson_scheduler::{Answer, Change, Restored, Rules, RunnerEvent, SessionId};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};

use crate::support::{eventually, id, in_time, registration, submission};

/// A store in memory whose disk is full for as many commits as are left, and whose probes can be held up.
struct Sick {
    inner: MemoryStore,
    failures_left: AtomicU32,
    probing: AtomicBool,
    probes: Semaphore,
}

impl Sick {
    fn new(failures_left: u32) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::default(),
            failures_left: failures_left.into(),
            probing: false.into(),
            probes: Semaphore::new(0),
        })
    }

    /// Lets every probe through from now on.
    fn recovers(&self) {
        self.probes.add_permits(1000);
    }
}

#[async_trait]
impl Store for Sick {
    async fn restore(&self) -> Result<Restored, StoreError> {
        self.inner.restore().await
    }

    async fn commit(&self, changes: &[Change], at: Millis) -> Result<(), StoreError> {
        let fails =
            self.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match fails {
            Ok(_) => Err(StoreError::Unavailable("the disk is full".into())),
            Err(_) => self.inner.commit(changes, at).await,
        }
    }

    async fn build(&self, which: BuildKey) -> Result<Option<BuildRecord>, StoreError> {
        self.inner.build(which).await
    }

    async fn builds(&self, filter: &BuildFilter) -> Result<Vec<BuildRecord>, StoreError> {
        self.inner.builds(filter).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.probing.store(true, Ordering::SeqCst);
        self.probes.acquire().await.expect("it is never closed").forget();
        Ok(())
    }
}

const RULES: Rules = Rules {
    queue_capacity: 10,
    max_attempts: 3,
    interval_ms: 10_000,
    timeout_ms: 20_000,
    log_bytes_max: 1 << 20,
};

async fn dispatcher(store: &Arc<Sick>) -> (Dispatcher, DispatcherHandle) {
    let (news, _) = mpsc::unbounded_channel();
    Dispatcher::start(RULES, Arc::clone(store) as _, Arc::new(Metrics::default()), news).await.unwrap()
}

/// A connection of a runner, as the dispatcher sees it.
struct Line {
    session: SessionId,
    said: mpsc::Receiver<Said>,
}

impl Line {
    async fn register(handle: &DispatcherHandle, registration: Registration) -> Self {
        let (line, said) = mpsc::channel(64);
        let session = handle.connect(line).await.unwrap();
        let runner = RunnerId::of_name(&registration.name);
        handle.runner(session, RunnerEvent::Register { runner, registration }).await.unwrap();
        Self { session, said }
    }

    /// What it is told next; nothing when it is to end.
    async fn hears(&mut self) -> Option<CoordinatorMessage> {
        match in_time("word for a runner", self.said.recv()).await {
            Some(Said::Message(message)) => Some(message),
            Some(Said::Close) | None => None,
        }
    }

    async fn is_registered(&mut self) {
        let answer = self.hears().await;
        assert!(matches!(answer, Some(CoordinatorMessage::Registered { .. })), "{answer:?}");
    }

    async fn is_given(&mut self) -> String {
        match self.hears().await {
            Some(CoordinatorMessage::Assign { attempt, .. }) => attempt.to_string(),
            other => panic!("expected an assignment, heard {other:?}"),
        }
    }
}

fn run(dispatcher: Dispatcher) -> JoinHandle<Result<(), StoreError>> {
    tokio::spawn(dispatcher.run())
}

/// Two builds that wait, and a dispatcher that is about to meet two registrations and a full disk at once.
async fn two_registrations_in_a_batch_that_fails(
    store: &Arc<Sick>,
) -> (Dispatcher, DispatcherHandle, [Line; 2]) {
    let submitted = [1, 2].map(|number| Change::Submitted { submission: submission(number, "a"), number });
    store.inner.commit(&submitted, 0).await.unwrap();
    let (dispatcher, handle) = dispatcher(store).await;
    let lines = [
        Line::register(&handle, registration("r1")).await,
        Line::register(&handle, registration("r2")).await,
    ];
    (dispatcher, handle, lines)
}

#[tokio::test]
async fn registrations_that_failed_are_made_again_and_each_attempt_is_stored() {
    let store = Sick::new(1);
    store.recovers();
    let (dispatcher, handle, mut lines) = two_registrations_in_a_batch_that_fails(&store).await;
    let running = run(dispatcher);
    for line in &mut lines {
        assert_eq!(line.hears().await, None, "a registration that failed is not answered");
        handle.runner(line.session, RunnerEvent::Disconnected).await.unwrap();
    }
    let mut again = [
        Line::register(&handle, registration("r1")).await,
        Line::register(&handle, registration("r2")).await,
    ];
    for line in &mut again {
        line.is_registered().await;
        line.is_given().await;
    }
    for number in [1, 2] {
        let stored = store.inner.build(BuildKey::Number(number)).await.unwrap().unwrap();
        let current = handle.look(move |scheduler| scheduler.current_attempt(id(number))).await.unwrap();
        let (attempt, runner) = current.expect("a runner has it");
        let latest = stored.attempts.last().expect("it is stored");
        assert_eq!((latest.number, latest.runner.id), (attempt.number, runner));
    }
    assert!(!running.is_finished(), "the store is not broken");
}

#[tokio::test]
async fn people_are_answered_at_once_while_the_store_does_not_answer() {
    let store = Sick::new(1);
    let (dispatcher, handle) = dispatcher(&store).await;
    run(dispatcher);
    let refused = in_time("a refusal", handle.submit(submission(1, "a"))).await.unwrap_err();
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    eventually("the store is asked whether it works again", async || {
        store.probing.load(Ordering::SeqCst).then_some(())
    })
    .await;
    // The probe hangs, as it does on a file that is held by another process.
    assert!(!handle.is_healthy());
    assert_eq!(in_time("a look", handle.look(caisson_scheduler::Scheduler::waiting)).await.unwrap(), 0);
    in_time("a refusal", handle.submit(submission(2, "b"))).await.unwrap_err();
    store.recovers();
    eventually("it is healthy again", async || handle.is_healthy().then_some(())).await;
    let answer = handle.submit(submission(3, "c")).await.unwrap();
    assert_eq!(answer, Answer::Accepted { build: id(3) });
    let numbers: Vec<_> = store.inner.restore().await.unwrap().builds.iter().map(|build| build.id).collect();
    assert_eq!(numbers, [id(3)], "what was refused is not there");
}

#[tokio::test]
async fn a_runner_that_says_during_an_outage_that_it_drains_is_given_nothing_after_it() {
    let store = Sick::new(1);
    let (dispatcher, handle) = dispatcher(&store).await;
    run(dispatcher);
    let mut line = Line::register(&handle, registration("r1")).await;
    line.is_registered().await;
    handle.submit(submission(1, "a")).await.unwrap_err();
    handle.runner(line.session, RunnerEvent::Draining { held: Vec::new() }).await.unwrap();
    store.recovers();
    eventually("it is healthy again", async || handle.is_healthy().then_some(())).await;
    handle.submit(submission(2, "b")).await.unwrap();
    let waiting = handle.look(|scheduler| scheduler.waiting_build(id(2))).await.unwrap();
    assert_eq!(waiting.unwrap().waiting_for, caisson_scheduler::WaitingFor::DrainedRunners);
}

#[tokio::test]
async fn what_a_runner_gives_back_in_a_batch_that_fails_is_taken_back_after_it() {
    let store = Sick::new(0);
    store.recovers();
    let (dispatcher, handle) = dispatcher(&store).await;
    run(dispatcher);
    let mut line = Line::register(&handle, registration("r1")).await;
    line.is_registered().await;
    handle.submit(submission(1, "a")).await.unwrap();
    let [first, second] = [1, 2].map(|number| AttemptId { build: id(1), number });
    assert_eq!(line.is_given().await, first.to_string());
    store.failures_left.store(1, Ordering::SeqCst);
    handle.runner(line.session, RunnerEvent::Released { attempt: first }).await.unwrap();
    assert_eq!(line.is_given().await, second.to_string());
}

#[tokio::test]
async fn a_drain_in_a_batch_that_fails_does_not_take_place() {
    let store = Sick::new(1);
    store.recovers();
    let (dispatcher, handle) = dispatcher(&store).await;
    Line::register(&handle, registration("r1")).await;
    let (drained, submitted, _) =
        tokio::join!(handle.drain(RunnerId::of_name("r1")), handle.submit(submission(1, "a")), async {
            drop(run(dispatcher));
        });
    drained.unwrap_err();
    submitted.unwrap_err();
    eventually("it is healthy again", async || handle.is_healthy().then_some(())).await;
    let mut again = Line::register(&handle, registration("r1")).await;
    again.is_registered().await;
    handle.submit(submission(2, "b")).await.unwrap();
    again.is_given().await;
}

#[tokio::test]
async fn a_broken_store_ends_the_dispatcher_and_what_was_asked_is_unknown() {
    struct Broken(Arc<Sick>);
    #[async_trait]
    impl Store for Broken {
        async fn restore(&self) -> Result<Restored, StoreError> {
            self.0.restore().await
        }
        async fn commit(&self, _: &[Change], _: Millis) -> Result<(), StoreError> {
            Err(StoreError::Broken("an fsync failed".into()))
        }
        async fn build(&self, which: BuildKey) -> Result<Option<BuildRecord>, StoreError> {
            self.0.build(which).await
        }
        async fn builds(&self, filter: &BuildFilter) -> Result<Vec<BuildRecord>, StoreError> {
            self.0.builds(filter).await
        }
        async fn probe(&self) -> Result<(), StoreError> {
            self.0.probe().await
        }
    }
    let (news, _) = mpsc::unbounded_channel();
    let store = Arc::new(Broken(Sick::new(0)));
    let started = Dispatcher::start(RULES, store, Arc::new(Metrics::default()), news).await.unwrap();
    let running = run(started.0);
    let error = in_time("an answer", started.1.submit(submission(1, "a"))).await.unwrap_err();
    assert_eq!(error, caisson_coordinator::dispatcher::Unavailable::Interrupted);
    let ended = in_time("its end", running).await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("an fsync failed"), "{ended}");
    assert!(!started.1.is_healthy());
}
