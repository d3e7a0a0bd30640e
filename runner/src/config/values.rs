//! Settings that are more than a text: each is checked where it is read.

use std::{fmt, str::FromStr};

use caisson_protocol::ImageRef;
use serde::{Deserialize, Serialize};
use url::Url;

/// The coordinator's address: `http` or `https`, without credentials, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CoordinatorUrl(String);

impl CoordinatorUrl {
    /// Where a registration token is exchanged for a credential.
    #[must_use]
    pub fn credential(&self) -> String {
        format!("{}/api/v1/runner/credential", self.0.trim_end_matches('/'))
    }

    /// The address of the channel, `ws` or `wss`.
    #[must_use]
    pub fn channel(&self) -> String {
        // Replacing the beginning turns http into ws and https into wss.
        format!("ws{}/api/v1/runner/channel", self.0.trim_start_matches("http").trim_end_matches('/'))
    }
}

impl Default for CoordinatorUrl {
    /// Where a coordinator listens that is told nothing else.
    fn default() -> Self {
        Self("http://127.0.0.1:3000".into())
    }
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CoordinatorUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const EXPECTED: &str =
            "expected the coordinator's address, such as http://127.0.0.1:3000, without user or query";
        let url = Url::parse(&text).map_err(|_| EXPECTED)?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let valid = matches!(url.scheme(), "http" | "https") && url.has_host() && plain;
        if valid { Ok(Self(url.into())) } else { Err(EXPECTED) }
    }
}

impl From<CoordinatorUrl> for String {
    fn from(url: CoordinatorUrl) -> Self {
        url.0
    }
}

/// The engine's address: `unix://` and the path of a socket on this host, or `tcp://` and another host and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EngineHost(String);

impl EngineHost {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is not a socket on this host.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.0.starts_with("tcp://")
    }
}

impl Default for EngineHost {
    /// Where Docker listens on most hosts.
    fn default() -> Self {
        Self("unix:///var/run/docker.sock".into())
    }
}

impl TryFrom<String> for EngineHost {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_socket = text.strip_prefix("unix://").is_some_and(|path| path.starts_with('/'));
        let is_remote = text.starts_with("tcp://")
            && Url::parse(&text).is_ok_and(|url| {
                let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
                url.has_host() && url.port().is_some() && plain && matches!(url.path(), "" | "/")
            });
        if is_socket || is_remote {
            Ok(Self(text))
        } else {
            Err(
                "expected unix:// and the path of the engine's socket, or tcp:// and the host and port of a remote engine",
            )
        }
    }
}

impl From<EngineHost> for String {
    fn from(host: EngineHost) -> Self {
        host.0
    }
}

/// A registry as it begins the names of its images: a host, with its port where they have one. Docker's own is
/// `docker.io`, also where a name has no registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryHost(String);

impl RegistryHost {
    /// Whether the image is asked of this registry.
    #[must_use]
    pub fn has(&self, image: &ImageRef) -> bool {
        self.0.eq_ignore_ascii_case(image.registry())
    }
}

impl TryFrom<String> for RegistryHost {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let image = format!("{text}/image").parse::<ImageRef>();
        if image.is_ok_and(|image| image.registry() == text) {
            Ok(Self(text))
        } else {
            Err(
                "expected a registry's host, with its port where it has one, such as docker.io or registry.example.org:5000",
            )
        }
    }
}

impl From<RegistryHost> for String {
    fn from(host: RegistryHost) -> Self {
        host.0
    }
}

/// A runner's name: 1 to 100 characters of `A-Z a-z 0-9 . _ -`, the first a letter or digit, so that it is part of
/// the name of a network and the value of a label as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunnerName(String);

impl RunnerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host's name, where it can be one of a runner.
    pub(super) fn of_host() -> Self {
        let host = hostname::get().ok().and_then(|name| name.into_string().ok());
        host.and_then(|name| name.parse().ok()).unwrap_or_else(|| Self("runner".into()))
    }
}

impl fmt::Display for RunnerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunnerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let valid = begins && text.len() <= 100 && text.bytes().all(inner);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected 1 to 100 characters of A-Z a-z 0-9 . _ -, the first a letter or digit")
        }
    }
}

impl TryFrom<String> for RunnerName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RunnerName> for String {
    fn from(name: RunnerName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_where_the_coordinator_is() {
        let channel = |url: &str| CoordinatorUrl::try_from(url.to_owned()).unwrap().channel();
        assert_eq!(channel("http://127.0.0.1:3000"), "ws://127.0.0.1:3000/api/v1/runner/channel");
        assert_eq!(
            channel("https://ci.example.org/team/"),
            "wss://ci.example.org/team/api/v1/runner/channel"
        );
        for url in ["ftp://x", "127.0.0.1:3000", "http://user:secret@x", "http://x/?a=b", ""] {
            assert!(CoordinatorUrl::try_from(url.to_owned()).is_err(), "{url} was taken");
        }
    }

    #[test]
    fn a_runners_name_can_be_part_of_a_networks_name() {
        assert!("host-1.example.org".parse::<RunnerName>().is_ok());
        for name in ["", "-a", ".a", "a b", "a/b", "ä", &"x".repeat(101)] {
            assert!(name.parse::<RunnerName>().is_err(), "{name} was taken");
        }
    }

    #[test]
    fn s35_a_registry_is_a_host_and_has_the_images_that_begin_with_it() {
        let host = |text: &str| RegistryHost::try_from(text.to_owned());
        let has = |registry: &str, image: &str| host(registry).unwrap().has(&image.parse().unwrap());
        assert!(has("docker.io", "debian") && has("docker.io", "index.docker.io/team/app"));
        assert!(has("Registry.Example.org:5000", "registry.example.ORG:5000/app"));
        assert!(
            !has("registry.example.org", "registry.example.org:22/app"),
            "another port is another server"
        );
        assert!(!has("registry.example.org", "registry.example.org.evil.example/app"));
        assert!(!has("docker.io", "localhost/docker.io/app"));
        for text in
            ["", "debian", "https://docker.io", "docker.io/library", "docker.io/", "*.example.org", "h:x"]
        {
            assert!(host(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn an_engine_is_a_socket_or_a_host_with_a_port() {
        let host = |text: &str| EngineHost::try_from(text.to_owned());
        assert!(!host("unix:///run/docker.sock").unwrap().is_remote());
        assert!(host("tcp://build-7.example.org:2376").unwrap().is_remote());
        for text in [
            "",
            "/run/docker.sock",
            "unix://docker.sock",
            "tcp://x",
            "tcp://u:p@x:1",
            "http://x:1",
            "tcp://x:1/y",
        ] {
            assert!(host(text).is_err(), "{text} was taken");
        }
    }
}
