//! Images: what registries refuse, and what is tried again.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use caisson_protocol::{AttemptId, CoordinatorMessage, Outcome, RunnerMessage, Stream};
use serde_json::json;

use super::World;
use crate::world::{
    EngineProxy, Gate, IMAGE, Registry,
    coordinator::Seen,
    docker, new_image,
    registry::{Health, OWN_BYTES},
    servers, spec_from, until,
};

fn reason(outcome: &Outcome) -> &'static str {
    outcome.reason().unwrap_or("none")
}

#[tokio::test]
async fn a_registry_that_may_be_better_in_a_moment_is_asked_again_and_not_for_ever() {
    let world = World::with(&["capacity=3", "image.stall=1s"]).await;
    let registry = servers::registry().await;
    let ill =
        ["broken", "busy", "silent"].map(|name| world.submit_in(&format!("{registry}/{name}/app:1"), "true"));
    for attempt in ill {
        let outcome = world.outcome(attempt).await;
        assert_eq!(reason(&outcome), "image_failed", "{outcome:?}");
        let said = world.coordinator.log_text(attempt, Stream::Caisson);
        assert_eq!(said.matches("trying again in").count(), 2, "{said}");
    }
    world.ends_clean().await;
}

/// Waits until something is said in a build's log.
async fn says(world: &World, attempt: AttemptId, text: &str) {
    let so =
        |seen: &Seen| seen.logs.get(&attempt).is_some_and(|log| log.text(Stream::Caisson).contains(text));
    world.coordinator.wait(text, so).await;
}

#[tokio::test]
async fn a_registry_that_is_well_again_when_it_is_asked_again_costs_no_build() {
    let registry = Registry::with(&["broken", "stuck"], Duration::ZERO).await;
    let world = World::with(&["image.stall=2s"]).await;
    for (name, health, cause) in [
        ("broken", Health::Broken, "was not pulled"),
        ("stuck", Health::Stuck, "no news of it for 2s (image.stall)"),
    ] {
        registry.is(health);
        let attempt = world.submit_in(&registry.image(name), &format!("ls / | grep -c ^own-{name}-"));
        says(&world, attempt, "trying again in").await;
        registry.is(Health::Well);
        assert_eq!(world.outcome(attempt).await, Outcome::Succeeded, "{name}");
        let said = world.coordinator.log_text(attempt, Stream::Caisson);
        assert!(said.contains(cause), "{said}");
        world.coordinator.cleaned(attempt).await;
        docker(&["rmi", &registry.image(name)]);
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn a_pull_takes_as_long_as_there_is_news_of_it_and_no_longer_than_it_may() {
    let registry = Registry::with(&["slow", "slower"], Duration::from_millis(700)).await;
    let patient = World::with(&["image.stall=4s"]).await;
    let attempt = patient.submit_in(&registry.image("slow"), "true");
    assert_eq!(patient.outcome(attempt).await, Outcome::Succeeded);
    let said = patient.coordinator.log_text(attempt, Stream::Caisson);
    assert!(!said.contains("trying again"), "{said}");
    patient.ends_clean().await;

    let hasty = World::with(&["image.timeout=2s"]).await;
    let attempt = hasty.submit_in(&registry.image("slower"), "true");
    let outcome = hasty.outcome(attempt).await;
    assert_eq!(reason(&outcome), "image_failed", "{outcome:?}");
    assert!(outcome.message().unwrap().contains("takes longer than 2s (image.timeout)"), "{outcome:?}");
    hasty.ends_clean().await;
    docker(&["rmi", &registry.image("slow")]);
}

#[tokio::test]
async fn a_build_is_stopped_while_its_image_is_pulled() {
    let registry = Registry::with(&["app"], Duration::ZERO).await;
    let world = World::with(&["image.stall=1h"]).await;
    registry.is(Health::Stuck);
    let canceled = world.submit_in(&registry.image("app"), "true");
    says(&world, canceled, "\nPulled ").await;
    world.coordinator.say(CoordinatorMessage::Cancel { attempt: canceled });
    assert_eq!(world.outcome(canceled).await, Outcome::Canceled);

    let mut value = serde_json::to_value(world.spec("true")).unwrap();
    value["image"] = json!(registry.image("app"));
    value["timeout_seconds"] = json!(2);
    let late = world.coordinator.assign(spec_from(value));
    let report = world.coordinator.finished(late).await;
    assert_eq!(report.outcome, Outcome::TimedOut);
    assert!(report.phases.image_ms.is_some() && report.phases.create_ms.is_none(), "{:?}", report.phases);
    world.ends_clean().await;
}

#[tokio::test]
async fn s35_a_runner_asks_the_registries_it_is_allowed_to_and_no_other() {
    let registry = Registry::with(&["app"], Duration::ZERO).await;
    let image = registry.image("app");
    let elsewhere = World::with(&["image.registries=[docker.io, localhost]"]).await;
    let refused = elsewhere.submit_in(&image, "true");
    let outcome = elsewhere.outcome(refused).await;
    assert_eq!(reason(&outcome), "image_denied", "{outcome:?}");
    let message = outcome.message().unwrap();
    assert!(message.contains(&registry.host()) && message.contains("image.registries"), "{message}");
    assert_eq!(registry.asked(), 0);

    let here = World::with(&[&format!("image.registries=[\"{}\"]", registry.host())]).await;
    let pulled = here.submit_in(&image, "true");
    assert_eq!(here.outcome(pulled).await, Outcome::Succeeded);
    here.ends_clean().await;

    // What is there asks nobody.
    let asked = registry.asked();
    let there = elsewhere.submit_in(&image, "true");
    assert_eq!(elsewhere.outcome(there).await, Outcome::Succeeded);
    assert_eq!(registry.asked(), asked);
    elsewhere.ends_clean().await;
    docker(&["rmi", &image]);
}

#[tokio::test]
async fn what_is_refused_is_not_asked_for_again() {
    let world = World::with(&["capacity=2"]).await;
    let registry = servers::registry().await;
    let refused =
        ["private/app", "nosuch"].map(|name| world.submit_in(&format!("{registry}/{name}:1"), "true"));
    for attempt in refused {
        world.outcome(attempt).await;
        let said = world.coordinator.log_text(attempt, Stream::Caisson);
        assert!(!said.contains("trying again"), "{said}");
    }
    world.ends_clean().await;
}

/// What it says is part of the build's end, which has to reach the coordinator.
#[tokio::test]
async fn a_registry_that_says_no_at_length_is_cut_short() {
    let world = World::new().await;
    let registry = servers::registry().await;
    let attempt = world.submit_in(&format!("{registry}/verbose/app:1"), "true");
    let outcome = world.outcome(attempt).await;
    assert!(reason(&outcome).starts_with("image_"), "{outcome:?}");
    assert!(outcome.message().unwrap().len() < 10_000, "{} bytes", outcome.message().unwrap().len());
    assert!(world.coordinator.log_text(attempt, Stream::Caisson).len() < 30_000);
    world.ends_clean().await;
}

/// As who tidies up an engine may remove it, after it was looked for.
#[tokio::test]
async fn an_image_that_is_gone_by_the_time_it_is_used_is_looked_for_again() {
    let home = tempfile::tempdir().unwrap();
    let proxy = EngineProxy::start(home.path().join("docker.sock"));
    let world = World::with(&[&proxy.setting()]).await;
    proxy.set(Gate::ForgetsImage);
    let attempt = world.submit("true");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    proxy.is_open_again().await;
    world.ends_clean().await;
}

#[tokio::test]
async fn a_pull_is_told_in_the_builds_log_and_its_digest_is_kept() {
    let world = World::new().await;
    let registry = Registry::with(&["app"], Duration::from_millis(50)).await;
    let image = registry.image("app");
    let attempt = world.submit_in(&image, "ls / | grep -c ^own-app-");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "1\n");
    let said = world.coordinator.log_text(attempt, Stream::Caisson);
    assert!(said.contains(&format!("Pulling image {image}\nPulled ")), "{said}");
    let started = |m: &RunnerMessage| match m {
        RunnerMessage::Started { image_digest, .. } => Some(image_digest.clone()),
        _ => None,
    };
    let digest = world.coordinator.look(|seen| seen.messages.iter().find_map(started)).unwrap();
    assert_eq!(digest, Some(registry.digest("app")));
    let report = world.coordinator.finished(attempt).await;
    assert_eq!(report.image_digest, Some(registry.digest("app")), "a late start tells it to nobody");

    // It is there by now, and not pulled again.
    let again = world.submit_in(&image, "true");
    assert_eq!(world.outcome(again).await, Outcome::Succeeded);
    let said = world.coordinator.log_text(again, Stream::Caisson);
    assert!(!said.contains("Pull"), "{said}");
    world.coordinator.cleaned(again).await;
    docker(&["rmi", &image]);
    world.ends_clean().await;
}

// The docker command waits for a registry that runs in this very process.
#[tokio::test(flavor = "multi_thread")]
async fn images_that_were_pulled_are_kept_in_size_but_for_those_in_use() {
    let registry = Registry::with(&["first", "second", "third", "fourth"], Duration::ZERO).await;
    let [first, second, third, fourth] =
        ["first", "second", "third", "fourth"].map(|name| registry.image(name));
    let is_there = |image: &str| !docker(&["images", "-q", image]).is_empty();
    // Room for the test image's size and the own layers of two, and not for three.
    let size = docker(&["inspect", "--format", "{{.Size}}", IMAGE]).parse::<usize>().unwrap() + OWN_BYTES;
    let size_max = format!("image.size_max={}B", size * 5 / 2);
    // Somebody else has pulled this one.
    docker(&["pull", "-q", &fourth]);

    let mut world = World::with(&["capacity=4", &size_max]).await;
    let uses_first = world.submit_in(&first, "echo ready; while [ ! -e go ]; do sleep 0.05; done");
    world.coordinator.prints(uses_first, "ready").await;
    for image in [&fourth, &second, &third] {
        let attempt = world.submit_in(image, "true");
        assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
        world.coordinator.cleaned(attempt).await;
    }
    until("the second goes, since the first is in use", async || !is_there(&second)).await;
    assert!(is_there(&first) && is_there(&third) && is_there(&fourth) && is_there(IMAGE));
    world.go(uses_first);
    assert_eq!(world.outcome(uses_first).await, Outcome::Succeeded);

    // What was used last is known to the next process, which pulls one more.
    world.coordinator.cleaned(uses_first).await;
    world.runner.kill();
    world.runner.restart();
    world.coordinator.wait("it is back", |seen| seen.registrations.len() == 2).await;
    let attempt = world.submit_in(&second, "true");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    until("the first goes", async || !is_there(&first)).await;
    assert!(is_there(&second) && is_there(&third) && is_there(&fourth) && is_there(IMAGE));
    world.ends_clean().await;
    for image in [second, third, fourth] {
        docker(&["rmi", &image]);
    }
}

/// As a tag does that is built anew each night: its older images have no name any more.
// The docker command waits for a registry that runs in this very process.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_is_followed_and_what_it_left_is_kept_in_size_too() {
    let registry = Registry::with(&["app"], Duration::ZERO).await;
    let image = registry.image("app");
    let size = docker(&["inspect", "--format", "{{.Size}}", IMAGE]).parse::<usize>().unwrap() + OWN_BYTES;
    let size_max = format!("image.size_max={}B", size * 3 / 2);
    let world = World::with(&["image.pull=always", &size_max]).await;
    let kept = new_image();
    let (mut ids, mut files) = (Vec::new(), Vec::new());
    for night in 0..4 {
        let attempt = world.submit_in(&image, "ls / | grep ^own-app-");
        let report = world.coordinator.finished(attempt).await;
        assert_eq!(report.outcome, Outcome::Succeeded);
        assert_eq!(report.image_digest, Some(registry.digest("app")));
        files.push(world.coordinator.log_text(attempt, Stream::Stdout));
        ids.push(docker(&["inspect", "--format", "{{.Id}}", &image]));
        world.coordinator.cleaned(attempt).await;
        // Somebody likes the second one.
        if night == 1 {
            docker(&["tag", &image, &kept]);
        }
        registry.renew("app");
    }
    assert!(files.windows(2).all(|files| files[0] != files[1]), "it was not pulled anew: {files:?}");
    let is_there =
        |id: &str| docker(&["images", "--all", "-q", "--no-trunc"]).lines().any(|there| there == id);
    until("the older ones go", async || !is_there(&ids[0]) && !is_there(&ids[2])).await;
    assert!(is_there(&ids[1]), "the one that somebody has named");
    assert!(is_there(&ids[3]), "the latest");
    world.ends_clean().await;
    // By its id: where it was pulled from is one of its names, too.
    docker(&["rmi", "--force", &image, &ids[1]]);
}

#[tokio::test]
async fn a_registry_gets_its_password_and_nobody_else_sees_it() {
    // A password whose base64 has characters that the two alphabets write differently.
    let auth = BASE64_STANDARD.encode("user:???>>>~~~\u{ff}");
    let registry = servers::registry_with_password(format!("Basic {auth}")).await;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("config.json");
    std::fs::write(&file, json!({"auths": {registry.to_string(): {"auth": auth}}}).to_string()).unwrap();
    let world = World::with(&[&format!("image.credentials_file={}", file.display())]).await;
    let opened = world.submit_in(&format!("{registry}/app:1"), "true");
    let outcome = world.outcome(opened).await;
    assert_eq!(reason(&outcome), "image_not_found", "{outcome:?}");
    assert!(!world.runner.log().contains(&auth) && !world.runner.log().contains("~~~"));
    world.ends_clean().await;

    let world = World::new().await;
    let closed = world.submit_in(&format!("{registry}/app:1"), "true");
    let outcome = world.outcome(closed).await;
    assert_eq!(reason(&outcome), "image_denied", "{outcome:?}");
    world.ends_clean().await;
}
