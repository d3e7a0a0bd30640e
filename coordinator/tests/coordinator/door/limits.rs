//! How often each caller may ask. The callers come through a proxy, which tells where from.

use caisson_coordinator::settings::Settings;
use reqwest::{Method, RequestBuilder};

use super::Raw;
use crate::support::{Answer, House, Runner};

const SOMEBODY: &str = "203.0.113.7";

fn behind_proxy(settings: &mut Settings) {
    settings.behind_proxy = true;
    settings.limits.requests_per_second = 1;
    settings.limits.sign_in_failures_per_minute = 3;
}

fn from(request: RequestBuilder, address: &str) -> RequestBuilder {
    request.header("x-forwarded-for", address)
}

/// How many requests are let through before one is refused, and that refusal.
async fn until_refused(mut request: impl FnMut() -> RequestBuilder) -> (usize, Answer) {
    for taken in 0..100 {
        let answer = Answer::to(request()).await;
        if answer.status == 429 {
            return (taken, answer);
        }
    }
    panic!("nothing was refused")
}

#[tokio::test]
async fn s51_who_asks_too_often_is_told_when_to_ask_again() {
    let house = House::with(behind_proxy).await;
    let (taken, refused) = until_refused(|| from(house.stranger(Method::GET, "/healthz"), SOMEBODY)).await;
    assert!((10..=20).contains(&taken), "{taken}");
    assert_eq!(refused.problem(), (429, "rate_limited".into()));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    // Nobody else has to wait, and what the caller writes there itself changes nothing.
    assert_eq!(Answer::to(from(house.stranger(Method::GET, "/healthz"), "203.0.113.8")).await.status, 200);
    let forged = from(house.stranger(Method::GET, "/healthz"), "10.1.2.3, 203.0.113.7");
    assert_eq!(Answer::to(forged).await.status, 429);
}

#[tokio::test]
async fn s51_a_token_that_is_used_from_everywhere_is_one_caller() {
    let house = House::with(behind_proxy).await;
    let mut last = 0;
    let (taken, refused) = until_refused(|| {
        last += 1;
        from(house.person(Method::GET, "/api/v1/queue"), &format!("203.0.113.{last}"))
    })
    .await;
    assert!((10..=20).contains(&taken), "{taken}");
    assert_eq!(refused.problem(), (429, "rate_limited".into()));
}

#[tokio::test]
async fn s51_guessing_who_one_is_ends_soon() {
    let house = House::with(|settings| {
        behind_proxy(settings);
        settings.limits.requests_per_second = 0;
    })
    .await;
    let guess = |body: &str| {
        let request = house.stranger(Method::POST, "/api/v1/session").body(body.to_owned());
        from(request, SOMEBODY)
    };
    let right = format!("{{\"token\": \"{}\"}}", house.admin_token);
    for _ in 0..10 {
        assert_eq!(
            Answer::to(guess(&right)).await.status,
            204,
            "who is right may sign in as often as they like"
        );
    }
    let (taken, refused) = until_refused(|| guess("{\"token\": \"wrong\"}")).await;
    assert_eq!((taken, refused.problem()), (3, (429, "rate_limited".into())));
    assert_eq!(refused.header("retry-after").parse::<u64>().unwrap().clamp(1, 20), 20);
    assert_eq!(Answer::to(guess(&right)).await.status, 429, "the right one is not told apart from then on");
    let link = from(house.stranger(Method::GET, "/sign-in?code=0"), SOMEBODY);
    assert_eq!(Answer::to(link).await.status, 429, "nor is there another way to guess");
    assert_eq!(Answer::to(from(house.stranger(Method::GET, "/sign-in"), SOMEBODY)).await.status, 200);
    let signed_in = from(house.person(Method::GET, "/api/v1/builds"), SOMEBODY);
    assert_eq!(Answer::to(signed_in).await.status, 200, "who is in goes on");
}

#[tokio::test]
async fn s51_guesses_at_the_same_time_are_counted_as_well() {
    let house = House::with(behind_proxy).await;
    let guesses = (0..20).map(|_| {
        let request = house.stranger(Method::POST, "/api/v1/session").body("{\"token\": \"wrong\"}");
        Answer::to(from(request, SOMEBODY))
    });
    let answers = futures_util::future::join_all(guesses).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 401).count(), 3);
}

#[tokio::test]
async fn s51_what_a_runner_says_on_its_channel_is_not_counted() {
    let house = House::with(|settings| {
        behind_proxy(settings);
        settings.limits.sign_in_failures_per_minute = 0;
    })
    .await;
    let mut runner = Runner::named(&house, "r1").await;
    house.submitted("a").await;
    let attempt = runner.runs().await;
    for at in 0..100 {
        runner.writes(attempt, at, b"x").await;
    }
    runner.is_acknowledged(attempt, 100).await;
}

#[tokio::test]
async fn s51_one_connection_too_many_is_closed() {
    let house = House::with(|settings| settings.limits.connections = 2).await;
    let mut first = Raw::connect(house.address).await;
    let mut second = Raw::connect(house.address).await;
    assert!(first.gets("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(second.gets("/healthz").await.starts_with("HTTP/1.1 200"));
    let mut third = Raw::connect(house.address).await;
    third.says("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(third.hears().await, "");
    drop(first);
    crate::support::eventually("there is room again", async || {
        let mut again = Raw::connect(house.address).await;
        again.says("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        again.hears().await.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    assert!(second.gets("/healthz").await.starts_with("HTTP/1.1 200"));
}
