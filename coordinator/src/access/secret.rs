//! What opens something to who holds it: 32 random bytes, shown once, and known here by their digest alone.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, bail};
use caisson_settings::Secret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// How many bytes of a digest it is looked up by. The rest is compared in constant time.
const LOOKUP_BYTES: usize = 8;

/// The SHA-256 of a secret. It opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of this secret.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// The bytes, for who keeps them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What is known by this digest.
    pub fn find<'a, T>(&self, known: &'a BTreeMap<Self, T>) -> Option<&'a T> {
        let (mut first, mut last) = (Self([0; 32]), Self([0xff; 32]));
        for end in [&mut first, &mut last] {
            end.0[..LOOKUP_BYTES].copy_from_slice(&self.0[..LOOKUP_BYTES]);
        }
        known.range(first..=last).find(|(digest, _)| digest.matches(self)).map(|(_, found)| found)
    }

    /// Takes the same time wherever the first difference is.
    pub(super) fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(digest)")
    }
}

/// A new secret. What it begins with tells people, and programs that look for leaked secrets, what it is.
pub(super) fn random(prefix: &str) -> Secret {
    let bytes: [u8; 32] = rand::random();
    let mut text = String::with_capacity(prefix.len() + 2 * bytes.len());
    text.push_str(prefix);
    for byte in bytes {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Secret::new(text)
}

/// The secret in a file, or a new one where there is no file.
pub(super) fn in_file(path: &Path) -> anyhow::Result<Secret> {
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
            let secret = random("");
            write_private(path, &format!("{}\n", secret.expose()))
                .with_context(|| path.display().to_string())?;
            Ok(secret)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_by_its_whole_digest_alone() {
        let digest = Digest::of("a");
        let mut near = digest;
        near.0[31] ^= 1;
        let known = BTreeMap::from([(near, "near"), (digest, "itself"), (Digest::of("b"), "other")]);
        assert_eq!(digest.find(&known), Some(&"itself"));
        near.0[31] ^= 2;
        assert_eq!(near.find(&known), None);
    }

    #[test]
    fn secrets_differ_and_say_what_they_are() {
        let (one, other) = (random("caisson_"), random("caisson_"));
        assert_ne!(one, other);
        assert!(one.expose().starts_with("caisson_") && one.expose().len() == 8 + 64);
    }
}
