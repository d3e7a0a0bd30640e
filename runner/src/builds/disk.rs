//! The bound on what a build writes. No engine keeps one on the file systems that most hosts have (overlay2 on ext4),
//! so what there is gets measured again and again, and a build that has written too much is killed soon after.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat},
    io::Errno,
};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    engine::{ContainerId, Engine},
    workspace::blocking,
};

/// How long the first pause is, and the shortest.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// How many times longer than a measurement the pause after it is: a tree of a million files costs its build little.
const PAUSE_RATIO: u32 = 20;

/// What an entry of a folder takes at least: no disk has room for empty files without end.
const ENTRY_BYTES_MIN: u64 = 4096;

/// Returns when what a container has written and its workspace together take more than `limit` bytes.
pub(super) async fn exceeds(limit: u64, engine: &dyn Engine, container: &ContainerId, workspace: &Path) {
    let mut pause = PAUSE_MIN;
    let mut is_told = false;
    loop {
        sleep(pause).await;
        let began = Instant::now();
        match written(engine, container, workspace).await {
            Ok(bytes) if bytes > limit => return,
            Ok(_) => {}
            // It is tried again, as an engine that is away comes back; each build tells it once.
            Err(error) if !std::mem::replace(&mut is_told, true) => {
                warn!(
                    "container {container}: limits.disk can't be kept while what it wrote can't be measured: {error}"
                );
            }
            Err(_) => {}
        }
        pause = PAUSE_MIN.max(began.elapsed() * PAUSE_RATIO);
    }
}

async fn written(engine: &dyn Engine, container: &ContainerId, workspace: &Path) -> anyhow::Result<u64> {
    let folder = workspace.to_owned();
    Ok(engine.written(container).await? + blocking(move || bytes_in(&folder)).await?)
}

/// What a folder takes of its disk, while somebody else changes it. A path that leads out of it is not followed, and
/// a file with several names counts once. Blocks.
fn bytes_in(folder: &Path) -> io::Result<u64> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match openat(CWD, folder, flags, Mode::empty()) {
        // It was sent elsewhere.
        Err(Errno::NOENT) => return Ok(0),
        root => root?,
    };
    let mut bytes = 0;
    let mut linked = BTreeSet::new();
    let mut folders = vec![PathBuf::from(".")];
    while let Some(path) = folders.pop() {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // What is gone by now, or is something else, takes nothing here.
        let Ok(folder) = openat2(&root, &path, flags, Mode::empty(), beneath) else { continue };
        for entry in Dir::read_from(&folder)?.filter_map(Result::ok) {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                folders.push(path.join(OsStr::from_bytes(name.to_bytes())));
            } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            bytes += ENTRY_BYTES_MIN.max(u64::try_from(stat.st_blocks).unwrap_or_default() * 512);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn what_lies_deep_counts_and_what_lies_elsewhere_does_not() {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("large"), vec![1; 8 * MIB as usize]).unwrap();
        symlink(elsewhere.path(), home.path().join("out")).unwrap();
        symlink(elsewhere.path().join("large"), home.path().join("file")).unwrap();
        let deep = home.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), vec![1; MIB as usize]).unwrap();
        fs::hard_link(deep.join("f"), home.path().join("again")).unwrap();
        let bytes = bytes_in(home.path()).unwrap();
        assert!((MIB..MIB + MIB / 2).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_hole_takes_nothing_and_many_empty_files_do() {
        let home = tempfile::tempdir().unwrap();
        fs::File::create(home.path().join("hole")).unwrap().set_len(1024 * MIB).unwrap();
        assert!(bytes_in(home.path()).unwrap() < MIB);
        for number in 0..512 {
            fs::write(home.path().join(number.to_string()), "").unwrap();
        }
        assert!(bytes_in(home.path()).unwrap() >= 2 * MIB);
    }
}
