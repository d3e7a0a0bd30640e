//! People come, change and go.

use reqwest::Method;
use serde_json::json;

use super::{Browser, PASSWORD, added, changed, removed, tries_to_sign_in};
use crate::support::{Answer, House};

#[tokio::test]
async fn somebody_who_was_added_signs_in_and_does_what_their_role_allows() {
    let house = House::start().await;
    added(&house, "anna", "submitter").await;
    let anna = Browser::of(&house, "anna").await;
    let session = anna.get("/api/v1/session").await.json();
    assert_eq!(
        (&session["name"], &session["role"], &session["kind"]),
        (&json!("anna"), &json!("submitter"), &json!("person"))
    );
    assert!(session["expires_at"].is_string());
    assert_eq!(anna.post("/api/v1/builds", json!({ "commit": "main", "command": "make" })).await.status, 201);
    assert_eq!(anna.get("/api/v1/users").await.problem(), (403, "role_too_low".into()));
    assert_eq!(anna.post("/api/v1/runners/r1/drain", json!({})).await.problem().0, 403);

    let users = house.get("/api/v1/users").await.json();
    assert_eq!(users["users"][0]["name"], "anna");
    assert!(users["users"][0]["signed_in_at"].is_string());
    assert!(!users.to_string().contains("argon2"), "{users}");
}

#[tokio::test]
async fn s02_who_is_given_another_role_has_it_at_once() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let anna = Browser::of(&house, "anna").await;
    let submits =
        async || anna.post("/api/v1/builds", json!({ "commit": "main", "command": "make" })).await.status;
    assert_eq!(submits().await, 403);
    assert_eq!(changed(&house, "anna", json!({ "role": "submitter" })).await.json()["role"], "submitter");
    assert_eq!(submits().await, 201);
    changed(&house, "anna", json!({ "role": "viewer" })).await;
    assert_eq!(submits().await, 403);
}

#[tokio::test]
async fn s02_nobody_raises_themselves() {
    let house = House::start().await;
    added(&house, "anna", "operator").await;
    let anna = Browser::of(&house, "anna").await;
    let raise = anna.request(Method::PATCH, "/api/v1/users/anna").json(&json!({ "role": "admin" }));
    assert_eq!(Answer::to(raise).await.problem(), (403, "role_too_low".into()));
    let token = anna.post("/api/v1/tokens", json!({ "name": "more", "role": "admin" })).await;
    assert_eq!(token.problem(), (403, "role_too_high".into()));
    assert_eq!(anna.get("/api/v1/session").await.json()["role"], "operator");
}

#[tokio::test]
async fn a_wrong_password_and_a_name_that_is_nobodys_are_told_the_same() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let wrong = tries_to_sign_in(&house, "anna", "wrong horse battery").await;
    assert_eq!(wrong.problem(), (401, "credentials_invalid".into()));
    for name in ["nobody", "", "Anna", "anna ", &"a".repeat(1000), "a\0b"] {
        let nobody = tries_to_sign_in(&house, name, PASSWORD).await;
        assert_eq!((nobody.status, nobody.body), (wrong.status, wrong.body.clone()), "{name:?}");
    }
}

#[tokio::test]
async fn who_is_kept_out_is_out_at_once_and_in_again_when_let() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let before = Browser::of(&house, "anna").await;
    let token = before.post("/api/v1/tokens", json!({ "name": "t", "role": "viewer" })).await.json();
    let token = token["secret"].as_str().unwrap();
    assert_eq!(changed(&house, "anna", json!({ "disabled": true })).await.json()["disabled"], true);
    assert!(!before.is_signed_in().await);
    assert_eq!(super::with(&house, token, "/api/v1/builds").await.status, 401);
    assert_eq!(tries_to_sign_in(&house, "anna", PASSWORD).await.problem(), (403, "person_disabled".into()));
    // Only who has the password learns that.
    let wrong = tries_to_sign_in(&house, "anna", "wrong horse battery").await;
    assert_eq!(wrong.problem(), (401, "credentials_invalid".into()));

    changed(&house, "anna", json!({ "disabled": false })).await;
    assert!(!before.is_signed_in().await, "a session that was ended does not come back");
    assert!(Browser::of(&house, "anna").await.is_signed_in().await);
    assert_eq!(super::with(&house, token, "/api/v1/builds").await.status, 200);
}

#[tokio::test]
async fn a_name_is_one_persons_and_fits_into_an_address() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let add = async |name: &str, password: &str| {
        let body = json!({ "name": name, "role": "viewer", "password": password });
        Answer::to(house.person(Method::POST, "/api/v1/users").json(&body)).await
    };
    assert_eq!(add("anna", PASSWORD).await.problem(), (409, "name_taken".into()));
    for name in ["", "Anna", "a b", "../x", "ä", &"a".repeat(65)] {
        let refused = add(name, PASSWORD).await;
        assert_eq!(refused.problem(), (422, "invalid_field".into()), "{name:?}");
        assert_eq!(refused.json()["field"], "name");
    }
    for password in ["", "short", &"x".repeat(1025)] {
        let refused = add("ben", password).await;
        assert_eq!(refused.problem(), (422, "invalid_field".into()));
        assert_eq!(refused.json()["field"], "password");
        assert!(password.is_empty() || !refused.text().contains(password));
    }
    let unknown = json!({ "name": "ben", "role": "owner", "password": PASSWORD });
    let unknown = Answer::to(house.person(Method::POST, "/api/v1/users").json(&unknown)).await;
    assert!(matches!(unknown.status, 400 | 422), "{}", unknown.text());
    assert_eq!(changed(&house, "ben", json!({ "role": "viewer" })).await.problem().0, 404);
    assert_eq!(removed(&house, "/api/v1/users/ben").await.problem().0, 404);
}

#[tokio::test]
async fn the_last_admin_can_not_be_lost() {
    let house = House::start().await;
    added(&house, "anna", "admin").await;
    added(&house, "ben", "viewer").await;
    for change in [json!({ "role": "viewer" }), json!({ "disabled": true })] {
        assert_eq!(changed(&house, "anna", change).await.problem(), (409, "last_admin".into()));
    }
    assert_eq!(removed(&house, "/api/v1/users/anna").await.problem(), (409, "last_admin".into()));
    assert_eq!(changed(&house, "ben", json!({ "disabled": true })).await.status, 200, "who is none, can go");
    // An admin who is kept out is none.
    changed(&house, "ben", json!({ "role": "admin" })).await;
    assert_eq!(removed(&house, "/api/v1/users/anna").await.problem(), (409, "last_admin".into()));
    changed(&house, "ben", json!({ "disabled": false })).await;
    assert_eq!(removed(&house, "/api/v1/users/anna").await.status, 204);
    assert_eq!(tries_to_sign_in(&house, "anna", PASSWORD).await.problem().0, 401);
}

#[tokio::test]
async fn somebody_changes_their_password_and_is_signed_out_everywhere_else() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let (here, there) = (Browser::of(&house, "anna").await, Browser::of(&house, "anna").await);
    let change = async |browser: &Browser<'_>, current: &str, new: &str| {
        let body = json!({ "current_password": current, "new_password": new });
        Answer::to(browser.request(Method::PUT, "/api/v1/session/password").json(&body)).await
    };
    let new = "another horse entirely";
    assert_eq!(change(&here, "wrong horse battery", new).await.problem(), (403, "password_wrong".into()));
    assert_eq!(change(&here, PASSWORD, "short").await.problem(), (422, "invalid_field".into()));
    assert_eq!(change(&here, PASSWORD, new).await.status, 204);
    assert!(here.is_signed_in().await && !there.is_signed_in().await);
    assert_eq!(tries_to_sign_in(&house, "anna", PASSWORD).await.status, 401);
    assert_eq!(tries_to_sign_in(&house, "anna", new).await.status, 204);

    let admin = Browser::with_token(&house, &house.admin_token).await;
    assert_eq!(change(&admin, PASSWORD, new).await.problem(), (403, "no_person".into()));
}

#[tokio::test]
async fn an_admin_gives_somebody_another_password_who_forgot_theirs() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let anna = Browser::of(&house, "anna").await;
    assert_eq!(changed(&house, "anna", json!({ "password": "another horse entirely" })).await.status, 200);
    assert!(!anna.is_signed_in().await);
    assert_eq!(tries_to_sign_in(&house, "anna", "another horse entirely").await.status, 204);
}

#[tokio::test]
async fn people_and_what_they_have_survive_a_restart() {
    let mut house = House::start().await;
    added(&house, "anna", "operator").await;
    let cookie = Browser::of(&house, "anna").await.cookie;
    house.stop().await;
    house.start_again().await;
    let anna = Browser { house: &house, cookie };
    assert_eq!(anna.get("/api/v1/session").await.json()["role"], "operator");
}
