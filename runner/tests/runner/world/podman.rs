//! Podman, which speaks Docker's language, as a service of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use tempfile::TempDir;

use super::{
    IMAGE,
    dockerd::{end_with_children, processes, spawn, unmount},
    until,
};

/// A private Podman, with the test image.
pub(crate) struct Podman {
    home: TempDir,
    service: Child,
}

impl Podman {
    pub(crate) async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let service = serve(home.path());
        let engine = Self { home, service };
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
        self.home.path().join("podman.sock")
    }

    /// Ends everything, as a power cut does: what it has in memory is gone.
    pub(crate) fn lose_power(&mut self) {
        self.service.kill().unwrap();
        self.service.wait().unwrap();
        processes("/usr/bin/conmon", self.home.path()).into_iter().for_each(end_with_children);
        unmount(self.home.path());
        for folder in ["run", "tmp"] {
            fs::remove_dir_all(self.home.path().join(folder)).unwrap();
        }
        fs::remove_file(self.socket()).unwrap();
    }

    /// Starts it again.
    pub(crate) async fn revive(&mut self) {
        self.service = serve(self.home.path());
        self.answers().await;
    }

    async fn answers(&self) {
        until("Podman answers", async || {
            Command::new("docker").args(["-H", &self.host(), "version"]).output().unwrap().status.success()
        })
        .await;
    }

    /// What the service has said so far.
    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("podman.log")).unwrap_or_default()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- podman\n{}", self.log());
        }
        // They would outlive it.
        let end = format!("docker -H {0} ps -aq | xargs -r docker -H {0} rm -f", self.host());
        let _ = Command::new("sh").args(["-c", &end]).output();
        let _ = self.service.kill();
        let _ = self.service.wait();
        unmount(self.home.path());
    }
}

fn serve(home: &Path) -> Child {
    let path = |name: &str| home.join(name).display().to_string();
    // Its bridges and its firewall are its own: neither is left on the machine, nor do others' meet them.
    let mut command = Command::new("unshare");
    // Where a container runs out of memory, its monitor leaves a file in the folder it was started in.
    command.current_dir(home).args(["--net", "podman"]).args([
        format!("--root={}", path("root")),
        format!("--runroot={}", path("run")),
        format!("--tmpdir={}", path("tmp")),
        format!("--network-config-dir={}", path("networks")),
        // What every host has that has Docker; systemd, for one, not every host has.
        "--runtime=runc".into(),
        "--cgroup-manager=cgroupfs".into(),
    ]);
    let address = format!("unix://{}", path("podman.sock"));
    spawn(home, "podman", command.args(["system", "service", "--time=0", &address]))
}
