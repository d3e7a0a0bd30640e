//! Tokens: made at the first start, shown to nobody but the files that hold them, and known here by their digests.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, bail};
use caisson_settings::Secret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

/// How many people may be signed in at once; the ones signed in longest ago are signed out.
const SESSIONS_MAX: usize = 1000;

/// Who may do what, by token.
pub struct Guard {
    admin: TokenDigest,
    runner: TokenDigest,
    /// The code of the sign-in link, until it is used.
    sign_in: Mutex<Option<TokenDigest>>,
    sessions: Mutex<VecDeque<TokenDigest>>,
    /// Where the digests of sessions are kept, so that a restart signs nobody out.
    sessions_file: PathBuf,
}

#[derive(Clone, PartialEq, Eq)]
struct TokenDigest([u8; 32]);

impl TokenDigest {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(digest))
    }

    /// Takes the same time wherever the first difference is.
    fn matches(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

impl Guard {
    /// Reads the tokens in `data_dir`, and makes those that are missing.
    ///
    /// # Errors
    /// When a file can't be read or made, is empty, or can be read by others.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let admin = token(&data_dir.join("admin-token"))?;
        let runner = token(&data_dir.join("runner-token"))?;
        let sessions_file = data_dir.join("sessions");
        Ok(Self {
            admin: TokenDigest::of(admin.expose()),
            runner: TokenDigest::of(runner.expose()),
            sign_in: Mutex::default(),
            sessions: Mutex::new(kept_sessions(&sessions_file)?),
            sessions_file,
        })
    }

    /// Whether this token opens the API.
    #[must_use]
    pub fn is_person(&self, token: &str) -> bool {
        self.admin.matches(token)
    }

    /// Whether this token opens the channel.
    #[must_use]
    pub fn is_runner(&self, token: &str) -> bool {
        self.runner.matches(token)
    }

    /// Whether this session is signed in.
    #[must_use]
    pub fn is_session(&self, session: &str) -> bool {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().any(|known| known.matches(session))
    }

    /// A new code that signs one person in, once. The code before it is void.
    pub fn sign_in_code(&self) -> Secret {
        let code = random();
        *self.sign_in.lock().unwrap_or_else(PoisonError::into_inner) = Some(TokenDigest::of(code.expose()));
        code
    }

    /// Signs in by code, and gives the new session.
    pub fn sign_in(&self, code: &str) -> Option<Secret> {
        let mut awaited = self.sign_in.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.take_if(|awaited| awaited.matches(code))?;
        drop(awaited);
        Some(self.new_session())
    }

    /// A session for who has shown the token or the code.
    pub fn new_session(&self) -> Secret {
        let session = random();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() == SESSIONS_MAX {
            sessions.pop_front();
        }
        sessions.push_back(TokenDigest::of(session.expose()));
        self.keep(&sessions);
        session
    }

    /// Ends a session.
    pub fn sign_out(&self, session: &str) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|known| !known.matches(session));
        self.keep(&sessions);
    }

    /// A session that can't be kept lasts until the next restart.
    fn keep(&self, sessions: &VecDeque<TokenDigest>) {
        let lines: String = sessions.iter().map(|session| format!("{}\n", hex(&session.0))).collect();
        if let Err(error) = write_private(&self.sessions_file, &lines) {
            warn!(
                "{}: {error}: who is signed in is signed out by the next restart",
                self.sessions_file.display()
            );
        }
    }
}

/// The sessions that were there when the coordinator ended. What is no digest opens nothing, and is left out.
fn kept_sessions(path: &Path) -> anyhow::Result<VecDeque<TokenDigest>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(TokenDigest::from_hex).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(VecDeque::new()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// The token in a file, or a new one where there is no file.
fn token(path: &Path) -> anyhow::Result<Secret> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let mode = fs::metadata(path)?.permissions().mode();
            if mode & 0o077 != 0 {
                bail!(
                    "{} can be read by others (mode {:o}): run chmod 600 on it",
                    path.display(),
                    mode & 0o777
                );
            }
            if text.trim().is_empty() {
                bail!("{} is empty: remove it, and a new token is made at the next start", path.display());
            }
            Ok(Secret::new(text.trim().to_owned()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(path).with_context(|| path.display().to_string())
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn make(path: &Path) -> anyhow::Result<Secret> {
    let token = random();
    write_private(path, &format!("{}\n", token.expose()))?;
    Ok(token)
}

/// Written beside its place and moved there, so that nobody reads a half.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

/// 32 random bytes in hexadecimal.
fn random() -> Secret {
    let bytes: [u8; 32] = rand::random();
    Secret::new(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_signs_nobody_out_but_who_signed_out() {
        let folder = tempfile::tempdir().unwrap();
        let guard = Guard::open(folder.path()).unwrap();
        let (stays, goes) = (guard.new_session(), guard.new_session());
        guard.sign_out(goes.expose());
        let again = Guard::open(folder.path()).unwrap();
        assert!(again.is_session(stays.expose()) && !again.is_session(goes.expose()));
        let kept = fs::read_to_string(folder.path().join("sessions")).unwrap();
        assert!(!kept.contains(stays.expose()), "a session is kept as its digest alone");
    }

    #[test]
    fn what_is_no_digest_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sessions"), "\nzz\näää\n").unwrap();
        let guard = Guard::open(folder.path()).unwrap();
        assert!(!guard.is_session("") && !guard.is_session("zz"));
    }
}
