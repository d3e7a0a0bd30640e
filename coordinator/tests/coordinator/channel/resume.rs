//! Lost connections and restarts: a lost connection is not a dead runner.

use caisson_protocol::{
    CoordinatorMessage, HeldAttempt, HeldPhase, Outcome, Refusal, Registration, RunnerMessage,
};
use serde_json::json;

use crate::support::{House, Runner, attempt, registration};

#[tokio::test]
async fn a_runner_that_lost_its_connection_goes_on() {
    let house = House::start().await;
    let said = registration("r1");
    let (mut runner, _) = Runner::register(&house, said.clone()).await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    house.until(&id, "running").await;
    drop(runner);
    let held = vec![HeldAttempt { attempt, phase: HeldPhase::Running }];
    let (mut runner, answer) = Runner::register(&house, Registration { held, ..said }).await;
    let CoordinatorMessage::Registered { keep, drop, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((keep, drop), (vec![attempt], vec![]));
    runner.writes(attempt, 0, b"went on").await;
    runner.finishes(attempt, Outcome::Succeeded, 7).await;
    let shown = house.build(&id).await;
    assert_eq!((&shown["status"], &shown["attempt"]), (&json!("succeeded"), &json!(1)));
}

#[tokio::test]
async fn a_coordinator_that_starts_again_goes_on_with_running_builds_and_the_queue() {
    let mut house = House::start().await;
    let said = registration("r1");
    let (mut runner, _) = Runner::register(&house, said.clone()).await;
    let running = house.submitted("a").await;
    let waiting = [house.submitted("b").await, house.submitted("c").await];
    let attempt = runner.runs().await;
    house.until(&running, "running").await;
    house.stop().await;
    runner.is_cut_off().await;
    house.start_again().await;
    assert_eq!(house.build(&running).await["status"], "running");
    assert_eq!(house.build(&waiting[1]).await["queue_position"], 2);

    let mut runner = Runner::resume(&house, &said, &[(attempt, HeldPhase::Running)]).await;
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    let shown = house.build(&running).await;
    assert_eq!((&shown["status"], &shown["attempt"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(runner.assigned().await.build.to_string(), waiting[0]);
}

#[tokio::test]
async fn an_end_that_came_while_the_coordinator_was_away_is_told_afterwards() {
    let mut house = House::start().await;
    let said = registration("r1");
    let (mut runner, _) = Runner::register(&house, said.clone()).await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    house.until(&id, "running").await;
    house.stop().await;
    house.start_again().await;
    let mut runner = Runner::resume(&house, &said, &[(attempt, HeldPhase::Finished)]).await;
    runner.writes(attempt, 0, b"spooled").await;
    runner.finishes(attempt, Outcome::Failed { exit_code: 3, note: None }, 7).await;
    assert_eq!(house.build(&id).await["exit_code"], 3);
    assert_eq!(house.log(&id).await, b"spooled");
}

#[tokio::test]
async fn a_cancel_that_the_connection_lost_is_said_again() {
    let house = House::start().await;
    let said = registration("r1");
    let (mut runner, _) = Runner::register(&house, said.clone()).await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    house.until(&id, "running").await;
    drop(runner);
    assert_eq!(house.post(&format!("/api/v1/builds/{id}/cancel")).await.status, 202);
    let mut runner = Runner::resume(&house, &said, &[(attempt, HeldPhase::Running)]).await;
    assert_eq!(runner.hear().await, CoordinatorMessage::Cancel { attempt });
    runner.finishes(attempt, Outcome::Canceled, 0).await;
    assert_eq!(house.build(&id).await["status"], "canceled");
}

#[tokio::test]
async fn what_is_held_and_nobody_knows_is_to_be_dropped() {
    let house = House::start().await;
    let unknown = attempt("019aac1e-7c00-7000-8000-000000000001", 1);
    let held = vec![HeldAttempt { attempt: unknown, phase: HeldPhase::Running }];
    let (mut runner, answer) = Runner::register(&house, Registration { held, ..registration("r1") }).await;
    let CoordinatorMessage::Registered { keep, drop, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((keep, drop), (vec![], vec![unknown]));
    runner.keeps_alive(&[(unknown, HeldPhase::Running)]).await;
    assert_eq!(runner.hear().await, CoordinatorMessage::Drop { attempt: unknown });
    runner.say(RunnerMessage::Released { attempt: unknown }).await;
    assert_eq!(runner.hear().await, CoordinatorMessage::Drop { attempt: unknown });
}

#[tokio::test]
async fn a_second_process_of_the_same_name_supersedes_the_first() {
    let house = House::start().await;
    let mut first = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let lost = first.runs().await;
    house.until(&id, "running").await;
    let mut second = Runner::named(&house, "r1").await;
    let CoordinatorMessage::Refused { reason, message } = first.hear().await else { panic!() };
    assert_eq!(reason, Refusal::Superseded);
    assert!(message.contains("r1"), "{message}");
    first.is_cut_off().await;
    let again = second.runs().await;
    assert_eq!((again.build, again.number), (lost.build, 2));
    assert_eq!(house.build(&id).await["attempts"][0]["outcome"]["reason"], "runner_lost");
}

#[tokio::test]
async fn a_process_that_connects_again_ends_its_old_connection_and_is_not_refused() {
    let house = House::start().await;
    let said = registration("r1");
    let (mut old, _) = Runner::register(&house, said.clone()).await;
    let mut new = Runner::resume(&house, &said, &[]).await;
    assert_eq!(old.hear_or_end().await, None);
    house.submitted("a").await;
    new.assigned().await;
}
