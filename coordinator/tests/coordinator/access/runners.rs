//! Runners are enrolled, and each is itself alone.

use caisson_protocol::{CoordinatorMessage, HeldPhase, Outcome, Refusal};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

use super::{audited, removed};
use crate::support::{Answer, House, Runner, eventually, registration};

const CHANNEL: &str = "/api/v1/runner/channel";

async fn registration_token(house: &House, body: Value) -> (String, String) {
    let answer = Answer::to(house.person(Method::POST, "/api/v1/runner-registrations").json(&body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made = answer.json();
    (made["registration"]["id"].as_str().unwrap().into(), made["secret"].as_str().unwrap().into())
}

fn credential(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["credential"].as_str().unwrap().to_owned()
}

/// What the channel answers who shows this, when it does not open.
async fn turned_away(house: &House, credential: &str) -> (u16, Value) {
    let Err(tungstenite::Error::Http(refused)) = Runner::dial(house, CHANNEL, credential).await else {
        panic!("the channel opened")
    };
    let body = refused.body().as_ref().unwrap();
    (refused.status().as_u16(), serde_json::from_slice::<Value>(body).unwrap()["code"].clone())
}

#[tokio::test]
async fn s05_a_one_time_token_registers_one_runner() {
    let house = House::start().await;
    let (_, token) = registration_token(&house, json!({ "name": "host-7" })).await;
    assert!(token.starts_with("caisson_registration_"));
    let secret = credential(&house.register(&token, "host-7").await);
    assert!(secret.starts_with("caisson_runner_"));
    assert_eq!(house.register(&token, "host-8").await.problem(), (401, "registration_invalid".into()));
    assert!(Runner::dial(&house, CHANNEL, &secret).await.is_ok());
    let names = house.get("/api/v1/runner-registrations").await.json();
    assert_eq!(
        names["registrations"].as_array().unwrap().len(),
        1,
        "the one in the data folder is left: {names}"
    );
}

#[tokio::test]
async fn a_reusable_token_registers_runners_until_it_is_revoked_or_ends() {
    let house = House::start().await;
    let (id, token) = registration_token(&house, json!({ "name": "rack", "reusable": true })).await;
    let first = credential(&house.register(&token, "r1").await);
    credential(&house.register(&token, "r2").await);
    assert_eq!(removed(&house, &format!("/api/v1/runner-registrations/{id}")).await.status, 204);
    assert_eq!(house.register(&token, "r3").await.problem(), (401, "registration_invalid".into()));
    assert!(Runner::dial(&house, CHANNEL, &first).await.is_ok(), "who has registered stays");
    let kept = removed(&house, "/api/v1/runner-registrations/runner-token").await;
    assert_eq!(kept.problem(), (409, "kept_in_file".into()));

    let short = json!({ "name": "short", "reusable": true, "expires_in_seconds": 1 });
    let (_, short) = registration_token(&house, short).await;
    eventually("the token ends", async || (house.register(&short, "r4").await.status == 401).then_some(()))
        .await;
}

#[tokio::test]
async fn s05_a_credential_is_for_one_name() {
    let house = House::start().await;
    let mut runner = Runner::connect(&house, "r1").await;
    runner.say(caisson_protocol::RunnerMessage::Register(registration("r2"))).await;
    let answer = runner.hear().await;
    assert!(matches!(answer, CoordinatorMessage::Refused { reason: Refusal::ForeignName, .. }), "{answer:?}");
    runner.is_cut_off().await;
    assert_eq!(house.get("/api/v1/runners").await.json(), json!({ "runners": [] }));
    let refused = audited(&house, "action=runner_refused", 1).await;
    assert_eq!((&refused[0]["actor"], &refused[0]["actor_kind"]), (&json!("r1"), &json!("runner")));
}

#[tokio::test]
async fn s06_a_runner_reports_nothing_of_anothers_build() {
    let house = House::start().await;
    let mut owner = Runner::named(&house, "r1").await;
    let build = house.submitted("a").await;
    let attempt = owner.runs().await;
    let mut other = Runner::named(&house, "r2").await;
    other.finishes_anothers(attempt, Outcome::Succeeded).await;
    other.writes(attempt, 0, b"forged").await;
    assert_eq!(house.until(&build, "running").await["runner"]["name"], "r1");
    owner.writes(attempt, 0, b"true").await;
    owner.finishes(attempt, Outcome::Failed { exit_code: 1, note: None }, 4).await;
    assert_eq!(house.until(&build, "failed").await["log_bytes"], 4);
    assert_eq!(house.log(&build).await, b"true");
}

#[tokio::test]
async fn a_name_that_is_in_use_is_not_given_away() {
    let house = House::with(crate::channel::impatient).await;
    let runner = Runner::named(&house, "r1").await;
    let refused = house.register(&house.runner_token, "r1").await;
    assert_eq!(refused.problem(), (409, "runner_known".into()));
    assert!(refused.json()["detail"].as_str().unwrap().contains("a name of its own"));
    assert_eq!(audited(&house, "action=runner_refused", 1).await[0]["on"], "r1");
    // Not before it is removed, though its connection is lost.
    drop(runner);
    let (first, renewed) = (house.credential("r1").await, async || {
        let answer = house.register(&house.runner_token, "r1").await;
        assert!(matches!(answer.status, 201 | 409), "{}", answer.text());
        (answer.status == 201).then(|| credential(&answer))
    });
    let second = eventually("the name is free again", renewed).await;
    assert_eq!(turned_away(&house, &first).await, (401, json!("credential_revoked")));
    assert!(Runner::dial(&house, CHANNEL, &second).await.is_ok());
}

#[tokio::test]
async fn what_no_runner_can_be_called_is_refused() {
    let house = House::start().await;
    for name in ["", "a\nb", &"x".repeat(129)] {
        let refused = house.register(&house.runner_token, name).await;
        assert_eq!(refused.problem(), (422, "invalid_field".into()), "{name:?}");
        assert_eq!(refused.json()["field"], "name");
    }
    for token in ["", "wrong", house.admin_token.as_str()] {
        assert_eq!(house.register(token, "r1").await.problem(), (401, "registration_invalid".into()));
    }
}

#[tokio::test]
async fn s05_a_credential_that_is_revoked_cuts_its_runner_off_and_its_build_goes_on_elsewhere() {
    let house = House::with(crate::channel::impatient).await;
    let mut bad = Runner::named(&house, "bad").await;
    let build = house.submitted("a").await;
    let first = bad.runs().await;
    let listed = house.get("/api/v1/runner-credentials").await.json();
    assert_eq!(listed["credentials"][0]["name"], "bad");
    assert!(listed["credentials"][0]["used_at"].is_string());

    let mut good = Runner::named(&house, "good").await;
    assert_eq!(removed(&house, "/api/v1/runner-credentials/bad").await.status, 204);
    let told = bad.hear_word().await;
    let CoordinatorMessage::Refused { reason: Refusal::CredentialRevoked, message } = told else {
        panic!("{told:?}")
    };
    assert!(message.contains("was revoked"), "{message}");
    bad.is_cut_off().await;
    let secret = house.credential("bad").await;
    assert_eq!(turned_away(&house, &secret).await, (401, json!("credential_revoked")));
    assert_eq!(removed(&house, "/api/v1/runner-credentials/bad").await.problem().0, 404);

    // Its build is dealt with like any lost runner's: requeued after the timeout.
    let keeps = async {
        loop {
            good.keeps_alive(&[]).await;
            if let Ok(attempt) =
                tokio::time::timeout(std::time::Duration::from_millis(200), good.assigned()).await
            {
                break attempt;
            }
        }
    };
    let second = crate::support::in_time("the build comes to the other", keeps).await;
    assert_eq!((second.build, second.number), (first.build, 2));
    good.keeps_alive(&[(second, HeldPhase::Preparing)]).await;
    assert_eq!(house.build(&build).await["attempts"][0]["outcome"]["reason"], "runner_lost");
}
