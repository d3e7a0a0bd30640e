//! The program as a user starts it, stops it, and gets its settings wrong.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use caisson_protocol::{CoordinatorMessage, RunnerMessage};
use futures_util::{SinkExt, StreamExt, future::join_all};
use reqwest::{Client, StatusCode};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::support::{Socket, eventually, in_time, registration};

/// The program, in a folder of its own and without the settings of whoever runs the tests.
fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caisson-coordinator"));
    command.current_dir(folder).env("RUST_LOG", "debug").stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAISSON_")) {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs to a failure, and gives the one line that is said about it.
fn fails(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = text(&stderr);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(text(&stdout), "");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("caisson-coordinator: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert_eq!(said.lines().last(), lines.last().copied(), "nothing follows it");
    lines[0].to_owned()
}

/// A coordinator that runs as a process. Killed with the value.
struct Process {
    child: Child,
    address: SocketAddr,
    sign_in: String,
    token: String,
    runner_token: String,
    client: Client,
}

impl Process {
    fn start(data_dir: &Path) -> Self {
        Self::start_at_level(data_dir, "debug")
    }

    fn start_at_level(data_dir: &Path, level: &str) -> Self {
        let mut command = program(data_dir.parent().unwrap());
        command.env("RUST_LOG", level);
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        let log =
            fs::File::options().create(true).append(true).open(data_dir.with_extension("stderr")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = said.next().and_then(|line| line.rsplit_once("http://")?.1.parse().ok());
        let sign_in = said.next().and_then(|line| Some(line.split_once("sign in: ")?.1.to_owned()));
        let token = fs::read_to_string(data_dir.join("admin-token")).unwrap();
        let runner_token = fs::read_to_string(data_dir.join("runner-token")).unwrap();
        Self {
            child,
            address: address.expect("it says where it listens"),
            sign_in: sign_in.expect("it says how to sign in"),
            token: token.trim().to_owned(),
            runner_token: runner_token.trim().to_owned(),
            client: Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn submit(&self, body: &Value) -> reqwest::Result<(StatusCode, Value)> {
        let request = self.client.post(format!("http://{}/api/v1/builds", self.address));
        let response = request.bearer_auth(&self.token).json(body).send().await?;
        Ok((response.status(), response.json().await?))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request = self.client.get(format!("http://{}{path}", self.address)).bearer_auth(&self.token);
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Exchanges the registration token for the credential of a runner.
    async fn credential(&self, name: &str) -> String {
        let request = self.client.post(format!("http://{}/api/v1/runner/credential", self.address));
        let request = request.bearer_auth(&self.runner_token).json(&json!({ "name": name }));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["credential"].as_str().unwrap().to_owned()
    }

    async fn open_websocket(&self, path: &str, token: &str) -> Socket {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        connect_async(request).await.unwrap().0
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, and gives its exit code.
    async fn ends(&mut self) -> Option<i32> {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time("the coordinator ends", ended).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn build(command: &str) -> Value {
    json!({ "commit": "main", "command": command, "repository_url": "https://example.org/team/app.git" })
}

#[test]
fn help_names_every_argument() {
    let folder = TempDir::new().unwrap();
    let shown = program(folder.path()).arg("--help").output().unwrap();
    assert!(shown.status.success());
    for argument in ["--listen", "--data-dir", "--repository-url", "--config", "--set", "--print-config"] {
        assert!(text(&shown.stdout).contains(argument), "{argument}");
    }
    let shown = program(folder.path()).arg("--version").output().unwrap();
    assert!(text(&shown.stdout).starts_with("caisson-coordinator "), "{shown:?}");
}

#[test]
fn the_settings_in_effect_are_shown_with_where_each_came_from() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("c.yaml"), "queue: { capacity: 5 }\nbuild: { timeout: 10m }\n").unwrap();
    let shown = program(folder.path())
        .args([
            "--config",
            "c.yaml",
            "--set",
            "build.timeout=5m",
            "--listen",
            "127.0.0.1:0",
            "--print-config",
        ])
        .env("CAISSON_COORDINATOR_KEEP_ALIVE__TIMEOUT", "60s")
        .output()
        .unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let shown = text(&shown.stdout);
    for line in [
        "listen: 127.0.0.1:0  # arguments",
        "data_dir: ./data  # default",
        "repository_url: null  # default",
        "queue.capacity: 5  # ",
        "keep_alive.interval: 10s  # default",
        "keep_alive.timeout: 1m  # environment",
        "build.timeout: 5m  # arguments",
        "build.max_attempts: 3  # default",
        "build.log_size: 256MiB  # default",
        "git.allow_file_urls: false  # default",
    ] {
        assert!(shown.lines().any(|shown| shown.starts_with(line)), "{line:?} is not in\n{shown}");
    }
    assert!(shown.lines().any(|line| line.starts_with("queue.capacity") && line.ends_with("c.yaml")));
    assert!(!folder.path().join("data").exists(), "showing settings makes nothing");
}

#[test]
fn wrong_settings_are_told_in_one_line_with_key_place_and_expectation() {
    let folder = TempDir::new().unwrap();
    let file = |text: &str| fs::write(folder.path().join("c.yaml"), text).unwrap();
    let with = |arguments: &[&str]| {
        let mut command = program(folder.path());
        command.args(arguments);
        command
    };
    let with_env = |name: &str, value: &str| {
        let mut command = program(folder.path());
        command.env(name, value);
        command
    };
    let told = |command: Command, words: &[&str]| {
        let line = fails(command);
        assert!(words.iter().all(|word| line.contains(word)), "{line}\ndoes not have all of {words:?}");
    };
    file("queue: { capcity: 5 }");
    told(with(&["--config", "c.yaml"]), &["c.yaml", "queue.capcity", "unknown key", "capacity"]);
    file("queue: { capacity: many }");
    told(with(&["--config", "c.yaml"]), &["c.yaml", "queue.capacity", "many"]);
    file("keep_alive: { timeout: 20 }");
    told(with(&["--config", "c.yaml"]), &["c.yaml", "keep_alive.timeout", "20", "10s"]);
    file("queue: [");
    told(with(&["--config", "c.yaml"]), &["c.yaml"]);
    told(with(&["--config", "missing.yaml"]), &["missing.yaml", "No such file"]);
    told(with(&["--set", "queue.capcity=5"]), &["--set", "queue.capcity", "unknown key", "queue.capacity"]);
    told(with(&["--set", "queue.capacity=many"]), &["--set queue.capacity", "many", "a number"]);
    told(with(&["--set", "queue.capacity=0"]), &["queue.capacity", "0", "1 to 1000000"]);
    told(with(&["--set", "build.max_attempts=0"]), &["build.max_attempts", "1 to 100"]);
    told(with(&["--set", "build.log_size=1KiB"]), &["build.log_size", "64KiB"]);
    told(with(&["--set", "build.image=No Image"]), &["build.image", "not an image reference"]);
    told(with(&["--set", "keep_alive.timeout=15s"]), &["keep_alive.timeout", "15s", "at least twice"]);
    told(with(&["--listen", "here"]), &["listen", "here", "127.0.0.1:3000"]);
    told(with(&["--listen", "0.0.0.0:0"]), &["listen", "0.0.0.0:0", "behind_proxy"]);
    told(with(&["--repository-url", "ftp://example.org/x"]), &["repository_url", "ftp", "https"]);
    told(
        with_env("CAISSON_COORDINATOR_QUEUE__CAPCITY", "5"),
        &["CAISSON_COORDINATOR_QUEUE__CAPCITY", "unknown key", "queue.capacity"],
    );
    told(
        with_env("CAISSON_COORDINATOR_BEHIND_PROXY", "maybe"),
        &["CAISSON_COORDINATOR_BEHIND_PROXY", "maybe", "true or false"],
    );
    assert!(!folder.path().join("data").exists(), "nothing was made");
    let unknown = with(&["--no-such-argument"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("--no-such-argument"));
}

#[test]
fn what_can_not_be_had_is_told_in_one_line() {
    let folder = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = program(folder.path());
    command.args(["--listen", &address]);
    let line = fails(command);
    assert!(line.contains(&address) && line.contains("--listen") && line.contains("in use"), "{line}");

    fs::write(folder.path().join("file"), "").unwrap();
    for unwritable in ["file", "file/data", "/proc/caisson"] {
        let mut command = program(folder.path());
        command.args(["--listen", "127.0.0.1:0", "--data-dir", unwritable]);
        let line = fails(command);
        assert!(line.contains("data_dir") && line.contains(unwritable), "{line}");
    }
}

#[test]
fn a_damaged_database_is_told_in_one_line() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/caisson.db"), "no database ".repeat(500)).unwrap();
    let mut command = program(folder.path());
    command.args(["--listen", "127.0.0.1:0"]);
    let line = fails(command);
    assert!(line.contains("data/caisson.db") && line.contains("not a database"), "{line}");
}

#[tokio::test]
async fn a_second_coordinator_is_refused_and_the_first_goes_on() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let first = Process::start(&data_dir);
    let address = fs::read_to_string(data_dir.join("address")).unwrap();
    let mut second = program(folder.path());
    second.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data_dir);
    let line = fails(second);
    assert!(line.contains("another coordinator") && line.contains("data_dir"), "{line}");
    assert_eq!(fs::read_to_string(data_dir.join("address")).unwrap(), address);
    assert_eq!(first.submit(&build("a")).await.unwrap().0, 201);
}

#[tokio::test]
async fn it_says_where_it_is_and_how_to_get_in() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let process = Process::start(&data_dir);
    assert_eq!(fs::read_to_string(data_dir.join("address")).unwrap().trim(), process.address.to_string());
    assert!(process.sign_in.starts_with(&format!("http://{}/sign-in?code=", process.address)));
    let browser = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = browser.get(&process.sign_in).send().await.unwrap();
    assert_eq!(answer.status(), 303);
}

/// How long it takes to end after a signal.
async fn end(process: &mut Process, signal: Signal) -> Duration {
    let began = Instant::now();
    process.signal(signal);
    assert_eq!(process.ends().await, Some(0));
    began.elapsed()
}

#[tokio::test]
async fn a_signal_ends_it_promptly_whoever_is_connected() {
    let folder = TempDir::new().unwrap();
    let alone = end(&mut Process::start(&folder.path().join("data")), Signal::TERM).await;
    for signal in [Signal::TERM, Signal::INT] {
        let folder = TempDir::new().unwrap();
        let data_dir = folder.path().join("data");
        let mut process = Process::start(&data_dir);
        process.submit(&build("a")).await.unwrap();
        let credential = process.credential("r1").await;
        let _viewer = process.open_websocket("/api/v1/events", &process.token).await;
        let _reader = process.open_websocket("/api/v1/builds/1/log/stream", &process.token).await;
        let _runner = process.open_websocket("/api/v1/runner/channel", &credential).await;
        let follow = format!("http://{}/api/v1/builds/1/log?follow=true", process.address);
        let _follower = process.client.get(follow).bearer_auth(&process.token).send().await.unwrap();
        let taken = end(&mut process, signal).await;
        // A request that does not end is given three seconds.
        assert!(
            taken < alone + Duration::from_millis(2800),
            "{taken:?}, and with nobody connected {alone:?}"
        );
    }
}

#[tokio::test]
async fn a_request_that_never_ends_holds_its_end_up_for_seconds_at_most() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(&folder.path().join("data"));
    let mut half = tokio::net::TcpStream::connect(process.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, b"GET / HTTP/1.1\r\nhost: loc").await.unwrap();
    let taken = end(&mut process, Signal::TERM).await;
    assert!(taken < Duration::from_secs(20), "{taken:?}");
}

/// Everything that is secret, and all that is said of it: every line at every level, every answer, the audit log, the
/// metrics, and what other users of the machine can see of the process.
#[tokio::test]
async fn s10_secrets_are_in_nothing_that_is_said() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let mut process = Process::start_at_level(&data_dir, "trace");
    let mut said = Vec::new();
    let password = "hunter2-password";
    let mut ask = async |method: &str, path: &str, token: &str, body: Value| {
        let url = format!("http://{}{path}", process.address);
        let request = process.client.request(method.parse().unwrap(), url).bearer_auth(token);
        let answer = request.json(&body).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let made = serde_json::from_str::<Value>(&text).unwrap_or_default();
        let secret = made["secret"].as_str().or(made["credential"].as_str()).map(str::to_owned);
        // What is made is shown this once. No other answer has it.
        said.push(secret.as_ref().map_or(text.clone(), |secret| text.replacen(secret, "", 1)));
        (status, secret.unwrap_or_default())
    };
    let (admin, runner_token) = (process.token.clone(), process.runner_token.clone());
    let mut body = build("make");
    body["env"] = json!({ "TOKEN": "hunter2-env" });
    assert_eq!(ask("POST", "/api/v1/builds", &admin, body.clone()).await.0, 201);
    body["repository_url"] = "https://bob:hunter2-url@example.org/app".into();
    assert_eq!(ask("POST", "/api/v1/builds", &admin, body).await.0, 422);
    assert_eq!(ask("GET", "/api/v1/builds?q=hunter2-query", "hunter2-token", json!({})).await.0, 401);
    let anna = json!({ "name": "anna", "role": "admin", "password": password });
    assert_eq!(ask("POST", "/api/v1/users", &admin, anna).await.0, 201);
    let new = json!({ "password": format!("{password}-new") });
    assert_eq!(ask("PATCH", "/api/v1/users/anna", &admin, new).await.0, 200);
    for password in ["hunter2-password-new", "hunter2-guessed"] {
        ask("POST", "/api/v1/session", "", json!({ "name": "anna", "password": password })).await;
    }
    ask("POST", "/api/v1/session", "", json!({ "token": "hunter2-token" })).await;
    ask("POST", "/api/v1/session", "", json!({ "name": "hunter2-in-the-wrong-field", "password": "" })).await;
    ask("POST", "/api/v1/session", "", json!({ "name": 7, "password": "hunter2-malformed" })).await;
    let (_, token) = ask("POST", "/api/v1/tokens", &admin, json!({ "name": "t", "role": "viewer" })).await;
    let (_, registration) = ask("POST", "/api/v1/runner-registrations", &admin, json!({ "name": "r" })).await;
    let (_, credential) =
        ask("POST", "/api/v1/runner/credential", &registration, json!({ "name": "r1" })).await;
    assert_eq!(ask("POST", "/api/v1/runner/credential", &registration, json!({ "name": "r2" })).await.0, 401);
    assert!([&token, &registration, &credential].iter().all(|secret| secret.starts_with("caisson_")));
    assert_eq!(ask("GET", "/api/v1/tokens", &token, json!({})).await.0, 200);
    drop(process.open_websocket("/api/v1/events", &token).await);
    drop(process.open_websocket("/api/v1/runner/channel", &credential).await);
    assert_eq!(ask("DELETE", "/api/v1/runner-credentials/r1", &admin, json!({})).await.0, 204);
    assert_eq!(ask("GET", "/api/v1/runner/channel", &credential, json!({})).await.0, 401);
    let browser = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let signed_in = browser.get(&process.sign_in).send().await.unwrap();
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let session = format!("http://{}/api/v1/session", process.address);
    assert_eq!(browser.get(&session).header("cookie", &cookie).send().await.unwrap().status(), 200);
    for page in [
        "/api/v1/builds/1",
        "/api/v1/users",
        "/api/v1/runner-registrations",
        "/api/v1/runner-credentials",
        "/api/v1/audit",
        "/metrics",
        "/nothing",
    ] {
        ask("GET", page, &admin, json!({})).await;
    }
    for seen in ["cmdline", "environ"] {
        said.push(text(&fs::read(format!("/proc/{}/{seen}", process.child.id())).unwrap()));
    }

    process.signal(Signal::TERM);
    process.ends().await;
    let log = fs::read_to_string(data_dir.with_extension("stderr")).unwrap();
    assert!(log.contains("submitted") && log.contains("TRACE"), "{log}");
    said.push(log);
    let code = process.sign_in.rsplit_once('=').unwrap().1;
    let session = cookie.split_once('=').unwrap().1;
    let secrets = ["hunter2", &admin, &runner_token, &token, &registration, &credential, code, session];
    for (secret, said) in secrets.into_iter().flat_map(|secret| said.iter().map(move |said| (secret, said))) {
        let shown = said.lines().find(|line| line.contains(secret));
        assert!(shown.is_none(), "{secret}: {}", shown.unwrap_or_default());
    }
}

#[tokio::test]
async fn a_disk_that_never_answers_holds_its_end_up_for_seconds_at_most() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let mut process = Process::start(&data_dir);
    process.submit(&build("a")).await.unwrap();
    let credential = process.credential("r1").await;
    let mut runner = process.open_websocket("/api/v1/runner/channel", &credential).await;
    let register = serde_json::to_string(&RunnerMessage::Register(registration("r1"))).unwrap();
    runner.send(Message::text(register)).await.unwrap();
    let attempt = loop {
        let message = in_time("an assignment", runner.next()).await.unwrap().unwrap();
        if let Ok(CoordinatorMessage::Assign { attempt, .. }) = serde_json::from_slice(&message.into_data()) {
            break attempt;
        }
    };

    // Who opens a pipe that nobody else opens waits for ever.
    let shard = data_dir.join(format!("logs/{:02x}", attempt.build.0.as_bytes()[15]));
    let pipe = shard.join(format!("{attempt}.log"));
    fs::create_dir_all(&shard).unwrap();
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::write(shard.join(format!("{attempt}.idx")), "").unwrap();
    let log = format!("http://{}/api/v1/builds/1/log", process.address);
    let reading = tokio::spawn(process.client.get(log).bearer_auth(&process.token).send());
    let task = format!("/proc/{}/task", process.child.id());
    eventually("a thread waits for the log", async || {
        let mut threads = fs::read_dir(&task).unwrap().map(|thread| thread.unwrap().path().join("wchan"));
        // What kernels call the place where they wait for the other end of a pipe.
        let waits = |place: &str| matches!(place, "wait_for_partner" | "fifo_open");
        threads.find(|place| fs::read_to_string(place).is_ok_and(|place| waits(&place)))
    })
    .await;

    let taken = end(&mut process, Signal::TERM).await;
    assert!(taken < Duration::from_secs(20), "{taken:?}");
    assert!(reading.await.unwrap().is_err());
}

#[tokio::test]
async fn what_was_acknowledged_survives_being_killed_at_any_moment() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let mut acknowledged = Vec::new();
    for round in 0..20 {
        let mut process = Process::start(&data_dir);
        acknowledged.extend(submissions_until_it_is_killed(&process, 1 + round % 7).await);
        process.ends().await;
    }
    let process = Process::start(&data_dir);
    for id in &acknowledged {
        let (status, build) = process.get(&format!("/api/v1/builds/{id}")).await;
        assert_eq!((status, &build["status"]), (StatusCode::OK, &json!("queued")), "build {id} is lost");
    }
    let depth = process.get("/api/v1/queue").await.1["depth"].as_u64().unwrap();
    assert!(depth >= acknowledged.len() as u64, "{depth}");
}

/// Submits on several connections, kills the coordinator after so many answers while others are on their way, and
/// gives the builds whose submission was answered.
async fn submissions_until_it_is_killed(process: &Process, answers: usize) -> Vec<String> {
    let (answered, mut ids) = tokio::sync::mpsc::unbounded_channel();
    let submit = async |answered: tokio::sync::mpsc::UnboundedSender<String>| {
        while let Ok((StatusCode::CREATED, build)) = process.submit(&build("make test")).await {
            answered.send(build["id"].as_str().unwrap().to_owned()).unwrap();
        }
    };
    let submissions = join_all((0..4).map(|_| submit(answered.clone())));
    drop(answered);
    let kill = async {
        let mut acknowledged = Vec::new();
        while let Some(id) = ids.recv().await {
            acknowledged.push(id);
            if acknowledged.len() == answers {
                process.signal(Signal::KILL);
            }
        }
        acknowledged
    };
    let both = async {
        tokio::join!(
            async {
                submissions.await;
            },
            kill
        )
    };
    let ((), acknowledged) = in_time("submissions until the end", both).await;
    assert!(acknowledged.len() >= answers);
    acknowledged
}
