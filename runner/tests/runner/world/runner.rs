//! A real runner in a process of its own.

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use caisson_runner::engine::Owned;
use rustix::process::{Pid, Signal, kill_process};

use super::{Coordinator, coordinator::TOKEN, docker, names, new_name, owned_at, until};

/// A runner's process, its folder and its name.
pub(crate) struct Runner {
    pub(crate) name: String,
    home: PathBuf,
    arguments: Vec<String>,
    engine: Option<String>,
    nobody: bool,
    process: Child,
}

/// The user who owns nothing.
const NOBODY: u32 = 65534;

impl Runner {
    /// Starts a runner with settings that suit tests, and these on top.
    pub(crate) fn start(home: &Path, coordinator: &Coordinator, settings: &[&str]) -> Self {
        Self::start_at(home, &coordinator.url(), settings)
    }

    /// Starts a runner as nobody, who owns everything in `home`.
    pub(crate) fn start_as_nobody(home: &Path, coordinator: &Coordinator, settings: &[&str]) -> Self {
        Self::start_with(&home.join("runner"), &coordinator.url(), settings, Some(home))
    }

    pub(crate) fn start_at(home: &Path, url: &str, settings: &[&str]) -> Self {
        Self::start_with(home, url, settings, None)
    }

    fn start_with(home: &Path, url: &str, settings: &[&str], nobodys: Option<&Path>) -> Self {
        let name = new_name();
        fs::create_dir_all(home).unwrap();
        fs::write(home.join("token"), TOKEN).unwrap();
        let mut arguments = vec![
            "--coordinator-url".into(),
            url.into(),
            "--name".into(),
            name.clone(),
            "--token-file".into(),
            home.join("token").to_str().unwrap().into(),
            "--work-dir".into(),
            home.join("work").to_str().unwrap().into(),
        ];
        let ours = ["git.allow_file_urls=true", "network=none", "connect.delay=100ms", "stop_grace=500ms"];
        for setting in ours.iter().chain(settings) {
            arguments.extend(["--set".into(), (*setting).to_owned()]);
        }
        if let Some(folder) = nobodys {
            let owner = format!("{NOBODY}");
            assert!(Command::new("chown").arg("-R").arg(owner).arg(folder).status().unwrap().success());
        }
        let process = spawn(home, &arguments, nobodys.is_some());
        let engine = settings.iter().filter_map(|setting| setting.strip_prefix("engine.host="));
        let engine = engine.map(str::to_owned).next_back();
        Self { name, home: home.to_owned(), arguments, engine, nobody: nobodys.is_some(), process }
    }

    /// What bears its label on its engine.
    pub(crate) async fn owned(&self) -> Vec<Owned> {
        owned_at(&self.name, self.engine.as_deref()).await
    }

    /// What it leaves behind is looked for over this socket, and not as it reaches its engine itself.
    pub(crate) fn looked_at_through(&mut self, engine: &str) {
        self.engine = Some(engine.to_owned());
    }

    /// Starts it again with the same settings, after its process has ended.
    pub(crate) fn restart(&mut self) {
        self.process.wait().unwrap();
        self.process = spawn(&self.home, &self.arguments, self.nobody);
    }

    /// A second process with the same settings.
    pub(crate) fn twin(&self) -> Child {
        spawn(&self.home.join(".."), &self.arguments, self.nobody)
    }

    pub(crate) fn kill(&self) {
        self.send(Signal::KILL);
    }

    pub(crate) fn terminate(&self) {
        self.send(Signal::TERM);
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    /// Asks it to drain and then to leave, and gives its exit code.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        self.terminate();
        // Two signals at once would be one.
        let log = self.home.join("stderr");
        let draining = || fs::read_to_string(&log).unwrap().contains("draining");
        until("the runner drains", async || draining()).await;
        self.terminate();
        self.exit_code().await
    }

    /// Waits until its process has ended.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let process = &mut self.process;
        until("the runner ends", async || process.try_wait().unwrap().is_some()).await;
        self.process.wait().unwrap().code()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Runs the docker command on the runner's engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        match &self.engine {
            Some(host) => docker(&[&["-H", host], arguments].concat()),
            None => docker(arguments),
        }
    }

    /// What it wrote on its standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("stderr")).unwrap()
    }

    /// The most memory that its process has had, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The memory that its process has, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The processes that it has started, by their ids.
    pub(crate) fn children(&self) -> impl Iterator<Item = u32> {
        let parent = format!("PPid:\t{}\n", self.process.id());
        let processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        processes.filter(move |pid| {
            fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&parent))
        })
    }

    /// The processes of its checkouts, also those that an earlier process of its own has left.
    pub(crate) fn checkouts(&self) -> Vec<u32> {
        let home = format!("HOME={}", self.work_dir().join("home").display());
        let reads = |pid: u32, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let has = |bytes: &[u8], part: &str| bytes.split(|byte| *byte == 0).any(|own| own == part.as_bytes());
        let is_ours =
            |pid: &u32| has(&reads(*pid, "cmdline"), "checkout") && has(&reads(*pid, "environ"), &home);
        let processes = fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }

    /// How many files, sockets and pipes its process has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Where its process waits for others to connect, as the kernel tells it.
    pub(crate) fn listens_on(&self) -> Vec<String> {
        let opened = fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap();
        let opened =
            opened.filter_map(|file| Some(fs::read_link(file.ok()?.path()).ok()?.display().to_string()));
        let opened: Vec<String> = opened.collect();
        let sockets = ["tcp", "tcp6"].map(|kind| fs::read_to_string(format!("/proc/net/{kind}")).unwrap());
        let listens = |socket: &&str| {
            let fields: Vec<&str> = socket.split_whitespace().collect();
            fields[3] == "0A" && opened.contains(&format!("socket:[{}]", fields[9]))
        };
        sockets.iter().flat_map(|sockets| sockets.lines()).filter(listens).map(str::to_owned).collect()
    }

    /// Whose the files are by which a process is looked into: its user's, or root's where that is nobody's business.
    pub(crate) fn is_looked_into_by(&self) -> u32 {
        fs::metadata(format!("/proc/{}/environ", self.process.id())).unwrap().uid()
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        self.home.join("work")
    }

    pub(crate) async fn has_left_nothing(&self) {
        assert_eq!(self.owned().await, []);
        for folder in ["tmp", "spool"] {
            assert_eq!(names(&self.work_dir().join(folder)), [""; 0], "left in {folder}\n{}", self.log());
        }
    }

    /// As `has_left_nothing`, of a runner that goes on: its network may be there.
    pub(crate) async fn becomes_empty(&self) {
        until("nothing of the builds is left", async || {
            self.owned().await.iter().all(|owned| owned.attempt.is_none())
                && ["tmp", "spool"].iter().all(|folder| names(&self.work_dir().join(folder)).is_empty())
        })
        .await;
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.log());
        }
        if !self.is_running() {
            return;
        }
        self.terminate();
        std::thread::sleep(Duration::from_millis(50));
        self.terminate();
        std::thread::sleep(Duration::from_secs(1));
        self.kill();
        let _ = self.process.wait();
        let label = format!("label=caisson.runner={}", self.name);
        for container in docker(&["ps", "-aq", "--filter", &label]).lines() {
            docker(&["rm", "-f", container]);
        }
        for volume in docker(&["volume", "ls", "-q", "--filter", &label]).lines() {
            docker(&["volume", "rm", volume]);
        }
        for network in docker(&["network", "ls", "-q", "--filter", &label]).lines() {
            docker(&["network", "rm", network]);
        }
    }
}

fn spawn(home: &Path, arguments: &[String], nobody: bool) -> Child {
    let log = File::options().create(true).append(true).open(home.join("stderr")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_caisson-runner"));
    if nobody {
        let engines_group = fs::metadata("/var/run/docker.sock").expect("run scripts/engine").gid();
        command.uid(NOBODY).gid(engines_group);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}
