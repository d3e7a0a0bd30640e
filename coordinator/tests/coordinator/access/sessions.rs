//! Browsers are signed in, for a while.

use caisson_settings::Period;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

use super::{Browser, added, changed, tries_to_sign_in};
use crate::support::{Answer, House, Viewer, eventually};

fn milliseconds(count: u64) -> Period {
    Period(Duration::from_millis(count))
}

#[tokio::test]
async fn a_session_lasts_longer_whenever_it_is_used() {
    let house = House::with(|settings| settings.session.idle = Period::seconds(60)).await;
    let browser = Browser::with_token(&house, &house.admin_token).await;
    let ends_at =
        async || browser.get("/api/v1/session").await.json()["expires_at"].as_str().unwrap().to_owned();
    let first = ends_at().await;
    eventually("it ends later than before", async || (ends_at().await > first).then_some(())).await;
    let lifetime = time::OffsetDateTime::now_utc() + Duration::from_secs(61);
    let format = &time::format_description::well_known::Rfc3339;
    assert!(time::OffsetDateTime::parse(&first, format).unwrap() < lifetime, "{first}");
}

#[tokio::test]
async fn a_session_ends_however_much_it_is_used() {
    let house = House::with(|settings| settings.session.lifetime = milliseconds(1000)).await;
    let browser = Browser::with_token(&house, &house.admin_token).await;
    let mut events = watching(&browser).await;
    assert!(browser.get("/api/v1/session").await.json()["expires_at"].is_string());
    eventually("the session ends", async || (!browser.is_signed_in().await).then_some(())).await;
    // S41: what it has open is looked after at the next change of who may do what, or within a minute.
    house.token("t", json!({})).await;
    events.is_cut_off().await;
}

/// Watches events as this browser.
async fn watching(browser: &Browser<'_>) -> Viewer {
    let mut events = Viewer::with_cookie(browser.house, "/api/v1/events", &browser.cookie).await;
    events.until(|said| said["type"] == "snapshot").await;
    events
}

#[tokio::test]
async fn s41_who_is_kept_out_or_signs_out_sees_nothing_more() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let (first, second) = (Browser::of(&house, "anna").await, Browser::of(&house, "anna").await);
    let (mut of_first, mut of_second) = (watching(&first).await, watching(&second).await);
    let sign_out = Answer::to(first.request(Method::DELETE, "/api/v1/session")).await;
    assert_eq!(sign_out.status, 204);
    assert!(sign_out.header("set-cookie").contains("Max-Age=0"));
    of_first.is_cut_off().await;
    assert!(second.is_signed_in().await);
    changed(&house, "anna", json!({ "disabled": true })).await;
    of_second.is_cut_off().await;
}

#[tokio::test]
async fn the_fifty_first_browser_of_one_person_signs_out_the_first() {
    let house = House::start().await;
    let first = Browser::with_token(&house, &house.admin_token).await;
    let second = Browser::with_token(&house, &house.admin_token).await;
    for _ in 0..49 {
        Browser::with_token(&house, &house.admin_token).await;
    }
    assert!(!first.is_signed_in().await && second.is_signed_in().await);
}

#[tokio::test]
async fn a_cookie_crosses_the_network_encrypted_only() {
    let house = House::with(|settings| settings.behind_proxy = true).await;
    let body = json!({ "token": house.admin_token });
    let answer = Answer::to(house.stranger(Method::POST, "/api/v1/session").json(&body)).await;
    assert!(answer.header("set-cookie").ends_with("; Secure"), "{}", answer.header("set-cookie"));
}

#[tokio::test]
async fn signing_in_takes_a_token_or_name_and_password_and_nothing_else() {
    let house = House::start().await;
    for body in [
        json!({}),
        json!({ "name": "anna" }),
        json!({ "password": "correct horse battery" }),
        json!({ "token": "t", "name": "anna", "password": "correct horse battery" }),
        json!({ "token": 7 }),
        json!({ "token": "t", "remember": true }),
        json!([]),
    ] {
        let answer = Answer::to(house.stranger(Method::POST, "/api/v1/session").json(&body)).await;
        assert!(matches!(answer.problem().0, 400 | 422), "{body}: {}", answer.text());
        assert!(!answer.text().contains("battery"));
    }
}

#[tokio::test]
async fn many_guesses_at_once_are_answered_one_way_or_the_other() {
    let house = House::with(|settings| settings.limits.sign_in_failures_per_minute = 0).await;
    added(&house, "anna", "viewer").await;
    let guesses = (0..60).map(|_| tries_to_sign_in(&house, "anna", "wrong horse battery"));
    let answers = futures_util::future::join_all(guesses).await;
    let busy = answers.iter().filter(|answer| answer.problem() == (503, "busy".into())).count();
    let wrong = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!(busy + wrong, 60);
    assert!(busy >= 1 && wrong >= 33, "{busy} {wrong}");
}
