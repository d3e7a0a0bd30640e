//! The runners: who is there, who holds what, who has not been heard from.

use std::collections::{BTreeMap, BTreeSet};

use caisson_protocol::{BuildId, Labels, Registration, RunnerId};

use crate::{Moment, RequestId, RunnerRef, SessionId};

/// A runner that is registered, or that held a build when the coordinator stopped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Runner {
    pub(crate) name: String,
    /// What it said of itself; nothing while it has not come back after a restart of the coordinator.
    pub(crate) registration: Option<Registration>,
    /// Its connection, while it has one.
    pub(crate) session: Option<SessionId>,
    /// The latest connection it had.
    pub(crate) latest_session: Option<SessionId>,
    /// When it was last heard from, by this process of the coordinator.
    pub(crate) heard: Option<Moment>,
    /// When it is removed unless it is heard from.
    pub(crate) deadline: Moment,
    pub(crate) draining: bool,
    /// The request of a person that made it drain.
    pub(crate) drained_by: Option<RequestId>,
    /// The builds whose current attempt it has.
    pub(crate) holds: BTreeSet<BuildId>,
}

impl Runner {
    pub(crate) fn capacity(&self) -> usize {
        self.registration.as_ref().map_or(0, |said| said.capacity as usize)
    }

    /// A person drains it.
    pub(crate) fn drain(&mut self, request: RequestId) {
        if !self.draining {
            (self.draining, self.drained_by) = (true, Some(request));
        }
    }

    /// How many more builds it takes right now.
    pub(crate) fn free(&self) -> usize {
        match self.session {
            Some(_) if self.is_staying() => self.capacity().saturating_sub(self.holds.len()),
            _ => 0,
        }
    }

    /// Why it can run no builds, if that is so.
    pub(crate) fn unhealthy(&self) -> Option<&str> {
        self.registration.as_ref()?.condition.unhealthy.as_deref()
    }

    /// Whether it will take builds as far as anyone knows, now or when it has a free place.
    pub(crate) fn is_staying(&self) -> bool {
        !self.draining && self.unhealthy().is_none()
    }

    /// Whether it went as it had said it would: without a connection, and with nothing left to do.
    pub(crate) fn has_left(&self) -> bool {
        let said = self.registration.as_ref().is_some_and(|said| said.draining);
        said && self.session.is_none() && self.holds.is_empty()
    }

    pub(crate) fn offers(&self, wanted: &Labels) -> bool {
        self.registration.as_ref().is_some_and(|said| said.labels.offer(wanted))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Fleet {
    runners: BTreeMap<RunnerId, Runner>,
    sessions: BTreeMap<SessionId, RunnerId>,
    /// All runners, the one that was given or freed of a build longest ago first.
    longest_free: Vec<RunnerId>,
}

impl Fleet {
    pub(crate) fn get(&self, runner: RunnerId) -> Option<&Runner> {
        self.runners.get(&runner)
    }

    pub(crate) fn get_mut(&mut self, runner: RunnerId) -> Option<&mut Runner> {
        self.runners.get_mut(&runner)
    }

    /// The runners, the one free longest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RunnerId, &Runner)> {
        self.longest_free.iter().filter_map(|id| Some((*id, self.runners.get(id)?)))
    }

    pub(crate) fn of_session(&self, session: SessionId) -> Option<RunnerId> {
        self.sessions.get(&session).copied()
    }

    pub(crate) fn reference(&self, runner: RunnerId) -> RunnerRef {
        let name = self.runners.get(&runner).map(|known| known.name.clone()).unwrap_or_default();
        RunnerRef { id: runner, name }
    }

    /// Adds a runner that is known only by what it holds.
    pub(crate) fn expect(&mut self, runner: RunnerRef, deadline: Moment) {
        if !self.runners.contains_key(&runner.id) {
            self.longest_free.push(runner.id);
            let absent = Runner {
                name: runner.name,
                registration: None,
                session: None,
                latest_session: None,
                heard: None,
                deadline,
                draining: false,
                drained_by: None,
                holds: BTreeSet::new(),
            };
            self.runners.insert(runner.id, absent);
        }
    }

    /// Connects a runner that is known already.
    pub(crate) fn connect(&mut self, id: RunnerId, session: SessionId, registration: Registration) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        runner.session.take().map(|old| self.sessions.remove(&old));
        runner.session = Some(session);
        runner.latest_session = Some(session);
        // A drain asked for by a person holds until that process is gone. One that has not come back since the
        // coordinator started is the one that was meant.
        let same = runner.registration.as_ref().is_none_or(|before| before.instance == registration.instance);
        runner.draining = registration.draining || (same && runner.draining);
        runner.name.clone_from(&registration.name);
        runner.registration = Some(registration);
        self.sessions.insert(session, id);
    }

    pub(crate) fn disconnect(&mut self, session: SessionId) {
        let runner = self.sessions.remove(&session).and_then(|id| self.runners.get_mut(&id));
        if let Some(runner) = runner {
            runner.session = None;
        }
    }

    pub(crate) fn remove(&mut self, id: RunnerId) -> Option<Runner> {
        let runner = self.runners.remove(&id)?;
        self.longest_free.retain(|other| *other != id);
        runner.session.map(|session| self.sessions.remove(&session));
        Some(runner)
    }

    pub(crate) fn hold(&mut self, id: RunnerId, build: BuildId) {
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.holds.insert(build);
        }
        self.step_back(id);
    }

    pub(crate) fn free(&mut self, id: RunnerId, build: BuildId) {
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.holds.remove(&build);
        }
        self.step_back(id);
    }

    /// Forgets who holds what, for a scheduler that is rebuilt from the store.
    pub(crate) fn free_all(&mut self) {
        for runner in self.runners.values_mut() {
            runner.holds.clear();
        }
    }

    /// Forgets the drains that these requests asked for; what a runner says of itself stays.
    pub(crate) fn forget_drains(&mut self, requests: &[RequestId]) {
        for runner in self.runners.values_mut() {
            if runner.drained_by.is_some_and(|request| requests.contains(&request)) {
                runner.drained_by = None;
                runner.draining = runner.registration.as_ref().is_some_and(|said| said.draining);
            }
        }
    }

    /// The next moment at which a runner would be removed.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.runners.values().map(|runner| runner.deadline).min()
    }

    /// Gives every runner until `deadline`.
    pub(crate) fn grant(&mut self, deadline: Moment) {
        for runner in self.runners.values_mut() {
            runner.deadline = deadline;
        }
    }

    /// Those not heard from in time.
    pub(crate) fn overdue(&self, now: Moment) -> Vec<RunnerId> {
        let overdue = self.runners.iter().filter(|(_, runner)| runner.deadline <= now);
        overdue.map(|(id, _)| *id).collect()
    }

    fn step_back(&mut self, id: RunnerId) {
        if let Some(at) = self.longest_free.iter().position(|other| *other == id) {
            self.longest_free[at..].rotate_left(1);
        }
    }
}
