//! The bare mirror of each repository on this runner, by which a second build fetches only what is new, and a known
//! commit needs no network at all.
//!
//! `mirrors/<sha256 of the URL>.git` is written under an exclusive lock on the file `….lock` and read under a shared
//! one. A mirror that turns out to be damaged is thrown away and made anew, once.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use caisson_protocol::{Commit, ErrorReason, RepositoryUrl, ResolvedCommit};
use git2::{
    AutotagOption, Cred, CredentialType, Direction, ErrorClass, ErrorCode, FetchOptions, FetchPrune,
    ObjectType, Oid, ProxyOptions, RemoteCallbacks, RemoteRedirect, Repository, RepositoryInitOptions,
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::{
    CheckoutError,
    child::Teller,
    export,
    wire::{Event, Request},
};

/// Everything that a name can mean.
const REFSPECS: [&str; 2] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
/// The fewest digits that are taken for an abbreviated SHA.
const ABBREVIATION_DIGITS_MIN: usize = 4;
/// How often credentials are offered. libgit2 asks again for as long as it gets any.
const CREDENTIALS_TRIES_MAX: u32 = 3;
/// What must be free on a disk that is not full.
const DISK_BYTES_MIN: u64 = 1024 * 1024;

/// A mirror that holds a commit, locked against being thrown away.
pub(super) struct Mirror {
    pub(super) repository: Repository,
    _lock: File,
}

/// Brings the mirror to where it holds the commit that was asked for, and tells which that is. A mirror that is not
/// `trusted` is thrown away first.
pub(super) fn with_commit(
    request: &Request,
    teller: &Teller,
    trusted: bool,
) -> Result<(Mirror, ResolvedCommit), CheckoutError> {
    let mut hasher = Sha256::new();
    hasher.update(request.repository.as_str());
    let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = request.mirrors.join(format!("{name}.git"));
    let lock = open_lock(&request.mirrors.join(format!("{name}.lock")))?;

    if trusted {
        wait_for_lock(&lock, FlockOperation::NonBlockingLockShared, teller)?;
        if let Some((repository, commit)) = known(&path, &request.commit) {
            return Ok((Mirror { repository, _lock: lock }, commit));
        }
        flock(&lock, FlockOperation::Unlock).map_err(lock_error)?;
    }
    wait_for_lock(&lock, FlockOperation::NonBlockingLockExclusive, teller)?;
    if !trusted {
        discard(&path)?;
    }
    let (repository, commit) = match fetched(&path, request, teller) {
        Err(Trouble::Damaged(cause)) => {
            teller.note(&Event::Note { text: format!("The mirror is damaged ({cause}): fetching anew") });
            discard(&path)?;
            fetched(&path, request, teller).map_err(Trouble::into_error)?
        }
        result => result.map_err(Trouble::into_error)?,
    };
    flock(&lock, FlockOperation::LockShared).map_err(lock_error)?;
    Ok((Mirror { repository, _lock: lock }, commit))
}

fn discard(path: &Path) -> Result<(), CheckoutError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk_error(path, &error)),
        _ => Ok(()),
    }
}

/// A whole SHA that the mirror has already means the same for ever.
fn known(path: &Path, commit: &Commit) -> Option<(Repository, ResolvedCommit)> {
    let sha = commit.as_sha()?;
    let repository = Repository::open_bare(path).ok()?;
    let found = repository.find_commit(Oid::from_str(sha.as_str()).ok()?).is_ok();
    found.then_some((repository, sha))
}

/// Why a mirror is not up to date.
enum Trouble {
    /// It is broken itself.
    Damaged(git2::Error),
    /// It could not be brought up to date.
    Error(CheckoutError),
}

impl Trouble {
    fn into_error(self) -> CheckoutError {
        match self {
            Self::Damaged(error) => CheckoutError {
                reason: ErrorReason::CloneFailed,
                message: format!("the repository's mirror on the runner is damaged: {}", error.message()),
            },
            Self::Error(error) => error,
        }
    }
}

fn fetched(path: &Path, request: &Request, teller: &Teller) -> Result<(Repository, ResolvedCommit), Trouble> {
    if local_path(&request.repository).is_some_and(|folder| !folder.is_dir()) {
        return Err(Trouble::Error(CheckoutError {
            reason: ErrorReason::RepositoryNotFound,
            message: format!("there is no repository {} on the runner", request.repository),
        }));
    }
    let repository = open_or_make(path, &request.repository)?;
    fetch(&repository, request, &REFSPECS, teller).map_err(|error| match error.class() {
        ErrorClass::Odb
        | ErrorClass::Object
        | ErrorClass::Zlib
        | ErrorClass::Config
        | ErrorClass::Repository
            if repository.head().is_ok() =>
        {
            Trouble::Damaged(error)
        }
        _ => Trouble::Error(classify(&error, request)),
    })?;
    if let Some(commit) = resolve(&repository, &request.commit)? {
        return Ok((repository, commit));
    }
    // A commit that no branch or tag reaches, such as a pull request's: many servers give it when asked by name.
    if let Some(sha) = request.commit.as_sha() {
        let asked = fetch(&repository, request, &[sha.as_str()], teller);
        if asked.is_ok() && known(path, &request.commit).is_some() {
            return Ok((repository, sha));
        }
    }
    let what = if request.commit.as_sha().is_some() { "commit" } else { "commit, branch or tag" };
    Err(Trouble::Error(CheckoutError {
        reason: ErrorReason::CommitNotFound,
        message: format!("{} has no {what} {}", request.repository, request.commit),
    }))
}

fn open_or_make(path: &Path, url: &RepositoryUrl) -> Result<Repository, Trouble> {
    if path.exists() {
        return Repository::open_bare(path).map_err(Trouble::Damaged);
    }
    let mut options = RepositoryInitOptions::new();
    options.bare(true).mkpath(true).external_template(false);
    let made = Repository::init_opts(path, &options);
    let repository = made.map_err(|error| Trouble::Error(unexpected(&error)))?;
    if let Some(source) = local_path(url) {
        // libgit2 fetches from a path by making one pack of everything, some fifty times slower than copying. What
        // could not be copied is fetched afterwards.
        let _ = export::copy_objects(&source, path, &mut |_| {});
    }
    Ok(repository)
}

fn fetch(
    repository: &Repository,
    request: &Request,
    refspecs: &[&str],
    teller: &Teller,
) -> Result<(), git2::Error> {
    let address = local_path(&request.repository)
        .map_or_else(|| request.repository.to_string(), |path| path.to_string_lossy().into_owned());
    let mut remote = repository.remote_anonymous(&address)?;
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks(request, teller))
        .proxy_options(proxy())
        .prune(FetchPrune::On)
        .download_tags(AutotagOption::None)
        .update_fetchhead(false)
        // A server may move the whole repository elsewhere, not single requests that come with what was fetched.
        .follow_redirects(RemoteRedirect::Initial);
    let mut connection =
        remote.connect_auth(Direction::Fetch, Some(callbacks(request, teller)), Some(proxy()))?;
    if let Ok(branch) = connection.default_branch()
        && let Ok(branch) = branch.as_str()
    {
        // So that HEAD means here what it means there.
        repository.set_head(branch)?;
    }
    connection.remote().fetch(refspecs, Some(&mut options), None)
}

fn proxy() -> ProxyOptions<'static> {
    let mut options = ProxyOptions::new();
    options.auto();
    options
}

fn callbacks<'a>(request: &'a Request, teller: &'a Teller) -> RemoteCallbacks<'a> {
    let mut callbacks = RemoteCallbacks::new();
    callbacks.transfer_progress(|progress| {
        let event = if progress.received_objects() < progress.total_objects() || progress.total_deltas() == 0
        {
            Event::Receiving {
                objects: progress.received_objects(),
                total: progress.total_objects(),
                bytes: progress.received_bytes(),
            }
        } else {
            Event::Resolving { deltas: progress.indexed_deltas(), total: progress.total_deltas() }
        };
        teller.progress(&event);
        true
    });
    let mut tries = 0;
    callbacks.credentials(move |_, user, allowed| {
        tries += 1;
        let user = user.unwrap_or("git");
        if tries > CREDENTIALS_TRIES_MAX {
            return Err(git2::Error::new(
                ErrorCode::Auth,
                ErrorClass::Ssh,
                "no credentials that the server takes",
            ));
        }
        match &request.ssh_key_file {
            _ if allowed.contains(CredentialType::USERNAME) => Cred::username(user),
            Some(key) if allowed.contains(CredentialType::SSH_KEY) => Cred::ssh_key(user, None, key, None),
            None if allowed.contains(CredentialType::SSH_KEY) => Cred::ssh_key_from_agent(user),
            _ => Err(git2::Error::new(ErrorCode::Auth, ErrorClass::Http, "the server asks for credentials")),
        }
    });
    callbacks
}

/// What a name means: a branch before a tag, a tag's commit, then a SHA and what abbreviates one.
fn resolve(repository: &Repository, commit: &Commit) -> Result<Option<ResolvedCommit>, Trouble> {
    let name = commit.as_str();
    let head = if name == "HEAD" { vec!["HEAD".to_owned()] } else { Vec::new() };
    let references = [format!("refs/heads/{name}"), format!("refs/tags/{name}")];
    let mut found = None;
    for reference in head.into_iter().chain(references) {
        if let Some(reference) = repository.find_reference(&reference).ok().filter(|_| found.is_none()) {
            // What a reference names must be there, or the mirror is not whole.
            found = Some(reference.peel(ObjectType::Commit).map_err(Trouble::Damaged)?);
        }
    }
    let digits = name.len() >= ABBREVIATION_DIGITS_MIN && name.bytes().all(|b| b.is_ascii_hexdigit());
    if found.is_none() && digits {
        found = match repository.revparse_single(name) {
            Ok(object) => object.peel(ObjectType::Commit).ok(),
            Err(error) if error.code() == ErrorCode::Ambiguous => {
                return Err(Trouble::Error(CheckoutError {
                    reason: ErrorReason::CommitNotFound,
                    message: format!("{name} abbreviates more than one commit: write more of it"),
                }));
            }
            Err(_) => None,
        };
    }
    Ok(found.and_then(|commit| commit.id().to_string().parse().ok()))
}

/// The folder that a `file` URL names.
fn local_path(url: &RepositoryUrl) -> Option<PathBuf> {
    if !url.is_file() {
        return None;
    }
    url::Url::parse(url.as_str()).ok()?.to_file_path().ok()
}

/// Whose fault a failed fetch is.
fn classify(error: &git2::Error, request: &Request) -> CheckoutError {
    let url = &request.repository;
    let said = error.message();
    if disk_is_full(&request.mirrors) {
        return CheckoutError { reason: ErrorReason::DiskFull, message: "the runner's disk is full".into() };
    }
    let (reason, message) = match (error.code(), error.class()) {
        (ErrorCode::Certificate, ErrorClass::Ssh) => (
            ErrorReason::CloneFailed,
            format!(
                "the host key of {url} is not known: add it (ssh-keyscan) to the file that git.ssh_known_hosts names on \
                 the runner"
            ),
        ),
        (ErrorCode::Certificate, _) => {
            (ErrorReason::CloneFailed, format!("the certificate of {url} is not trusted: {said}"))
        }
        (ErrorCode::NotFound, _) if url.is_file() => {
            (ErrorReason::RepositoryNotFound, format!("there is no repository {url} on the runner"))
        }
        (ErrorCode::Auth, _) => (
            ErrorReason::RepositoryNotFound,
            format!("the repository {url} does not exist, or is private: its server wants credentials"),
        ),
        (_, ErrorClass::Http | ErrorClass::Net) if is_refusal(said) => (
            ErrorReason::RepositoryNotFound,
            format!("the repository {url} does not exist, or is private: {said}"),
        ),
        _ => (ErrorReason::CloneFailed, format!("{url} could not be fetched: {said}")),
    };
    CheckoutError { reason, message }
}

/// Whether a server that works says that it will not give the repository. libgit2 has no code for what a server
/// answers, so its words decide.
fn is_refusal(said: &str) -> bool {
    said.starts_with("remote error:")
        || [401, 403, 404, 410].iter().any(|status| said.ends_with(&format!("status code: {status}")))
}

/// Whether what failed under `folder` had no room.
pub(super) fn disk_is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail * disk.f_frsize < DISK_BYTES_MIN)
}

fn unexpected(error: &git2::Error) -> CheckoutError {
    CheckoutError {
        reason: ErrorReason::RunnerFailed,
        message: format!("the runner can't keep a mirror of the repository: {}", error.message()),
    }
}

fn disk_error(path: &Path, error: &std::io::Error) -> CheckoutError {
    let reason = if error.kind() == std::io::ErrorKind::StorageFull {
        ErrorReason::DiskFull
    } else {
        ErrorReason::RunnerFailed
    };
    CheckoutError { reason, message: format!("{}: {error}", path.display()) }
}

fn open_lock(path: &Path) -> Result<File, CheckoutError> {
    File::options().create(true).append(true).open(path).map_err(|error| disk_error(path, &error))
}

/// Waits without falling silent, which the parent would take for a stall.
fn wait_for_lock(lock: &File, operation: FlockOperation, teller: &Teller) -> Result<(), CheckoutError> {
    const POLL_EVERY: Duration = Duration::from_millis(20);
    loop {
        match flock(lock, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                teller.progress(&Event::Waiting);
                std::thread::sleep(POLL_EVERY);
            }
            Err(error) => return Err(lock_error(error)),
        }
    }
}

fn lock_error(error: rustix::io::Errno) -> CheckoutError {
    CheckoutError {
        reason: ErrorReason::RunnerFailed,
        message: format!("the repository's mirror can't be locked: {error}"),
    }
}
