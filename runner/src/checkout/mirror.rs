//! The bare mirror of each repository on this runner, by which a second build fetches only what is new, and a known
//! commit needs no network at all. A mirror that turns out to be damaged is thrown away and made anew, once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use caisson_protocol::{Commit, ErrorReason, RepositoryUrl, ResolvedCommit};
use git2::{
    AutotagOption, Cred, CredentialType, Direction, ErrorClass, ErrorCode, FetchOptions, ObjectType, Oid,
    ProxyOptions, Remote, RemoteCallbacks, RemoteRedirect, RemoteUpdateFlags, Repository,
    RepositoryInitOptions,
};

use super::{
    CheckoutError,
    child::Teller,
    limits::out_of_memory,
    packs,
    shelf::{Place, disk_error, trim},
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
    _place: Place,
}

/// Brings the mirror to where it holds the commit that was asked for, and tells which that is. A mirror that is not
/// `trusted` is thrown away first.
pub(super) fn with_commit(
    request: &Request,
    teller: &Teller,
    trusted: bool,
) -> Result<(Mirror, ResolvedCommit), CheckoutError> {
    let (mirrors, url) = (&request.mirrors, &request.repository);
    if trusted {
        let place = Place::shared(mirrors, url, teller)?;
        if let Some((repository, commit)) = known(&place.path, &request.commit) {
            return Ok((Mirror { repository, _place: place }, commit));
        }
    }
    let place = Place::exclusive(mirrors, url, teller)?;
    if !trusted {
        place.discard()?;
    }
    let commit = match fetched(&place.path, request, teller) {
        Err(Trouble::Damaged(cause)) => {
            teller.note(&Event::Note { text: format!("The mirror is damaged ({cause}): fetching anew") });
            place.discard()?;
            fetched(&place.path, request, teller).map_err(Trouble::into_error)?
        }
        result => result.map_err(Trouble::into_error)?,
    };
    let place = place.share(teller)?;
    let repository =
        Repository::open_bare(&place.path).map_err(|error| Trouble::Damaged(error).into_error())?;
    make_room(request, teller);
    Ok((Mirror { repository, _place: place }, commit))
}

/// Keeps all mirrors together within their limit. A build does not fail where that can't be done.
fn make_room(request: &Request, teller: &Teller) {
    match trim(&request.mirrors, request.mirrors_bytes) {
        Ok(0) => {}
        Ok(removed) => teller.note(&Event::Trimmed { removed }),
        Err(error) => teller.note(&Event::Untrimmed { message: error.to_string() }),
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

fn fetched(path: &Path, request: &Request, teller: &Teller) -> Result<ResolvedCommit, Trouble> {
    if local_path(&request.repository).is_some_and(|folder| !folder.is_dir()) {
        return Err(Trouble::Error(CheckoutError {
            reason: ErrorReason::RepositoryNotFound,
            message: format!("there is no repository {} on the runner", request.repository),
        }));
    }
    let address = match local_path(&request.repository) {
        Some(folder) => folder.to_string_lossy().into_owned(),
        None => request.targets.address(&request.repository).map_err(Trouble::Error)?,
    };
    let was_there = path.exists();
    let mut repository = open_or_make(path, request, teller)?;
    fetch(&repository, &address, request, &REFSPECS, teller).map_err(|error| {
        let halted = teller.watch.why_halted(&request.repository);
        if was_there && halted.is_none() && is_damage(&error) && !disk_is_full(&request.mirrors) {
            return Trouble::Damaged(error);
        }
        Trouble::Error(halted.unwrap_or_else(|| classify(&error, request)))
    })?;
    if packs::consolidate(&repository).unwrap_or(false) {
        repository = Repository::open_bare(path).map_err(Trouble::Damaged)?;
    }
    if let Some(commit) = resolve(&repository, &request.commit)? {
        return Ok(commit);
    }
    // A commit that no branch or tag reaches, such as a pull request's: many servers give it when asked by name.
    if let Some(sha) = request.commit.as_sha() {
        let asked = fetch(&repository, &address, request, &[sha.as_str()], teller);
        if asked.is_ok() && known(path, &request.commit).is_some() {
            return Ok(sha);
        }
    }
    let what = if request.commit.as_sha().is_some() { "commit" } else { "commit, branch or tag" };
    Err(Trouble::Error(CheckoutError {
        reason: ErrorReason::CommitNotFound,
        message: format!("{} has no {what} {}", request.repository, request.commit),
    }))
}

/// Whether an error is one of a mirror that could be opened and is not whole, as a loss of power leaves it.
pub(super) fn is_damage(error: &git2::Error) -> bool {
    matches!(
        error.class(),
        ErrorClass::Odb | ErrorClass::Object | ErrorClass::Zlib | ErrorClass::Config | ErrorClass::Reference
    )
}

fn open_or_make(path: &Path, request: &Request, teller: &Teller) -> Result<Repository, Trouble> {
    if path.exists() {
        remove_half_written(path).map_err(|error| Trouble::Error(disk_error(path, &error)))?;
        return Repository::open_bare(path).map_err(Trouble::Damaged);
    }
    let source = local_path(&request.repository).map(|folder| packs::git_folder(&folder));
    if source.as_ref().is_some_and(|source| packs::size_of(source) > request.limits.fetch_bytes) {
        return Err(Trouble::Error(teller.watch.fetch_too_large(&request.repository)));
    }
    make(path, source.as_deref()).map_err(|error| Trouble::Error(unexpected(&*error)))?;
    Repository::open_bare(path).map_err(Trouble::Damaged)
}

/// Makes a mirror. It gets its name when it is whole, so that a process which is killed leaves none in part.
fn make(path: &Path, source: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
    let new = path.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut options = RepositoryInitOptions::new();
    options.bare(true).mkpath(true).external_template(false);
    let repository = Repository::init_opts(&new, &options)?;
    if let Some(source) = source {
        // What could not be taken over is fetched afterwards.
        let _ = packs::seed(&repository, source);
    }
    Ok(fs::rename(&new, path)?)
}

/// What a process left that was killed while it fetched, or wrote a reference or a setting.
fn remove_half_written(path: &Path) -> io::Result<()> {
    let half_fetched = |name: &str| name.starts_with("pack_git2_") || name.starts_with("tmp_");
    remove_files(&path.join("objects/pack"), &half_fetched)?;
    // No reference's name ends so. Who held one held the mirror's lock as well, which is ours.
    let lock = |name: &str| name.ends_with(".lock");
    remove_files(path, &lock)?;
    let mut folders = vec![path.join("refs")];
    while let Some(folder) = folders.pop() {
        remove_files(&folder, &lock)?;
        folders.extend(subfolders(&folder)?);
    }
    Ok(())
}

/// Removes the files in a folder whose names are such.
fn remove_files(folder: &Path, such: &dyn Fn(&str) -> bool) -> io::Result<()> {
    for entry in entries(folder)? {
        if such(&entry.file_name().to_string_lossy()) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn subfolders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries(folder)?.into_iter().filter(is_folder).map(|entry| entry.path()).collect())
}

/// What is in a folder: nothing where there is none, as in a mirror that is damaged.
fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn fetch(
    repository: &Repository,
    address: &str,
    request: &Request,
    refspecs: &[&str],
    teller: &Teller,
) -> Result<(), git2::Error> {
    // A server may lead to another place on itself. Another host was not found to be one that may be cloned from.
    repository.config()?.set_bool("http.followRedirects", false)?;
    let mut remote = repository.remote_anonymous(address)?;
    // A repository on this host has no server that could fall silent.
    if !request.repository.is_file() {
        teller.progress(&Event::Asking);
    }
    let downloaded = download(&mut remote, request, refspecs, teller);
    teller.working();
    let default_branch = downloaded?;
    // What is gone goes first: `rel` stands in the way of `rel/1`, and the other way round.
    remote.prune(None)?;
    if let Some(Ok(branch)) = default_branch.as_ref().map(git2::Buf::as_str) {
        // So that HEAD means here what it means there.
        repository.set_head(branch)?;
    }
    remote.update_tips(None, RemoteUpdateFlags::empty(), AutotagOption::None, None)
}

/// Gets the objects that are missing, and tells what the server's default branch is.
fn download(
    remote: &mut Remote<'_>,
    request: &Request,
    refspecs: &[&str],
    teller: &Teller,
) -> Result<Option<git2::Buf>, git2::Error> {
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks(request, teller))
        .proxy_options(proxy())
        .follow_redirects(RemoteRedirect::None);
    let mut connection =
        remote.connect_auth(Direction::Fetch, Some(callbacks(request, teller)), Some(proxy()))?;
    connection.remote().download(refspecs, Some(&mut options))?;
    Ok(connection.default_branch().ok())
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
        teller.watch.goes_on(progress.received_bytes())
    });
    callbacks.sideband_progress(|_| {
        // A server that says how it gets on is not silent; the time limit of the whole checkout holds all the same.
        teller.progress(&Event::Alive);
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

/// What a name means: a whole SHA only itself; else a branch before a tag, a tag's commit, then what abbreviates a SHA.
fn resolve(repository: &Repository, commit: &Commit) -> Result<Option<ResolvedCommit>, Trouble> {
    let name = commit.as_str();
    if commit.as_sha().is_some() {
        let object = Oid::from_str(name).and_then(|id| repository.find_object(id, None));
        let commit = object.and_then(|object| object.peel(ObjectType::Commit));
        return Ok(commit.ok().and_then(|commit| commit.id().to_string().parse().ok()));
    }
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
    if error.class() == ErrorClass::NoMemory {
        return out_of_memory(url, request.limits.memory_bytes);
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

fn unexpected(error: &dyn std::error::Error) -> CheckoutError {
    CheckoutError {
        reason: ErrorReason::RunnerFailed,
        message: format!("the runner can't keep a mirror of the repository: {error}"),
    }
}
