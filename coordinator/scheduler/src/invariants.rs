//! What must hold after every step, written once: for the model checker, for the simulation, and for the running
//! program.

use std::collections::BTreeSet;

use crate::{Scheduler, build::State};

/// A rule that does not hold: its name, and where it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// What breaks it.
    pub found: String,
}

impl Scheduler {
    /// Checks every rule that can be seen from a single state.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), Violation> {
        self.every_build_is_in_one_place()?;
        self.books_of_runners_and_builds_agree()?;
        self.no_runner_has_more_than_it_takes()?;
        self.nobody_waits_beside_a_free_runner()
    }

    /// I1: a live build waits or is leased, and never both.
    fn every_build_is_in_one_place(&self) -> Result<(), Violation> {
        const RULE: &str = "every live build waits or is leased, never both";
        let waiting: BTreeSet<_> = self.queue.iter().collect();
        let by_state: BTreeSet<_> =
            self.builds.values().filter(|build| build.state == State::Queued).map(|build| build.id).collect();
        hold(waiting == by_state, RULE, || format!("queue {waiting:?}, builds {by_state:?}"))
    }

    /// I4: at most one current attempt for a build: its lease and the runner's books name each other.
    fn books_of_runners_and_builds_agree(&self) -> Result<(), Violation> {
        const RULE: &str = "a build's lease and its runner's books agree";
        let leased: BTreeSet<_> =
            self.builds.values().filter_map(|build| Some((build.lease()?.runner, build.id))).collect();
        let held: BTreeSet<_> = self
            .fleet
            .iter()
            .flat_map(|(id, runner)| runner.holds.iter().map(move |build| (id, *build)))
            .collect();
        hold(leased == held, RULE, || format!("leased {leased:?}, held {held:?}"))
    }

    /// I4: a runner never holds more than its capacity, or than it brought along when it came back with a smaller one.
    fn no_runner_has_more_than_it_takes(&self) -> Result<(), Violation> {
        const RULE: &str = "a runner never holds more than its capacity";
        let connected = self.fleet.iter().filter(|(_, runner)| runner.session.is_some());
        for (_, runner) in connected {
            let brought = runner.registration.as_ref().map_or(0, |said| said.held.len());
            hold(runner.holds.len() <= runner.capacity().max(brought), RULE, || runner.name.clone())?;
        }
        Ok(())
    }

    /// I10, the part that a state shows: a build does not wait for a runner that is free for it.
    fn nobody_waits_beside_a_free_runner(&self) -> Result<(), Violation> {
        const RULE: &str = "no build waits beside a free runner that serves it";
        if self.fleet.iter().all(|(_, runner)| runner.free() == 0) {
            return Ok(());
        }
        for build in self.queue.iter().filter_map(|id| self.builds.get(&id)) {
            let free = crate::pick::pick(build, &self.fleet);
            hold(free.is_none(), RULE, || format!("build {} beside {free:?}", build.number))?;
        }
        Ok(())
    }
}

fn hold(holds: bool, rule: &'static str, found: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { rule, found: found() }) }
}
