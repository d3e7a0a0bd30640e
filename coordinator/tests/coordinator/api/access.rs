//! Who is let in, through every door there is.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};

use caisson_coordinator::{access::Role, coordinator::Coordinator, http, settings::Settings};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

use crate::support::{Answer, House, Runner};

/// What everyone may see.
const PUBLIC: [&str; 3] = ["/healthz", "/readyz", "/sign-in"];
/// Where who has no session or credential yet gets one.
const DOORS: [(&str, &str); 2] = [("POST", "/api/v1/session"), ("POST", "/api/v1/runner/credential")];
/// The dashboard's own files, which hold no data.
const DASHBOARD: [&str; 7] =
    ["/", "/new", "/builds/{build}", "/queue", "/runners", "/trends", "/assets/{file}"];
/// What people may see, beside what the OpenAPI document describes.
const UNLISTED: [&str; 2] = ["/api/v1/openapi.json", "/metrics"];
/// What runners may speak through.
const CHANNEL: &str = "/api/v1/runner/channel";
const NOWHERE: [&str; 5] = ["/nothing", "/api/v1/nothing", "/api", "/admin-token", "/sign-in/x"];

/// Each route that the document describes.
fn described() -> BTreeSet<(String, String)> {
    let document = serde_json::to_value(http::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = |operations: &Value| operations.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    paths
        .iter()
        .flat_map(|(path, operations)| {
            methods(operations).into_iter().map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

/// Each route that is for people: the method, and a path to build 1 or to what is not there.
fn for_people() -> Vec<(Method, String)> {
    let path = |route: &str| route.replace("{id}", "1").replace("{name}", "nobody");
    http::policy().iter().map(|(_, method, route)| (method.parse().unwrap(), path(route))).collect()
}

/// The paths that the sources route, word for word.
fn routed_in_sources() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let files = fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let mut paths: Vec<String> = files
        .flat_map(|text| {
            let after =
                text.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            after.collect::<Vec<_>>()
        })
        .collect();
    paths.sort();
    paths
}

#[test]
fn s01_no_route_is_without_a_policy() {
    let mut known: Vec<String> =
        [&PUBLIC[..], &DASHBOARD, &UNLISTED, &[CHANNEL]].concat().iter().map(ToString::to_string).collect();
    known.sort();
    assert_eq!(
        routed_in_sources(),
        known,
        "a route that the document does not describe belongs into a list here"
    );
    let ruled = http::policy().iter().map(|(_, method, path)| (method.to_string(), path.to_string()));
    let ruled: BTreeSet<_> = ruled.collect();
    assert_eq!(ruled.len(), http::policy().len(), "each route has one rule");
    let open = DOORS.map(|(method, path)| (method.to_owned(), path.to_owned()));
    let unlisted = UNLISTED.map(|path| ("GET".to_owned(), path.to_owned()));
    let known: BTreeSet<_> = described().into_iter().chain(unlisted).collect();
    assert_eq!(ruled.union(&open.into()).cloned().collect::<BTreeSet<_>>(), known);
}

#[tokio::test]
async fn s02_each_role_may_do_what_the_policy_says_and_nothing_else() {
    let house = House::start().await;
    house.submitted("a").await;
    for role in Role::ALL {
        let token = house.token(role.as_str(), json!({ "role": role })).await;
        for (needed, method, route) in http::policy() {
            // It is what this test asks with.
            if *route == "/api/v1/session" && *method == "DELETE" {
                continue;
            }
            let path = route.replace("{id}", "1").replace("{name}", "nobody");
            let answer = Answer::to(house.stranger(method.parse().unwrap(), &path).bearer_auth(&token)).await;
            if role < *needed {
                assert_eq!(answer.problem(), (403, "role_too_low".into()), "{role}: {method} {path}");
                assert_eq!(answer.json()["needs_role"], needed.as_str());
            } else {
                assert!(!matches!(answer.status, 401 | 403), "{role}: {method} {path}: {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn s01_what_the_policy_does_not_know_is_not_served() {
    let house = House::start().await;
    let answer = Answer::to(house.person(Method::DELETE, "/api/v1/builds")).await;
    assert_eq!(answer.problem(), (405, "method_not_allowed".into()));
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    let head = Answer::to(house.person(Method::HEAD, "/api/v1/builds")).await;
    assert_eq!(head.status, 200, "who may read may ask for the head alone");
}

#[tokio::test]
async fn s01_nothing_opens_without_the_right_token() {
    let house = House::start().await;
    house.submitted("a").await;
    let everything =
        NOWHERE.map(|path| (Method::GET, path.to_owned())).into_iter().chain(for_people()).chain([
            (Method::GET, CHANNEL.into()),
            (Method::POST, CHANNEL.into()),
            (Method::DELETE, "/api/v1/builds".into()),
        ]);
    for (method, path) in everything {
        let ask = || house.stranger(method.clone(), &path);
        let requests = [
            ("no token", ask()),
            ("a wrong token", ask().bearer_auth("0".repeat(64))),
            ("an empty token", ask().bearer_auth("")),
            ("a token's beginning", ask().bearer_auth(&house.admin_token[..63])),
            ("a password", ask().basic_auth("admin", Some(&house.admin_token))),
            ("a cookie", ask().header("cookie", format!("caisson_session={}", house.admin_token))),
            ("a query", house.stranger(method.clone(), &format!("{path}?token={}", house.admin_token))),
        ];
        for (with, request) in requests {
            let answer = Answer::to(request).await;
            assert_eq!(answer.problem(), (401, "unauthorized".into()), "{method} {path} with {with}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    assert_eq!(house.builds().await.len(), 1);
}

#[tokio::test]
async fn s05_a_runners_secrets_open_what_they_are_for_and_nothing_else() {
    let house = House::start().await;
    house.submitted("a").await;
    let credential = house.credential("r1").await;
    let nowhere = NOWHERE.map(|path| (Method::GET, path.to_owned()));
    for (method, path) in nowhere.into_iter().chain(for_people()) {
        for secret in [&house.runner_token, &credential] {
            let answer = Answer::to(house.stranger(method.clone(), &path).bearer_auth(secret)).await;
            assert_eq!(answer.problem(), (401, "unauthorized".into()), "{method} {path}");
        }
    }
    assert_eq!(house.register(&credential, "r2").await.problem(), (401, "registration_invalid".into()));
    Runner::named(&house, "r1").await;
}

#[tokio::test]
async fn a_persons_token_does_not_open_the_channel() {
    let house = House::start().await;
    for token in [house.admin_token.as_str(), house.runner_token.as_str(), "wrong", ""] {
        let Err(tungstenite::Error::Http(refused)) = Runner::dial(&house, CHANNEL, token).await else {
            panic!("the channel opened with {token:?}")
        };
        assert_eq!(refused.status(), 401);
    }
}

#[tokio::test]
async fn a_websocket_needs_a_token_before_it_is_one() {
    let house = House::start().await;
    house.submitted("a").await;
    for path in ["/api/v1/events", "/api/v1/builds/1/log/stream"] {
        let Err(tungstenite::Error::Http(refused)) = Runner::dial(&house, path, &house.runner_token).await
        else {
            panic!("{path} opened")
        };
        assert_eq!(refused.status(), 401);
    }
}

#[tokio::test]
async fn everyone_may_see_whether_it_is_well() {
    let house = House::start().await;
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = Answer::to(house.stranger(Method::GET, path)).await;
        assert_eq!((answer.status, answer.text()), (200, text.into()));
    }
}

#[tokio::test]
async fn a_name_that_is_not_this_machines_is_refused_everywhere() {
    let house = House::start().await;
    for path in ["/healthz", "/", "/api/v1/builds", "/nothing", CHANNEL, "/sign-in?code=x"] {
        for name in ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1"] {
            let answer = Answer::to(house.person(Method::GET, path).header("host", name)).await;
            assert_eq!(answer.problem(), (421, "foreign_host".into()), "{name}{path}");
        }
    }
    let port = house.address.port();
    for name in ["localhost".into(), format!("localhost:{port}"), "127.0.0.1".into(), format!("[::1]:{port}")]
    {
        let answer = Answer::to(house.person(Method::GET, "/api/v1/builds").header("host", &name)).await;
        assert_eq!(answer.status, 200, "{name}");
    }
}

#[tokio::test]
async fn behind_a_proxy_any_name_is_taken() {
    let house = House::with(|settings| settings.behind_proxy = true).await;
    let answer =
        Answer::to(house.person(Method::GET, "/api/v1/builds").header("host", "ci.example.org")).await;
    assert_eq!(answer.status, 200);
}

/// Signs in, and gives the cookie that a browser would send back.
async fn sign_in(house: &House) -> String {
    let path = format!("/sign-in?code={}", house.sign_in_code);
    let answer = Answer::to(house.stranger(Method::GET, &path)).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/"));
    let cookie = answer.header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    assert!(cookie.contains("Max-Age=2592000") && !cookie.contains("Secure"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_sign_in_link_works_once() {
    let house = House::start().await;
    let path = format!("/sign-in?code={}", house.sign_in_code);
    for (wrong, status) in [("/sign-in?code=", 401), ("/sign-in?code=0", 401)] {
        assert_eq!(Answer::to(house.stranger(Method::GET, wrong)).await.problem().0, status, "{wrong}");
    }
    // A program that previews links does not use it up.
    assert_eq!(Answer::to(house.stranger(Method::HEAD, &path)).await.status, 405);
    let cookie = sign_in(&house).await;
    let again = Answer::to(house.stranger(Method::GET, &path)).await;
    assert_eq!(again.problem(), (401, "sign_in_code_invalid".into()));
    assert!(!again.text().contains(&house.sign_in_code));

    let as_browser = |path: &str| house.stranger(Method::GET, path).header("cookie", &cookie);
    assert_eq!(Answer::to(as_browser("/")).await.status, 200);
    assert_eq!(Answer::to(as_browser("/api/v1/builds")).await.status, 200);
    assert_eq!(Answer::to(as_browser(CHANNEL)).await.status, 401, "a session opens no channel");
}

#[tokio::test]
async fn the_token_signs_a_browser_in_until_it_signs_out() {
    let house = House::start().await;
    let sign_in = |body: String| house.stranger(Method::POST, "/api/v1/session").body(body);
    assert_eq!(Answer::to(sign_in("{}".into())).await.problem().0, 400);
    for wrong in [&house.runner_token, "", "0"] {
        let refused = Answer::to(sign_in(format!("{{\"token\": \"{wrong}\"}}"))).await;
        assert_eq!(refused.problem(), (401, "token_invalid".into()));
    }
    let body = format!("{{\"token\": \"{}\"}}", house.admin_token);
    let foreign = sign_in(body.clone()).header("origin", "https://evil.example");
    assert_eq!(Answer::to(foreign).await.problem(), (403, "foreign_origin".into()));

    let answer = Answer::to(sign_in(body)).await;
    assert_eq!(answer.status, 204);
    let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
    let about = || house.stranger(Method::GET, "/api/v1/about").header("cookie", &cookie);
    assert_eq!(Answer::to(about()).await.status, 200);
    let sign_out = house.stranger(Method::DELETE, "/api/v1/session").header("cookie", &cookie);
    assert_eq!(Answer::to(sign_out).await.status, 204);
    assert_eq!(Answer::to(about()).await.status, 401);
}

#[tokio::test]
async fn the_dashboards_page_is_open_and_strict_and_a_browser_that_gets_lost_is_shown_it() {
    let house = House::start().await;
    for path in ["/", "/new", "/builds/1", "/queue", "/runners", "/trends", "/sign-in"] {
        let answer = Answer::to(house.stranger(Method::GET, path)).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    let as_browser = |request: reqwest::RequestBuilder| request.header("accept", "text/html");
    let lost = Answer::to(as_browser(house.person(Method::GET, "/nothing"))).await;
    assert_eq!((lost.status, lost.header("content-type")), (404, "text/html; charset=utf-8"));
    let old_link = Answer::to(as_browser(house.stranger(Method::GET, "/sign-in?code=0"))).await;
    assert_eq!((old_link.status, old_link.header("content-type")), (401, "text/html; charset=utf-8"));
    for path in ["/assets/nothing.js", "/assets/..%2findex.html", "/assets/%2e%2e/x"] {
        let answer = Answer::to(house.stranger(Method::GET, path)).await;
        assert!(matches!(answer.status, 401 | 404), "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn another_sites_page_can_not_use_a_browsers_session() {
    let house = House::start().await;
    house.submitted("a").await;
    let cookie = sign_in(&house).await;
    let own = format!("http://{}", house.address);
    let cancel = |origin: &str| {
        let request = house.stranger(Method::POST, "/api/v1/builds/1/cancel");
        request.header("cookie", &cookie).header("origin", origin)
    };
    for origin in ["https://evil.example", "null", "", "http://127.0.0.1:1"] {
        assert_eq!(Answer::to(cancel(origin)).await.problem(), (403, "foreign_origin".into()), "{origin:?}");
    }
    assert_eq!(house.build("1").await["status"], "queued");
    assert_eq!(Answer::to(cancel(&own)).await.status, 200);

    let upgrade = |origin: &str| {
        let request = house.stranger(Method::GET, "/api/v1/events").header("cookie", &cookie);
        let request = request.header("connection", "upgrade").header("upgrade", "websocket");
        let request = request.header("sec-websocket-version", "13").header("origin", origin);
        request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    assert_eq!(Answer::to(upgrade("https://evil.example")).await.problem(), (403, "foreign_origin".into()));
    let opened = upgrade(&own).send().await.unwrap();
    assert_eq!(opened.status().as_u16(), 101);
}

#[tokio::test]
async fn a_token_needs_no_origin() {
    let house = House::start().await;
    house.submitted("a").await;
    let request =
        house.person(Method::POST, "/api/v1/builds/1/cancel").header("origin", "https://tool.example");
    assert_eq!(Answer::to(request).await.status, 200);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn tokens_are_their_owners_alone_and_stay_the_same() {
    let mut house = House::start().await;
    assert_eq!(mode(&house.data_dir()), 0o700);
    for name in ["admin-token", "runner-token"] {
        assert_eq!(mode(&house.data_dir().join(name)), 0o600, "{name}");
    }
    assert_ne!(house.admin_token, house.runner_token);
    assert!([&house.admin_token, &house.runner_token].iter().all(|token| token.len() == 64));
    let before = (house.admin_token.clone(), house.runner_token.clone());
    house.stop().await;
    house.start_again().await;
    assert_eq!((house.admin_token, house.runner_token), before);
}

#[tokio::test]
async fn a_token_that_others_can_read_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let settings =
        Settings { listen: "127.0.0.1:0".into(), data_dir: folder.path().to_owned(), ..Settings::default() };
    let start = async || Coordinator::start(settings.check().unwrap()).await;
    drop(start().await.unwrap());
    for name in ["admin-token", "runner-token"] {
        let path = folder.path().join(name);
        let token = fs::read_to_string(&path).unwrap();
        allow(&path, 0o640);
        let refused = format!("{:#}", start().await.err().expect("it was started"));
        assert!(refused.contains(name) && refused.contains("chmod 600"), "{refused}");
        assert!(!refused.contains(token.trim()));
        fs::write(&path, "\n").unwrap();
        allow(&path, 0o600);
        let refused = format!("{:#}", start().await.err().expect("it was started"));
        assert!(refused.contains(name) && refused.contains("is empty"), "{refused}");
        fs::write(&path, token).unwrap();
    }
    start().await.unwrap();
}
