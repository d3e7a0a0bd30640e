//! The disks that builds need, and whether they have room.

use std::{
    io,
    path::{Path, PathBuf},
};

use caisson_settings::ByteSize;
use rustix::fs::statvfs;

use crate::workspace::blocking;

/// Room for fewer files than this is too little, or for fewer than a hundredth of what a small disk is made for.
const FILES_FREE_MIN: u64 = 10_000;

/// The disks that builds need.
#[derive(Debug)]
pub struct Disks {
    /// Holds workspaces, mirrors and the spool.
    work_dir: PathBuf,
    /// Holds images and containers, where the runner can see it.
    engine: Option<PathBuf>,
    free_min: ByteSize,
}

impl Disks {
    /// The disk of `work_dir`, and the engine's where that has its files on the same host.
    #[must_use]
    pub fn new(work_dir: &Path, engine: Option<PathBuf>, free_min: ByteSize) -> Self {
        Self { work_dir: work_dir.to_owned(), engine, free_min }
    }

    /// Which of them has too little room, and what to do. What the system does not tell is no reason to run nothing.
    pub async fn lack(&self) -> Option<String> {
        let work_dir = ("work_dir", self.work_dir.clone());
        let engine = self.engine.clone().map(|folder| ("the engine", folder));
        let (disks, free_min) = ([Some(work_dir), engine], self.free_min);
        let look = move || {
            let lack = |(name, folder): (&str, PathBuf)| lack(name, &folder, free_min).ok().flatten();
            Ok(disks.into_iter().flatten().find_map(lack))
        };
        blocking(look).await.ok().flatten()
    }
}

fn lack(name: &str, folder: &Path, free_min: ByteSize) -> io::Result<Option<String>> {
    let disk = statvfs(folder)?;
    let (bytes, files) = (disk.f_bavail * disk.f_frsize, disk.f_favail);
    let place = format!("the disk of {name} ({})", folder.display());
    if bytes < free_min.0 {
        let mebibytes = bytes / (1024 * 1024);
        return Ok(Some(format!(
            "{place} has {mebibytes} MiB left, less than disk_free_min ({free_min}): make room on it"
        )));
    }
    // A file system that has no fixed number of files says 0 of 0.
    let is_scarce = disk.f_files > 0 && files < FILES_FREE_MIN.min(disk.f_files / 100);
    Ok(is_scarce.then(|| format!("{place} has room for no more than {files} files: remove some")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_has_room_or_does_not_tell_lacks_nothing() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(lack("work_dir", home.path(), ByteSize(1)).unwrap(), None);
        assert!(lack("the engine", &home.path().join("nowhere"), ByteSize(1)).is_err());
        let lacking = lack("work_dir", home.path(), ByteSize(u64::MAX)).unwrap().unwrap();
        assert!(lacking.contains("disk_free_min") && lacking.contains("make room"), "{lacking}");
    }
}
