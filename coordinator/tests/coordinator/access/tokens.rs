//! Tokens of programs: made, shown once, ended.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Browser, added, changed, removed, with};
use crate::support::{Answer, House, Viewer, eventually, in_time};

/// A token that somebody made, and its secret.
async fn made(browser: &Browser<'_>, body: Value) -> (Value, String) {
    let answer = browser.post("/api/v1/tokens", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let mut made = answer.json();
    let secret = made["secret"].as_str().unwrap().to_owned();
    (made["token"].take(), secret)
}

#[tokio::test]
async fn a_token_does_what_its_role_allows_and_tells_when_it_was_used() {
    let house = House::start().await;
    added(&house, "anna", "operator").await;
    let anna = Browser::of(&house, "anna").await;
    let (token, secret) = made(&anna, json!({ "name": "nightly", "role": "submitter" })).await;
    assert!(secret.starts_with("caisson_") && secret.len() == 72, "people and programs see what it is");
    assert_eq!((&token["owner"], &token["used_at"]), (&json!("anna"), &json!(null)));
    let session = with(&house, &secret, "/api/v1/session").await.json();
    assert_eq!((&session["name"], &session["role"]), (&json!("anna/nightly"), &json!("submitter")));
    let drain = house.stranger(Method::POST, "/api/v1/runners/r1/drain").bearer_auth(&secret);
    assert_eq!(Answer::to(drain).await.problem(), (403, "role_too_low".into()));
    let tokens = anna.get("/api/v1/tokens").await.json();
    assert!(tokens["tokens"][0]["used_at"].is_string());
    assert!(!tokens.to_string().contains(&secret), "it is shown once");
}

#[tokio::test]
async fn s03_a_token_is_kept_as_its_digest_alone() {
    let mut house = House::start().await;
    added(&house, "anna", "viewer").await;
    let anna = Browser::of(&house, "anna").await;
    let (_, secret) = made(&anna, json!({ "name": "t", "role": "viewer" })).await;
    let registration = json!({ "name": "r" });
    let registration =
        Answer::to(house.person(Method::POST, "/api/v1/runner-registrations").json(&registration)).await;
    let registration = registration.json()["secret"].as_str().unwrap().to_owned();
    let credential = house.credential("r1").await;
    let session = anna.cookie.split_once('=').unwrap().1.to_owned();
    let secrets =
        [secret, registration, credential, session, house.admin_token.clone(), super::PASSWORD.to_owned()];
    house.stop().await;
    let mut kept = 0;
    for file in fs::read_dir(house.data_dir()).unwrap().map(|file| file.unwrap().path()) {
        if !file.file_name().unwrap().to_string_lossy().starts_with("access.db") {
            continue;
        }
        kept += 1;
        let bytes = fs::read(&file).unwrap();
        for secret in &secrets {
            let random = secret.rsplit('_').next().unwrap().as_bytes();
            let found = bytes.windows(random.len()).any(|window| window == random);
            assert!(!found, "{} holds a secret", file.display());
        }
    }
    assert!(kept > 0);
}

#[tokio::test]
async fn a_token_that_is_revoked_opens_nothing_and_what_it_had_open_ends() {
    let house = House::start().await;
    house.submitted("a").await;
    added(&house, "anna", "viewer").await;
    let anna = Browser::of(&house, "anna").await;
    let (token, secret) = made(&anna, json!({ "name": "t", "role": "viewer" })).await;
    let browser = Browser::with_token(&house, &secret).await;
    let mut events = Viewer::with_token(&house, "/api/v1/events", &secret).await;
    let mut log = Viewer::with_token(&house, "/api/v1/builds/1/log/stream", &secret).await;
    events.until(|said| said["type"] == "snapshot").await;
    let follow = house.stranger(Method::GET, "/api/v1/builds/1/log?follow=true").bearer_auth(&secret);
    let followed = follow.send().await.unwrap();

    let id = token["id"].as_str().unwrap();
    let revoke = Answer::to(anna.request(Method::DELETE, &format!("/api/v1/tokens/{id}"))).await;
    assert_eq!(revoke.status, 204);
    assert_eq!(with(&house, &secret, "/api/v1/builds").await.problem(), (401, "unauthorized".into()));
    assert!(!browser.is_signed_in().await);
    // S41: at once, not when somebody looks next.
    events.is_cut_off().await;
    log.is_cut_off().await;
    assert!(in_time("the log ends", followed.bytes()).await.is_err(), "it did not end well");
    assert!(anna.is_signed_in().await, "its maker is not it");
}

#[tokio::test]
async fn a_token_ends_when_it_is_to() {
    let house = House::start().await;
    let secret = house.token("short", json!({ "role": "viewer", "expires_in_seconds": 1 })).await;
    let session = with(&house, &secret, "/api/v1/session").await.json();
    assert!(session["expires_at"].is_string());
    eventually("the token ends", async || {
        (with(&house, &secret, "/api/v1/builds").await.status == 401).then_some(())
    })
    .await;
    for seconds in [json!(0), json!(-1), json!(u64::MAX), json!("1")] {
        let body = json!({ "name": "t", "role": "viewer", "expires_in_seconds": seconds });
        let refused = Answer::to(house.person(Method::POST, "/api/v1/tokens").json(&body)).await;
        assert!(matches!(refused.status, 400 | 422), "{}", refused.text());
    }
}

#[tokio::test]
async fn s02_a_token_may_never_more_than_its_owner() {
    let house = House::start().await;
    added(&house, "anna", "operator").await;
    let anna = Browser::of(&house, "anna").await;
    let (_, secret) = made(&anna, json!({ "name": "t", "role": "operator" })).await;
    let role = async || with(&house, &secret, "/api/v1/session").await.json()["role"].take();
    assert_eq!(role().await, "operator");
    changed(&house, "anna", json!({ "role": "viewer" })).await;
    assert_eq!(role().await, "viewer");
    changed(&house, "anna", json!({ "role": "admin" })).await;
    assert_eq!(role().await, "operator", "nor more than it was made for");
    added(&house, "ben", "admin").await;
    assert_eq!(removed(&house, "/api/v1/users/anna").await.status, 204);
    assert_eq!(with(&house, &secret, "/api/v1/session").await.status, 401);
}

#[tokio::test]
async fn s02_a_token_makes_none_that_would_outlive_it() {
    let house = House::start().await;
    added(&house, "anna", "submitter").await;
    let (_, secret) =
        made(&Browser::of(&house, "anna").await, json!({ "name": "t", "role": "submitter" })).await;
    let body = json!({ "name": "u", "role": "viewer" });
    let by_token = house.stranger(Method::POST, "/api/v1/tokens").bearer_auth(&secret).json(&body);
    assert_eq!(Answer::to(by_token).await.problem(), (403, "token_by_token".into()));
    let by_its_session = Browser::with_token(&house, &secret).await.post("/api/v1/tokens", body).await;
    assert_eq!(by_its_session.problem(), (403, "token_by_token".into()));
}

#[tokio::test]
async fn everybody_sees_and_revokes_their_own_tokens_and_an_admin_all() {
    let house = House::start().await;
    added(&house, "anna", "submitter").await;
    added(&house, "ben", "operator").await;
    let (anna, ben) = (Browser::of(&house, "anna").await, Browser::of(&house, "ben").await);
    let (annas, _) = made(&anna, json!({ "name": "t", "role": "viewer" })).await;
    let (_, bens) = made(&ben, json!({ "name": "t", "role": "submitter" })).await;
    let names = |answer: Answer| -> Vec<Value> {
        answer.json()["tokens"].as_array().unwrap().iter().map(|token| token["owner"].clone()).collect()
    };
    assert_eq!(names(anna.get("/api/v1/tokens").await), [json!("anna")]);
    assert_eq!(names(ben.get("/api/v1/tokens").await), [json!("ben")]);
    assert_eq!(names(house.get("/api/v1/tokens").await).len(), 3, "the admin token is one");

    let path = format!("/api/v1/tokens/{}", annas["id"].as_str().unwrap());
    assert_eq!(Answer::to(ben.request(Method::DELETE, &path)).await.problem().0, 404);
    let clash = anna.post("/api/v1/tokens", json!({ "name": "t", "role": "viewer" })).await;
    assert_eq!(clash.problem(), (409, "name_taken".into()));
    assert_eq!(removed(&house, &path).await.status, 204);
    assert_eq!(removed(&house, &path).await.problem().0, 404);
    assert_eq!(removed(&house, "/api/v1/tokens/admin-token").await.problem(), (409, "kept_in_file".into()));
    assert_eq!(with(&house, &bens, "/api/v1/builds").await.status, 200);
    for name in ["", " ", "a\nb", &"x".repeat(101)] {
        let refused = anna.post("/api/v1/tokens", json!({ "name": name, "role": "viewer" })).await;
        assert_eq!(refused.problem(), (422, "invalid_field".into()), "{name:?}");
    }
}

#[tokio::test]
async fn a_new_admin_token_ends_what_the_one_before_had_opened() {
    let mut house = House::start().await;
    let before = house.admin_token.clone();
    let cookie = Browser::with_token(&house, &before).await.cookie;
    house.stop().await;
    fs::remove_file(house.data_dir().join("admin-token")).unwrap();
    house.start_again().await;
    assert_ne!(house.admin_token, before);
    assert_eq!(with(&house, &before, "/api/v1/builds").await.status, 401);
    assert!(!Browser { house: &house, cookie }.is_signed_in().await);
    assert_eq!(house.get("/api/v1/builds").await.status, 200);
}
