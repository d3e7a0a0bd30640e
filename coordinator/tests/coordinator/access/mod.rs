//! Who may do what, as people, programs and runners meet it.

mod audit;
mod command;
mod people;
mod runners;
mod sessions;
mod store;
mod tokens;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{Answer, House};

const PASSWORD: &str = "correct horse battery";

/// Adds somebody whose password is `PASSWORD`.
async fn added(house: &House, name: &str, role: &str) {
    let body = json!({ "name": name, "role": role, "password": PASSWORD });
    let answer = Answer::to(house.person(Method::POST, "/api/v1/users").json(&body)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

async fn changed(house: &House, name: &str, change: Value) -> Answer {
    Answer::to(house.person(Method::PATCH, &format!("/api/v1/users/{name}")).json(&change)).await
}

async fn removed(house: &House, path: &str) -> Answer {
    Answer::to(house.person(Method::DELETE, path)).await
}

async fn tries_to_sign_in(house: &House, name: &str, password: &str) -> Answer {
    let body = json!({ "name": name, "password": password });
    Answer::to(house.stranger(Method::POST, "/api/v1/session").json(&body)).await
}

/// A browser in which somebody is signed in.
struct Browser<'a> {
    house: &'a House,
    cookie: String,
}

impl<'a> Browser<'a> {
    fn new(house: &'a House, signed_in: &Answer) -> Self {
        assert_eq!(signed_in.status, 204, "{}", signed_in.text());
        let cookie = signed_in.header("set-cookie").split(';').next().unwrap().to_owned();
        Self { house, cookie }
    }

    async fn of(house: &'a House, name: &str) -> Self {
        Self::new(house, &tries_to_sign_in(house, name, PASSWORD).await)
    }

    async fn with_token(house: &'a House, token: &str) -> Self {
        let request = house.stranger(Method::POST, "/api/v1/session").json(&json!({ "token": token }));
        Self::new(house, &Answer::to(request).await)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.house.stranger(method, path).header("cookie", &self.cookie)
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::to(self.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::to(self.request(Method::POST, path).json(&body)).await
    }

    async fn is_signed_in(&self) -> bool {
        match self.get("/api/v1/session").await {
            Answer { status: 200, .. } => true,
            answer => {
                assert_eq!(answer.problem(), (401, "unauthorized".into()));
                false
            }
        }
    }
}

/// What is asked with a token.
async fn with(house: &House, token: &str, path: &str) -> Answer {
    Answer::to(house.stranger(Method::GET, path).bearer_auth(token)).await
}

/// The audit log's entries that match, newest first, once there are as many as wanted.
async fn audited(house: &House, query: &str, wanted: usize) -> Vec<Value> {
    crate::support::eventually(&format!("{wanted} entries of {query}"), async || {
        let entries = house.get(&format!("/api/v1/audit?{query}")).await.json()["entries"].take();
        let entries = entries.as_array()?.clone();
        (entries.len() >= wanted).then_some(entries)
    })
    .await
}
