//! A small disk that can be filled.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A file system of a few megabytes in memory. Taken away with the value.
pub(crate) struct Tmpfs {
    folder: TempDir,
}

impl Tmpfs {
    pub(crate) fn mount(kibibytes: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let size = format!("size={kibibytes}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "caisson-test"])
            .arg(folder.path())
            .output();
        let mounted = mounted.expect("`mount` can be run");
        assert!(
            mounted.status.success(),
            "this test fills a disk, and has to mount one for that: run it as root, in a container with \
             --cap-add SYS_ADMIN. mount said: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filling()).unwrap();
        for size in [64 * 1024, 4096, 1] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
    }

    pub(crate) fn empty(&self) {
        fs::remove_file(self.filling()).unwrap();
    }

    fn filling(&self) -> PathBuf {
        self.folder.path().join("filling")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a coordinator may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
