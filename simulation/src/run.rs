//! One run: trouble for a while, then peace, in which everything has to come to its end.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use caisson_coordinator::{
    access::{AccessStore, Change, Credential, Digest, SqliteAccess},
    blocking::Blocking,
};
use caisson_protocol::AttemptId;
use caisson_scheduler::AttemptEnd;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    books::Standing,
    coordinator::{Coordinator, forget_builds},
    dice::Dice,
    disk::Disk,
    invariants,
    network::{Door, Link, Mischief, Way},
    people::People,
    plan::{Fault, Place, Plan},
    runner::Station,
    world::{Violation, World, short, short_attempt},
};

/// How long everything may take to come to its end once nothing goes wrong any more.
const PEACE_MAX: Duration = Duration::from_secs(1200);
/// How long runners may take after that to be told that all is over.
const QUIET_MAX: Duration = Duration::from_secs(120);
/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a piece takes to people at most, in milliseconds.
const PEOPLE_LATENCY_MS: u64 = 20;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// What the trace comes to: the same for the same seed.
    pub trace: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How long the run lasted in its own time.
    pub virtual_ms: u64,
}

/// Runs the plan of a seed. With `show`, its trace is printed.
///
/// # Errors
/// When this machine can't run it: there is no room for its files.
pub fn run(seed: u64, show: bool) -> anyhow::Result<Report> {
    play(Plan::of(&Dice::new(seed)), seed, show)
}

/// Runs a plan; what it leaves open is decided by the seed.
///
/// # Errors
/// When this machine can't run it: there is no room for its files.
pub fn play(plan: Plan, seed: u64, show: bool) -> anyhow::Result<Report> {
    let secrets = secrets()?;
    let folder = folder()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    forget_builds();
    runtime.block_on(async {
        let world = Arc::new(World::new(plan, Dice::new(seed), show));
        let scene = Scene::begin(&world, folder.path(), secrets).await?;
        tokio::select! {
            biased;
            () = world.broken() => {}
            () = scene.play() => {}
        }
        let (counts, trace) = world.summary();
        Ok(Report { violation: world.violation(), trace, counts, virtual_ms: world.now_ms() })
    })
}

/// The tokens of all runs: only their length plays a part.
fn secrets() -> anyhow::Result<&'static Path> {
    static SECRETS: OnceLock<Option<TempDir>> = OnceLock::new();
    let folder = SECRETS.get_or_init(|| {
        let folder = tempfile::tempdir().ok()?;
        for (name, token) in [("admin-token", crate::ADMIN_TOKEN), ("runner-token", "unused")] {
            let path = folder.path().join(name);
            fs::write(&path, token).ok()?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).ok()?;
        }
        Some(folder)
    });
    folder.as_ref().map(TempDir::path).context("the folder for temporary files can't be used")
}

/// A folder in memory where there is one: what a simulation writes need not survive it.
fn folder() -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.context("the folder for temporary files can't be used")
}

/// Each runner has the credential that opens the channel from before.
async fn roll(world: &World) -> anyhow::Result<Arc<dyn AccessStore>> {
    let roll = SqliteAccess::in_memory(Blocking::InPlace)?;
    let stations = world.plan.stations.iter();
    let credentials = stations.map(|station| {
        Change::Credential(Credential {
            digest: Digest::of(&crate::credential(&station.name)),
            runner: station.name.clone(),
            registration: "before".into(),
            created_at: 0,
            used_at: None,
            ended: None,
        })
    });
    roll.commit(0, &credentials.collect::<Vec<_>>(), &[]).await?;
    Ok(Arc::new(roll))
}

/// Everybody there is.
struct Scene {
    world: Arc<World>,
    disk: Arc<Disk>,
    coordinator: Arc<Coordinator>,
    stations: Vec<Arc<Station>>,
    links: Vec<Arc<Link>>,
    people: Arc<People>,
    people_link: Arc<Link>,
}

impl Scene {
    async fn begin(world: &Arc<World>, folder: &Path, secrets: &Path) -> anyhow::Result<Self> {
        let logs: PathBuf = folder.join("logs");
        let disk = Disk::new(Arc::clone(world), &logs)?;
        let roll = roll(world).await?;
        let coordinator =
            Coordinator::begin(Arc::clone(world), Arc::clone(&disk), logs, secrets.to_owned(), roll);
        let door = || Arc::clone(&coordinator) as Arc<dyn Door>;
        let stations = world.plan.stations.iter();
        let links: Vec<_> = stations
            .map(|plan| {
                let dice = world.dice.of(&format!("link of {}", plan.name));
                let mischief = Mischief::begin(world, &plan.name, door());
                Link::new(door(), dice, plan.latency_ms, mischief)
            })
            .collect();
        let stations = links.iter().enumerate();
        let stations = stations
            .map(|(number, link)| Station::begin(Arc::clone(world), number, Arc::clone(link)))
            .collect();
        let people_link = Link::new(door(), world.dice.of("link of people"), PEOPLE_LATENCY_MS, None);
        let people = People::begin(Arc::clone(world), Arc::clone(&people_link));
        Ok(Self { world: Arc::clone(world), disk, coordinator, stations, links, people, people_link })
    }

    async fn play(&self) {
        self.trouble().await;
        self.heal();
        self.come_to_an_end().await;
        self.check();
    }

    async fn trouble(&self) {
        let mut now = Duration::ZERO;
        for (at, fault) in self.world.plan.faults.clone() {
            sleep(at - now).await;
            now = at;
            self.world.note(format_args!("FAULT {fault:?}"));
            self.bring_about(fault);
        }
        sleep(self.world.plan.trouble.saturating_sub(now)).await;
    }

    fn bring_about(&self, fault: Fault) {
        self.world.count(counted(fault));
        self.disturb(fault);
        match fault {
            Fault::Reset(place) => self.link(place).reset(),
            Fault::Void(place) => self.link(place).void(),
            Fault::CutAfter(place, way, bytes) => self.link(place).cut_after(way, bytes),
            Fault::Hold(place, way, pause) => self.link(place).hold(way, pause),
            Fault::Partition(place, pause) => {
                Way::BOTH.into_iter().for_each(|way| self.link(place).hold(way, pause));
            }
            Fault::Slow(place, pause) => self.link(place).slow(pause),
            Fault::KillRunner(runner, pause) => self.stations[runner].kill(pause),
            Fault::FreezeRunner(runner, pause) => self.stations[runner].freeze(pause),
            Fault::DrainRunner(runner) => self.stations[runner].drain(),
            Fault::LeaveRunner(runner) => self.stations[runner].leave(),
            Fault::Twin(runner) => self.stations[runner].twin(),
            Fault::PersonDrains(runner) => self.people.drain(self.world.plan.stations[runner].name.clone()),
            Fault::KillCoordinator(pause) => self.coordinator.kill(pause),
            Fault::PowerLoss(pause) => {
                self.coordinator.kill(pause);
                self.disk.lose_power();
            }
            Fault::StopCoordinator(pause) => self.coordinator.stop(pause),
            Fault::FreezeCoordinator(pause) => self.coordinator.freeze(pause),
            Fault::StoreDown(pause) => self.disk.down(pause),
            Fault::StoreStalls(pause) => self.disk.stall(pause),
            Fault::Commit(fault) => self.disk.fail_commit(fault),
            Fault::PowerLossBeforeSeal => self.disk.lose_power_before_seal(),
            Fault::LogsDown(pause) => self.disk.logs_down(pause),
        }
    }

    /// Notes with which runner something is wrong, and until when.
    fn disturb(&self, fault: Fault) {
        /// How long it takes at most until a cut or a dead connection is noticed.
        const NOTICED: Duration = Duration::from_secs(30);
        let (station, pause) = match fault {
            Fault::Reset(Place::Station(station)) => (station, Duration::ZERO),
            Fault::Void(Place::Station(station)) => (station, NOTICED),
            // It may come to it much later.
            Fault::CutAfter(Place::Station(station), ..) => (station, self.world.plan.trouble),
            Fault::Hold(Place::Station(station), _, pause)
            | Fault::Partition(Place::Station(station), pause)
            | Fault::Slow(Place::Station(station), pause)
            | Fault::FreezeRunner(station, pause)
            | Fault::KillRunner(station, pause) => (station, pause + NOTICED),
            Fault::Twin(station) => (station, NOTICED),
            _ => return,
        };
        let until = Duration::from_millis(self.world.now_ms()) + pause;
        self.world.ledger().disturbed(station, u64::try_from(until.as_millis()).unwrap_or(u64::MAX));
    }

    fn link(&self, place: Place) -> &Link {
        match place {
            Place::Station(station) => &self.links[station],
            Place::People => &self.people_link,
        }
    }

    fn heal(&self) {
        self.world.note(format_args!("PEACE"));
        self.world.make_peace();
        self.links.iter().for_each(|link| link.heal());
        self.people_link.heal();
        self.disk.heal();
        self.coordinator.heal();
        self.stations.iter().for_each(|station| station.heal());
    }

    async fn come_to_an_end(&self) {
        let ended = self.within(PEACE_MAX, || self.people.are_done() && self.live_builds() == 0).await;
        let holds = if ended { Ok(()) } else { Err(format!("{} builds have not ended", self.live_builds())) };
        self.world.hold("I10: every build ends", holds);
        let quiet =
            || self.world.ledger().held().is_empty() && self.stations.iter().all(|one| one.is_clean());
        let holds = if self.within(QUIET_MAX, quiet).await {
            Ok(())
        } else {
            let held: Vec<String> = self.world.ledger().held().into_iter().map(short_attempt).collect();
            Err(format!("runners still hold {held:?}"))
        };
        self.world.hold("I9: runners let go of what is over", holds);
    }

    async fn within(&self, most: Duration, reached: impl Fn() -> bool) -> bool {
        let looks = most.as_secs() / LOOK_EVERY.as_secs();
        for _ in 0..looks {
            if reached() {
                return true;
            }
            sleep(LOOK_EVERY).await;
        }
        reached()
    }

    fn live_builds(&self) -> usize {
        let books = self.world.books();
        books.builds.values().filter(|entry| !matches!(entry.standing, Standing::Ended(_))).count()
    }

    /// What must hold once everything is over.
    fn check(&self) {
        self.coordinator.check();
        let restored = invariants::i7_what_was_committed_survives(&self.world.books(), &self.disk.restored());
        self.world.hold("I7: what was committed survives", restored);
        self.people.check();
        self.check_logs();
    }

    fn check_logs(&self) {
        let books = self.world.books();
        for (build, entry) in &books.builds {
            let stored = self.disk.build(caisson_coordinator::store::BuildKey::Id(*build));
            let same = matches!((&stored, &entry.standing), (Some(stored), Standing::Ended(outcome))
                if stored.status == outcome.status());
            let holds = if same { Ok(()) } else { Err(format!("{} is stored as {stored:?}", short(*build))) };
            self.world.hold("I1: what is accepted is stored", holds);
            for (number, end) in &entry.ends {
                let attempt = AttemptId { build: *build, number: *number };
                let log = self.disk.log(attempt);
                let ledger = self.world.ledger();
                let holds = match end {
                    AttemptEnd::Reported(report) => {
                        invariants::i8_the_log_is_whole(&ledger, attempt, report, &log)
                    }
                    _ => invariants::i8_a_log_is_what_its_attempt_wrote(&ledger, attempt, 0, &log),
                };
                drop(ledger);
                self.world.hold("I8: a log is what its attempt wrote", holds);
            }
        }
    }
}

fn counted(fault: Fault) -> &'static str {
    match fault {
        Fault::Reset(_) => "fault: connections reset",
        Fault::Void(_) => "fault: connections half-open",
        Fault::CutAfter(..) => "fault: connections cut in mid-frame",
        Fault::Hold(..) => "fault: one way held",
        Fault::Partition(..) => "fault: partition",
        Fault::Slow(..) => "fault: slow link",
        Fault::KillRunner(..) => "fault: runner killed",
        Fault::FreezeRunner(..) => "fault: runner frozen",
        Fault::DrainRunner(_) => "fault: runner drained",
        Fault::LeaveRunner(_) => "fault: runner leaves",
        Fault::Twin(_) => "fault: two with one name",
        Fault::PersonDrains(_) => "fault: drained by a person",
        Fault::KillCoordinator(_) => "fault: coordinator killed",
        Fault::PowerLoss(_) => "fault: power lost",
        Fault::StopCoordinator(_) => "fault: coordinator stopped",
        Fault::FreezeCoordinator(_) => "fault: coordinator frozen",
        Fault::StoreDown(_) => "fault: store down",
        Fault::StoreStalls(_) => "fault: store stalls",
        Fault::Commit(_) => "fault: around a commit",
        Fault::PowerLossBeforeSeal => "fault: power lost before a log is durable",
        Fault::LogsDown(_) => "fault: logs down",
    }
}
