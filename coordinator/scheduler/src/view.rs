//! What people are shown of the live state.

use caisson_protocol::{AttemptId, BuildId, Condition, Labels, Registration, RunnerId, Status};

use crate::{Moment, Rules, Scheduler, build::Build, pick::can_go_elsewhere};

/// A build that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingBuild {
    /// The build.
    pub id: BuildId,
    /// Its place among those that wait, from 1.
    pub position: usize,
    /// Why it waits.
    pub waiting_for: WaitingFor,
}

/// Why a build waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingFor {
    /// No runner is registered.
    AnyRunner,
    /// No registered runner has all the labels; these are the ones that the best of them lacks.
    Labels(Labels),
    /// All runners that serve it are on their way out.
    DrainedRunners,
    /// The runners that serve it have lost their connection, and may come back.
    LostRunners,
    /// Runners serve it, and all of them are busy.
    FreeRunner {
        /// How many serve it.
        runners: usize,
    },
    /// The runners that serve it can run no builds; this is what the first of them says.
    UnhealthyRunners(String),
    /// It failed by no fault of its own, and waits for a runner on which it has not.
    AnotherRunner,
}

/// A runner, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerView {
    /// Its identity.
    pub id: RunnerId,
    /// Its name.
    pub name: String,
    /// What it said of itself; nothing while it has not come back after a restart of the coordinator.
    pub registration: Option<Registration>,
    /// Whether it has a connection.
    pub connected: bool,
    /// Whether it takes no further builds.
    pub draining: bool,
    /// When it was last heard from; nothing while it has not come back after a restart of the coordinator.
    pub heard: Option<Moment>,
    /// When it is removed unless it is heard from.
    pub deadline: Moment,
    /// The builds it has.
    pub builds: Vec<BuildId>,
}

impl Scheduler {
    /// The numbers that decisions depend on.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where a build stands that waits or runs.
    #[must_use]
    pub fn status(&self, build: BuildId) -> Option<Status> {
        self.builds.get(&build).map(Build::status)
    }

    /// The current attempt of a build, and who has it.
    #[must_use]
    pub fn current_attempt(&self, build: BuildId) -> Option<(AttemptId, RunnerId)> {
        let build = self.builds.get(&build)?;
        Some((build.attempt(), build.lease()?.runner))
    }

    /// How many builds wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many builds are on a runner.
    #[must_use]
    pub fn running(&self) -> usize {
        self.builds.len() - self.queue.len()
    }

    /// How many runners are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.fleet.iter().filter(|(_, runner)| runner.session.is_some()).count()
    }

    /// How the connected runners are.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let connected = self.fleet.iter().filter(|(_, runner)| runner.session.is_some());
        connected.filter_map(|(_, runner)| runner.registration.as_ref()).map(|said| &said.condition)
    }

    /// The builds that wait, oldest first, at most `most` of them.
    #[must_use]
    pub fn queue(&self, most: usize) -> Vec<WaitingBuild> {
        let builds = self.queue.iter().filter_map(|id| self.builds.get(&id));
        let waiting = |(at, build): (usize, &Build)| WaitingBuild {
            id: build.id,
            position: at + 1,
            waiting_for: self.waiting_for(build),
        };
        builds.take(most).enumerate().map(waiting).collect()
    }

    /// Where a build stands among those that wait, and why it does, if it does.
    #[must_use]
    pub fn waiting_build(&self, id: BuildId) -> Option<WaitingBuild> {
        let build = self.builds.get(&id).filter(|build| build.lease().is_none())?;
        let position = self.queue.ahead_of(build.number) + 1;
        Some(WaitingBuild { id, position, waiting_for: self.waiting_for(build) })
    }

    /// The runners, by name.
    #[must_use]
    pub fn runners(&self) -> Vec<RunnerView> {
        let view = |(id, runner): (RunnerId, &crate::fleet::Runner)| RunnerView {
            id,
            name: runner.name.clone(),
            registration: runner.registration.clone(),
            connected: runner.session.is_some(),
            draining: runner.draining,
            heard: runner.heard,
            deadline: runner.deadline,
            builds: runner.holds.iter().copied().collect(),
        };
        let mut runners: Vec<RunnerView> = self.fleet.iter().map(view).collect();
        runners.sort_by(|a, b| a.name.cmp(&b.name));
        runners
    }

    fn waiting_for(&self, build: &Build) -> WaitingFor {
        let wanted = &build.spec.labels;
        let registered =
            || self.fleet.iter().filter_map(|(_, runner)| Some((runner, runner.registration.as_ref()?)));
        if registered().next().is_none() {
            return WaitingFor::AnyRunner;
        }
        let serving: Vec<_> =
            registered().filter(|(_, said)| said.labels.offer(wanted)).map(|(runner, _)| runner).collect();
        if serving.is_empty() {
            let lacks = registered().map(|(_, said)| said.labels.missing(wanted));
            return WaitingFor::Labels(lacks.min_by_key(|labels| labels.iter().count()).unwrap_or_default());
        }
        let staying: Vec<_> = serving.into_iter().filter(|runner| !runner.draining).collect();
        if staying.is_empty() {
            return WaitingFor::DrainedRunners;
        }
        let connected: Vec<_> = staying.into_iter().filter(|runner| runner.session.is_some()).collect();
        let healthy = connected.iter().filter(|runner| runner.unhealthy().is_none()).count();
        let ailing = connected.iter().find_map(|runner| runner.unhealthy());
        match (healthy, ailing) {
            (0, None) => WaitingFor::LostRunners,
            (0, Some(why)) => WaitingFor::UnhealthyRunners(why.to_owned()),
            _ if can_go_elsewhere(build, &self.fleet) => WaitingFor::AnotherRunner,
            (runners, _) => WaitingFor::FreeRunner { runners },
        }
    }
}
