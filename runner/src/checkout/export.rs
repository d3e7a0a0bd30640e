//! From the mirror into the workspace: the files of a commit, with a `.git` that works inside the container.
//!
//! The objects are copied, not linked: a hard link or an alternate would lead from inside the container to the mirror
//! that later builds trust, and a command that runs as root there could change it. Copying costs about what linking
//! does, since repositories consist of few and large files and the kernel copies them (or shares their blocks).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use caisson_protocol::{ErrorReason, ResolvedCommit};
use git2::{Oid, Repository, RepositoryInitOptions, build::CheckoutBuilder};

use super::{
    CheckoutError,
    child::Teller,
    mirror::{Mirror, disk_is_full},
    wire::{Event, Request},
};

/// Makes the workspace a repository at `commit`.
pub(super) fn into_workspace(
    mirror: &Mirror,
    commit: &ResolvedCommit,
    request: &Request,
    teller: &Teller,
) -> Result<(), CheckoutError> {
    let workspace = &request.workspace;
    export(mirror, commit, request, teller).map_err(|error| {
        if disk_is_full(workspace) {
            return CheckoutError {
                reason: ErrorReason::DiskFull,
                message: "the runner's disk is full".into(),
            };
        }
        CheckoutError {
            reason: ErrorReason::CloneFailed,
            message: format!("{commit} of {} could not be checked out: {error}", request.repository),
        }
    })
}

/// Empties a workspace that was filled in part.
pub(super) fn clear(workspace: &Path) -> Result<(), CheckoutError> {
    let cleared = fs::read_dir(workspace).and_then(|entries| {
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    });
    cleared.map_err(|error| CheckoutError {
        reason: ErrorReason::RunnerFailed,
        message: format!("{}: {error}", workspace.display()),
    })
}

fn export(
    mirror: &Mirror,
    commit: &ResolvedCommit,
    request: &Request,
    teller: &Teller,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut options = RepositoryInitOptions::new();
    options.no_reinit(true).external_template(false);
    let made = Repository::init_opts(&request.workspace, &options)?;
    let mut copied = 0;
    copy_objects(mirror.repository.path(), made.path(), &mut |total| {
        copied += 1;
        teller.progress(&Event::Writing { files: copied, total });
    })?;
    write_references(&mirror.repository, made.path())?;
    made.remote("origin", request.repository.as_str())?;

    // Opened again, so that it sees the packs.
    let repository = Repository::open(&request.workspace)?;
    let commit = repository.find_commit(Oid::from_str(commit.as_str())?)?;
    let mut checkout = CheckoutBuilder::new();
    checkout
        .force()
        .disable_filters(true)
        .progress(|_, files, total| teller.progress(&Event::Writing { files, total }));
    repository.set_head_detached(commit.id())?;
    repository.checkout_tree(commit.as_object(), Some(&mut checkout))?;
    Ok(())
}

/// Copies every object from one git folder, or a working copy's, to another. `each` is told of every file with the
/// number of them all.
pub(super) fn copy_objects(from: &Path, to: &Path, each: &mut dyn FnMut(usize)) -> io::Result<()> {
    let nested = from.join(".git");
    let objects = if nested.is_dir() { nested } else { from.to_owned() }.join("objects");
    if objects.join("info/alternates").exists() {
        return Err(io::Error::other("the repository borrows objects from another"));
    }
    let mut files = Vec::new();
    list_files(&objects, Path::new(""), &mut files)?;
    let total = files.len();
    for file in files {
        let target = to.join("objects").join(&file);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(objects.join(&file), target)?;
        each(total);
    }
    Ok(())
}

/// Objects and packs, and nothing that someone is still writing. An index comes after its pack, as readers expect.
fn list_files(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(|entry| (entry.path().extension().is_some_and(|e| e == "idx"), entry.file_name()));
    for entry in entries {
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list_files(root, &path, files)?;
        } else if kind.is_file() && !is_temporary(&path) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("tmp_")
        || name.starts_with("pack_git2_")
        || name.ends_with(".lock")
        || name.ends_with(".keep")
}

/// Branches and tags as a clone has them, in one file: thousands of them cost no more than one.
fn write_references(mirror: &Repository, git_folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut lines = Vec::new();
    for reference in mirror.references()? {
        let reference = reference?;
        let (Ok(name), Some(target)) = (reference.name(), reference.target()) else { continue };
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            lines.push(format!("{target} refs/remotes/origin/{branch}\n"));
        } else if name.starts_with("refs/tags/") {
            lines.push(format!("{target} {name}\n"));
        }
    }
    fs::write(git_folder.join("packed-refs"), lines.concat())?;
    Ok(())
}
