//! Runners that are not heard from, and what they say when they come back.

use caisson_protocol::{CoordinatorMessage, HeldPhase, Outcome, RunnerMessage};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::impatient;
use crate::support::{House, Runner, commit, registration, report};

#[tokio::test]
async fn a_silent_runners_build_goes_to_another_and_its_late_end_changes_nothing() {
    let house = House::with(impatient).await;
    let said = registration("r1");
    let (mut frozen, _) = Runner::register(&house, said.clone()).await;
    let id = house.submitted("a").await;
    let old = frozen.runs().await;
    frozen.writes(old, 0, b"from the first").await;
    house.until(&id, "queued").await;
    let mut second = Runner::named(&house, "r2").await;
    let new = second.runs().await;
    assert_eq!((new.build, new.number), (old.build, 2));

    // It wakes up, and says all of it on the connection it had.
    frozen.say(RunnerMessage::Finished { attempt: old, report: report(Outcome::Succeeded, 14) }).await;
    frozen.is_cut_off().await;
    // And again on a new one.
    let mut awake = Runner::connect(&house, "r1").await;
    let held = vec![caisson_protocol::HeldAttempt { attempt: old, phase: HeldPhase::Finished }];
    awake.say(RunnerMessage::Register(caisson_protocol::Registration { held, ..said })).await;
    let CoordinatorMessage::Registered { drop, .. } = awake.hear().await else { panic!() };
    assert_eq!(drop, [old]);
    for stale in [
        RunnerMessage::Accepted { attempt: old },
        RunnerMessage::Started { attempt: old, resolved_commit: commit(), image_digest: None },
        RunnerMessage::Finished { attempt: old, report: report(Outcome::Succeeded, 14) },
        RunnerMessage::Released { attempt: old },
        // The new attempt is the other runner's.
        RunnerMessage::Finished { attempt: new, report: report(Outcome::Succeeded, 0) },
    ] {
        awake.say(stale.clone()).await;
        assert!(matches!(awake.hear().await, CoordinatorMessage::Drop { .. }), "{stale:?}");
    }
    awake.writes(new, 0, b"forged").await;
    assert_eq!(awake.hear().await, CoordinatorMessage::Drop { attempt: new });

    second.writes(new, 0, b"from the second").await;
    second.finishes(new, Outcome::Failed { exit_code: 1, note: None }, 15).await;
    let shown = house.build(&id).await;
    assert_eq!(
        (&shown["status"], &shown["attempt"], &shown["runner"]["name"]),
        (&json!("failed"), &json!(2), &json!("r2"))
    );
    assert_eq!(house.log(&id).await, b"from the second");
    let first = house.get(&format!("/api/v1/builds/{id}/log?attempt=1")).await;
    assert_eq!(first.text(), "from the first", "each attempt keeps its own log");
}

#[tokio::test]
async fn any_frame_is_a_sign_of_life() {
    let house = House::with(impatient).await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    let mut offset = 0;
    let began = std::time::Instant::now();
    while began.elapsed().as_millis() < 2000 {
        runner.writes(attempt, offset, b".").await;
        offset += 1;
        runner.is_acknowledged(attempt, offset).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    while began.elapsed().as_millis() < 4000 {
        runner.send(Message::Ping(Vec::new().into())).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    runner.finishes(attempt, Outcome::Succeeded, offset).await;
    let shown = house.build(&id).await;
    assert_eq!((&shown["status"], &shown["attempt"]), (&json!("succeeded"), &json!(1)));
}

#[tokio::test]
async fn a_build_whose_runners_are_all_lost_ends_errored() {
    let house = House::with(|settings| {
        impatient(settings);
        settings.build.max_attempts = 2;
    })
    .await;
    let id = house.submitted("a").await;
    let mut runners = Vec::new();
    for name in ["r1", "r2"] {
        let mut runner = Runner::named(&house, name).await;
        runner.runs().await;
        runners.push(runner);
        house.until(&id, if name == "r1" { "queued" } else { "errored" }).await;
    }
    let shown = house.until(&id, "errored").await;
    assert_eq!((&shown["reason"], shown["attempts"].as_array().unwrap().len()), (&json!("runner_lost"), 2));
    let message = shown["message"].as_str().unwrap();
    assert!(message.contains("r2") && message.contains("2 attempts"), "{message}");
}

#[tokio::test]
async fn a_cancel_ends_with_its_runners_removal() {
    let house = House::with(impatient).await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    runner.runs().await;
    house.post(&format!("/api/v1/builds/{id}/cancel")).await;
    house.until(&id, "canceled").await;
}

#[tokio::test]
async fn runners_have_a_full_timeout_after_the_coordinators_own_start() {
    let mut house = House::with(impatient).await;
    let said = registration("r1");
    let (mut runner, _) = Runner::register(&house, said.clone()).await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    house.until(&id, "running").await;
    house.stop().await;
    tokio::time::sleep(std::time::Duration::from_millis(2000)).await;
    house.start_again().await;
    let mut runner = Runner::resume(&house, &said, &[(attempt, HeldPhase::Running)]).await;
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    assert_eq!(house.build(&id).await["attempt"], 1);
}

#[tokio::test]
async fn a_runner_that_does_not_come_back_after_a_restart_is_removed() {
    let mut house = House::with(impatient).await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    runner.runs().await;
    house.until(&id, "running").await;
    house.stop().await;
    house.start_again().await;
    let mut other = Runner::named(&house, "r2").await;
    let again = other.assigned().await;
    assert_eq!((again.build.to_string(), again.number), (id.clone(), 2));
}
