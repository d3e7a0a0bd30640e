//! Where the code comes from: the rules for repository URLs and commits, in one place for both sides.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;

/// The longest repository URL, in bytes.
const URL_BYTES_MAX: usize = 2048;
/// The longest commit, branch or tag, in bytes.
const COMMIT_BYTES_MAX: usize = 255;

/// A repository's address: `https`, `http`, `ssh`, `git` or `file` (which coordinator and runner take only
/// where their configuration allows it), without credentials.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryUrl(String);

/// Why a text is no repository URL. The text itself is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryUrlError {
    /// Not an absolute URL.
    #[error("not a URL: write it as https://host/path, http://…, ssh://git@host/path or git://…")]
    Malformed,
    /// A scheme that is never cloned from.
    #[error("the scheme {0:?} is not one of https, http, ssh, git")]
    Scheme(String),
    /// There is no host to ask, or one that could be read as an option.
    #[error("the URL names no usable host")]
    Host,
    /// There is no path.
    #[error("the URL names no repository: its path is empty")]
    Path,
    /// A user name or password where none belongs.
    #[error("the URL holds credentials, which would be shown to everyone who sees the build: leave them out")]
    Credentials,
    /// Too long.
    #[error("the URL is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
}

impl RepositoryUrl {
    /// The URL as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a `file` URL, which is cloned only where the configuration allows it.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.0.starts_with("file:")
    }
}

impl FromStr for RepositoryUrl {
    type Err = RepositoryUrlError;

    fn from_str(text: &str) -> Result<Self, RepositoryUrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(RepositoryUrlError::TooLong);
        }
        let hostile = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
        if text.contains(hostile) {
            return Err(RepositoryUrlError::Malformed);
        }
        let url = Url::parse(text).map_err(|_| RepositoryUrlError::Malformed)?;
        let ssh = url.scheme() == "ssh";
        match url.scheme() {
            "https" | "http" | "ssh" | "git"
                if url.host_str().is_none_or(|h| h.is_empty() || h.starts_with('-')) =>
            {
                return Err(RepositoryUrlError::Host);
            }
            "https" | "http" | "ssh" | "git" => {}
            "file" if url.host_str().is_none_or(str::is_empty) => {}
            "file" => return Err(RepositoryUrlError::Host),
            scheme => return Err(RepositoryUrlError::Scheme(scheme.chars().take(32).collect())),
        }
        // With ssh a user is part of the address (`git@`); a password never is.
        let user_is_hostile = url.username().starts_with('-');
        if url.password().is_some() || (!ssh && !url.username().is_empty()) || user_is_hostile {
            return Err(RepositoryUrlError::Credentials);
        }
        if url.path().trim_matches('/').is_empty() {
            return Err(RepositoryUrlError::Path);
        }
        // Written out, it may be longer than it was given: what is kept must be one that is taken again.
        if url.as_str().len() > URL_BYTES_MAX {
            return Err(RepositoryUrlError::TooLong);
        }
        Ok(Self(url.into()))
    }
}

impl TryFrom<String> for RepositoryUrl {
    type Error = RepositoryUrlError;

    fn try_from(text: String) -> Result<Self, RepositoryUrlError> {
        text.parse()
    }
}

impl From<RepositoryUrl> for String {
    fn from(url: RepositoryUrl) -> Self {
        url.0
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a user asks to build: a commit's SHA (whole or abbreviated), a branch or a tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Commit(String);

/// Why a text is no commit, branch or tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Nothing was given.
    #[error("empty: name a commit, branch or tag")]
    Empty,
    /// Too long.
    #[error("longer than {COMMIT_BYTES_MAX} bytes")]
    TooLong,
    /// Not a name git would take.
    #[error("not a name that git allows for a commit, branch or tag")]
    Malformed,
}

impl Commit {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit that this names by its whole SHA, if it does.
    #[must_use]
    pub fn as_sha(&self) -> Option<ResolvedCommit> {
        self.0.parse().ok()
    }
}

impl FromStr for Commit {
    type Err = CommitError;

    /// Follows the rules of `git check-ref-format`, and takes no leading `-`, which could be read as an option.
    fn from_str(text: &str) -> Result<Self, CommitError> {
        if text.is_empty() {
            return Err(CommitError::Empty);
        }
        if text.len() > COMMIT_BYTES_MAX {
            return Err(CommitError::TooLong);
        }
        let character = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
        let part = |p: &str| p.is_empty() || p.starts_with('.') || p.ends_with(".lock") || p.ends_with('.');
        let whole = text.contains("..") || text.contains("@{") || text == "@" || text.starts_with('-');
        if whole || text.contains(character) || text.split('/').any(part) {
            return Err(CommitError::Malformed);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Commit {
    type Error = CommitError;

    fn try_from(text: String) -> Result<Self, CommitError> {
        text.parse()
    }
}

impl From<Commit> for String {
    fn from(commit: Commit) -> Self {
        commit.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A commit's whole SHA, 40 lower-case hexadecimal digits: what was really built.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct ResolvedCommit(String);

impl ResolvedCommit {
    /// The SHA as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResolvedCommit {
    type Err = CommitError;

    fn from_str(text: &str) -> Result<Self, CommitError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let whole = text.len() == 40 && text.bytes().all(hex);
        if whole { Ok(Self(text.to_owned())) } else { Err(CommitError::Malformed) }
    }
}

impl TryFrom<String> for ResolvedCommit {
    type Error = CommitError;

    fn try_from(text: String) -> Result<Self, CommitError> {
        text.parse()
    }
}

impl From<ResolvedCommit> for String {
    fn from(commit: ResolvedCommit) -> Self {
        commit.0
    }
}

impl fmt::Display for ResolvedCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_cloned_over_these() {
        for url in [
            "https://example.org/team/app.git",
            "http://127.0.0.1:8080/app.git",
            "ssh://git@example.org:2222/team/app",
            "git://example.org/app",
            "file:///srv/git/app.git",
        ] {
            assert_eq!(url.parse::<RepositoryUrl>().unwrap().as_str(), url);
        }
    }

    #[test]
    fn and_over_nothing_else() {
        use RepositoryUrlError as E;
        let refused = [
            ("", E::Malformed),
            ("/srv/git/app.git", E::Malformed),
            ("git@example.org:team/app.git", E::Malformed),
            ("https://example.org/a b", E::Malformed),
            ("https://example.org\\@evil.org/x", E::Malformed),
            ("ext::sh -c id", E::Malformed),
            ("ext::id", E::Scheme("ext".into())),
            ("fd::17", E::Scheme("fd".into())),
            ("ftp://example.org/x", E::Scheme("ftp".into())),
            ("ssh://-oProxyCommand=id/x", E::Host),
            ("git:///app", E::Host),
            ("file://host/app", E::Host),
            ("https://example.org", E::Path),
            ("https://user:secret@example.org/x", E::Credentials),
            ("https://token@example.org/x", E::Credentials),
            ("ssh://git:secret@example.org/x", E::Credentials),
            ("ssh://-oX@example.org/x", E::Credentials),
        ];
        for (text, error) in refused {
            assert_eq!(text.parse::<RepositoryUrl>(), Err(error), "{text}");
        }
        let long = format!("https://example.org/{}", "x".repeat(3000));
        assert_eq!(long.parse::<RepositoryUrl>(), Err(E::TooLong));
        // Each of these is two bytes as it is given, and six as it is kept and sent.
        let grows = format!("https://example.org/{}", "ä".repeat(1000));
        assert_eq!(grows.parse::<RepositoryUrl>(), Err(E::TooLong));
    }

    #[test]
    fn a_refused_url_is_not_repeated_since_it_may_hold_a_password() {
        let error = "https://user:secret@example.org/x".parse::<RepositoryUrl>().unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn commits_branches_and_tags_are_taken() {
        for name in ["main", "v1.2.3", "feature/log-search", "deadbeef", "a@b", "release-1.0"] {
            assert_eq!(name.parse::<Commit>().unwrap().as_str(), name);
        }
        let sha = "a".repeat(40);
        assert_eq!(sha.parse::<Commit>().unwrap().as_sha().unwrap().as_str(), sha);
        assert_eq!("main".parse::<Commit>().unwrap().as_sha(), None);
    }

    #[test]
    fn names_that_git_would_not_take_are_refused() {
        for name in [
            "--upload-pack=id",
            "-x",
            "a..b",
            "a b",
            "a\nb",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "@",
            "a@{1}",
        ] {
            assert_eq!(name.parse::<Commit>(), Err(CommitError::Malformed), "{name:?}");
        }
        assert_eq!("".parse::<Commit>(), Err(CommitError::Empty));
        assert_eq!("x".repeat(256).parse::<Commit>(), Err(CommitError::TooLong));
    }
}
