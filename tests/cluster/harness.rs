//! A cluster in a temporary folder: its processes, its repositories, and what it leaves behind.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use reqwest::{Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long anything may take before a test gives up. Far more than it takes: these machines are slow at times.
const PATIENCE: Duration = Duration::from_secs(90);
/// Keep-alive terms that make a dead runner's removal a matter of seconds.
const KEEP_ALIVE: [&str; 2] = ["keep_alive.interval=500ms", "keep_alive.timeout=2500ms"];

/// Waits until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < until, "it did not come true that {what}");
        sleep(Duration::from_millis(15)).await;
    }
}

/// A process of the cluster. Dropped, it is killed.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(program: &str, arguments: &[String], environment: &[(&str, String)], log: PathBuf) -> Self {
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(binary(program))
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", async || self.child.try_wait().unwrap()).await
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(program: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(Path::parent).unwrap().join(program);
    assert!(path.exists(), "{} is not there: run `cargo build --workspace` first", path.display());
    path
}

/// Who speaks with the coordinator, and believes in its certificate alone.
fn client(certificate: Option<&Certificate>) -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy();
    let builder = match certificate {
        Some(Certificate { cert, .. }) => {
            let cert = reqwest::Certificate::from_pem(&fs::read(cert).unwrap()).unwrap();
            builder.tls_certs_only([cert])
        }
        None => builder,
    };
    builder.build().unwrap()
}

/// A coordinator and its runners.
pub struct Cluster {
    folder: TempDir,
    name: String,
    settings: Vec<String>,
    pub coordinator: Process,
    pub runners: Vec<Runner>,
    http: reqwest::Client,
    scheme: &'static str,
    address: String,
    runner_settings: Vec<String>,
    runner_environment: Vec<(&'static str, String)>,
}

/// A runner's process and what it is called.
pub struct Runner {
    pub name: String,
    pub process: Process,
    arguments: Vec<String>,
}

/// What may be asked of a new cluster.
#[derive(Default)]
pub struct Wishes<'a> {
    /// Further settings of the coordinator.
    pub coordinator: &'a [&'a str],
    /// The runners' capacities: as many runners as there are numbers.
    pub runners: &'a [u32],
    /// Further settings of the runners.
    pub runner_settings: &'a [String],
    /// Environment variables of the runners.
    pub runner_environment: &'a [(&'static str, String)],
    /// The coordinator's certificate and key, where it speaks TLS.
    pub certificate: Option<&'a Certificate>,
}

/// A certificate that has signed itself, and its key.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Cluster {
    /// A cluster with one runner that runs one build at once.
    pub async fn small(name: &str) -> Self {
        Self::start(name, Wishes { runners: &[1], ..Wishes::default() }).await
    }

    pub async fn start(name: &str, wishes: Wishes<'_>) -> Self {
        let folder = TempDir::new().unwrap();
        let name = format!("{name}-{}", std::process::id());
        let mut settings: Vec<String> =
            KEEP_ALIVE.iter().chain(wishes.coordinator).map(|&s| s.to_owned()).collect();
        if let Some(Certificate { cert, key }) = wishes.certificate {
            settings.push(format!("tls.cert={}", cert.display()));
            settings.push(format!("tls.key={}", key.display()));
        }
        let http = client(wishes.certificate);
        let scheme = if wishes.certificate.is_some() { "https" } else { "http" };
        let coordinator = start_coordinator(folder.path(), "127.0.0.1:0", &settings);
        let address = eventually("the coordinator is ready", async || {
            let address = fs::read_to_string(folder.path().join("coordinator/address")).ok()?;
            let ready = http.get(format!("{scheme}://{address}/readyz")).send().await.ok()?.status();
            ready.is_success().then_some(address)
        })
        .await;
        let mut cluster = Self {
            folder,
            name,
            settings,
            coordinator,
            runners: vec![],
            http,
            scheme,
            address,
            runner_settings: wishes.runner_settings.to_vec(),
            runner_environment: wishes.runner_environment.to_vec(),
        };
        for capacity in wishes.runners {
            cluster.add_runner(*capacity, None).await;
        }
        cluster
    }

    /// Adds a runner, which reaches the coordinator through `address` where one is given.
    pub async fn add_runner(&mut self, capacity: u32, address: Option<&str>) -> usize {
        let name = format!("{}-{}", self.name, self.runners.len() + 1);
        let work_dir = self.folder.path().join(&name);
        let mut arguments: Vec<String> = [
            "--coordinator-url",
            &format!("{}://{}", self.scheme, address.unwrap_or(&self.address)),
            "--token-file",
            &self.folder.path().join("coordinator/runner-token").display().to_string(),
            "--name",
            &name,
            "--capacity",
            &capacity.to_string(),
            "--work-dir",
            &work_dir.display().to_string(),
            "--set",
            "git.allow_file_urls=true",
            "--set",
            "stop_grace=1s",
            "--set",
            "connect.delay=200ms",
            "--set",
            "connect.attempts=200",
        ]
        .map(str::to_owned)
        .to_vec();
        for setting in &self.runner_settings {
            arguments.extend(["--set".to_owned(), setting.clone()]);
        }
        let log = self.folder.path().join(format!("{name}.log"));
        let process = Process::start("caisson-runner", &arguments, &self.runner_environment, log);
        self.runners.push(Runner { name: name.clone(), process, arguments });
        self.runner_is(&name, "ready").await;
        self.runners.len() - 1
    }

    /// Waits until the coordinator sees a runner in this state.
    pub async fn runner_is(&self, name: &str, status: &str) {
        eventually(&format!("runner {name} is {status}"), async || {
            let runners = self.get("/runners").await;
            let found = runners["runners"].as_array()?.iter().find(|runner| runner["name"] == name)?.clone();
            (found["status"] == status).then_some(())
        })
        .await;
    }

    /// Waits until the coordinator does not know a runner any more.
    pub async fn runner_is_removed(&self, at: usize) {
        let name = &self.runners[at].name;
        eventually(&format!("runner {name} is removed"), async || {
            let runners = self.get("/runners").await;
            runners["runners"].as_array()?.iter().all(|runner| runner["name"] != name.as_str()).then_some(())
        })
        .await;
    }

    pub fn kill_runner(&mut self, at: usize) {
        self.runners[at].process.kill();
    }

    /// Starts a runner again after it was killed.
    pub fn restart_runner(&mut self, at: usize) {
        let runner = &mut self.runners[at];
        let log = runner.process.log.clone();
        runner.process = Process::start("caisson-runner", &runner.arguments, &self.runner_environment, log);
    }

    /// Gives a runner another name, from its next start on.
    pub fn rename_runner(&mut self, at: usize, name: &str) {
        let work_dir = self.work_dir(at).display().to_string();
        let runner = &mut self.runners[at];
        let argument = runner.arguments.iter_mut().find(|argument| **argument == runner.name);
        name.clone_into(argument.expect("its name is one of its arguments"));
        name.clone_into(&mut runner.name);
        assert!(runner.arguments.contains(&work_dir), "its folder stays");
    }

    /// A runner's folder, which is named after it as it was at first.
    pub fn work_dir(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("{}-{}", self.name, at + 1))
    }

    pub fn kill_coordinator(&mut self) {
        self.coordinator.kill();
    }

    /// Starts the coordinator again at the same address.
    pub async fn restart_coordinator(&mut self) {
        self.coordinator = start_coordinator(self.folder.path(), &self.address, &self.settings);
        self.coordinator_is_ready().await;
    }

    pub async fn coordinator_is_ready(&self) {
        let url = self.url("/readyz");
        eventually("the coordinator is ready", async || {
            self.http.get(&url).send().await.ok()?.status().is_success().then_some(())
        })
        .await;
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn token(&self) -> String {
        fs::read_to_string(self.folder.path().join("coordinator/admin-token")).unwrap().trim().to_owned()
    }

    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<Response, reqwest::Error> {
        let url = self.url(&format!("/api/v1{path}"));
        let mut request = self.http.post(url).bearer_auth(self.token());
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await
    }

    pub async fn delete(&self, path: &str) -> StatusCode {
        let url = format!("http://{}/api/v1{path}", self.address);
        self.http.delete(url).bearer_auth(self.token()).send().await.unwrap().status()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.unwrap_or(Value::Null)
    }

    async fn try_get(&self, path: &str) -> Result<Value, reqwest::Error> {
        let url = self.url(&format!("/api/v1{path}"));
        self.http.get(url).bearer_auth(self.token()).send().await?.json().await
    }

    /// Submits a build and gives its id.
    pub async fn submit(&self, build: Value) -> String {
        let answer = self.post("/builds", Some(&build)).await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body["id"].as_str().unwrap().to_owned()
    }

    pub async fn cancel(&self, id: &str) {
        assert!(self.post(&format!("/builds/{id}/cancel"), None).await.unwrap().status().is_success());
    }

    pub async fn build(&self, id: &str) -> Value {
        self.get(&format!("/builds/{id}")).await
    }

    /// Waits until a build has this status.
    pub async fn is(&self, id: &str, status: &str) -> Value {
        eventually(&format!("build {id} is {status}"), async || {
            let build = self.build(id).await;
            assert!(
                build["status"] == status || build["finished_at"].is_null(),
                "build {id} should become {status}, and is {build:#}"
            );
            (build["status"] == status).then_some(build)
        })
        .await
    }

    /// Waits until a build has ended, however.
    pub async fn ended(&self, id: &str) -> Value {
        eventually(&format!("build {id} has ended"), async || {
            let build = self.build(id).await;
            build["finished_at"].is_string().then_some(build)
        })
        .await
    }

    pub async fn log(&self, id: &str, query: &str) -> Vec<u8> {
        let url = self.url(&format!("/api/v1/builds/{id}/log?{query}"));
        let answer = self.http.get(url).bearer_auth(self.token()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.bytes().await.unwrap().to_vec()
    }

    /// Waits until the log of a build has this text.
    pub async fn log_says(&self, id: &str, text: &str) {
        eventually(&format!("the log of {id} says {text:?}"), async || {
            let log = self.log(id, "").await;
            String::from_utf8_lossy(&log).contains(text).then_some(())
        })
        .await;
    }

    /// Waits until the runners have no build's container, workspace and spool any more.
    pub async fn is_clean(&self) {
        for runner in &self.runners {
            eventually(&format!("runner {} has cleaned up", runner.name), async || {
                let left =
                    [containers(&runner.name), volumes(&runner.name), self.files_of(&runner.name)].concat();
                left.is_empty().then_some(())
            })
            .await;
        }
    }

    fn files_of(&self, runner: &str) -> Vec<String> {
        let work_dir = self.folder.path().join(runner);
        let entries = |folder: &str| fs::read_dir(work_dir.join(folder)).into_iter().flatten();
        let files = entries("tmp").chain(entries("spool"));
        files.map(|entry| entry.unwrap().path().display().to_string()).collect()
    }

    /// Stops every runner as a user would, and looks at what is left: nothing.
    pub async fn stops_without_a_trace(mut self) {
        for runner in &self.runners {
            runner.process.signal(Signal::TERM);
        }
        for runner in &mut self.runners {
            let status = runner.process.ended().await;
            assert!(status.success(), "{} ended with {status}:\n{}", runner.name, runner.process.log());
        }
        for runner in &self.runners {
            let left = [
                containers(&runner.name),
                volumes(&runner.name),
                networks(&runner.name),
                self.files_of(&runner.name),
            ];
            assert!(left.concat().is_empty(), "{} has left {left:?}", runner.name);
        }
        self.coordinator.signal(Signal::TERM);
        let status = self.coordinator.ended().await;
        assert!(status.success(), "the coordinator ended with {status}:\n{}", self.coordinator.log());
    }
}

impl Drop for Cluster {
    /// A failed test shows what its processes said, and takes its containers along.
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- coordinator ---\n{}", self.coordinator.log());
            for runner in &self.runners {
                println!("--- {} ---\n{}", runner.name, runner.process.log());
            }
        }
        for runner in &mut self.runners {
            let _ = runner.process.child.kill();
            for id in containers(&runner.name) {
                let _ = Command::new("docker").args(["rm", "-f", "-v", &id]).output();
            }
            for id in networks(&runner.name) {
                let _ = Command::new("docker").args(["network", "rm", &id]).output();
            }
        }
    }
}

fn start_coordinator(folder: &Path, listen: &str, settings: &[String]) -> Process {
    let data_dir = folder.join("coordinator");
    let mut arguments: Vec<String> = ["--listen", listen, "--data-dir", &data_dir.display().to_string()]
        .iter()
        .chain(&["--set", "git.allow_file_urls=true", "--set", "build.image=caisson-busybox:test"])
        .map(|&argument| argument.to_owned())
        .collect();
    for setting in settings {
        arguments.extend(["--set".to_owned(), setting.clone()]);
    }
    Process::start("caisson-coordinator", &arguments, &[], folder.join("coordinator.log"))
}

pub fn containers(runner: &str) -> Vec<String> {
    docker(&["ps", "--all", "--quiet", "--filter", &format!("label=caisson.runner={runner}")])
}

fn volumes(runner: &str) -> Vec<String> {
    docker(&["volume", "ls", "--quiet", "--filter", &format!("label=caisson.runner={runner}")])
}

fn networks(runner: &str) -> Vec<String> {
    docker(&["network", "ls", "--quiet", "--filter", &format!("label=caisson.runner={runner}")])
}

fn docker(arguments: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(arguments).output().expect("the docker client is not there");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "docker {arguments:?}: {error}\nNo Docker engine answers: run scripts/engine"
    );
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A git repository in a folder of the cluster.
pub struct Repository {
    pub path: PathBuf,
}

impl Repository {
    /// A repository with one commit on `main` that has these files.
    pub fn new(cluster: &Cluster, files: &[(&str, &str)]) -> Self {
        let path = cluster.folder().join("repository");
        fs::create_dir_all(&path).unwrap();
        let repository = Self { path };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.commit(files);
        repository
    }

    /// Adds a commit and gives its SHA.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            fs::write(self.path.join(name), text).unwrap();
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "a commit"]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"];
        let output = Command::new("git").current_dir(&self.path).args(identity).args(arguments).output();
        let output = output.expect("git is not there");
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// A build of `main` that runs this command.
    pub fn build(&self, command: &str) -> Value {
        json!({ "repository_url": self.url(), "commit": "main", "command": command })
    }
}
