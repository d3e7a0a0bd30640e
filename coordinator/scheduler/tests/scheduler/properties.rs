//! What holds for whatever happens, in whatever order. The [`World`] checks its invariants after every step.

use caisson_protocol::{AttemptId, ErrorReason, HeldAttempt, HeldPhase, Outcome};
use caisson_scheduler::{Event, RequestId, RunnerEvent, Scheduler, SessionId};
use proptest::prelude::*;

use crate::{words::*, world::World};

const RUNNERS: [&str; 3] = ["r1", "r2", "r3"];
const LABELS: [&[&str]; 3] = [&[], &["gpu"], &["arm64", "gpu"]];
const KEYS: [&str; 2] = ["k", "l"];

/// Something that happens. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Happening {
    Submit {
        wants: usize,
    },
    SubmitKeyed {
        key: usize,
        body: bool,
    },
    Cancel(u64),
    Drain(usize),
    Joins {
        runner: usize,
        capacity: u32,
        offers: usize,
    },
    Restarts(usize),
    Connects(usize),
    LosesConnection(usize),
    Freezes(usize),
    Thaws(usize),
    LosesAssignments(usize),
    ReceivesAssignments(usize),
    KeepsAlive(usize),
    Starts(usize),
    Finishes(usize, Outcome),
    FinishesUnheard(usize),
    Releases(usize),
    StartsDraining(usize),
    FallsIll(usize),
    Recovers(usize),
    /// Anything about any attempt, on any connection there ever was.
    Babbles {
        session: u64,
        build: u64,
        attempt: u32,
        what: u8,
    },
    Passes(u64),
    Stalls,
    CoordinatorRestarts,
    CommitFails {
        build: u64,
    },
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => Just(Outcome::Succeeded),
        2 => Just(failed(1)),
        1 => Just(Outcome::TimedOut),
        1 => Just(errored(ErrorReason::CommitNotFound)),
        3 => Just(errored(ErrorReason::EngineFailed)),
    ]
}

fn of_runner() -> impl Strategy<Value = Happening> {
    let runner = 0..RUNNERS.len();
    prop_oneof![
        (runner.clone(), 0..3_u32, 0..LABELS.len()).prop_map(|(runner, capacity, offers)| Happening::Joins {
            runner,
            capacity,
            offers
        }),
        runner.clone().prop_map(Happening::Restarts),
        runner.clone().prop_map(Happening::Connects),
        runner.clone().prop_map(Happening::LosesConnection),
        runner.clone().prop_map(Happening::Freezes),
        runner.clone().prop_map(Happening::Thaws),
        runner.clone().prop_map(Happening::LosesAssignments),
        runner.clone().prop_map(Happening::ReceivesAssignments),
        runner.clone().prop_map(Happening::KeepsAlive),
        runner.clone().prop_map(Happening::Starts),
        (runner.clone(), outcome()).prop_map(|(runner, outcome)| Happening::Finishes(runner, outcome)),
        (runner.clone(), outcome()).prop_map(|(runner, outcome)| Happening::Finishes(runner, outcome)),
        runner.clone().prop_map(Happening::FinishesUnheard),
        runner.clone().prop_map(Happening::Releases),
        runner.clone().prop_map(Happening::StartsDraining),
        runner.clone().prop_map(Happening::FallsIll),
        runner.prop_map(Happening::Recovers),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..LABELS.len()).prop_map(|wants| Happening::Submit { wants }),
        1 => (0..KEYS.len(), any::<bool>()).prop_map(|(key, body)| Happening::SubmitKeyed { key, body }),
        2 => (1..12_u64).prop_map(Happening::Cancel),
        1 => (0..RUNNERS.len()).prop_map(Happening::Drain),
        20 => of_runner(),
        3 => (0..12_u64, 1..12_u64, 1..4_u32, 0..9_u8).prop_map(|(session, build, attempt, what)| {
            Happening::Babbles { session, build, attempt, what }
        }),
        3 => (0..30_000_u64).prop_map(Happening::Passes),
        1 => Just(Happening::Stalls),
        1 => Just(Happening::CoordinatorRestarts),
        1 => (1..12_u64).prop_map(|build| Happening::CommitFails { build }),
    ]
}

impl World {
    fn let_happen(&mut self, happening: Happening) {
        match happening {
            Happening::Submit { wants } => {
                let fresh = self.fresh("build");
                self.ask_submit(caisson_scheduler::Submission { spec: spec(LABELS[wants]), ..fresh });
            }
            Happening::SubmitKeyed { key, body } => {
                let submission = self.fresh_keyed("build", KEYS[key], if body { "a" } else { "b" });
                self.ask_submit(submission);
            }
            Happening::Cancel(number) => drop(self.cancel(build_id(number))),
            Happening::Drain(runner) => drop(self.drain(RUNNERS[runner])),
            Happening::Joins { runner, capacity, offers } => {
                self.runner_with(RUNNERS[runner], capacity, LABELS[offers]);
            }
            Happening::Passes(ms) => self.passes(ms),
            Happening::Stalls => self.stalls(60_000),
            Happening::CoordinatorRestarts => self.coordinator_restarts(),
            Happening::CommitFails { build } => {
                self.commit_fails(Event::Cancel { request: RequestId(0), build: build_id(build) });
            }
            Happening::Babbles { session, build, attempt, what } => {
                let attempt = AttemptId { build: build_id(build), number: attempt };
                // Nobody speaks on a connection that is still to come.
                self.says_on(SessionId(session.min(self.latest_session())), babble(attempt, what));
            }
            of_runner => self.let_happen_to_runner(of_runner),
        }
    }

    fn let_happen_to_runner(&mut self, happening: Happening) {
        let name = |runner: usize| RUNNERS[runner];
        match happening {
            Happening::Restarts(runner) => self.if_there(name(runner), Self::restarts),
            Happening::Connects(runner) => self.if_there(name(runner), |world, name| {
                world.connects(name);
            }),
            Happening::LosesConnection(runner) => self.if_there(name(runner), Self::loses_connection),
            Happening::Freezes(runner) => self.if_there(name(runner), Self::freezes),
            Happening::Thaws(runner) => self.if_there(name(runner), Self::thaws),
            Happening::LosesAssignments(runner) => self.if_there(name(runner), Self::loses_assignments),
            Happening::ReceivesAssignments(runner) => self.if_there(name(runner), Self::receives_assignments),
            Happening::KeepsAlive(runner) => self.if_there(name(runner), Self::keeps_alive),
            Happening::StartsDraining(runner) => self.if_there(name(runner), Self::starts_draining),
            Happening::FallsIll(runner) => self.if_there(name(runner), Self::falls_ill),
            Happening::Recovers(runner) => self.if_there(name(runner), Self::recovers),
            Happening::Starts(runner) => self.with_first(name(runner), Self::starts),
            Happening::Finishes(runner, outcome) => {
                self.with_first(name(runner), |world, name, build| world.finishes(name, build, outcome));
            }
            Happening::FinishesUnheard(runner) => self.with_first(name(runner), Self::finishes_unheard),
            Happening::Releases(runner) => self.with_first(name(runner), Self::releases),
            other => unreachable!("{other:?} does not happen to a runner"),
        }
    }

    fn if_there(&mut self, name: &str, then: impl FnOnce(&mut Self, &str)) {
        if self.has_process(name) {
            then(self, name);
        }
    }

    fn with_first(&mut self, name: &str, then: impl FnOnce(&mut Self, &str, caisson_protocol::BuildId)) {
        let first = self.has_process(name).then(|| self.holds(name)).and_then(|held| held.first().copied());
        if let Some(attempt) = first {
            then(self, name, attempt.build);
        }
    }

    /// Once nothing goes wrong any more, every build ends.
    fn heals(&mut self) {
        for name in RUNNERS {
            self.runner_with(name, 2, LABELS[2]);
        }
        for _ in 0..200 {
            self.passes(self.rules.interval_ms);
            for name in RUNNERS {
                self.with_first(name, Self::succeeds);
            }
        }
        let open: Vec<_> = self.store.rows().filter(|(_, row)| !row.status.is_terminal()).collect();
        assert!(open.is_empty(), "{open:?}");
    }
}

fn babble(attempt: AttemptId, what: u8) -> RunnerEvent {
    let held = vec![HeldAttempt { attempt, phase: HeldPhase::Running }];
    match what {
        0 => RunnerEvent::Accepted { attempt },
        1 => RunnerEvent::Started { attempt, resolved_commit: commit(), image_digest: None },
        2 => RunnerEvent::Finished { attempt, report: report(Outcome::Succeeded) },
        3 => RunnerEvent::Released { attempt },
        4 => RunnerEvent::KeepAlive { held },
        5 => RunnerEvent::Cleaned { attempt, cleanup_ms: 1 },
        7 => RunnerEvent::Draining { held },
        6 => RunnerEvent::Register {
            runner: runner_id(RUNNERS[0]),
            registration: caisson_protocol::Registration { held, ..registration(RUNNERS[0], 500, 1) },
        },
        _ => RunnerEvent::Disconnected,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_promises_hold(happenings in prop::collection::vec(happening(), 1..120)) {
        let mut world = World::new();
        world.runner("r1", 1);
        for happening in happenings {
            world.let_happen(happening);
        }
        world.repeats();
        world.heals();
    }

    #[test]
    fn a_scheduler_made_from_the_store_agrees_with_the_one_that_lives(
        happenings in prop::collection::vec(happening(), 1..80),
    ) {
        let mut world = World::new();
        world.runner("r1", 2);
        for happening in happenings {
            world.let_happen(happening);
            let restored = Scheduler::restore(world.rules, world.now, world.store.restored());
            world.store.agrees(&restored).unwrap();
        }
        // And decides alike: what a runner brings back ends the same way.
        let mut again = world.clone();
        again.coordinator_restarts();
        again.heals();
        world.heals();
    }
}
