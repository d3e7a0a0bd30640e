//! Podman, which speaks Docker's language, as a service of a test's own.

use std::{
    path::Path,
    process::{Child, Command},
};

use tempfile::TempDir;

use super::{
    IMAGE,
    dockerd::{spawn, unmount},
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
        let path = |name: &str| home.path().join(name).display().to_string();
        // Its bridges and its firewall are its own: neither is left on the machine, nor do others' meet them.
        let mut command = Command::new("unshare");
        // Where a container runs out of memory, its monitor leaves a file in the folder it was started in.
        command.current_dir(home.path()).args(["--net", "podman"]).args([
            format!("--root={}", path("root")),
            format!("--runroot={}", path("run")),
            format!("--tmpdir={}", path("tmp")),
            format!("--network-config-dir={}", path("networks")),
            // What every host has that has Docker; systemd, for one, not every host has.
            "--runtime=runc".into(),
            "--cgroup-manager=cgroupfs".into(),
        ]);
        let address = format!("unix://{}", path("podman.sock"));
        let service = spawn(home.path(), "podman", command.args(["system", "service", "--time=0", &address]));
        let engine = Self { home, service };
        until("Podman answers", async || {
            Command::new("docker").args(["-H", &engine.host(), "version"]).output().unwrap().status.success()
        })
        .await;
        let load = format!("docker save {IMAGE} | docker -H {} load", engine.host());
        let loaded = Command::new("sh").args(["-c", &load]).output().unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        engine
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.home.path().join("podman.sock").display())
    }

    /// What the service has said so far.
    fn log(&self) -> String {
        std::fs::read_to_string(Path::new(self.home.path()).join("podman.log")).unwrap_or_default()
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
