//! Removes a folder with all that is in it, whatever a build has made of it: however deep it is, whatever its names and
//! modes. At no time are more than a few folders open, and nothing recurses: a folder's folders are moved up to the top
//! before they are looked into, so that nothing ever lies deep.
//!
//! A process of a build may be left that writes on. It leads nothing out of the folder, and holds nothing up for ever.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmod, openat, renameat, rmdir, unlinkat},
    io::Errno,
};

/// How long one removal may take. The next goes on where it ended.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Removes a folder, if there is one. Blocks.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    remove_tree_within(TIME_MAX, path)
}

fn remove_tree_within(time_max: Duration, path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        // Something else is in its place.
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path),
        top => top?,
    };
    let prefix = uuid::Uuid::new_v4().simple();
    let mut removal = Removal { top, prefix, moved: 0, begun: Instant::now(), time_max };
    loop {
        removal.clear()?;
        match rmdir(path) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => removal.check_time()?,
            gone => return gone.map_err(Into::into),
        }
    }
}

/// A folder that is being removed.
struct Removal {
    top: OwnedFd,
    /// Of the names that folders get when they are moved up: no build can have guessed them.
    prefix: uuid::fmt::Simple,
    moved: u64,
    begun: Instant,
    time_max: Duration,
}

impl Removal {
    /// Removes what is in the top folder, but for what moves up into it meanwhile.
    fn clear(&mut self) -> io::Result<()> {
        for entry in entries(&self.top)? {
            let name = entry?;
            self.check_time()?;
            if !removed(&self.top, &name)?
                && let Some(folder) = take_over(&self.top, &name)?
            {
                self.flatten(&open(folder, c".")?)?;
            }
        }
        Ok(())
    }

    /// Removes what is in a folder, and moves the folders in it up.
    fn flatten(&mut self, folder: &OwnedFd) -> io::Result<()> {
        for entry in entries(folder)? {
            let name = entry?;
            self.check_time()?;
            if removed(folder, &name)? || take_over(folder, &name)?.is_none() {
                continue;
            }
            self.moved += 1;
            match renameat(folder, &name, &self.top, format!("{}-{}", self.prefix, self.moved)) {
                Err(Errno::NOENT) => {}
                moved => moved?,
            }
        }
        Ok(())
    }

    fn check_time(&self) -> io::Result<()> {
        if self.begun.elapsed() <= self.time_max {
            return Ok(());
        }
        let seconds = self.time_max.as_secs();
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "there is still something in it after {seconds} s: a process writes there on, or it is very large"
            ),
        ))
    }
}

/// Removes a file or an empty folder. `false` when it is a folder that is not empty.
fn removed(folder: impl AsFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(&folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(true),
        gone => return gone.map(|()| true).map_err(Into::into),
    }
    match unlinkat(&folder, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        gone => gone.map(|()| true).map_err(Into::into),
    }
}

/// Finds a folder, and makes it one that its owner can read, empty and move, whatever its mode was. `None` where there is
/// none by that name any more.
fn take_over(folder: impl AsFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        found => found?,
    };
    // Not by its name, which may lead out of the workspace in the next moment.
    chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)?;
    Ok(Some(found))
}

fn open(folder: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(
        folder,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn entries(folder: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<CString>> + use<>> {
    let names = Dir::read_from(folder)?.map(|entry| Ok(entry?.file_name().to_owned()));
    Ok(names.filter(|name: &io::Result<CString>| {
        !name.as_ref().is_ok_and(|name| matches!(name.to_bytes(), b"." | b".."))
    }))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::fs::{PermissionsExt, symlink},
        sync::{
            atomic::{AtomicBool, Ordering::Relaxed},
            mpsc,
        },
        thread,
    };

    use rustix::fs::{RenameFlags, renameat_with};

    use super::*;

    /// A chain of folders so long that it has no path: made as a build would, by moving one into the other.
    fn make_deep(folder: &Path, levels: usize) {
        let chain = "d/".repeat(500);
        for _ in 0..levels / 500 {
            let next = folder.join("next");
            fs::create_dir_all(next.join(&chain)).unwrap();
            let end = next.join(chain.trim_end_matches('/'));
            if folder.join("deep").exists() {
                fs::rename(folder.join("deep"), end.join("deep")).unwrap();
            }
            fs::rename(next, folder.join("deep")).unwrap();
        }
    }

    #[test]
    fn a_folder_is_removed_however_deep_it_is() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("workspace");
        fs::create_dir(&folder).unwrap();
        make_deep(&folder, 20_000);
        remove_tree(&folder).unwrap();
        assert!(!folder.exists());
    }

    /// Removes a folder while processes that a build has left do something in it again and again.
    fn remove_haunted(folder: &Path, time_max: Duration, deed: fn(&Path, u64)) -> io::Result<()> {
        let over = AtomicBool::new(false);
        let removed = thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..).take_while(|_| !over.load(Relaxed)).for_each(|turn| deed(folder, turn)));
            }
            let removed = remove_tree_within(time_max, folder);
            over.store(true, Relaxed);
            removed
        });
        remove_tree(folder).unwrap();
        removed
    }

    #[test]
    fn a_process_that_writes_on_holds_no_removal_up_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let (done, ended) = mpsc::channel();
        let folder = home.path().join("workspace");
        thread::spawn(move || {
            // Now and then a removal is quicker than those who write.
            let error = loop {
                fs::create_dir(&folder).unwrap();
                let removed = remove_haunted(&folder, Duration::from_millis(50), |folder, turn| {
                    let _ = fs::create_dir(folder.join("deep"));
                    let _ = fs::write(folder.join(format!("deep/{turn}")), "");
                    let _ = fs::write(folder.join(turn.to_string()), "");
                });
                if let Err(error) = removed {
                    break error;
                }
            };
            done.send(error).unwrap();
        });
        let error = ended.recv_timeout(Duration::from_secs(60)).expect("a removal has an end");
        assert!(error.to_string().contains("writes there on"), "{error}");
    }

    #[test]
    fn a_process_that_swaps_a_folder_for_a_link_changes_nothing_elsewhere() {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mode = || fs::metadata(elsewhere.path()).unwrap().permissions().mode() & 0o7777;
        fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o751)).unwrap();
        // A moment after it was seen to be a folder.
        symlink(elsewhere.path(), home.path().join("link")).unwrap();
        let link = take_over(File::open(home.path()).unwrap(), c"link");
        assert!(link.unwrap().is_none() && mode() == 0o751);

        let folder = home.path().join("workspace");
        for _ in 0..50 {
            fs::create_dir_all(folder.join("folder/inner")).unwrap();
            symlink(elsewhere.path(), folder.join("link")).unwrap();
            let swap = |folder: &Path, _| {
                let (one, other) = (folder.join("folder"), folder.join("link"));
                let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
            };
            remove_haunted(&folder, TIME_MAX, swap).unwrap();
            assert_eq!(mode(), 0o751);
        }
    }

    #[test]
    fn what_can_not_be_written_and_what_leads_elsewhere_is_removed_and_nothing_else_is() {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("stays"), "").unwrap();
        let folder = home.path().join("workspace");
        fs::create_dir_all(folder.join("a/b/c")).unwrap();
        fs::write(folder.join("a/b/c/file"), "").unwrap();
        symlink(elsewhere.path(), folder.join("a/b/link")).unwrap();
        symlink(elsewhere.path().join("stays"), folder.join("link")).unwrap();
        for deep in ["a/b/c", "a/b", "a"] {
            fs::set_permissions(folder.join(deep), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&folder).unwrap();
        assert!(!folder.exists() && elsewhere.path().join("stays").exists());

        symlink(elsewhere.path(), &folder).unwrap();
        remove_tree(&folder).unwrap();
        assert!(fs::symlink_metadata(&folder).is_err() && elsewhere.path().join("stays").exists());
        remove_tree(&folder).unwrap();
    }
}
