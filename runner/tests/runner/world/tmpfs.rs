//! A small disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A disk in memory, mounted somewhere until it is dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// With options of `mount`, such as `size=8m`.
    pub(crate) fn mount(folder: &Path, options: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "caisson-test"]).arg(folder).output();
        let mount = mount.expect("`mount` can be run");
        let said = String::from_utf8_lossy(&mount.stderr);
        assert!(mount.status.success(), "this test fills a disk, and needs root to mount one: {said}");
        Self(folder.to_owned())
    }

    /// Leaves this much free.
    pub(crate) fn fill_up_to(&self, free_bytes: u64) {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        let bytes = (disk.f_bavail * disk.f_frsize).saturating_sub(free_bytes);
        fs::write(self.0.join("filling"), vec![0; usize::try_from(bytes).unwrap()]).unwrap();
    }

    /// Takes as many files as there may be, but for this many.
    pub(crate) fn fill_with_files_up_to(&self, free_files: u64) {
        let folder = self.0.join("filling");
        fs::create_dir(&folder).unwrap();
        let files = rustix::fs::statvfs(&self.0).unwrap().f_favail.saturating_sub(free_files);
        for number in 0..files {
            fs::write(folder.join(number.to_string()), "").unwrap();
        }
    }

    pub(crate) fn empty(&self) {
        let filling = self.0.join("filling");
        let removed = if filling.is_dir() { fs::remove_dir_all(filling) } else { fs::remove_file(filling) };
        removed.unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a runner may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
