//! A runner registers, is given builds, and tells how they end.

use caisson_protocol::{
    Condition, CoordinatorMessage, ErrorReason, HeldPhase, Outcome, PROTOCOL_VERSION, Refusal, Registration,
    RunnerId, RunnerMessage,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::impatient;
use crate::support::{House, Runner, commit, engine_failed, eventually, registration, report};

/// What a registration with these fields changed is answered, and that the connection ends.
async fn refused(house: &House, change: Value) -> (Refusal, String) {
    let mut message = serde_json::to_value(RunnerMessage::Register(registration("r1"))).unwrap();
    message.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let mut runner = Runner::connect(house, "r1").await;
    runner.send_text(&message).await;
    let CoordinatorMessage::Refused { reason, message } = runner.hear().await else { panic!("{change}") };
    runner.is_cut_off().await;
    (reason, message)
}

#[tokio::test]
async fn a_runner_registers_and_is_told_how_often_to_give_a_sign_of_life() {
    let house = House::with(impatient).await;
    let (_runner, answer) = Runner::register(&house, registration("r1")).await;
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!(
        answer,
        json!({
            "type": "registered", "runner_id": RunnerId::of_name("r1"), "keep": [], "drop": [],
            "keep_alive": { "interval_ms": 500, "timeout_ms": 1500 },
        })
    );
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_whatever_else_it_says() {
    let house = House::start().await;
    for change in
        [json!({ "protocol": PROTOCOL_VERSION + 1 }), json!({ "protocol": 0, "name": 7, "new": {} })]
    {
        let (reason, message) = refused(&house, change).await;
        assert_eq!(reason, Refusal::IncompatibleVersion);
        assert!(message.contains("install the same release"), "{message}");
    }
}

#[tokio::test]
async fn a_registration_that_is_not_valid_is_refused_with_what_is_wrong() {
    let house = House::start().await;
    for (change, word) in [
        (json!({ "name": null }), "string"),
        (json!({ "capacity": 0 }), "capacity"),
        (json!({ "capacity": 100_000 }), "capacity"),
        (json!({ "capacity": -1 }), "-1"),
        (json!({ "labels": ["a b"] }), "label"),
        (json!({ "version": "x".repeat(300) }), "version"),
        (json!({ "held": [{ "attempt": "x", "phase": "running" }] }), "attempt id"),
        (json!({ "type": "hello" }), "hello"),
    ] {
        let (reason, message) = refused(&house, change.clone()).await;
        assert_eq!(reason, Refusal::InvalidRegistration, "{change}");
        assert!(message.contains(word), "{change}: {message}");
    }
    assert_eq!(house.get("/api/v1/runners").await.json(), json!({ "runners": [] }));
}

#[tokio::test]
async fn nothing_is_said_before_the_registration() {
    let house = House::start().await;
    let mut runner = Runner::connect(&house, "r1").await;
    runner.keeps_alive(&[]).await;
    let answer = runner.hear().await;
    assert!(matches!(answer, CoordinatorMessage::Refused { reason: Refusal::InvalidRegistration, .. }));
    runner.is_cut_off().await;

    let mut runner = Runner::connect(&house, "r1").await;
    runner.send(Message::text("garbage")).await;
    assert!(matches!(runner.hear().await, CoordinatorMessage::Refused { .. }));
    let mut runner = Runner::connect(&house, "r1").await;
    runner.send(Message::binary(vec![0xff; 100])).await;
    runner.is_cut_off().await;
}

#[tokio::test]
async fn a_runner_that_says_what_can_not_be_understood_is_cut_off() {
    let house = House::start().await;
    for nonsense in [
        Message::text("garbage"),
        Message::text(r#"{"type": "unheard_of"}"#),
        Message::text(serde_json::to_string(&RunnerMessage::Register(registration("r1"))).unwrap()),
        Message::binary(b"no log frame".to_vec()),
        Message::binary(vec![9; 100]),
    ] {
        let mut runner = Runner::named(&house, "r1").await;
        runner.send(nonsense).await;
        runner.is_cut_off().await;
    }
}

#[tokio::test]
async fn a_build_runs_from_submission_to_its_end_and_all_of_it_is_shown() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let body = json!({ "commit": "main", "command": "make", "env": { "A": "secret" }, "timeout_seconds": 9 });
    let id = house.submit(&body).await.json()["id"].as_str().unwrap().to_owned();
    let CoordinatorMessage::Assign { attempt, spec, log_bytes_max } = runner.hear().await else { panic!() };
    assert_eq!((attempt.to_string(), log_bytes_max), (format!("{id}.1"), 256 << 20));
    assert_eq!((spec.command.as_str(), spec.commit.as_str()), ("make", "main"));
    assert_eq!((spec.env.iter().collect::<Vec<_>>(), spec.timeout_seconds.get()), (vec![("A", "secret")], 9));
    let r1 = json!({ "id": RunnerId::of_name("r1"), "name": "r1" });
    let shown = house.until(&id, "assigned").await;
    assert_eq!((&shown["attempt"], &shown["runner"]), (&json!(1), &r1));

    runner.say(RunnerMessage::Accepted { attempt }).await;
    let image_digest = Some("sha256:feed".to_owned());
    runner.say(RunnerMessage::Started { attempt, resolved_commit: commit(), image_digest }).await;
    let shown = house.until(&id, "running").await;
    assert_eq!((&shown["resolved_commit"], shown["started_at"].is_string()), (&json!(commit()), true));

    runner.writes(attempt, 0, b"it works\n").await;
    runner.is_acknowledged(attempt, 9).await;
    runner.finishes(attempt, Outcome::Succeeded, 9).await;
    runner.say(RunnerMessage::Cleaned { attempt, cleanup_ms: 44 }).await;
    let shown = eventually("the cleanup is shown", async || {
        let shown = house.build(&id).await;
        shown["attempts"][0]["phases"]["cleanup"].is_u64().then_some(shown)
    })
    .await;
    assert_eq!(
        (&shown["status"], &shown["exit_code"], &shown["log_bytes"]),
        (&json!("succeeded"), &json!(0), &json!(9))
    );
    let tried = &shown["attempts"][0];
    assert_eq!(tried["phases"], json!({ "clone": 11, "create": 22, "run": 33, "cleanup": 44 }));
    assert_eq!((&tried["runner"], &tried["image_digest"]), (&r1, &json!("sha256:feed")));
    assert_eq!(
        tried["outcome"],
        json!({ "status": "succeeded", "reason": null, "message": null, "exit_code": 0 })
    );
    assert_eq!(house.log(&id).await, b"it works\n");
}

#[tokio::test]
async fn every_end_is_told_apart() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let note = Some(caisson_protocol::FailureNote::KilledBySignal);
    let reason = ErrorReason::CommitNotFound;
    for (outcome, status, reason, exit_code) in [
        (Outcome::Succeeded, "succeeded", Value::Null, json!(0)),
        (Outcome::Failed { exit_code: 7, note: None }, "failed", Value::Null, json!(7)),
        (Outcome::Failed { exit_code: 137, note }, "failed", json!("killed_by_signal"), json!(137)),
        (Outcome::TimedOut, "timed_out", Value::Null, Value::Null),
        (
            Outcome::Errored { reason, message: "no such commit".into() },
            "errored",
            json!("commit_not_found"),
            Value::Null,
        ),
    ] {
        let id = house.submitted("a").await;
        let attempt = runner.runs().await;
        runner.finishes(attempt, outcome, 0).await;
        let shown = house.build(&id).await;
        assert_eq!(
            (&shown["status"], &shown["reason"], &shown["exit_code"]),
            (&json!(status), &reason, &exit_code)
        );
    }
    assert_eq!(house.build("5").await["message"], "no such commit");
}

#[tokio::test]
async fn a_free_runner_gets_the_oldest_build_with_the_answer_to_its_last() {
    let house = House::start().await;
    let (a, b) = (house.submitted("a").await, house.submitted("b").await);
    let mut runner = Runner::named(&house, "r1").await;
    let first = runner.runs().await;
    assert_eq!(first.build.to_string(), a);
    runner.finishes(first, Outcome::Succeeded, 0).await;
    assert_eq!(runner.assigned().await.build.to_string(), b);
}

#[tokio::test]
async fn a_runner_is_given_as_many_builds_as_it_takes_and_no_more() {
    let house = House::start().await;
    for command in ["a", "b", "c"] {
        house.submitted(command).await;
    }
    let said = Registration { capacity: 2, ..registration("r1") };
    let (mut runner, _) = Runner::register(&house, said).await;
    let (first, _second) = (runner.assigned().await, runner.assigned().await);
    assert_eq!(house.get("/api/v1/queue").await.json()["depth"], 1);
    runner.finishes(first, Outcome::Succeeded, 0).await;
    runner.assigned().await;
}

#[tokio::test]
async fn a_build_goes_to_a_runner_that_has_its_labels() {
    let house = House::start().await;
    let _plain = Runner::named(&house, "r1").await;
    let said = Registration { labels: serde_json::from_str(r#"["gpu"]"#).unwrap(), ..registration("r2") };
    let (mut with_gpu, _) = Runner::register(&house, said).await;
    house.submit(&json!({ "commit": "main", "command": "a", "labels": ["gpu"] })).await;
    with_gpu.assigned().await;
}

#[tokio::test]
async fn an_infrastructure_failure_is_tried_again_elsewhere_and_not_for_ever() {
    let house = House::with(|settings| settings.build.max_attempts = 2).await;
    let mut first = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = first.runs().await;
    let mut second = Runner::named(&house, "r2").await;
    first.finishes(attempt, engine_failed(), 0).await;
    let again = second.runs().await;
    assert_eq!(again.to_string(), format!("{id}.2"));
    second.finishes(again, engine_failed(), 0).await;
    let shown = house.build(&id).await;
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("errored"), &json!("engine_failed")));
    assert_eq!(
        (&shown["message"], shown["attempts"].as_array().unwrap().len()),
        (&json!("the engine is on fire"), 2)
    );
}

#[tokio::test]
async fn a_running_build_is_canceled_by_its_runner_and_can_not_succeed_any_more() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    house.until(&id, "running").await;
    for _ in 0..2 {
        let answer = house.post(&format!("/api/v1/builds/{id}/cancel")).await;
        assert_eq!((answer.status, answer.json()["status"].clone()), (202, json!("canceling")));
    }
    assert_eq!(runner.hear().await, CoordinatorMessage::Cancel { attempt });
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    assert_eq!(house.build(&id).await["status"], "canceled");
}

#[tokio::test]
async fn a_runner_drains_when_a_person_says_so() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let a = house.submitted("a").await;
    let attempt = runner.runs().await;
    let answer = house.post("/api/v1/runners/r1/drain").await;
    assert_eq!((answer.status, &answer.json()["runners"][0]["status"]), (202, &json!("draining")));
    assert_eq!(runner.hear().await, CoordinatorMessage::Drain);
    let b = house.submitted("b").await;
    runner.drains(&[(attempt, HeldPhase::Running)]).await;
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    assert_eq!(house.build(&a).await["status"], "succeeded");
    drop(runner);
    eventually("the runner is gone", async || {
        (house.get("/api/v1/runners").await.json() == json!({ "runners": [] })).then_some(())
    })
    .await;
    assert_eq!(house.build(&b).await["waiting_for"]["code"], "no_runner");
}

#[tokio::test]
async fn a_runner_that_can_run_nothing_is_shown_with_the_reason_and_given_nothing() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let ill = Condition { unhealthy: Some("its disk is full".into()), swept: 3, left_behind: 1 };
    runner.say(RunnerMessage::Condition(ill)).await;
    let shown = eventually("it is shown as unhealthy", async || {
        let shown = house.get("/api/v1/runners").await.json()["runners"][0].clone();
        (shown["status"] == "unhealthy").then_some(shown)
    })
    .await;
    let told = (&shown["unhealthy"], &shown["swept"], &shown["left_behind"]);
    assert_eq!(told, (&json!("its disk is full"), &json!(3), &json!(1)));
    let metrics = house.get("/metrics").await.text();
    for line in ["caisson_runners_unhealthy 1", "caisson_swept 3", "caisson_left_behind 1"] {
        assert!(metrics.contains(line), "{metrics}");
    }

    let id = house.submitted("a").await;
    let waiting = house.build(&id).await["waiting_for"].clone();
    assert_eq!(waiting["code"], "runners_unhealthy");
    assert!(waiting["message"].as_str().unwrap().contains("its disk is full"), "{waiting}");
    runner.say(RunnerMessage::Condition(Condition::default())).await;
    assert_eq!(runner.assigned().await.build.to_string(), id);
}

#[tokio::test]
async fn a_build_that_is_given_back_goes_to_the_next_at_no_cost() {
    let house = House::start().await;
    let mut first = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = first.runs().await;
    first.drains(&[(attempt, HeldPhase::Running)]).await;
    first.say(RunnerMessage::Released { attempt }).await;
    house.until(&id, "queued").await;
    let mut second = Runner::named(&house, "r2").await;
    assert_eq!(second.runs().await.number, 2);
    let shown = house.until(&id, "running").await;
    assert_eq!(shown["attempts"][0]["outcome"]["reason"], "given_back");
}

#[tokio::test]
async fn an_assignment_that_two_signs_of_life_do_not_list_is_given_out_again() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    assert_eq!(runner.assigned().await.number, 1);
    runner.keeps_alive(&[]).await;
    runner.keeps_alive(&[]).await;
    let again = runner.assigned().await;
    assert_eq!(again.number, 2);
    runner.keeps_alive(&[(again, HeldPhase::Preparing)]).await;
    runner.keeps_alive(&[(again, HeldPhase::Running)]).await;
    let shown = house.until(&id, "running").await;
    assert_eq!(shown["attempts"][0]["outcome"]["reason"], "never_received");
}

#[tokio::test]
async fn an_end_that_is_told_twice_is_acknowledged_and_then_dropped() {
    let house = House::start().await;
    let mut runner = Runner::named(&house, "r1").await;
    let id = house.submitted("a").await;
    let attempt = runner.runs().await;
    runner.finishes(attempt, Outcome::Succeeded, 0).await;
    let report = report(Outcome::Failed { exit_code: 1, note: None }, 0);
    runner.say(RunnerMessage::Finished { attempt, report }).await;
    assert_eq!(runner.hear().await, CoordinatorMessage::Drop { attempt });
    assert_eq!(house.build(&id).await["status"], "succeeded");
}
