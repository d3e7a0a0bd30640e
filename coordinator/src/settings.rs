//! The coordinator's settings, their defaults and what they may be.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use caisson_protocol::{ImageRef, RepositoryUrl, TimeoutSeconds};
use caisson_scheduler::Rules;
use caisson_settings::{ByteSize, Period};
use http::Uri;
use serde::{Deserialize, Serialize};

use crate::{
    access::{AccessTerms, SessionTerms},
    store::Millis,
};

use crate::http::{CertificateFiles, Names};

/// What environment variables of the coordinator begin with.
pub const ENV_PREFIX: &str = "CAISSON_COORDINATOR_";

/// In seconds.
const DAY: u64 = 24 * 60 * 60;

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where to listen. Port 0 takes any free one.
    pub listen: String,
    /// The address that people and runners use, where that is not `listen`: `https://ci.example.org`.
    pub public_url: Option<String>,
    /// The certificate, where the coordinator speaks TLS itself.
    pub tls: Tls,
    /// Whether a proxy in front speaks TLS and is the only one that reaches `listen`.
    pub behind_proxy: bool,
    /// How much each caller may ask for.
    pub limits: Limits,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The repository of builds that name none.
    pub repository_url: Option<String>,
    /// The queue.
    pub queue: Queue,
    /// Signs of life of runners.
    pub keep_alive: KeepAlive,
    /// What holds for each build.
    pub build: Build,
    /// Where code may come from.
    pub git: Git,
    /// How long people stay signed in.
    pub session: Session,
    /// What is kept of who did what.
    pub audit: Audit,
}

/// The certificate, where the coordinator speaks TLS itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A file with the certificate and those that lead from it to one that clients trust, in PEM.
    pub cert: Option<PathBuf>,
    /// A file with its private key, in PEM.
    pub key: Option<PathBuf>,
}

/// How much each caller may ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests in a second, by address and by token; 0 for as many as come. This machine's own are not counted.
    pub requests_per_second: u32,
    /// Failed attempts to sign in in a minute, by address; 0 for as many as come.
    pub sign_in_failures_per_minute: u32,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address other than this machine's.
    pub connections_per_address: usize,
}

/// The queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// How many builds may wait.
    pub capacity: usize,
}

/// Signs of life of runners.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepAlive {
    /// How often a runner gives one.
    pub interval: Period,
    /// How long it may be silent before it is removed.
    pub timeout: Period,
}

/// What holds for each build.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The image of builds that name none.
    pub image: String,
    /// The time limit of builds that name none.
    pub timeout: Period,
    /// How many attempts a build has.
    pub max_attempts: u32,
    /// How long the log of an attempt may become.
    pub log_size: ByteSize,
}

/// Where code may come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Git {
    /// Whether `file` URLs, which read a runner's own disk, are taken.
    pub allow_file_urls: bool,
}

/// How long people stay signed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// How long without coming back.
    pub idle: Period,
    /// How long at all.
    pub lifetime: Period,
}

/// What is kept of who did what.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// How long an entry of the audit log is kept.
    pub retention: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:3000".into(),
            public_url: None,
            tls: Tls { cert: None, key: None },
            behind_proxy: false,
            limits: Limits {
                requests_per_second: 100,
                sign_in_failures_per_minute: 20,
                connections: 4096,
                connections_per_address: 256,
            },
            data_dir: "./data".into(),
            repository_url: None,
            queue: Queue { capacity: 1000 },
            keep_alive: KeepAlive { interval: Period::seconds(10), timeout: Period::seconds(20) },
            build: Build {
                image: "debian:bookworm-slim".into(),
                timeout: Period::seconds(3600),
                max_attempts: 3,
                log_size: ByteSize::mib(256),
            },
            git: Git { allow_file_urls: false },
            session: Session { idle: Period::seconds(7 * DAY), lifetime: Period::seconds(30 * DAY) },
            audit: Audit { retention: Period::seconds(365 * DAY) },
        }
    }
}

/// Settings that were checked: what they say can be done.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How people and runners write its address.
    pub public_url: Option<PublicUrl>,
    /// The certificate, where it speaks TLS.
    pub tls: Option<CertificateFiles>,
    /// Whether only a proxy reaches it.
    pub behind_proxy: bool,
    /// How much each caller may ask for.
    pub limits: Limits,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// What decisions depend on.
    pub rules: Rules,
    /// What a build is given that does not say.
    pub defaults: BuildDefaults,
    /// How long people stay signed in, and what is kept of what they did.
    pub access: AccessTerms,
}

/// What a build is given that does not say.
#[derive(Debug, Clone)]
pub struct BuildDefaults {
    /// Its repository.
    pub repository_url: Option<RepositoryUrl>,
    /// Its image.
    pub image: ImageRef,
    /// Its time limit.
    pub timeout: TimeoutSeconds,
    /// Whether `file` URLs are taken.
    pub allow_file_urls: bool,
}

impl Checked {
    /// The names that the coordinator is asked for by.
    #[must_use]
    pub fn names(&self) -> Names {
        let public = self.public_url.as_ref().map(|url| url.host().to_owned());
        match public {
            None if self.behind_proxy => Names::Any,
            public if self.listen.ip().is_loopback() && !self.behind_proxy => Names::Local { public },
            public => Names::Reachable { public },
        }
    }
}

/// An address that people and runners use: `http` or `https`, a host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(Uri);

impl PublicUrl {
    fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |uri: &Uri| {
            let scheme = uri.scheme_str().is_some_and(|scheme| ["http", "https"].contains(&scheme));
            let host = uri
                .authority()
                .is_some_and(|whole| !whole.as_str().contains('@') && !whole.host().is_empty());
            scheme && host && uri.path() == "/" && uri.query().is_none()
        };
        let uri = text.parse::<Uri>().ok().filter(plain);
        uri.map(Self)
            .ok_or_else(|| format!("found {text:?}, expected an address such as https://ci.example.org"))
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

impl Tls {
    fn check(&self) -> Result<Option<CertificateFiles>, String> {
        match (&self.cert, &self.key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(CertificateFiles { cert: cert.clone(), key: key.clone() })),
            (Some(_), None) => Err("`tls.key`: missing: set it to the private key of `tls.cert`".into()),
            (None, Some(_)) => Err("`tls.cert`: missing: set it to the certificate of `tls.key`".into()),
        }
    }
}

impl Limits {
    fn check(&self) -> Result<Self, String> {
        let positive = [
            ("limits.connections", self.connections),
            ("limits.connections_per_address", self.connections_per_address),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(format!("`{key}`: found 0, expected at least 1")),
            None => Ok(self.clone()),
        }
    }
}

impl Settings {
    /// Checks what the kinds of the values alone don't tell.
    ///
    /// # Errors
    /// One line: the key, what was found and what is expected.
    pub fn check(&self) -> Result<Checked, String> {
        let listen: SocketAddr = self.listen.parse().map_err(|_| {
            format!("`listen`: found {:?}, expected an address and port such as 127.0.0.1:3000", self.listen)
        })?;
        let tls = self.tls.check()?;
        if !listen.ip().is_loopback() && tls.is_none() && !self.behind_proxy {
            return Err(format!(
                "`listen`: {listen} can be reached from other machines, and tokens would cross the network in clear \
                 text: set `tls.cert` and `tls.key`, or put a proxy that speaks TLS in front and set \
                 `behind_proxy: true`, or listen on 127.0.0.1"
            ));
        }
        let public_url = self.public_url.as_deref().map(str::parse).transpose();
        Ok(Checked {
            listen,
            public_url: public_url.map_err(|error| format!("`public_url`: {error}"))?,
            tls,
            behind_proxy: self.behind_proxy,
            limits: self.limits.check()?,
            data_dir: self.data_dir.clone(),
            rules: self.rules()?,
            defaults: self.defaults()?,
            access: self.access()?,
        })
    }

    fn rules(&self) -> Result<Rules, String> {
        let (interval_ms, timeout_ms) =
            (self.keep_alive.interval.as_millis(), self.keep_alive.timeout.as_millis());
        if interval_ms == 0 || timeout_ms < 2 * interval_ms {
            return Err(format!(
                "`keep_alive.timeout`: found {}, expected at least twice `keep_alive.interval` ({}), so that one late \
                 sign of life removes no runner",
                self.keep_alive.timeout, self.keep_alive.interval
            ));
        }
        if !(1..=1_000_000).contains(&self.queue.capacity) {
            return Err(format!("`queue.capacity`: found {}, expected 1 to 1000000", self.queue.capacity));
        }
        if !(1..=100).contains(&self.build.max_attempts) {
            return Err(format!(
                "`build.max_attempts`: found {}, expected 1 to 100",
                self.build.max_attempts
            ));
        }
        if self.build.log_size < ByteSize(64 * 1024) {
            return Err(format!("`build.log_size`: found {}, expected at least 64KiB", self.build.log_size));
        }
        Ok(Rules {
            queue_capacity: self.queue.capacity,
            max_attempts: self.build.max_attempts,
            interval_ms,
            timeout_ms,
            log_bytes_max: self.build.log_size.0,
        })
    }

    fn access(&self) -> Result<AccessTerms, String> {
        let millis = |period: Period| Millis::try_from(period.as_millis()).unwrap_or(Millis::MAX / 4);
        let (idle_ms, lifetime_ms) = (millis(self.session.idle), millis(self.session.lifetime));
        if idle_ms == 0 || lifetime_ms == 0 {
            return Err(
                "`session`: found an `idle` or `lifetime` of nothing, with which nobody could sign in".into(),
            );
        }
        let audit_ms = millis(self.audit.retention);
        if self.audit.retention < Period::seconds(2 * DAY) {
            return Err(format!(
                "`audit.retention`: found {}, expected at least 2days",
                self.audit.retention
            ));
        }
        Ok(AccessTerms { session: SessionTerms { idle_ms, lifetime_ms }, audit_ms })
    }

    fn defaults(&self) -> Result<BuildDefaults, String> {
        let repository_url = self.repository_url.as_deref().map(str::parse::<RepositoryUrl>).transpose();
        let seconds = u32::try_from(self.build.timeout.0.as_secs()).unwrap_or(u32::MAX);
        Ok(BuildDefaults {
            repository_url: repository_url.map_err(|error| format!("`repository_url`: {error}"))?,
            image: self.build.image.parse().map_err(|error| format!("`build.image`: {error}"))?,
            timeout: seconds.try_into().map_err(|error| format!("`build.timeout`: {error}"))?,
            allow_file_urls: self.git.allow_file_urls,
        })
    }
}
