//! Images: what registries refuse, and what is tried again.

use base64::{Engine, prelude::BASE64_STANDARD};
use caisson_protocol::{AttemptId, Outcome, Stream};
use serde_json::json;

use super::World;
use crate::world::{servers, spec_from};

fn with_image(world: &World, image: &str) -> AttemptId {
    let mut value = serde_json::to_value(world.spec("true")).unwrap();
    value["image"] = json!(image);
    world.coordinator.assign(spec_from(value))
}

fn reason(outcome: &Outcome) -> &'static str {
    outcome.reason().unwrap_or("none")
}

#[tokio::test]
async fn a_registry_that_may_be_better_in_a_moment_is_asked_again_and_not_for_ever() {
    let world = World::with(&["capacity=3", "image.stall=1s"]).await;
    let registry = servers::registry().await;
    let ill =
        ["broken", "busy", "silent"].map(|name| with_image(&world, &format!("{registry}/{name}/app:1")));
    for attempt in ill {
        let outcome = world.outcome(attempt).await;
        assert_eq!(reason(&outcome), "image_failed", "{outcome:?}");
        let said = world.coordinator.log_text(attempt, Stream::Caisson);
        assert_eq!(said.matches("trying again in").count(), 2, "{said}");
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn what_is_refused_is_not_asked_for_again() {
    let world = World::with(&["capacity=2"]).await;
    let registry = servers::registry().await;
    let refused = ["private/app", "nosuch"].map(|name| with_image(&world, &format!("{registry}/{name}:1")));
    for attempt in refused {
        world.outcome(attempt).await;
        let said = world.coordinator.log_text(attempt, Stream::Caisson);
        assert!(!said.contains("trying again"), "{said}");
    }
    world.ends_clean().await;
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
    let opened = with_image(&world, &format!("{registry}/app:1"));
    let outcome = world.outcome(opened).await;
    assert_eq!(reason(&outcome), "image_not_found", "{outcome:?}");
    assert!(!world.runner.log().contains(&auth) && !world.runner.log().contains("~~~"));
    world.ends_clean().await;

    let world = World::new().await;
    let closed = with_image(&world, &format!("{registry}/app:1"));
    let outcome = world.outcome(closed).await;
    assert_eq!(reason(&outcome), "image_denied", "{outcome:?}");
    world.ends_clean().await;
}
