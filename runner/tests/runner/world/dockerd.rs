//! An engine of a test's own, to be restarted, killed and frozen as no one may do with the machine's.
//!
//! Its containerd is a process apart, or it would die with dockerd and take every container with it.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
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
    kind: Kind,
}

/// What differs between one engine and another.
#[derive(Default)]
struct Kind {
    remote: Option<Remote>,
    /// A folder in whose place it sees something else.
    unseen: Option<PathBuf>,
    disk: Option<Tmpfs>,
    /// The socket that is held for it while it is away, as systemd does.
    socket: Option<UnixListener>,
}

/// What makes an engine a remote one: a port, and certificates for it and for who uses it.
struct Remote {
    port: u16,
}

impl Dockerd {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Kind::default()).await
    }

    /// An engine whose socket is there before it and after it: who comes meanwhile waits.
    pub(crate) async fn start_behind_a_socket() -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = Some(UnixListener::bind(home.path().join("docker.sock")).unwrap());
        Self::start_in(home, Kind { socket, ..Kind::default() }).await
    }

    /// An engine that has its images and containers on a disk of its own.
    pub(crate) async fn start_on(disk: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let disk = Some(Tmpfs::mount(&home.path().join("data"), disk));
        Self::start_in(home, Kind { disk, ..Kind::default() }).await
    }

    /// An engine that is reached over TCP and TLS, and that does not see what is in `unseen`.
    pub(crate) async fn start_remote(unseen: &Path) -> Self {
        // dockerd can't be told to choose a port, so one that was free a moment ago is taken.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let kind = Kind { remote: Some(Remote { port }), unseen: Some(unseen.to_owned()), ..Kind::default() };
        Self::start_in(tempfile::tempdir().unwrap(), kind).await
    }

    async fn start_in(home: TempDir, kind: Kind) -> Self {
        assert!(rustix::process::geteuid().is_root(), "an engine of the test's own needs root");
        let no_cri = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        fs::write(home.path().join("containerd.toml"), no_cri).unwrap();
        // The machine's own settings are not this engine's.
        fs::write(home.path().join("daemon.json"), "{}").unwrap();
        if kind.remote.is_some() {
            certificates::make(home.path());
        }
        let containerd = spawn_containerd(home.path(), &kind).await;
        let dockerd = spawn_dockerd(home.path(), &containerd, &kind);
        let engine = Self { home, containerd, dockerd, kind };
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
        self.kind.disk.as_ref().expect("it was started on one")
    }

    /// What a runner needs to reach it as a remote one.
    pub(crate) fn remote_settings(&self) -> Vec<String> {
        let port = self.kind.remote.as_ref().expect("it is a near one").port;
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

    /// Ends it as a power cut would, containers aside: they run on.
    pub(crate) fn kill(&mut self) {
        self.dockerd.kill().unwrap();
        self.dockerd.wait().unwrap();
    }

    /// Ends everything, as a power cut does.
    pub(crate) fn lose_power(&mut self) {
        self.kill();
        self.kill_containerd();
        shims(self.home.path()).into_iter().for_each(end_with_children);
        unmount(self.home.path());
        let _ = fs::remove_dir_all(self.home.path().join("containerd-state"));
    }

    /// Ends what it runs containers with; itself it goes on.
    pub(crate) fn kill_containerd(&mut self) {
        self.containerd.kill().unwrap();
        self.containerd.wait().unwrap();
    }

    pub(crate) async fn revive_containerd(&mut self) {
        self.containerd = spawn_containerd(self.home.path(), &self.kind).await;
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
        self.dockerd = spawn_dockerd(self.home.path(), &self.containerd, &self.kind);
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
        shims(self.home.path()).into_iter().for_each(end_with_children);
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

/// The processes that hold containers.
fn shims(home: &Path) -> Vec<i32> {
    processes("/usr/bin/containerd-shim", home)
}

/// The processes of a program that bear an engine's folder in their command line.
pub(super) fn processes(program: &str, home: &Path) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_one = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.starts_with(program) && command.contains(home.to_str().unwrap_or("?"))
    };
    pids.filter(is_one).collect()
}

/// Ends a process that holds a container, with what it holds; itself first, so that it has no say in that.
pub(super) fn end_with_children(pid: i32) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    [pid].into_iter().chain(children).for_each(kill);
}

fn kill(pid: i32) {
    let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| kill_process(pid, signal));
}

async fn spawn_containerd(home: &Path, kind: &Kind) -> Child {
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let mut command = match &kind.unseen {
        None => Command::new("containerd"),
        // Something else is in its place there, for it and for dockerd.
        Some(folder) => {
            let mut unshare = Command::new("unshare");
            let cover = "mount -t tmpfs none \"$0\" && exec \"$@\"";
            unshare.args(["--mount", "sh", "-c", cover]).arg(folder).arg("containerd");
            unshare
        }
    };
    command.args([
        format!("--config={}", path("containerd.toml")),
        format!("--root={}", path("containerd-root")),
        format!("--state={}", path("containerd-state")),
        format!("--address={}", path("containerd.sock")),
    ]);
    // One that was killed leaves the file.
    let _ = fs::remove_file(path("containerd.sock"));
    let containerd = spawn(home, "containerd", &mut command);
    until("containerd listens", async || Path::new(&path("containerd.sock")).exists()).await;
    containerd
}

/// In the same mounts as containerd, or neither would see what the other mounts.
fn spawn_dockerd(home: &Path, containerd: &Child, kind: &Kind) -> Child {
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", containerd.id()));
    let stdin = match &kind.socket {
        None => {
            command.args(["dockerd", &format!("--host=unix://{}", path("docker.sock"))]);
            Stdio::null()
        }
        // It is handed over as systemd hands over sockets.
        Some(socket) => {
            let hand_over = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
            command.args(["sh", "-c", hand_over, "sh", "dockerd", "--host=fd://"]);
            OwnedFd::from(socket.try_clone().unwrap()).into()
        }
    };
    command.args([
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
    if let Some(Remote { port }) = kind.remote {
        command.args([
            format!("--host=tcp://127.0.0.1:{port}"),
            "--tlsverify".into(),
            format!("--tlscacert={}", path("ca.pem")),
            format!("--tlscert={}", path("engine.pem")),
            format!("--tlskey={}", path("engine-key.pem")),
        ]);
    }
    spawn_with(stdin, home, "dockerd", &mut command)
}

pub(super) fn spawn(home: &Path, program: &str, command: &mut Command) -> Child {
    spawn_with(Stdio::null(), home, program, command)
}

fn spawn_with(stdin: Stdio, home: &Path, program: &str, command: &mut Command) -> Child {
    let log: PathBuf = home.join(format!("{program}.log"));
    let log = File::options().create(true).append(true).open(log).unwrap();
    command
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}: scripts/test installs what is missing"))
}
