//! The model check: the scheduler itself, in worlds small enough to try every order of everything.
//!
//! Messages are lost, doubled and overtaken; connections are cut; runners crash, come back with what they had spooled,
//! are replaced, removed, drained; the coordinator dies and goes on with what is stored, or can't store. A death between commit
//! and effects is a death right after the effects, since it takes with it all that is on its way: no case of its own.

mod actions;
mod acts;
mod facts;
mod state;
mod worlds;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::store;
use actions::Action;
use state::{State, rule};
use worlds::SmallWorld;

/// How many different states the worlds must have together. Fewer mean that a world has become too tame to prove much.
const STATES_MIN: usize = 1_000_000;

impl Model for SmallWorld {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.progress(self, actions);
        state.faults(self, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.act(self, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties: Vec<Property<Self>> = vec![
            Property::always(store::LOST, |_: &Self, state: &State| state.keeps(store::LOST)),
            Property::always(store::ONE_END, |_: &Self, state: &State| state.keeps(store::ONE_END)),
            Property::always(store::RIGHTFUL_END, |_: &Self, state: &State| state.keeps(store::RIGHTFUL_END)),
            Property::always(store::ONE_ATTEMPT, |_: &Self, state: &State| state.keeps(store::ONE_ATTEMPT)),
            Property::always(store::BOUND, |_: &Self, state: &State| state.keeps(store::BOUND)),
            Property::always(store::ORDER, |_: &Self, state: &State| state.keeps(store::ORDER)),
            Property::always(store::NO_PENALTY, |_: &Self, state: &State| state.keeps(store::NO_PENALTY)),
            Property::always(rule::DRAIN, |_: &Self, state: &State| state.keeps(rule::DRAIN)),
            Property::always(rule::IN_VAIN, |_: &Self, state: &State| state.keeps(rule::IN_VAIN)),
            Property::always(rule::KEY, |_: &Self, state: &State| state.keeps(rule::KEY)),
            Property::always(rule::REMOVAL, |_: &Self, state: &State| state.keeps(rule::REMOVAL)),
            Property::always(rule::AN_END, |_: &Self, state: &State| state.keeps(rule::AN_END)),
            Property::always(rule::OWN_CHECK, |_: &Self, state: &State| state.keeps(rule::OWN_CHECK)),
            Property::always(
                "I10: where nothing more happens, every build has ended",
                |world: &Self, state: &State| !state.rests(world) || state.all_ended(),
            ),
        ];
        properties.extend(self.facts.iter().map(|fact| fact.sometimes()));
        properties
    }
}

#[test]
#[allow(clippy::disallowed_methods, clippy::print_stderr, reason = "a run tells how long it took")]
fn every_order_of_everything_keeps_the_promises() {
    let mut states = 0;
    for world in SmallWorld::all() {
        let (name, began) = (world.name, Instant::now());
        let checker = world.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.unique_state_count();
        eprintln!("{name}: {found} states in {:.1} s", began.elapsed().as_secs_f32());
        report(name, &checker);
        states += found;
    }
    eprintln!("{states} states in all");
    assert!(states >= STATES_MIN, "{states} states prove too little: at least {STATES_MIN}");
}

/// Fails with the shortest way to a state that breaks a law, or with what was never seen.
fn report(name: &str, checker: &impl Checker<SmallWorld>) {
    for property in checker.model().properties() {
        let failure = property.expectation.discovery_is_failure();
        match checker.discovery(property.name) {
            Some(path) if failure => {
                let end = path.last_state().clone();
                panic!("{name}: broken: {}\n{:?}\n{end:?}", property.name, path.into_actions())
            }
            None if !failure => panic!("{name}: never seen: {}", property.name),
            _ => {}
        }
    }
}
