//! The audit log: who did what, from where, when.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Browser, PASSWORD, added, audited, changed, removed, tries_to_sign_in, with};
use crate::support::{Answer, House, Runner};

fn told(entries: &[Value]) -> Vec<(&str, &str, &str)> {
    entries
        .iter()
        .map(|entry| {
            let field = |name: &str| entry[name].as_str().unwrap();
            (field("actor"), field("action"), field("on"))
        })
        .collect()
}

#[tokio::test]
async fn s60_everything_that_matters_is_told() {
    let house = House::start().await;
    added(&house, "anna", "operator").await;
    tries_to_sign_in(&house, "anna", "wrong horse battery").await;
    tries_to_sign_in(&house, "my-password", "").await;
    let anna = Browser::of(&house, "anna").await;
    let build = anna.post("/api/v1/builds", json!({ "commit": "main", "command": "make" })).await.json();
    let build = build["id"].as_str().unwrap();
    let rerun = anna.post(&format!("/api/v1/builds/{build}/rerun"), json!({})).await.json();
    let rerun = rerun["id"].as_str().unwrap();
    anna.post(&format!("/api/v1/builds/{rerun}/cancel"), json!({})).await;
    let _runner = Runner::named(&house, "r1").await;
    anna.post("/api/v1/runners/r1/drain", json!({})).await;
    anna.get("/api/v1/users").await;
    let token = anna.post("/api/v1/tokens", json!({ "name": "t", "role": "viewer" })).await.json();
    let path = format!("/api/v1/tokens/{}", token["token"]["id"].as_str().unwrap());
    Answer::to(anna.request(Method::DELETE, &path)).await;
    Answer::to(anna.request(Method::DELETE, "/api/v1/session")).await;
    changed(&house, "anna", json!({ "role": "viewer", "password": "another horse entirely" })).await;
    let registration = Answer::to(
        house.person(Method::POST, "/api/v1/runner-registrations").json(&json!({ "name": "rack" })),
    );
    let registration = registration.await.json();
    let path =
        format!("/api/v1/runner-registrations/{}", registration["registration"]["id"].as_str().unwrap());
    removed(&house, &path).await;
    removed(&house, "/api/v1/runner-credentials/r1").await;
    removed(&house, "/api/v1/users/anna").await;

    let admin = "admin-token";
    let mut expected = vec![
        (admin, "person_added", "anna"),
        ("", "sign_in_failed", ""),
        ("anna", "sign_in_failed", ""),
        ("anna", "sign_in", ""),
        ("anna", "submit", build),
        ("anna", "rerun", rerun),
        ("anna", "cancel", rerun),
        ("r1", "runner_registered", "r1"),
        ("anna", "drain", "r1"),
        ("anna", "denied", "GET /api/v1/users"),
        ("anna", "token_made", "t"),
        ("anna", "token_revoked", "t"),
        ("anna", "sign_out", ""),
        (admin, "person_changed", "anna"),
        (admin, "password_changed", "anna"),
        (admin, "registration_made", "rack"),
        (admin, "registration_revoked", "rack"),
        (admin, "credential_revoked", "r1"),
        (admin, "person_removed", "anna"),
    ];
    let entries = audited(&house, "", expected.len()).await;
    let mut found = told(&entries);
    // What people do all day is written together, a moment later.
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for entry in &entries {
        assert_eq!(entry["from"], "127.0.0.1", "{entry}");
        assert!(entry["at"].is_string() && entry["number"].is_u64(), "{entry}");
    }
    let kinds = |actor: &str| -> Vec<&Value> {
        entries.iter().filter(|entry| entry["actor"] == actor).map(|entry| &entry["actor_kind"]).collect()
    };
    assert!(kinds(admin).iter().all(|kind| *kind == "token") && kinds("r1") == ["runner"]);
    let failed = entries.iter().find(|entry| entry["action"] == "sign_in_failed").unwrap();
    assert_eq!(failed["actor_kind"], "stranger", "whoever it was, it was not shown to be anna");
}

#[tokio::test]
async fn it_is_searched_and_read_in_pages() {
    let house = House::start().await;
    for name in ["anna", "ben", "cleo"] {
        added(&house, name, "viewer").await;
    }
    Browser::of(&house, "ben").await;
    tries_to_sign_in(&house, "ben", "wrong horse battery").await;
    let found = async |query: &str| {
        let page = house.get(&format!("/api/v1/audit?{query}")).await.json();
        let entries = page["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["number"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(found("").await, [5, 4, 3, 2, 1], "newest first");
    assert_eq!(found("actor=ben").await, [5, 4]);
    assert_eq!(found("q=BEN").await, [5, 4, 2]);
    assert_eq!(found("action=person_added&q=cleo").await, [3]);
    assert_eq!(found("action=sign_in,sign_in_failed").await, [5, 4]);
    assert_eq!(found("q=127.0.0.1&limit=1").await, [5]);
    assert_eq!(found("q=%25").await, [0u64; 0], "nothing is a pattern");

    let first = house.get("/api/v1/audit?limit=2").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(found(&format!("limit=2&cursor={cursor}")).await, [3, 2]);
    assert_eq!(house.get("/api/v1/audit?limit=5").await.json()["next_cursor"], json!(null));
    for wrong in ["limit=0", "limit=501", "action=dance", "cursor=x", "q=%00", "what=x"] {
        let answer = house.get(&format!("/api/v1/audit?{wrong}")).await;
        assert!(matches!(answer.problem().0, 400 | 422), "{wrong}");
    }
}

#[tokio::test]
async fn behind_a_proxy_the_address_is_who_asked_it() {
    let house = House::with(|settings| settings.behind_proxy = true).await;
    let body = json!({ "name": "anna", "password": PASSWORD });
    let request = house.stranger(Method::POST, "/api/v1/session").json(&body);
    Answer::to(request.header("x-forwarded-for", "1.2.3.4, 203.0.113.7")).await;
    assert_eq!(audited(&house, "action=sign_in_failed", 1).await[0]["from"], "203.0.113.7");
}

#[tokio::test]
async fn what_was_done_is_told_after_a_restart_too() {
    let mut house = House::start().await;
    let build = house.submitted("a").await;
    // The coordinator stops before it would have written that down by itself.
    house.stop().await;
    house.start_again().await;
    assert_eq!(audited(&house, "action=submit", 1).await[0]["on"], json!(build));
    let viewer = house.token("v", json!({ "role": "operator" })).await;
    assert_eq!(with(&house, &viewer, "/api/v1/audit").await.problem(), (403, "role_too_low".into()));
}
