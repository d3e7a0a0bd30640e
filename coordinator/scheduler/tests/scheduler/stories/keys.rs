//! A submission that is repeated under its key is one build.

use caisson_scheduler::Answer;

use crate::{words::*, world::World};

#[test]
fn the_same_key_and_body_give_the_same_build() {
    let mut world = World::new();
    let a = world.fresh_keyed("a", "k", "body");
    assert_eq!(world.ask_submit(a.clone()), Answer::Accepted { build: a.id });
    assert_eq!(world.ask_submit(keyed(50, "k", "body")), Answer::Repeated { build: a.id });
    assert_eq!(world.queue(), ["a"]);
}

#[test]
fn the_same_key_with_another_body_is_refused() {
    let mut world = World::new();
    let a = world.fresh_keyed("a", "k", "body");
    world.ask_submit(a);
    assert_eq!(world.ask_submit(keyed(50, "k", "another")), Answer::KeyReused);
    assert_eq!(world.queue(), ["a"]);
}

#[test]
fn another_key_or_none_is_another_build() {
    let mut world = World::new();
    let a = world.fresh_keyed("a", "k", "body");
    world.ask_submit(a);
    let b = world.fresh_keyed("b", "l", "body");
    world.ask_submit(b);
    world.submit("c");
    assert_eq!(world.queue(), ["a", "b", "c"]);
}

#[test]
fn a_repetition_is_answered_when_the_queue_is_full() {
    let mut world = World::new();
    let a = world.fresh_keyed("a", "k", "body");
    world.ask_submit(a.clone());
    world.submit("b");
    world.submit("c");
    assert_eq!(world.ask_submit(keyed(50, "k", "body")), Answer::Repeated { build: a.id });
}

#[test]
fn a_refused_submission_leaves_its_key_unused() {
    let mut world = World::new();
    let [a, ..] = ["a", "b", "c"].map(|name| world.submit(name));
    let d = world.fresh_keyed("d", "k", "body");
    assert_eq!(world.ask_submit(d.clone()), Answer::QueueFull { limit: 3, depth: 3 });
    world.cancel(a);
    assert_eq!(world.ask_submit(d.clone()), Answer::Accepted { build: d.id });
}

#[test]
fn a_key_outlives_its_build_and_the_coordinator() {
    let mut world = World::new();
    world.runner("r1", 1);
    let a = world.fresh_keyed("a", "k", "body");
    world.ask_submit(a.clone());
    world.succeeds("r1", a.id);
    for _ in 0..2 {
        assert_eq!(world.ask_submit(keyed(50, "k", "body")), Answer::Repeated { build: a.id });
        assert_eq!(world.ask_submit(keyed(50, "k", "another")), Answer::KeyReused);
        world.coordinator_restarts();
    }
}
