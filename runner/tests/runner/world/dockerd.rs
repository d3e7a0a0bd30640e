//! An engine of a test's own, to be restarted, killed and frozen as no one may do with the machine's.
//!
//! Its containerd is a process apart, or it would die with dockerd and take every container with it.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{IMAGE, Tmpfs, certificates, until};

/// A private engine, with the test image and without a network.
pub(crate) struct Dockerd {
    home: TempDir,
    containerd: Child,
    dockerd: Child,
    remote: Option<Remote>,
    disk: Option<Tmpfs>,
}

/// What makes an engine a remote one: a port, and certificates for it and for who uses it.
struct Remote {
    port: u16,
}

impl Dockerd {
    pub(crate) async fn start() -> Self {
        Self::start_with(None, None, None).await
    }

    /// An engine that has its images and containers on a disk of its own.
    pub(crate) async fn start_on(disk: &str) -> Self {
        Self::start_with(None, None, Some(disk)).await
    }

    /// An engine that is reached over TCP and TLS, and that does not see what is in `unseen`.
    pub(crate) async fn start_remote(unseen: &Path) -> Self {
        // dockerd can't be told to choose a port, so one that was free a moment ago is taken.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_with(Some(Remote { port }), Some(unseen), None).await
    }

    async fn start_with(remote: Option<Remote>, unseen: Option<&Path>, disk: Option<&str>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "an engine of the test's own needs root");
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let disk = disk.map(|options| Tmpfs::mount(&home.path().join("data"), options));
        fs::write(
            path("containerd.toml"),
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
        )
        .unwrap();
        // The machine's own settings are not this engine's.
        fs::write(path("daemon.json"), "{}").unwrap();
        let mut containerd = match unseen {
            None => Command::new("containerd"),
            // Something else is in its place there, for it and for dockerd.
            Some(folder) => {
                let mut unshare = Command::new("unshare");
                let cover = "mount -t tmpfs none \"$0\" && exec \"$@\"";
                unshare.args(["--mount", "sh", "-c", cover]).arg(folder).arg("containerd");
                unshare
            }
        };
        containerd.args([
            format!("--config={}", path("containerd.toml")),
            format!("--root={}", path("containerd-root")),
            format!("--state={}", path("containerd-state")),
            format!("--address={}", path("containerd.sock")),
        ]);
        let containerd = spawn(home.path(), "containerd", &mut containerd);
        until("containerd listens", async || Path::new(&path("containerd.sock")).exists()).await;
        if remote.is_some() {
            certificates::make(home.path());
        }
        let dockerd = spawn_dockerd(home.path(), &containerd, remote.as_ref());
        let engine = Self { home, containerd, dockerd, remote, disk };
        engine.answers().await;
        let load = format!("docker save {IMAGE} | docker -H {} load", engine.host());
        let loaded = Command::new("sh").args(["-c", &load]).output().unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        engine
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("docker.sock")
    }

    /// The disk of its own.
    pub(crate) fn disk(&self) -> &Tmpfs {
        self.disk.as_ref().expect("it was started on one")
    }

    /// What a runner needs to reach it as a remote one.
    pub(crate) fn remote_settings(&self) -> Vec<String> {
        let port = self.remote.as_ref().expect("it is a near one").port;
        let file = |name: &str| self.home.path().join(name).display().to_string();
        vec![
            format!("engine.host=tcp://127.0.0.1:{port}"),
            format!("engine.tls.ca={}", file("ca.pem")),
            format!("engine.tls.cert={}", file("runner.pem")),
            format!("engine.tls.key={}", file("runner-key.pem")),
        ]
    }

    pub(crate) fn freeze(&self) {
        send(&self.dockerd, Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        send(&self.dockerd, Signal::CONT);
    }

    /// Ends it as a power cut would, containers aside: they run on until it is back.
    pub(crate) fn kill(&mut self) {
        self.dockerd.kill().unwrap();
        self.dockerd.wait().unwrap();
    }

    /// Ends what stands between it and its containers.
    pub(crate) fn kill_shims(&self) {
        shims(self.home.path()).into_iter().for_each(kill);
    }

    /// Ends it as an upgrade does: it ends its containers first.
    pub(crate) async fn shut_down(&mut self) {
        send(&self.dockerd, Signal::TERM);
        let dockerd = &mut self.dockerd;
        until("dockerd ends", async || dockerd.try_wait().unwrap().is_some()).await;
    }

    /// Starts it again.
    pub(crate) async fn revive(&mut self) {
        // One that was killed leaves the file, by which the next finds a process that is not there.
        let _ = fs::remove_file(self.home.path().join("docker.pid"));
        self.dockerd = spawn_dockerd(self.home.path(), &self.containerd, self.remote.as_ref());
        self.answers().await;
    }

    /// Every container on it, whoever made it.
    pub(crate) fn containers(&self) -> String {
        let listed = Command::new("docker").args(["-H", &self.host(), "ps", "-aq"]).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).trim().to_owned()
    }

    async fn answers(&self) {
        let host = self.host();
        until("the private engine answers", async || {
            let version = Command::new("docker").args(["-H", &host, "version"]).output().unwrap();
            version.status.success()
        })
        .await;
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.thaw();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.home.path().join("dockerd.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- dockerd\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        for child in [&mut self.dockerd, &mut self.containerd] {
            send(child, Signal::TERM);
            std::thread::sleep(Duration::from_millis(200));
            let _ = child.kill();
            let _ = child.wait();
        }
        end_shims(self.home.path());
        unmount(self.home.path());
    }
}

/// Unmounts what an engine has mounted beneath its folder.
pub(super) fn unmount(home: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of_ours = |line: &&str| line.contains(home.to_str().unwrap_or("?"));
    for line in mounts.lines().rev().filter(of_ours) {
        let target = line.split(' ').nth(1).unwrap_or_default();
        let _ = Command::new("umount").args(["-l", target]).output();
    }
}

/// The processes that hold containers bear this engine's folder in their command line.
fn shims(home: &Path) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_shim = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.starts_with("/usr/bin/containerd-shim") && command.contains(home.to_str().unwrap_or("?"))
    };
    pids.filter(is_shim).collect()
}

/// Ends them with what they hold.
fn end_shims(home: &Path) {
    for shim in shims(home) {
        let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        children.chain([shim]).for_each(kill);
    }
}

fn kill(pid: i32) {
    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| kill_process(pid, signal));
}

/// In the same mounts as containerd, or neither would see what the other mounts.
fn spawn_dockerd(home: &Path, containerd: &Child, remote: Option<&Remote>) -> Child {
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", containerd.id())).arg("dockerd").args([
        format!("--host=unix://{}", path("docker.sock")),
        format!("--containerd={}", path("containerd.sock")),
        format!("--data-root={}", path("data")),
        format!("--exec-root={}", path("exec")),
        format!("--pidfile={}", path("docker.pid")),
        format!("--config-file={}", path("daemon.json")),
        "--bridge=none".into(),
        "--iptables=false".into(),
        "--ip6tables=false".into(),
        "--shutdown-timeout=3".into(),
    ]);
    if let Some(Remote { port }) = remote {
        command.args([
            format!("--host=tcp://127.0.0.1:{port}"),
            "--tlsverify".into(),
            format!("--tlscacert={}", path("ca.pem")),
            format!("--tlscert={}", path("engine.pem")),
            format!("--tlskey={}", path("engine-key.pem")),
        ]);
    }
    spawn(home, "dockerd", &mut command)
}

pub(super) fn spawn(home: &Path, program: &str, command: &mut Command) -> Child {
    let log: PathBuf = home.join(format!("{program}.log"));
    let log = File::options().create(true).append(true).open(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}: scripts/test installs what is missing"))
}
