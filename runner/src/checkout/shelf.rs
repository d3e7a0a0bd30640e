//! The folder of all mirrors: who may use which at a time, and how large they may be together.
//!
//! `<sha256 of the URL>.git` is written under an exclusive lock on the file `….lock` and read under a shared one. When
//! that lock was last taken tells which mirror was used last. What ends in `.gone` or `.new` is nobody's.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use caisson_protocol::{ErrorReason, RepositoryUrl};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::{CheckoutError, child::Teller, packs, wire::Event};

/// Where one repository's mirror is, locked.
pub(super) struct Place {
    /// Where the mirror is, or is to be.
    pub(super) path: PathBuf,
    lock: File,
    lock_path: PathBuf,
}

impl Place {
    /// Waits until others may read the mirror, but not change it.
    pub(super) fn shared(
        mirrors: &Path,
        url: &RepositoryUrl,
        teller: &Teller,
    ) -> Result<Self, CheckoutError> {
        Self::locked(mirrors, url, FlockOperation::NonBlockingLockShared, teller)
    }

    /// Waits until nobody else may use the mirror.
    pub(super) fn exclusive(
        mirrors: &Path,
        url: &RepositoryUrl,
        teller: &Teller,
    ) -> Result<Self, CheckoutError> {
        Self::locked(mirrors, url, FlockOperation::NonBlockingLockExclusive, teller)
    }

    /// Lets others read the mirror, too. Nobody comes in between, who could throw it away: Linux turns one lock into the
    /// other in one step.
    pub(super) fn share(self, teller: &Teller) -> Result<Self, CheckoutError> {
        wait_for_lock(&self.lock, FlockOperation::NonBlockingLockShared, teller)?;
        Ok(self)
    }

    /// Throws the mirror away.
    pub(super) fn discard(&self) -> Result<(), CheckoutError> {
        remove(&self.path).map_err(|error| disk_error(&self.path, &error))
    }

    fn locked(
        mirrors: &Path,
        url: &RepositoryUrl,
        operation: FlockOperation,
        teller: &Teller,
    ) -> Result<Self, CheckoutError> {
        let mut hasher = Sha256::new();
        hasher.update(url.as_str());
        let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = mirrors.join(format!("{name}.git"));
        let lock_path = path.with_extension("lock");
        loop {
            let lock = open_lock(&lock_path).map_err(|error| disk_error(&lock_path, &error))?;
            wait_for_lock(&lock, operation, teller)?;
            let place = Self { path: path.clone(), lock, lock_path: lock_path.clone() };
            // Whoever throws a mirror away removes its lock as well, and then we wait for a file that has no name.
            if is_there(&place.lock, &place.lock_path) {
                // For people and for `trim` only.
                let _ = place.lock.set_modified(SystemTime::now());
                return Ok(place);
            }
        }
    }
}

/// Whether a lock still has its name.
fn is_there(lock: &File, lock_path: &Path) -> bool {
    let (held, named) = (lock.metadata(), fs::metadata(lock_path));
    matches!((held, named), (Ok(held), Ok(named)) if held.ino() == named.ino() && held.dev() == named.dev())
}

/// Removes the mirrors that were not used for the longest time, until those that are left take at most `bytes_max`.
/// One that is in use stays. Returns how many were removed.
pub(super) fn trim(mirrors: &Path, bytes_max: u64) -> io::Result<usize> {
    let mut found = Vec::new();
    let mut total = 0;
    for entry in fs::read_dir(mirrors)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("git") => {
                let used = fs::metadata(path.with_extension("lock")).and_then(|lock| lock.modified());
                let bytes = packs::size_of(&path);
                total += bytes;
                found.push((used.unwrap_or(SystemTime::UNIX_EPOCH), bytes, path));
            }
            // A process that makes or removes a mirror holds its lock.
            Some("new" | "gone") => _ = remove_unused(&path, &path)?,
            _ => {}
        }
    }
    found.sort();
    let mut removed = 0;
    for (_, bytes, path) in found {
        if total <= bytes_max {
            break;
        }
        if remove_unused(&path.with_extension("lock"), &path)? {
            total -= bytes;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a folder unless someone holds the lock of its mirror, and the lock with it.
fn remove_unused(named: &Path, folder: &Path) -> io::Result<bool> {
    let lock_path = named.with_extension("lock");
    remove_locked(&open_lock(&lock_path)?, &lock_path, folder)
}

fn remove_locked(lock: &File, lock_path: &Path, folder: &Path) -> io::Result<bool> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // Another may have thrown the mirror away since the lock was opened, and a third made it anew, under a new one.
    if !is_there(lock, lock_path) {
        return Ok(false);
    }
    remove(folder)?;
    if !folder.with_extension("git").exists() {
        fs::remove_file(lock_path)?;
    }
    Ok(true)
}

/// Removes a mirror. It loses its name first: one that is half removed is never taken for one.
fn remove(path: &Path) -> io::Result<()> {
    let gone = path.with_extension("gone");
    if path != gone {
        remove_tree(&gone)?;
        match fs::rename(path, &gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    remove_tree(&gone)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn disk_error(path: &Path, error: &io::Error) -> CheckoutError {
    let reason = if error.kind() == io::ErrorKind::StorageFull {
        ErrorReason::DiskFull
    } else {
        ErrorReason::RunnerFailed
    };
    CheckoutError { reason, message: format!("{}: {error}", path.display()) }
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Waits without falling silent: that it is another's turn is what the parent is told.
fn wait_for_lock(lock: &File, operation: FlockOperation, teller: &Teller) -> Result<(), CheckoutError> {
    const POLL_EVERY: Duration = Duration::from_millis(20);
    loop {
        match flock(lock, operation) {
            Ok(()) => {
                teller.working();
                return Ok(());
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                teller.progress(&Event::Waiting);
                std::thread::sleep(POLL_EVERY);
            }
            Err(error) => {
                return Err(CheckoutError {
                    reason: ErrorReason::RunnerFailed,
                    message: format!("the repository's mirror can't be locked: {error}"),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::checkout::limits::{Limits, Watch};

    fn teller() -> Teller {
        let limits =
            Limits { stall_ms: 0, memory_bytes: 0, fetch_bytes: 0, checkout_bytes: 0, checkout_files: 0 };
        Teller::new(Watch::new(limits))
    }

    fn mirror(mirrors: &Path, host: &str, age_s: u64) -> PathBuf {
        let url = format!("https://{host}/app").parse().unwrap();
        let place = Place::exclusive(mirrors, &url, &teller()).unwrap();
        fs::create_dir(&place.path).unwrap();
        fs::write(place.path.join("pack"), [0; 1000]).unwrap();
        place.lock.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        place.path.clone()
    }

    #[test]
    fn the_mirrors_that_were_used_last_stay_and_so_do_those_in_use() {
        let home = tempfile::tempdir().unwrap();
        let mirrors = home.path();
        let [old, older, oldest] =
            [("a", 10), ("b", 20), ("c", 30)].map(|(host, age)| mirror(mirrors, host, age));
        let in_use = Place::shared(mirrors, &"https://c/app".parse().unwrap(), &teller()).unwrap();
        in_use.lock.set_modified(SystemTime::now() - Duration::from_secs(30)).unwrap();

        assert_eq!(trim(mirrors, 3000).unwrap(), 0);
        assert_eq!(trim(mirrors, 2999).unwrap(), 1);
        assert!(old.exists() && !older.exists() && oldest.exists());
        drop(in_use);
        assert_eq!(trim(mirrors, 1000).unwrap(), 1);
        assert!(old.exists() && !oldest.exists());
        assert_eq!(fs::read_dir(mirrors).unwrap().count(), 2, "a lock was left");
    }

    #[test]
    fn what_a_killed_process_was_making_or_removing_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = mirror(home.path(), "a", 1);
        for ending in ["new", "gone"] {
            fs::create_dir(path.with_extension(ending)).unwrap();
        }
        assert_eq!(trim(home.path(), u64::MAX).unwrap(), 0);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
        assert!(path.exists());
    }

    #[test]
    fn who_waited_for_a_lock_that_was_thrown_away_takes_the_new_one() {
        let home = tempfile::tempdir().unwrap();
        let url: RepositoryUrl = "https://a/app".parse().unwrap();
        let first = Place::exclusive(home.path(), &url, &teller()).unwrap();
        fs::remove_file(&first.lock_path).unwrap();
        assert!(!is_there(&first.lock, &first.lock_path));
        let second = Place::exclusive(home.path(), &url, &teller()).unwrap();
        assert!(is_there(&second.lock, &second.lock_path));
        assert!(!is_there(&first.lock, &first.lock_path), "another file of that name was taken for its own");
    }

    #[test]
    fn who_slept_before_it_locked_throws_no_other_mirror_away() {
        let home = tempfile::tempdir().unwrap();
        let path = mirror(home.path(), "a", 1);
        let lock_path = path.with_extension("lock");
        let slept = open_lock(&lock_path).unwrap();
        assert_eq!(trim(home.path(), 0).unwrap(), 1);
        let path = mirror(home.path(), "a", 1);
        let in_use = Place::shared(home.path(), &"https://a/app".parse().unwrap(), &teller()).unwrap();

        assert!(!remove_locked(&slept, &lock_path, &path).unwrap());
        assert!(path.exists() && is_there(&in_use.lock, &lock_path));
    }

    #[test]
    fn a_mirror_that_was_just_fetched_is_there_to_be_read() {
        let home = tempfile::tempdir().unwrap();
        let url = "https://a/app".parse().unwrap();
        let is_kept = || {
            let place = Place::exclusive(home.path(), &url, &teller()).unwrap();
            fs::create_dir(&place.path).unwrap();
            fs::write(place.path.join("pack"), [0; 1000]).unwrap();
            let place = place.share(&teller()).unwrap();
            let kept = place.path.exists();
            place.discard().unwrap();
            kept
        };
        thread::scope(|scope| {
            let fetches = scope.spawn(|| (0..4000).all(|_| is_kept()));
            // The mirrors of this runner may take nothing at all.
            while !fetches.is_finished() {
                trim(home.path(), 0).unwrap();
            }
            assert!(fetches.join().unwrap());
        });
    }
}
