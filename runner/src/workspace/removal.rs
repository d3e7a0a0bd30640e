//! Removes a folder with all that is in it, whatever a build has made of it: however deep it is, whatever its names and
//! modes. At no time are more than three folders open, and nothing recurses: a folder's folders are moved up to the top
//! before they are looked into, so that nothing ever lies deep.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, openat, renameat, unlinkat},
    io::Errno,
};

/// Removes a folder, if there is one. Blocks.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        // Something else is in its place.
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path),
        top => top?,
    };
    // No build can have guessed them.
    let prefix = uuid::Uuid::new_v4().simple();
    let mut names = (0_u64..).map(|number| format!("{prefix}-{number}"));
    while clear(&top, &mut names)? {}
    fs::remove_dir(path)
}

/// Removes what is in the top folder, but for what moves up into it meanwhile. Returns whether there was anything.
fn clear(top: &OwnedFd, names: &mut impl Iterator<Item = String>) -> io::Result<bool> {
    let mut found = false;
    for entry in entries(top)? {
        let name = entry?;
        found = true;
        if !removed(top, &name)? {
            let folder = open(top, &name)?;
            for entry in entries(&folder)? {
                let inner = entry?;
                if !removed(&folder, &inner)? {
                    let free = names.next().unwrap_or_default();
                    renameat(&folder, &inner, top, free)?;
                }
            }
        }
    }
    Ok(found)
}

/// Removes a file or an empty folder. `false` when it is a folder that is not empty: it can be opened and moved then.
fn removed(folder: impl AsFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(&folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(true),
        gone => return gone.map(|()| true).map_err(Into::into),
    }
    match unlinkat(&folder, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        gone => return gone.map(|()| true).map_err(Into::into),
    }
    // One that its owner can't write to can't be emptied or moved, unless its owner is root.
    chmodat(&folder, name, Mode::RWXU, AtFlags::empty())?;
    Ok(false)
}

fn open(folder: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    openat(
        folder,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn entries(folder: impl AsFd) -> io::Result<impl Iterator<Item = io::Result<std::ffi::CString>>> {
    let names = Dir::read_from(folder)?.map(|entry| Ok(entry?.file_name().to_owned()));
    Ok(names.filter(|name: &io::Result<std::ffi::CString>| {
        !name.as_ref().is_ok_and(|name| matches!(name.to_bytes(), b"." | b".."))
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

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
