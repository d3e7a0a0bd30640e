//! What is to be built: everything a runner needs to know of a build.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{BuildLimits, Commit, Labels, Network, RepositoryUrl};

/// The longest command, in bytes.
const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// The longest image reference, in bytes.
const IMAGE_BYTES_MAX: usize = 512;
/// How many environment variables a build may bring.
const VARIABLES_MAX: usize = 256;
/// How large a build's environment may be, in bytes of names and values.
const ENVIRONMENT_BYTES_MAX: usize = 64 * 1024;
/// The longest time limit: 30 days.
const TIMEOUT_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// A build as a runner gets it: which commit of which repository, and what to run on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BuildSpec {
    /// Where the code comes from.
    pub repository_url: RepositoryUrl,
    /// Which state of it: a SHA, branch or tag.
    pub commit: Commit,
    /// What to run, by `sh -ec`.
    pub command: Command,
    /// The image of the container.
    pub image: ImageRef,
    /// Further environment variables of the command.
    #[serde(default)]
    pub env: Environment,
    /// Labels that the runner must have.
    #[serde(default)]
    pub labels: Labels,
    /// How long the whole attempt may take.
    pub timeout_seconds: TimeoutSeconds,
    /// What it is to be held to below what its runner allows.
    #[serde(default, skip_serializing_if = "BuildLimits::is_empty")]
    pub limits: BuildLimits,
    /// What its container is to reach at most.
    #[serde(default, skip_serializing_if = "Network::is_bridge")]
    pub network: Network,
}

/// Why a part of a build's description is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The command has nothing to run.
    #[error("empty: say what to run")]
    CommandEmpty,
    /// The command is too long.
    #[error("longer than {COMMAND_BYTES_MAX} bytes: put it into a script in the repository")]
    CommandTooLong,
    /// A NUL byte, which no process can be given.
    #[error("holds a NUL byte")]
    Nul,
    /// Not an image reference.
    #[error("not an image reference: write it as name, name:tag or registry.host/name@sha256:…")]
    Image,
    /// Not a name of an environment variable.
    #[error("{0:?} is not a name for an environment variable: use A-Z a-z 0-9 _ and no digit first")]
    VariableName(String),
    /// A name that Caisson sets itself.
    #[error("{0} is set by Caisson")]
    VariableReserved(String),
    /// Too many or too large variables.
    #[error("more than {VARIABLES_MAX} variables or {ENVIRONMENT_BYTES_MAX} bytes")]
    EnvironmentTooLarge,
    /// A time limit out of range.
    #[error("not between 1 and {TIMEOUT_SECONDS_MAX} seconds")]
    Timeout,
}

/// The command of a build: not empty, at most 64 KiB, without NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Command(String);

impl Command {
    /// The command as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Command {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.trim().is_empty() {
            return Err(SpecError::CommandEmpty);
        }
        if text.len() > COMMAND_BYTES_MAX {
            return Err(SpecError::CommandTooLong);
        }
        if text.contains('\0') {
            return Err(SpecError::Nul);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Command {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<Command> for String {
    fn from(command: Command) -> Self {
        command.0
    }
}

/// The reference of a container image, such as `debian:bookworm-slim` or `registry.host:5000/team/app@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef(String);

impl ImageRef {
    /// The registry of an image that names none.
    pub const DEFAULT_REGISTRY: &str = "docker.io";

    /// The reference as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, with its port where one is named, that an engine asks for the image. Source: `reference.splitDockerDomain`
    /// of the distribution project.
    #[must_use]
    pub fn registry(&self) -> &str {
        match split_host(&self.0) {
            (None | Some("index.docker.io"), _) => Self::DEFAULT_REGISTRY,
            (Some(host), _) => host,
        }
    }
}

impl FromStr for ImageRef {
    type Err = SpecError;

    /// Checks the shape `[host[:port]/]path[:tag][@algorithm:hex]`; whether such an image exists, the engine knows.
    /// Source of the grammar: the distribution project's `reference` package.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (name, None),
        };
        let (host, path) = split_host(path);
        let valid = text.len() <= IMAGE_BYTES_MAX
            && host.is_none_or(is_host)
            && path.split('/').all(is_path_part)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        if valid { Ok(Self(text.to_owned())) } else { Err(SpecError::Image) }
    }
}

/// What looks like a host is one; no user of a registry has such a name.
fn split_host(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
        _ => (None, name),
    }
}

fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.split('.').all(label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_path_part(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.bytes().all(inner) && edge(text.bytes().next()) && edge(text.bytes().last()) && !text.contains("..")
}

fn is_tag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['.', '-'])
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+._-".contains(&b);
    !algorithm.is_empty()
        && algorithm.bytes().all(name)
        && (32..=128).contains(&hex.len())
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

impl TryFrom<String> for ImageRef {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.0
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The environment variables a build brings: valid names, none of them Caisson's own, bounded in number and size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names alone, which may be shown where values may not.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = SpecError;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, SpecError> {
        let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
        if variables.len() > VARIABLES_MAX || bytes > ENVIRONMENT_BYTES_MAX {
            return Err(SpecError::EnvironmentTooLarge);
        }
        for (name, value) in &variables {
            let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if name.is_empty() || !name.bytes().all(inner) || name.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(SpecError::VariableName(name.chars().take(64).collect()));
            }
            if name == "CI" || name.starts_with("CAISSON_") {
                return Err(SpecError::VariableReserved(name.clone()));
            }
            if value.contains('\0') {
                return Err(SpecError::Nul);
            }
        }
        Ok(Self(variables))
    }
}

impl From<Environment> for BTreeMap<String, String> {
    fn from(environment: Environment) -> Self {
        environment.0
    }
}

/// How long an attempt may take, from 1 second to 30 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "u32", into = "u32")]
pub struct TimeoutSeconds(u32);

impl TimeoutSeconds {
    /// The limit in seconds.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for TimeoutSeconds {
    type Error = SpecError;

    fn try_from(seconds: u32) -> Result<Self, SpecError> {
        if (1..=TIMEOUT_SECONDS_MAX).contains(&seconds) { Ok(Self(seconds)) } else { Err(SpecError::Timeout) }
    }
}

impl From<TimeoutSeconds> for u32 {
    fn from(timeout: TimeoutSeconds) -> Self {
        timeout.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_something_to_run() {
        assert_eq!("make test".parse::<Command>().unwrap().as_str(), "make test");
        assert_eq!(" \n\t".parse::<Command>(), Err(SpecError::CommandEmpty));
        assert_eq!("a\0b".parse::<Command>(), Err(SpecError::Nul));
        assert_eq!("x".repeat(70_000).parse::<Command>(), Err(SpecError::CommandTooLong));
    }

    #[test]
    fn images_are_named_as_everywhere() {
        let digest = format!("app@sha256:{}", "0".repeat(64));
        for image in [
            "busybox",
            "debian:bookworm-slim",
            "localhost:5000/a/b:1",
            "registry.example.org/team/app",
            &digest,
            "a__b",
        ] {
            assert!(image.parse::<ImageRef>().is_ok(), "{image}");
        }
        for image in [
            "",
            "UPPER",
            "a b",
            "a:",
            "a@",
            "a@sha256:xyz",
            "../images/json?x=",
            "-a",
            "a/",
            "/a",
            "a//b",
            "h:x/a",
        ] {
            assert_eq!(image.parse::<ImageRef>(), Err(SpecError::Image), "{image}");
        }
    }

    #[test]
    fn s35_an_images_registry_is_the_one_that_an_engine_asks() {
        let digest = format!("app@sha256:{}", "0".repeat(64));
        for image in [
            "debian",
            "debian:bookworm-slim",
            "team/app",
            "docker.io/debian",
            "docker.io/library/debian:12",
            "index.docker.io/team/app",
            &digest,
        ] {
            assert_eq!(image.parse::<ImageRef>().unwrap().registry(), "docker.io", "{image}");
        }
        for (image, registry) in [
            ("localhost/app", "localhost"),
            ("localhost:5000/a/b:1", "localhost:5000"),
            ("registry:5000/app", "registry:5000"),
            ("registry.example.org/docker.io/app", "registry.example.org"),
            ("169.254.169.254/latest", "169.254.169.254"),
            (&format!("10.0.0.7:80/{digest}"), "10.0.0.7:80"),
        ] {
            assert_eq!(image.parse::<ImageRef>().unwrap().registry(), registry, "{image}");
        }
    }

    #[test]
    fn an_environment_has_proper_names_and_none_of_ours() {
        let environment = |name: &str, value: &str| {
            Environment::try_from(BTreeMap::from([(name.to_owned(), value.to_owned())]))
        };
        assert_eq!(environment("RUST_LOG", "debug").unwrap().names(), ["RUST_LOG"]);
        assert_eq!(environment("1A", ""), Err(SpecError::VariableName("1A".into())));
        assert_eq!(environment("A=B", ""), Err(SpecError::VariableName("A=B".into())));
        assert_eq!(environment("CI", ""), Err(SpecError::VariableReserved("CI".into())));
        assert_eq!(environment("CAISSON_X", ""), Err(SpecError::VariableReserved("CAISSON_X".into())));
        assert_eq!(environment("A", "\0"), Err(SpecError::Nul));
        assert_eq!(environment("A", &"x".repeat(70_000)), Err(SpecError::EnvironmentTooLarge));
    }

    #[test]
    fn a_time_limit_is_neither_nothing_nor_for_ever() {
        assert_eq!(TimeoutSeconds::try_from(0), Err(SpecError::Timeout));
        assert_eq!(TimeoutSeconds::try_from(u32::MAX), Err(SpecError::Timeout));
        assert_eq!(TimeoutSeconds::try_from(60).unwrap().get(), 60);
    }
}
