//! Both adapters tell the same of whatever a scheduler decides, and a scheduler that is rebuilt from either goes on
//! where the one before it was.

use caisson_protocol::{AttemptId, BuildId, HeldAttempt, HeldPhase, RunnerId};
use caisson_scheduler::{Event, IdempotencyKey, Moment, RequestId, Rules, RunnerEvent, Scheduler, SessionId};
use proptest::prelude::*;

use super::*;
use crate::support::{engine_failed, registration};

const RUNNERS: [&str; 3] = ["r1", "r2", "r3"];
const TIMEOUT_MS: u64 = 1000;

/// Something that happens. Which build is meant is a number among those there are.
#[derive(Debug, Clone)]
enum Happens {
    Submit { key: Option<u8>, label: bool },
    Cancel(usize),
    Connects(usize),
    Disconnects(usize),
    Starts(usize),
    Finishes(usize, Outcome),
    GivesBack(usize),
    Cleans(usize, usize),
    ListsNothing(usize),
    Passes(u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let runner = || 0..RUNNERS.len();
    let outcome = prop_oneof![
        Just(Outcome::Succeeded),
        Just(Outcome::Failed { exit_code: 3, note: None }),
        Just(Outcome::Canceled),
        Just(engine_failed()),
    ];
    prop_oneof![
        4 => (prop::option::of(0..4u8), any::<bool>()).prop_map(|(key, label)| Happens::Submit { key, label }),
        1 => any::<usize>().prop_map(Happens::Cancel),
        3 => runner().prop_map(Happens::Connects),
        1 => runner().prop_map(Happens::Disconnects),
        3 => any::<usize>().prop_map(Happens::Starts),
        3 => (any::<usize>(), outcome).prop_map(|(build, outcome)| Happens::Finishes(build, outcome)),
        1 => any::<usize>().prop_map(Happens::GivesBack),
        1 => (any::<usize>(), runner()).prop_map(|(build, runner)| Happens::Cleans(build, runner)),
        1 => runner().prop_map(Happens::ListsNothing),
        1 => (1..TIMEOUT_MS).prop_map(Happens::Passes),
    ]
}

/// A scheduler, and the connections it knows.
struct World {
    scheduler: Scheduler,
    now: Moment,
    submitted: u64,
    sessions: [Option<SessionId>; RUNNERS.len()],
    connections: u64,
}

impl World {
    fn new() -> Self {
        Self {
            scheduler: Scheduler::new(rules()),
            now: Moment(0),
            submitted: 0,
            sessions: [None; RUNNERS.len()],
            connections: 0,
        }
    }

    /// Lets it happen, and gives what is to be stored.
    fn apply(&mut self, what: &Happens) -> Vec<Change> {
        let event = match what {
            Happens::Submit { key, label } => Some(self.submission(*key, *label)),
            Happens::Cancel(build) => {
                self.build(*build).map(|build| Event::Cancel { request: RequestId(0), build })
            }
            Happens::Connects(runner) => Some(self.connection(*runner)),
            Happens::Disconnects(runner) => self.says(*runner, RunnerEvent::Disconnected),
            Happens::Starts(build) => self.of_current(*build, |attempt| RunnerEvent::Started {
                attempt,
                resolved_commit: commit(),
                image_digest: None,
            }),
            Happens::Finishes(build, outcome) => self.of_current(*build, |attempt| RunnerEvent::Finished {
                attempt,
                report: report(outcome.clone(), 17),
            }),
            Happens::GivesBack(build) => self.of_current(*build, |attempt| RunnerEvent::Released { attempt }),
            Happens::Cleans(build, runner) => self.build(*build).and_then(|build| {
                let attempt = AttemptId { build, number: 1 };
                self.says(*runner, RunnerEvent::Cleaned { attempt, cleanup_ms: 8 })
            }),
            Happens::ListsNothing(runner) => self.says(*runner, RunnerEvent::KeepAlive { held: Vec::new() }),
            Happens::Passes(ms) => {
                self.now = self.now.after_ms(*ms);
                Some(Event::Wake)
            }
        };
        event.map(|event| self.scheduler.apply(self.now, event)).unwrap_or_default().changes
    }

    fn submission(&mut self, key: Option<u8>, label: bool) -> Event {
        self.submitted += 1;
        let mut submission = submission(self.submitted, "make test");
        if label {
            let mut spec = Arc::unwrap_or_clone(submission.spec);
            spec.labels = serde_json::from_str(r#"["r2"]"#).unwrap();
            submission.spec = Arc::new(spec);
        }
        submission.key = key.map(|key| IdempotencyKey { key: format!("key {key}"), digest: "d".into() });
        Event::Submit { request: RequestId(0), submission }
    }

    fn connection(&mut self, runner: usize) -> Event {
        self.connections += 1;
        let session = SessionId(self.connections);
        self.sessions[runner] = Some(session);
        let name = RUNNERS[runner];
        let mut registration = registration(name);
        registration.labels = serde_json::from_str(&format!("[{name:?}]")).unwrap();
        registration.capacity = 2;
        registration.held = self.held_by(RunnerId::of_name(name));
        let runner = RunnerId::of_name(name);
        Event::Runner { session, event: RunnerEvent::Register { runner, registration } }
    }

    fn held_by(&self, runner: RunnerId) -> Vec<HeldAttempt> {
        let current = (1..=self.submitted).filter_map(|number| self.scheduler.current_attempt(id(number)));
        let held = current.filter(|(_, holder)| *holder == runner);
        held.map(|(attempt, _)| HeldAttempt { attempt, phase: HeldPhase::Preparing }).collect()
    }

    fn says(&self, runner: usize, event: RunnerEvent) -> Option<Event> {
        self.sessions[runner].map(|session| Event::Runner { session, event })
    }

    /// What the runner that has a build says of it.
    fn of_current(&self, build: usize, event: impl FnOnce(AttemptId) -> RunnerEvent) -> Option<Event> {
        let (attempt, holder) = self.scheduler.current_attempt(self.build(build)?)?;
        let runner = RUNNERS.iter().position(|name| RunnerId::of_name(name) == holder)?;
        self.says(runner, event(attempt))
    }

    fn build(&self, which: usize) -> Option<BuildId> {
        (self.submitted > 0).then(|| id(which as u64 % self.submitted + 1))
    }
}

fn rules() -> Rules {
    Rules {
        queue_capacity: 6,
        max_attempts: 2,
        interval_ms: TIMEOUT_MS / 2,
        timeout_ms: TIMEOUT_MS,
        log_bytes_max: 1 << 20,
    }
}

/// What a person can see of live builds, whoever asks.
fn seen(scheduler: &Scheduler, builds: u64) -> Vec<String> {
    let of = |number| {
        let (status, current) = (scheduler.status(id(number)), scheduler.current_attempt(id(number)));
        format!("{number}: {status:?} {current:?}")
    };
    (1..=builds).map(of).collect()
}

async fn agree(history: &[Happens]) {
    let (memory, sqlite, mut world) = (Shelf::memory(), Shelf::sqlite(), World::new());
    for (at, what) in (1..).zip(history) {
        let changes = world.apply(what);
        memory.commit_at(at, &changes).await;
        sqlite.commit_at(at, &changes).await;
        assert_eq!(memory.store.restore().await.unwrap(), sqlite.store.restore().await.unwrap(), "{what:?}");
    }
    let all = BuildFilter::default();
    assert_eq!(memory.list(&all).await, sqlite.list(&all).await);
    for shelf in [memory, sqlite.reopened()] {
        let restored = Scheduler::restore(rules(), world.now, shelf.store.restore().await.unwrap());
        assert_eq!(seen(&restored, world.submitted), seen(&world.scheduler, world.submitted));
        assert_eq!(queue(&restored), queue(&world.scheduler));
    }
}

fn queue(scheduler: &Scheduler) -> Vec<BuildId> {
    scheduler.queue(usize::MAX).iter().map(|waiting| waiting.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn both_adapters_tell_the_same_of_whatever_is_decided(history in prop::collection::vec(happens(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(agree(&history));
    }
}
