//! Many builds on a runner that is killed again and again, as its engine is: none is lost, none runs twice at a time, or
//! after its end, nothing is left, and the last build costs what the first did.
//!
//! A few with every run of the tests; `CAISSON_SOAK_BUILDS=500 cargo test -p caisson-runner --test runner soak --
//! --nocapture` for more, and for the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use caisson_protocol::{AttemptId, CoordinatorMessage, Outcome, RunnerMessage};

use super::World;
use crate::world::{
    Dockerd, coordinator::Seen, docker,
    events::{self, Events},
    servers, spec, until,
};

const AT_ONCE: usize = 4;

/// How many builds there are to be, of which a test alone has so many.
fn builds(few: usize) -> usize {
    std::env::var("CAISSON_SOAK_BUILDS").map_or(few, |builds| builds.parse().unwrap())
}

/// Somewhere below a limit, differently in each run.
fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

/// A world, and the builds on their way in it.
struct Soak {
    world: World,
    engine: Option<Dockerd>,
    events: Events,
    /// The exit code of each build that has not ended.
    waiting: BTreeMap<AttemptId, u8>,
    /// When the end of each was heard.
    ends: BTreeMap<AttemptId, u64>,
    kills: usize,
    figures: Vec<(u64, usize)>,
}

impl Soak {
    fn new(world: World, engine: Option<Dockerd>) -> Self {
        let host = engine.as_ref().map(Dockerd::host);
        let events = Events::of(&world.runner.name, host.as_deref());
        let (waiting, ends) = (BTreeMap::new(), BTreeMap::new());
        Self { world, engine, events, waiting, ends, kills: 0, figures: Vec::new() }
    }

    fn submit(&mut self) {
        let code = u8::try_from(random(3)).unwrap();
        let attempt = self.world.coordinator.assign(self.spec(code));
        self.waiting.insert(attempt, code);
    }

    /// A build that runs until it is killed.
    async fn submit_doomed(&mut self) {
        let attempt = self.world.coordinator.assign(self.world.spec("sleep 1000"));
        self.waiting.insert(attempt, 0);
        let runs = |said: &RunnerMessage| match said {
            RunnerMessage::Started { attempt: a, .. } | RunnerMessage::Released { attempt: a } => *a == attempt,
            _ => false,
        };
        let runs = |seen: &Seen| seen.messages.iter().any(runs) || seen.finished.contains_key(&attempt);
        self.world.coordinator.wait("it runs, or could not be run", runs).await;
    }

    /// Hands a build out again that is not on its way any more, as the scheduler would.
    fn resubmit(&mut self, before: AttemptId) {
        let code = self.waiting.remove(&before).unwrap();
        let attempt = AttemptId { number: before.number + 1, ..before };
        let spec = self.spec(code).into();
        self.world.coordinator.say(CoordinatorMessage::Assign { attempt, spec, log_bytes_max: 1 << 20 });
        self.waiting.insert(attempt, code);
    }

    fn spec(&self, code: u8) -> caisson_protocol::BuildSpec {
        self.world.spec(&format!("seq 1 2000; sleep 0.{}; exit {code}", random(4)))
    }

    /// Takes out what has ended, and checks that each ended as it should; what the engine or the runner could not run
    /// goes out again.
    fn take_ended(&mut self) {
        let (ended, released) = self.world.coordinator.look(|seen| {
            let ended = self.waiting.keys().filter_map(|id| Some((*id, seen.finished.get(id)?.outcome.clone())));
            let released = |id: &&AttemptId| seen.messages.contains(&RunnerMessage::Released { attempt: **id });
            (ended.collect::<Vec<_>>(), self.waiting.keys().filter(released).copied().collect::<Vec<_>>())
        });
        for (attempt, outcome) in ended {
            if self.engine.is_some() && outcome.reason() == Some("engine_failed") {
                self.resubmit(attempt);
                continue;
            }
            let expected = match self.waiting.remove(&attempt).unwrap() {
                0 => Outcome::Succeeded,
                exit_code => Outcome::Failed { exit_code, note: None },
            };
            assert_eq!(outcome, expected, "{attempt}");
            self.ends.insert(attempt, events::now());
        }
        released.into_iter().for_each(|attempt| self.resubmit(attempt));
    }

    /// Also while it clones from a server that says nothing, and while a command runs.
    async fn kill_runner(&mut self, silent: &str) {
        let before = self.world.coordinator.look(|seen| seen.registrations.len());
        self.submit_doomed().await;
        self.world.coordinator.assign(spec(silent, "main", "true"));
        until("it asks the server", async || !self.world.runner.checkouts().is_empty()).await;
        self.figures.push((self.world.runner.memory_peak_kib(), self.world.runner.open_files()));
        self.world.runner.kill();
        self.world.runner.restart();
        self.world.coordinator.wait("it is back", |seen| seen.registrations.len() > before).await;
        let of_ours = self.world.runner.children().collect::<BTreeSet<_>>();
        let orphans = || self.world.runner.checkouts().into_iter().any(|pid| !of_ours.contains(&pid));
        until("its checkouts end with it", async || !orphans()).await;

        // What it does not hold any more goes out again.
        let known: BTreeSet<AttemptId> = self.world.coordinator.look(|seen| {
            let held = seen.registrations[before].held.iter().map(|held| held.attempt);
            held.chain(seen.finished.keys().copied()).collect()
        });
        let lost: Vec<_> = self.waiting.keys().filter(|id| !known.contains(id)).copied().collect();
        lost.into_iter().for_each(|attempt| self.resubmit(attempt));
    }

    async fn kill_engine(&mut self) {
        self.submit_doomed().await;
        let engine = self.engine.as_mut().expect("it has one of its own");
        engine.kill();
        engine.revive().await;
        // Whether or not it had noticed, what it is given back counts as given back.
        self.world.coordinator.healthy().await;
    }

    /// Runs so many builds, and kills now and then.
    async fn run(&mut self, builds: usize) {
        let silent = format!("http://{}/app.git", servers::silent().await);
        let pause = || Duration::from_millis(500 + random(3000));
        let (mut next_kill, mut ended) = (Instant::now() + pause(), 0);
        while self.ends.len() < builds || !self.waiting.is_empty() {
            while self.ends.len() + self.waiting.len() < builds && self.waiting.len() < AT_ONCE {
                self.submit();
            }
            // Not a wait for an event: the kill is to come at any time.
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.take_ended();
            // Where nothing ends between two kills, however slow the machine, nothing ever does.
            if self.ends.len() < builds && Instant::now() >= next_kill && self.ends.len() > ended + 1 {
                self.kills += 1;
                if self.engine.is_some() && self.kills.is_multiple_of(2) {
                    self.kill_engine().await;
                } else {
                    self.kill_runner(&silent).await;
                }
                (next_kill, ended) = (Instant::now() + pause(), self.ends.len());
            }
        }
    }

    /// Nothing is left.
    async fn ends_clean(mut self) {
        until("the engine has told of all", async || self.events.tell_of(self.ends.keys())).await;
        self.events.show_no_overlap(&self.ends);
        self.world.runner.becomes_empty().await;
        until("children and files are gone", async || self.world.runner.open_files() < 40).await;
        until("no container runs", async || !self.events.is_any_running()).await;
        self.figures.push((self.world.runner.memory_peak_kib(), self.world.runner.open_files()));
        let most = self.figures.iter().map(|(kib, _)| *kib).max().unwrap();
        eprintln!(
            "{} builds, {} kills; memory at most {most} KiB, open files at each kill and at the end {:?}",
            self.ends.len(),
            self.kills,
            self.figures.iter().map(|(_, files)| *files).collect::<Vec<_>>(),
        );
        assert!(most < 96 * 1024, "the runner had {most} KiB");
        assert_eq!(self.world.runner.checkouts(), [0; 0]);
        drop(self.events);
        self.world.ends_clean().await;
        if let Some(engine) = &self.engine {
            // Also what nobody has named.
            let host = engine.host();
            let listed = |what: &'static str, filter: &'static str| {
                let host = host.clone();
                tokio::task::spawn_blocking(move || docker(&["-H", &host, what, "ls", "-q", "--filter", filter]))
            };
            assert_eq!(engine.containers(), "");
            assert_eq!(listed("volume", "dangling=true").await.unwrap(), "");
            assert_eq!(listed("network", "type=custom").await.unwrap(), "");
        }
    }
}

#[tokio::test]
async fn a_runner_that_is_killed_again_and_again_loses_nothing_and_leaves_nothing() {
    let mut soak = Soak::new(World::with(&["capacity=4", "network=bridge"]).await, None);
    soak.run(builds(16)).await;
    soak.ends_clean().await;
}

#[tokio::test]
async fn a_runner_and_its_engine_that_are_killed_in_turn_lose_nothing_and_leave_nothing() {
    let engine = Dockerd::start().await;
    let world = World::on(&engine, &["capacity=4", "engine.deadline=5s"]).await;
    let mut soak = Soak::new(world, Some(engine));
    soak.run(builds(8)).await;
    soak.ends_clean().await;
}

#[tokio::test]
async fn a_hundredth_build_costs_what_the_tenth_did() {
    let batches = (builds(30) / 10).max(3);
    let world = World::with(&["capacity=4"]).await;
    let mut figures = Vec::new();
    for _ in 0..batches {
        let attempts: Vec<_> = (0..10).map(|_| world.submit("seq 1 2000")).collect();
        for attempt in attempts {
            assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
            world.coordinator.cleaned(attempt).await;
        }
        world.runner.becomes_empty().await;
        figures.push((world.runner.memory_kib(), world.runner.open_files()));
    }
    eprintln!("KiB of memory and open files after each ten builds: {figures:?}");
    let ((third, files), (last, files_last)) = (figures[batches / 3 - 1], *figures.last().unwrap());
    assert!(last < third + 4 * 1024, "memory grew from {third} to {last} KiB");
    assert!(files_last <= files + 4, "open files grew from {files} to {files_last}");
    world.ends_clean().await;
}
