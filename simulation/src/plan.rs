//! What a seed stands for: who is there, what is submitted, and what goes wrong when.

use std::time::Duration;

use caisson_scheduler::Rules;

use crate::{dice::Dice, network::Way};

/// For how long things go wrong in a world that is made of a seed, in milliseconds.
const TROUBLE_MS: u64 = 150_000;

/// A run, before it begins.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The coordinator's rules.
    pub rules: Rules,
    /// The machines with a runner.
    pub stations: Vec<StationPlan>,
    /// What is submitted.
    pub scripts: Vec<Script>,
    /// What goes wrong, in order of time.
    pub faults: Vec<(Duration, Fault)>,
    /// For how long things may go wrong. Then comes peace.
    pub trouble: Duration,
    /// How many of a hundred messages on the channel are held, doubled or swapped.
    pub mischief_percent: u64,
    /// How long a commit takes at most, in milliseconds.
    pub commit_ms: u64,
}

/// A machine with a runner.
#[derive(Debug, Clone)]
pub struct StationPlan {
    /// The runner's name.
    pub name: String,
    /// Whether it has the one label that some builds ask for.
    pub labelled: bool,
    /// How many builds it runs at once.
    pub capacity: u32,
    /// How long a piece of a stream takes to it at most, in milliseconds.
    pub latency_ms: u64,
}

/// A build: when it is submitted and what it does.
#[derive(Debug, Clone)]
pub struct Script {
    /// When it is submitted.
    pub submit_at: Duration,
    /// Whether with an idempotency key, so that it can be submitted again when the answer is lost.
    pub keyed: bool,
    /// Whether only some runners can run it.
    pub labelled: bool,
    /// How long the clone takes, in milliseconds.
    pub prepare_ms: u64,
    /// What it writes: after how many milliseconds, and how many bytes.
    pub pieces: Vec<(u64, usize)>,
    /// How its command ends.
    pub exit_code: u8,
    /// What goes wrong with it.
    pub trouble: Trouble,
    /// When somebody wants it canceled, after its submission.
    pub cancel_after: Option<Duration>,
    /// Its time limit.
    pub timeout_seconds: u32,
}

/// What goes wrong with a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Its first attempts fail by no fault of its own.
    Infrastructure(u32),
    /// There is no such commit.
    NoSuchCommit,
    /// Its first attempts take the runner down.
    Poison(u32),
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connections of a link end; both sides are told.
    Reset(Place),
    /// The connections of a link are dead, and nobody is told.
    Void(Place),
    /// The connections of a link end after so many more bytes.
    CutAfter(Place, Way, usize),
    /// Nothing gets through one way for a while.
    Hold(Place, Way, Duration),
    /// Nothing gets through either way for a while.
    Partition(Place, Duration),
    /// Everything takes long for a while.
    Slow(Place, Duration),
    /// A runner's process dies, and starts again after a while.
    KillRunner(usize, Duration),
    /// A runner's process stands still for a while.
    FreezeRunner(usize, Duration),
    /// A runner is asked to end when it is done (SIGTERM).
    DrainRunner(usize),
    /// A runner is asked to give back what it has (a second SIGTERM).
    LeaveRunner(usize),
    /// A second process with the name of a runner starts.
    Twin(usize),
    /// A person drains a runner.
    PersonDrains(usize),
    /// The coordinator's process dies, and starts again after a while.
    KillCoordinator(Duration),
    /// The coordinator's machine loses its power, and with it what was written and not made durable.
    PowerLoss(Duration),
    /// The coordinator is stopped as it should be, and starts again after a while.
    StopCoordinator(Duration),
    /// The coordinator stands still for a while.
    FreezeCoordinator(Duration),
    /// The store takes nothing for a while.
    StoreDown(Duration),
    /// The store takes its time for a while.
    StoreStalls(Duration),
    /// Something happens around one of the next commits.
    Commit(CommitFault),
    /// The power is lost when the next log is to be made durable.
    PowerLossBeforeSeal,
    /// The logs can't be written for a while.
    LogsDown(Duration),
}

/// What happens around a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// It is refused, and the next one is not.
    Refused,
    /// The coordinator dies before it took effect.
    DeathBefore,
    /// The coordinator dies after it took effect, before anybody knew.
    DeathAfter,
    /// The disk fails before it took effect.
    BrokenBefore,
    /// The disk fails after it took effect.
    BrokenAfter,
}

/// Which side it is with which things go wrong. What one side has to stand on its own does not show where the other
/// side has troubles too: that a runner is well is known only of one that nothing happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Any,
    Coordinator,
    Runners,
}

/// Whose link to the coordinator it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// That of a runner.
    Station(usize),
    /// That of the people.
    People,
}

impl Plan {
    /// The plan that a seed stands for.
    #[must_use]
    pub fn of(dice: &Dice) -> Self {
        let mut shape = dice.of("shape");
        let stations = stations(&mut dice.of("stations"));
        let mut scripts: Vec<Script> = {
            let mut dice = dice.of("scripts");
            (0..dice.within(6..=18)).map(|_| script(&mut dice)).collect()
        };
        scripts.sort_by_key(|script| script.submit_at);
        // A world without faults shows that what is seen in the others is not the world's own.
        let most = shape.pick(&[0, 4, 10, 20, 30]);
        let side = shape.pick(&[Side::Any, Side::Any, Side::Any, Side::Coordinator, Side::Runners]);
        let faults = faults(&mut dice.of("faults"), most, side, stations.len());
        Self {
            rules: Rules {
                queue_capacity: shape.pick(&[2, 4, 8, 1000]),
                max_attempts: 3,
                interval_ms: 10_000,
                timeout_ms: 20_000,
                log_bytes_max: 1 << 28,
            },
            stations,
            scripts,
            faults,
            trouble: Duration::from_millis(TROUBLE_MS),
            mischief_percent: shape.pick(&[0, 0, 2, 10]),
            commit_ms: shape.pick(&[0, 5, 50]),
        }
    }
}

fn stations(dice: &mut Dice) -> Vec<StationPlan> {
    let how_many = dice.within(1..=3);
    (0..how_many)
        .map(|number| StationPlan {
            name: format!("r{number}"),
            // The first has all there is, so that every build finds a runner in the end.
            labelled: number == 0 || dice.percent(40),
            capacity: u32::try_from(dice.within(1..=3)).unwrap_or(1),
            latency_ms: dice.pick(&[1, 20, 200]),
        })
        .collect()
}

fn script(dice: &mut Dice) -> Script {
    let pieces = dice.within(0..=12);
    // Now and then everybody submits at once.
    let at = if dice.percent(30) { dice.within(0..=2) * 40_000 } else { dice.within(0..=100_000) };
    Script {
        submit_at: Duration::from_millis(at + dice.within(0..=50)),
        keyed: dice.percent(70),
        labelled: dice.percent(25),
        prepare_ms: dice.within(0..=3000),
        pieces: (0..pieces).map(|_| piece(dice)).collect(),
        exit_code: if dice.percent(70) { 0 } else { u8::try_from(dice.within(1..=255)).unwrap_or(1) },
        trouble: match dice.within(0..=99) {
            0..=9 => Trouble::Infrastructure(u32::try_from(dice.within(1..=4)).unwrap_or(1)),
            10..=12 => Trouble::NoSuchCommit,
            13..=18 => Trouble::Poison(u32::try_from(dice.within(1..=4)).unwrap_or(1)),
            _ => Trouble::None,
        },
        cancel_after: dice.percent(20).then(|| Duration::from_millis(dice.within(0..=40_000))),
        timeout_seconds: if dice.percent(8) { 5 } else { 600 },
    }
}

fn piece(dice: &mut Dice) -> (u64, usize) {
    // Some commands are silent for longer than a runner may be.
    let after_ms = if dice.percent(4) { dice.within(15_000..=40_000) } else { dice.within(0..=3000) };
    let bytes = if dice.percent(15) { dice.within(2000..=40_000) } else { dice.within(1..=300) };
    (after_ms, usize::try_from(bytes).unwrap_or(1))
}

fn faults(dice: &mut Dice, most: u64, side: Side, stations: usize) -> Vec<(Duration, Fault)> {
    let how_many = dice.within(0..=most);
    let mut faults: Vec<_> = (0..how_many)
        .map(|_| (Duration::from_millis(dice.within(0..=TROUBLE_MS)), fault(dice, stations)))
        .filter(|(_, fault)| side == Side::Any || side == fault.side())
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn fault(dice: &mut Dice, stations: usize) -> Fault {
    let runner = usize::try_from(dice.within(0..=stations as u64 - 1)).unwrap_or(0);
    let place = if dice.percent(20) { Place::People } else { Place::Station(runner) };
    let pause = pause(dice);
    let way = dice.pick(&Way::BOTH);
    match dice.within(0..=41) {
        0..=2 => Fault::Reset(place),
        3..=4 => Fault::Void(place),
        5..=7 => Fault::CutAfter(place, way, usize::try_from(dice.within(0..=20_000)).unwrap_or(0)),
        8..=9 => Fault::Hold(place, way, pause),
        10..=11 => Fault::Partition(place, pause),
        12 => Fault::Slow(place, pause),
        13..=15 => Fault::KillRunner(runner, pause / 2),
        16..=17 => Fault::FreezeRunner(runner, pause),
        18..=19 => Fault::DrainRunner(runner),
        20 => Fault::LeaveRunner(runner),
        21..=22 => Fault::Twin(runner),
        23..=24 => Fault::PersonDrains(runner),
        25 => Fault::KillCoordinator(pause / 2),
        26 => Fault::PowerLoss(pause / 4),
        27 => Fault::StopCoordinator(pause / 4),
        28..=30 => Fault::FreezeCoordinator(pause),
        31 => Fault::StoreDown(pause),
        32..=34 => Fault::StoreStalls(pause),
        35..=39 => Fault::Commit(dice.pick(&[
            CommitFault::Refused,
            CommitFault::DeathBefore,
            CommitFault::DeathAfter,
            CommitFault::BrokenBefore,
            CommitFault::BrokenAfter,
        ])),
        40 => Fault::PowerLossBeforeSeal,
        _ => Fault::LogsDown(pause / 2),
    }
}

impl Fault {
    fn side(self) -> Side {
        match self {
            Self::Reset(_)
            | Self::Void(_)
            | Self::CutAfter(..)
            | Self::Hold(..)
            | Self::Partition(..)
            | Self::Slow(..)
            | Self::KillRunner(..)
            | Self::FreezeRunner(..)
            | Self::DrainRunner(_)
            | Self::LeaveRunner(_)
            | Self::Twin(_)
            | Self::PersonDrains(_) => Side::Runners,
            Self::KillCoordinator(_)
            | Self::PowerLoss(_)
            | Self::StopCoordinator(_)
            | Self::FreezeCoordinator(_)
            | Self::StoreDown(_)
            | Self::StoreStalls(_)
            | Self::Commit(_)
            | Self::PowerLossBeforeSeal
            | Self::LogsDown(_) => Side::Coordinator,
        }
    }
}

/// Most troubles are short. The others are about as long as the timeouts, where it matters who notices first.
fn pause(dice: &mut Dice) -> Duration {
    Duration::from_millis(match dice.within(0..=4) {
        0..=1 => dice.within(10..=3000),
        2 => dice.within(8000..=14_000),
        3 => dice.within(16_000..=24_000),
        _ => dice.within(15_000..=45_000),
    })
}
