//! What a story needs: a coordinator, runners, repositories, and the means to look for what was left behind.

pub(crate) mod certificates;
pub(crate) mod coordinator;
pub(crate) mod dockerd;
pub(crate) mod engine_proxy;
pub(crate) mod events;
pub(crate) mod kernel;
pub(crate) mod podman;
pub(crate) mod registry;
pub(crate) mod repository;
pub(crate) mod runner;
pub(crate) mod servers;
pub(crate) mod tmpfs;

use std::{marker::PhantomData, path::Path, process::Command, time::Duration};

use caisson_protocol::{AttemptId, BuildSpec, Outcome};
use caisson_runner::engine::{Owned, OwnedKind};
use serde_json::json;
use tempfile::TempDir;

pub(crate) use coordinator::Coordinator;
pub(crate) use dockerd::Dockerd;
pub(crate) use engine_proxy::{Call, EngineProxy, Gate};
pub(crate) use podman::Podman;
pub(crate) use registry::Registry;
pub(crate) use repository::{Entry, Repository};
pub(crate) use runner::Runner;
pub(crate) use tmpfs::Tmpfs;

/// How long anything may take in these tests. Far beyond what is expected, so that a slow machine fails none; where a
/// test is to fail (`scripts/planted-bugs`) less is enough.
pub(crate) fn patience() -> Duration {
    let seconds = std::env::var("CAISSON_TEST_PATIENCE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// A name for a runner that no other has. It begins with that of the tests' run where there is one, by which is found
/// what a test has left that was ended.
pub(crate) fn new_name() -> String {
    let run = std::env::var("CAISSON_TEST_RUN").map(|run| run + "-").unwrap_or_default();
    format!("test-{run}{}", uuid::Uuid::new_v4().simple())
}

/// A name for an image of a test's own.
pub(crate) fn new_image() -> String {
    format!("caisson-test:{}", new_name())
}

/// The image that `scripts/images` makes for tests.
pub(crate) const IMAGE: &str = "caisson-busybox:test";

/// What one world's runner differs in from another's.
pub(crate) trait Kind {
    /// How workspaces get into containers.
    const TRANSPORT: &str;
    /// Whether it runs as nobody, who may use the engine.
    const NOBODY: bool = false;
}

/// As root, which sees what containers write.
pub(crate) struct Bind;

impl Kind for Bind {
    const TRANSPORT: &str = "workspace.transport=bind";
}

/// As root, and sends checkouts into containers.
pub(crate) struct Upload;

impl Kind for Upload {
    const TRANSPORT: &str = "workspace.transport=upload";
}

/// As root, and left to itself.
pub(crate) struct Auto;

impl Kind for Auto {
    const TRANSPORT: &str = "workspace.transport=auto";
}

/// As nobody, and left to itself.
pub(crate) struct Nobody;

impl Kind for Nobody {
    const TRANSPORT: &str = "workspace.transport=auto";
    const NOBODY: bool = true;
}

/// A coordinator, one runner and one repository.
pub(crate) struct WorldWith<K> {
    pub(crate) coordinator: Coordinator,
    pub(crate) runner: Runner,
    pub(crate) repository: Repository,
    _home: TempDir,
    _kind: PhantomData<K>,
}

impl<K: Kind> WorldWith<K> {
    /// With a runner that has these settings beside those of every test.
    pub(crate) async fn with(settings: &[&str]) -> Self {
        Self::within(tempfile::tempdir().unwrap(), settings).await
    }

    /// As `with`, in a folder that is given.
    pub(crate) async fn within(home: TempDir, settings: &[&str]) -> Self {
        let coordinator = Coordinator::start().await;
        let repository = Repository::make(&home.path().join("repository"), &[("file.txt", "hello\n")]);
        let settings = [&[K::TRANSPORT], settings].concat();
        let runner = if K::NOBODY {
            Runner::start_as_nobody(home.path(), &coordinator, &settings)
        } else {
            Runner::start(&home.path().join("runner"), &coordinator, &settings)
        };
        coordinator.wait("the runner registers", |seen| seen.registrations.len() == 1).await;
        Self { coordinator, runner, repository, _home: home, _kind: PhantomData }
    }

    /// As `with`, on an engine of its own.
    pub(crate) async fn on(engine: &Dockerd, settings: &[&str]) -> Self {
        let host = format!("engine.host={}", engine.host());
        Self::with(&[&[host.as_str()], settings].concat()).await
    }

    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A build of the repository's branch `main`.
    pub(crate) fn spec(&self, command: &str) -> BuildSpec {
        spec(&self.repository.url(), "main", command)
    }

    pub(crate) fn submit(&self, command: &str) -> AttemptId {
        self.coordinator.assign(self.spec(command))
    }

    /// A build in an image that is not the test image.
    pub(crate) fn submit_in(&self, image: &str, command: &str) -> AttemptId {
        let mut value = serde_json::to_value(self.spec(command)).unwrap();
        value["image"] = json!(image);
        self.coordinator.assign(spec_from(value))
    }

    pub(crate) async fn outcome(&self, attempt: AttemptId) -> Outcome {
        self.coordinator.finished(attempt).await.outcome
    }

    /// Lets a build go on that waits for the file `go` in its workspace.
    pub(crate) fn go(&self, attempt: AttemptId) {
        self.runner.docker(&["exec", &format!("caisson-{attempt}"), "touch", "/workspace/go"]);
    }

    /// The runner ends, and nothing of it is left on this machine.
    pub(crate) async fn ends_clean(mut self) {
        assert_eq!(self.runner.end().await, Some(0), "{}", self.runner.log());
        self.runner.has_left_nothing().await;
    }
}

/// A build with a minute to run in the test image.
pub(crate) fn spec(url: &str, commit: &str, command: &str) -> BuildSpec {
    spec_from(json!({
        "repository_url": url, "commit": commit, "command": command, "image": IMAGE, "timeout_seconds": 60,
    }))
}

pub(crate) fn spec_from(value: serde_json::Value) -> BuildSpec {
    serde_json::from_value(value).unwrap()
}

/// What bears a runner's label.
pub(crate) async fn owned(runner: &str) -> Vec<Owned> {
    owned_at(runner, None).await
}

/// What bears a runner's label on an engine that is perhaps not the machine's.
pub(crate) async fn owned_at(runner: &str, host: Option<&str>) -> Vec<Owned> {
    let filter = format!("label=caisson.runner={runner}");
    let host: Vec<String> = host.into_iter().flat_map(|host| ["-H".to_owned(), host.to_owned()]).collect();
    let list = move |kind, arguments: &[&str], id: &str| -> Vec<Owned> {
        let format = format!("{id} {{{{.Label \"caisson.attempt\"}}}}");
        let host: Vec<&str> = host.iter().map(String::as_str).collect();
        let listed = docker(&[&host, arguments, &["--filter", &filter, "--format", &format]].concat());
        let owned = |line: &str| {
            let (id, attempt) = line.split_once(' ').unwrap_or((line, ""));
            Owned { kind, id: id.to_owned(), attempt: attempt.parse().ok() }
        };
        listed.lines().map(owned).collect()
    };
    let list_all = move || {
        let containers = list(OwnedKind::Container, &["ps", "--all"], "{{.ID}}");
        let volumes = list(OwnedKind::Volume, &["volume", "ls"], "{{.Name}}");
        let networks = list(OwnedKind::Network, &["network", "ls"], "{{.ID}}");
        [containers, volumes, networks].concat()
    };
    // The way to the engine may lead through this very process.
    tokio::task::spawn_blocking(list_all).await.unwrap()
}

/// Runs the docker command and gives what it prints.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("run scripts/engine");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The test image with a change, such as `VOLUME /data`, under a name of its own.
pub(crate) fn image_with(change: &str) -> String {
    let image = new_image();
    let container = docker(&["create", IMAGE]);
    docker(&["commit", "--change", change, &container, &image]);
    docker(&["rm", &container]);
    image
}

/// Looks again and again until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let found = tokio::time::timeout(patience(), async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(found.await.is_ok(), "not within {} s: {what}", patience().as_secs());
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
