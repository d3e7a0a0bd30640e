//! A coordinator in a folder of its own, started as `main` starts it, and what a person asks of it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use caisson_coordinator::{coordinator::Coordinator, settings::Settings};
use futures_util::{StreamExt, stream};
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{eventually, in_time};

/// A coordinator and its data folder. It can be stopped and started again on the same folder.
pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) admin_token: String,
    pub(crate) runner_token: String,
    pub(crate) sign_in_code: String,
    settings: Settings,
    stopping: CancellationToken,
    ended: Option<JoinHandle<anyhow::Result<()>>>,
    client: reqwest::Client,
    credentials: tokio::sync::Mutex<BTreeMap<String, String>>,
    _folder: Option<TempDir>,
}

impl House {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With settings of its own.
    pub(crate) async fn with(furnish: impl FnOnce(&mut Settings)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut house = Self::in_folder(folder.path(), furnish).await;
        house._folder = Some(folder);
        house
    }

    /// In a folder that somebody else looks after.
    pub(crate) async fn in_folder(folder: &Path, furnish: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            listen: "127.0.0.1:0".into(),
            data_dir: folder.join("data"),
            repository_url: Some("https://example.org/team/app.git".into()),
            ..Settings::default()
        };
        furnish(&mut settings);
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let mut house = Self {
            address: ([127, 0, 0, 1], 0).into(),
            admin_token: String::new(),
            runner_token: String::new(),
            sign_in_code: String::new(),
            settings,
            stopping: CancellationToken::new(),
            ended: None,
            client: client.build().unwrap(),
            credentials: tokio::sync::Mutex::default(),
            _folder: None,
        };
        house.start_again().await;
        house
    }

    pub(crate) async fn start_again(&mut self) {
        let coordinator = Coordinator::start(self.settings.check().unwrap()).await.unwrap();
        self.address = coordinator.address().unwrap();
        self.sign_in_code = coordinator.sign_in_code().expose().to_owned();
        self.stopping = coordinator.stopping();
        self.ended = Some(tokio::spawn(coordinator.run()));
        let token = |name: &str| fs::read_to_string(self.data_dir().join(name)).unwrap().trim().to_owned();
        (self.admin_token, self.runner_token) = (token("admin-token"), token("runner-token"));
    }

    pub(crate) async fn stop(&mut self) {
        self.stopping.cancel();
        let ended = self.ended.take().expect("it runs");
        in_time("the coordinator stops", ended).await.unwrap().unwrap();
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.settings.data_dir.clone()
    }

    /// A request without any token.
    pub(crate) fn stranger(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// A request by a person.
    pub(crate) fn person(&self, method: Method, path: &str) -> RequestBuilder {
        self.stranger(method, path).bearer_auth(&self.admin_token)
    }

    /// Makes a token with what `wanted` says, and gives its secret.
    pub(crate) async fn token(&self, name: &str, wanted: Value) -> String {
        let mut body = json!({ "name": name, "role": "viewer" });
        body.as_object_mut().unwrap().extend(wanted.as_object().unwrap().clone());
        let answer = Answer::to(self.person(Method::POST, "/api/v1/tokens").json(&body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["secret"].as_str().unwrap().to_owned()
    }

    /// The credential of the runner of this name, which it is given the first time.
    pub(crate) async fn credential(&self, name: &str) -> String {
        let mut credentials = self.credentials.lock().await;
        if let Some(known) = credentials.get(name) {
            return known.clone();
        }
        let answer = self.register(&self.runner_token, name).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let credential = answer.json()["credential"].as_str().unwrap().to_owned();
        credentials.insert(name.to_owned(), credential.clone());
        credential
    }

    /// Exchanges a registration token for the credential of a runner.
    pub(crate) async fn register(&self, token: &str, name: &str) -> Answer {
        let request = self.stranger(Method::POST, "/api/v1/runner/credential").bearer_auth(token);
        Answer::to(request.json(&json!({ "name": name }))).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::to(self.person(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        Answer::to(self.person(Method::POST, path)).await
    }

    pub(crate) async fn submit(&self, body: &Value) -> Answer {
        Answer::to(self.person(Method::POST, "/api/v1/builds").json(body)).await
    }

    /// Submits a build that is taken, and gives its id.
    pub(crate) async fn submitted(&self, command: &str) -> String {
        let answer = self.submit(&json!({ "commit": "main", "command": command })).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Submits a command many times, several at a time.
    pub(crate) async fn submits_many(&self, command: &str, count: usize) {
        let submissions = (0..count).map(|_| self.submitted(command));
        stream::iter(submissions).buffer_unordered(16).for_each(async |_| {}).await;
    }

    pub(crate) async fn build(&self, which: &str) -> Value {
        self.get(&format!("/api/v1/builds/{which}")).await.json()
    }

    /// All builds there are, newest first.
    pub(crate) async fn builds(&self) -> Vec<Value> {
        self.get("/api/v1/builds?limit=100").await.json()["builds"].as_array().unwrap().clone()
    }

    pub(crate) async fn log(&self, build: &str) -> Vec<u8> {
        self.get(&format!("/api/v1/builds/{build}/log")).await.body
    }

    /// Waits until a build stands so, and shows it.
    pub(crate) async fn until(&self, build: &str, status: &str) -> Value {
        eventually(&format!("build {build} {status}"), async || {
            let shown = self.build(build).await;
            (shown["status"] == status).then_some(shown)
        })
        .await
    }
}

/// What a person is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn to(request: RequestBuilder) -> Self {
        let response = in_time("an answer", request.send()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = in_time("a body", response.bytes()).await.unwrap().to_vec();
        Self { status, headers, body }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a problem document that says what its status line says, and gives its status and code.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        for told in ["title", "detail"] {
            assert!(problem[told].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        (self.status, problem["code"].as_str().unwrap().to_owned())
    }
}
