//! Tokens: made at the first start, shown to nobody but the files that hold them, and known here by their digests.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, bail};
use caisson_settings::Secret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How many people may be signed in at once; the ones signed in longest ago are signed out.
const SESSIONS_MAX: usize = 1000;

/// Who may do what, by token.
pub struct Guard {
    admin: TokenDigest,
    runner: TokenDigest,
    /// The code of the sign-in link, until it is used.
    sign_in: Mutex<Option<TokenDigest>>,
    sessions: Mutex<VecDeque<TokenDigest>>,
}

#[derive(Clone, PartialEq, Eq)]
struct TokenDigest([u8; 32]);

impl TokenDigest {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
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
        Ok(Self {
            admin: TokenDigest::of(admin.expose()),
            runner: TokenDigest::of(runner.expose()),
            sign_in: Mutex::default(),
            sessions: Mutex::default(),
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
        let session = random();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() == SESSIONS_MAX {
            sessions.pop_front();
        }
        sessions.push_back(TokenDigest::of(session.expose()));
        Some(session)
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

/// Written beside its place and moved there, so that nobody reads a half.
fn make(path: &Path) -> anyhow::Result<Secret> {
    let token = random();
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{}", token.expose())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(token)
}

/// 32 random bytes in hexadecimal.
fn random() -> Secret {
    let bytes: [u8; 32] = rand::random();
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Secret::new(text)
}
