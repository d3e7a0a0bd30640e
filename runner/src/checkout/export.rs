//! From the mirror into the workspace: the files of a commit, with a `.git` that works inside the container.
//!
//! The objects are copied, not linked: a hard link or an alternate would lead from inside the container to the mirror
//! that later builds trust, and a command that runs as root there could change it. Copying costs about what linking
//! does, since mirrors consist of few and large files and the kernel copies them (or shares their blocks).

use std::{fs, path::Path};

use caisson_protocol::{ErrorReason, ResolvedCommit};
use git2::{ErrorClass, Oid, Repository, RepositoryInitOptions, build::CheckoutBuilder};

use super::{
    CheckoutError,
    child::Teller,
    limits::{check_size, out_of_memory},
    mirror::{Mirror, disk_is_full, is_damage},
    packs,
    wire::{Event, Request},
};

/// Why a commit's files are not in the workspace.
pub(super) enum Trouble {
    /// The mirror does not hold what it should.
    Damaged(CheckoutError),
    /// The commit can't be had, or not here.
    Error(CheckoutError),
}

impl Trouble {
    pub(super) fn into_error(self) -> CheckoutError {
        match self {
            Self::Damaged(error) | Self::Error(error) => error,
        }
    }
}

/// Makes the workspace a repository at `commit`.
pub(super) fn into_workspace(
    mirror: &Mirror,
    commit: &ResolvedCommit,
    request: &Request,
    teller: &Teller,
) -> Result<(), Trouble> {
    let workspace = &request.workspace;
    let whole = check_size(&mirror.repository, commit, &request.limits);
    whole.and_then(|()| export(mirror, commit, request, teller)).map_err(|error| {
        let error = match error.downcast::<CheckoutError>() {
            Ok(refused) => return Trouble::Error(*refused),
            Err(error) => error,
        };
        if is_out_of_memory(&*error) {
            return Trouble::Error(out_of_memory(&request.repository, request.limits.memory_bytes));
        }
        if disk_is_full(workspace) {
            return Trouble::Error(CheckoutError {
                reason: ErrorReason::DiskFull,
                message: "the runner's disk is full".into(),
            });
        }
        let told = CheckoutError {
            reason: ErrorReason::CloneFailed,
            message: format!("{commit} of {} could not be checked out: {error}", request.repository),
        };
        // A name that no file can have is the same however often it is fetched.
        let is_damaged = error.downcast_ref().is_none_or(is_damage);
        if is_damaged { Trouble::Damaged(told) } else { Trouble::Error(told) }
    })
}

fn is_out_of_memory(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<git2::Error>().is_some_and(|error| error.class() == ErrorClass::NoMemory)
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
    packs::copy(mirror.repository.path(), made.path(), &mut |total| {
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
