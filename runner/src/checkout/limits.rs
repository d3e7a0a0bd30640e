//! What a repository may cost this host: what its server sends, and what its files come to.

use std::{cell::Cell, collections::HashMap};

use caisson_protocol::{ErrorReason, RepositoryUrl, ResolvedCommit};
use git2::{ObjectType, Oid, Repository};
use serde::{Deserialize, Serialize};

use super::CheckoutError;

/// How deep folders may lie in one another: more can't be written to a disk anyway.
const DEPTH_MAX: usize = 1024;

/// What a checkout may take.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Limits {
    /// How long a server may be silent.
    pub(super) stall_ms: u64,
    /// How much memory the checkout's process may use.
    pub(super) memory_bytes: u64,
    /// What a server may send for one fetch.
    pub(super) fetch_bytes: u64,
    /// What the files of a commit may come to.
    pub(super) checkout_bytes: u64,
    /// How many files a commit may have.
    pub(super) checkout_files: u64,
}

/// Watches how much comes in.
pub(super) struct Watch {
    limits: Limits,
    exceeded: Cell<bool>,
}

impl Watch {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, exceeded: Cell::new(false) }
    }

    /// Whether a fetch may go on that has brought so many bytes.
    pub(super) fn goes_on(&self, bytes: usize) -> bool {
        self.exceeded.set(bytes as u64 > self.limits.fetch_bytes);
        !self.exceeded.get()
    }

    /// Why the fetch was broken off, if it was by us: libgit2 does not say.
    pub(super) fn why_halted(&self, url: &RepositoryUrl) -> Option<CheckoutError> {
        self.exceeded.get().then(|| self.fetch_too_large(url))
    }

    pub(super) fn fetch_too_large(&self, url: &RepositoryUrl) -> CheckoutError {
        too_large(format!(
            "the repository {url} is larger than {} bytes; git.fetch_size on the runner sets the limit",
            self.limits.fetch_bytes
        ))
    }
}

/// Refuses a commit whose files would be too many or too large, without writing any of them.
pub(super) fn check_size(
    repository: &Repository,
    commit: &ResolvedCommit,
    limits: &Limits,
) -> Result<(), Box<dyn std::error::Error>> {
    let tree = repository.find_commit(Oid::from_str(commit.as_str())?)?.tree_id();
    let mut census = Census { repository, odb: repository.odb()?, known: HashMap::new() };
    let Some(totals) = census.of_tree(tree, 0)? else {
        return Err(too_large(format!("the folders of {commit} lie too deep in one another")).into());
    };
    let exceeded = if totals.files > limits.checkout_files {
        format!("has {} files, more than the {} that git.checkout_files", totals.files, limits.checkout_files)
    } else if totals.bytes > limits.checkout_bytes {
        format!(
            "comes to {} bytes, more than the {} that git.checkout_size",
            totals.bytes, limits.checkout_bytes
        )
    } else {
        return Ok(());
    };
    Err(too_large(format!("{commit} {exceeded} on the runner allows")).into())
}

/// A checkout whose process got no more memory.
pub(super) fn out_of_memory(repository: &RepositoryUrl, memory_bytes: u64) -> CheckoutError {
    too_large(format!(
        "the checkout of {repository} needs more memory than the {memory_bytes} bytes that git.memory on the runner allows"
    ))
}

/// A fetch or a checkout that would take too much.
pub(super) fn too_large(message: String) -> CheckoutError {
    CheckoutError { reason: ErrorReason::TooLarge, message }
}

/// What a folder or a file comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    files: u64,
    bytes: u64,
}

/// Counts each folder once, however often it occurs: a few hundred bytes can name ten thousand million files.
struct Census<'a> {
    repository: &'a Repository,
    odb: git2::Odb<'a>,
    known: HashMap<Oid, Totals>,
}

impl Census<'_> {
    /// `None` where folders lie too deep in one another.
    fn of_tree(&mut self, id: Oid, depth: usize) -> Result<Option<Totals>, git2::Error> {
        if let Some(totals) = self.known.get(&id) {
            return Ok(Some(*totals));
        }
        if depth > DEPTH_MAX {
            return Ok(None);
        }
        let mut sum = Totals::default();
        for entry in &self.repository.find_tree(id)? {
            let part = match entry.kind() {
                Some(ObjectType::Tree) => match self.of_tree(entry.id(), depth + 1)? {
                    Some(totals) => totals,
                    None => return Ok(None),
                },
                Some(ObjectType::Blob) => self.of_blob(entry.id())?,
                // A submodule is an empty folder.
                _ => Totals { files: 1, bytes: 0 },
            };
            sum.files = sum.files.saturating_add(part.files);
            sum.bytes = sum.bytes.saturating_add(part.bytes);
        }
        // An empty folder, which git itself does not make, is written as well.
        sum.files = sum.files.max(1);
        self.known.insert(id, sum);
        Ok(Some(sum))
    }

    fn of_blob(&mut self, id: Oid) -> Result<Totals, git2::Error> {
        if let Some(totals) = self.known.get(&id) {
            return Ok(*totals);
        }
        let (bytes, _) = self.odb.read_header(id)?;
        let totals = Totals { files: 1, bytes: bytes as u64 };
        self.known.insert(id, totals);
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const LIMITS: Limits = Limits {
        stall_ms: 0,
        memory_bytes: 0,
        fetch_bytes: 10_000,
        checkout_bytes: 1 << 30,
        checkout_files: 1_000_000,
    };

    /// A commit with `width` to the power of `depth` files, all of them one.
    fn bomb(repository: &Repository, width: usize, depth: usize) -> ResolvedCommit {
        let blob = repository.blob(b"boom").unwrap();
        let (mut id, mut mode) = (blob, 0o100_644);
        for _ in 0..depth {
            let mut builder = repository.treebuilder(None).unwrap();
            for number in 0..width {
                builder.insert(format!("{number}"), id, mode).unwrap();
            }
            (id, mode) = (builder.write().unwrap(), 0o040_000);
        }
        let author = git2::Signature::now("A User", "user@example.org").unwrap();
        let tree = repository.find_tree(id).unwrap();
        repository.commit(None, &author, &author, "bomb", &tree, &[]).unwrap().to_string().parse().unwrap()
    }

    #[test]
    fn a_bomb_of_folders_is_counted_at_once_and_refused() {
        let home = tempfile::tempdir().unwrap();
        let repository = Repository::init_bare(home.path()).unwrap();
        let begun = Instant::now();
        for (width, depth, ok) in [(10, 3, true), (10, 10, false), (2, 500, false), (1, 1100, false)] {
            let commit = bomb(&repository, width, depth);
            let checked = check_size(&repository, &commit, &LIMITS);
            assert_eq!(checked.is_ok(), ok, "{width}^{depth}: {checked:?}");
            let large = |error: Box<dyn std::error::Error>| {
                error.downcast::<CheckoutError>().unwrap().reason == ErrorReason::TooLarge
            };
            assert!(ok || checked.is_err_and(large));
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        let commit = bomb(&repository, 10, 3);
        assert!(check_size(&repository, &commit, &Limits { checkout_bytes: 3999, ..LIMITS }).is_err());
        assert!(check_size(&repository, &commit, &Limits { checkout_bytes: 4000, ..LIMITS }).is_ok());
    }
}
