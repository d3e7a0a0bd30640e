//! What a folder takes of its disk, measured while a build does with it what it likes.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat},
    io::Errno,
};

/// What an entry of a folder takes at least: no disk has room for empty files without end.
const ENTRY_BYTES_MIN: u64 = 4096;
/// How long a path may become before it is begun anew at a folder that is kept open. No system takes longer ones than
/// twice that.
const PATH_BYTES_MAX: usize = 2048;
/// How many folders are kept open at most.
const FOLDERS_OPEN_MAX: usize = 256;

/// A folder that is still to be looked into: its path, from a folder that is open.
struct Pending {
    from: Rc<OwnedFd>,
    path: PathBuf,
}

/// What a folder takes of its disk, while somebody else changes it; nothing where it lies too deep to be measured. A
/// path that leads out of it is not followed, and a file with several names counts once. Blocks.
pub(super) fn bytes_in(folder: &Path) -> io::Result<Option<u64>> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = match openat(CWD, folder, flags, Mode::empty()) {
        // It was sent elsewhere.
        Err(Errno::NOENT) => return Ok(Some(0)),
        root => Rc::new(root?),
    };
    let mut bytes = 0;
    let mut linked = BTreeSet::new();
    let mut open = Vec::from([Rc::downgrade(&root)]);
    let mut pending = vec![Pending { from: root, path: PathBuf::from(".") }];
    while let Some(Pending { mut from, mut path }) = pending.pop() {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // What is gone by now, or is something else, takes nothing here.
        let Ok(folder) = openat2(&from, &path, flags, Mode::empty(), beneath) else { continue };
        let folder = Rc::new(folder);
        if path.as_os_str().len() > PATH_BYTES_MAX {
            open.retain(|folder| folder.strong_count() > 0);
            if open.len() >= FOLDERS_OPEN_MAX {
                return Ok(None);
            }
            open.push(Rc::downgrade(&folder));
            (from, path) = (Rc::clone(&folder), PathBuf::from("."));
        }
        for entry in Dir::read_from(&*folder)?.filter_map(Result::ok) {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                let path = path.join(OsStr::from_bytes(name.to_bytes()));
                pending.push(Pending { from: Rc::clone(&from), path });
            } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            bytes += ENTRY_BYTES_MIN.max(u64::try_from(stat.st_blocks).unwrap_or_default() * 512);
        }
    }
    Ok(Some(bytes))
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
        let bytes = bytes_in(home.path()).unwrap().unwrap();
        assert!((MIB..MIB + MIB / 2).contains(&bytes), "{bytes}");
    }

    /// A chain of long names grows by being put into the end of another, beside three folders.
    fn make_deep(home: &Path, chains: usize) -> PathBuf {
        let (deep, next) = (home.join("deep"), home.join("next"));
        let chain = next.join(format!("{}/", "n".repeat(200)).repeat(11));
        for _ in 0..chains {
            for sibling in ["a", "b", "c"] {
                fs::create_dir_all(chain.join(sibling)).unwrap();
            }
            if deep.exists() {
                fs::rename(&deep, chain.join("deep")).unwrap();
            } else {
                fs::write(chain.join("large"), vec![1; 8 * MIB as usize]).unwrap();
            }
            fs::rename(&next, &deep).unwrap();
        }
        deep
    }

    #[test]
    fn what_lies_deeper_than_a_path_is_long_counts_and_what_lies_too_deep_is_told() {
        let home = tempfile::tempdir().unwrap();
        make_deep(home.path(), 20);
        assert!(bytes_in(home.path()).unwrap().unwrap() > 8 * MIB);
        let deep = make_deep(home.path(), 2 * FOLDERS_OPEN_MAX);
        assert_eq!(bytes_in(home.path()).unwrap(), None);
        std::process::Command::new("rm").arg("-rf").arg(&deep).status().unwrap();
    }

    #[test]
    fn a_hole_takes_nothing_and_many_empty_files_do() {
        let home = tempfile::tempdir().unwrap();
        fs::File::create(home.path().join("hole")).unwrap().set_len(1024 * MIB).unwrap();
        assert!(bytes_in(home.path()).unwrap().unwrap() < MIB);
        for number in 0..512 {
            fs::write(home.path().join(number.to_string()), "").unwrap();
        }
        assert!(bytes_in(home.path()).unwrap().unwrap() >= 2 * MIB);
    }
}
