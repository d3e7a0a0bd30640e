//! What a runner can be told. Each value is checked before anything else sees it.

mod limits;
mod values;

use std::{io, num::NonZeroU32, path::PathBuf};

use caisson_protocol::{ImageRef, Labels, Network};
use caisson_settings::{ByteSize, Loaded, Period, Secret, SettingsError, Sources};
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::engine::Owner;

pub use limits::{Limits, in_words};
pub use values::{CoordinatorUrl, EngineHost, RegistryHost, RunnerName};

/// The beginning of every environment variable that configures a runner.
const ENV_PREFIX: &str = "CAISSON_RUNNER_";

/// A runner's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the coordinator is.
    pub coordinator_url: CoordinatorUrl,
    /// Whom to trust to be the coordinator, where it speaks TLS.
    pub tls: CoordinatorTls,
    /// The token that registers the runner, until it has a credential of its own.
    pub token: Option<Secret>,
    /// A file that holds the token.
    pub token_file: Option<PathBuf>,
    /// The runner's name, unique among its coordinator's runners.
    pub name: RunnerName,
    /// How many builds run at once.
    pub capacity: NonZeroU32,
    /// What this runner offers.
    pub labels: Labels,
    /// Holds workspaces, mirrors and the spool.
    pub work_dir: PathBuf,
    /// How workspaces get into containers.
    pub workspace: WorkspaceConfig,
    /// No build begins while the disk of `work_dir`, or the engine's on the same host, has less room than this.
    pub disk_free_min: ByteSize,
    /// How long the coordinator is looked for.
    pub connect: Connect,
    /// What runs containers.
    pub engine: EngineConfig,
    /// How repositories are fetched.
    pub git: Git,
    /// How long a command has between SIGTERM and SIGKILL.
    pub stop_grace: Period,
    /// How what builds have left is looked for.
    pub sweep: Sweep,
    /// What a build's container may use.
    pub limits: Limits,
    /// What a build's container can reach.
    pub network: Network,
    /// How images are got.
    pub image: ImageConfig,
}

/// Whom to trust to be the coordinator, where it speaks TLS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorTls {
    /// A file of certificates in PEM: one of them must have signed the coordinator's. The system's when it is not set.
    pub ca: Option<PathBuf>,
}

/// How long the coordinator is looked for at the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// How many times to try; 0 for ever.
    pub attempts: u32,
    /// How long to wait between two tries.
    pub delay: Period,
}

/// How workspaces get into containers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceConfig {
    /// Which way.
    pub transport: WantedTransport,
}

/// Which way workspaces are to take into containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedTransport {
    /// The best one that works with this engine, as whoever the runner runs.
    Auto,
    /// Containers see the runner's folder.
    Bind,
    /// It is sent into a volume of each container's own.
    Upload,
}

/// Where the engine is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Where its socket is.
    pub host: EngineHost,
    /// What opens a remote one.
    pub tls: EngineTls,
    /// How long it has to answer a call that it should answer at once.
    pub deadline: Period,
}

/// By what a remote engine and the runner know each other: files in PEM form, as `docker --tlsverify` takes them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineTls {
    /// The certificate of the authority that signed the engine's.
    pub ca: Option<PathBuf>,
    /// The runner's certificate.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// How repositories are fetched.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Git {
    /// Whether repositories on the runner's own disk may be built.
    pub allow_file_urls: bool,
    /// Whether repositories at private addresses may be built.
    pub private_addresses: PrivateAddresses,
    /// Hosts that may be cloned from wherever they are: names, or addresses.
    pub allowed_hosts: Vec<String>,
    /// How long a whole checkout may take.
    pub timeout: Period,
    /// How long a server may be silent.
    pub stall: Period,
    /// How much memory a checkout may use.
    pub memory: ByteSize,
    /// How much a server may send for one fetch.
    pub fetch_size: ByteSize,
    /// What the files of a commit may come to.
    pub checkout_size: ByteSize,
    /// How many files a commit may have.
    pub checkout_files: u64,
    /// What all mirrors may take together; those used least recently go first.
    pub mirrors_size: ByteSize,
    /// The private key for `ssh`; without one the agent at `SSH_AUTH_SOCK` is asked.
    pub ssh_key_file: Option<PathBuf>,
    /// The host keys that `ssh` trusts, in the form of OpenSSH's `known_hosts`.
    pub ssh_known_hosts: Option<PathBuf>,
}

/// Whether repositories at private addresses, and at this machine's own, may be built. Link-local addresses and those
/// where clouds keep their metadata are none of them: they are always refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivateAddresses {
    /// They may where the coordinator has a private address itself.
    Auto,
    /// They may.
    Allow,
    /// They may not.
    Refuse,
}

/// How what builds have left is looked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// How often, a second or more; sooner where something could not be removed.
    #[serde(deserialize_with = "a_second_or_more")]
    pub interval: Period,
}

fn a_second_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    let period = Period::deserialize(deserializer)?;
    let fits = period >= Period::seconds(1);
    if fits { Ok(period) } else { Err(D::Error::custom(format!("found {period}, expected 1s or more"))) }
}

/// How images are got.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// When the registry is asked.
    pub pull: PullPolicy,
    /// The registries that are asked; every one where none is named. What is there already is used whatever its name.
    pub registries: Vec<RegistryHost>,
    /// How long a pull may take in all, further tries included.
    pub timeout: Period,
    /// How long a pull may go on without any news.
    pub stall: Period,
    /// What the images that the runner has pulled may take together; those used least recently go first. Not bounded
    /// where it is not set.
    pub size_max: Option<ByteSize>,
    /// A file with the credentials of registries, as `docker login` writes it: `~/.docker/config.json`.
    pub credentials_file: Option<PathBuf>,
}

impl ImageConfig {
    /// Whether the image's registry is one that may be asked.
    #[must_use]
    pub fn may_ask(&self, image: &ImageRef) -> bool {
        self.registries.is_empty() || self.registries.iter().any(|registry| registry.has(image))
    }
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When the engine has no image of that name.
    IfMissing,
    /// Before each build.
    Always,
    /// Never: an image that is not there is an error.
    Never,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            coordinator_url: CoordinatorUrl::default(),
            tls: CoordinatorTls::default(),
            token: None,
            token_file: None,
            name: RunnerName::of_host(),
            capacity: NonZeroU32::MIN,
            labels: Labels::default(),
            work_dir: PathBuf::from("./caisson-runner"),
            workspace: WorkspaceConfig { transport: WantedTransport::Auto },
            disk_free_min: ByteSize::mib(512),
            connect: Connect { attempts: 5, delay: Period::seconds(10) },
            engine: EngineConfig {
                host: EngineHost::default(),
                tls: EngineTls::default(),
                deadline: Period::seconds(60),
            },
            git: Git {
                allow_file_urls: false,
                private_addresses: PrivateAddresses::Auto,
                allowed_hosts: Vec::new(),
                timeout: Period::seconds(600),
                stall: Period::seconds(60),
                memory: ByteSize::mib(2 * 1024),
                fetch_size: ByteSize::mib(4 * 1024),
                checkout_size: ByteSize::mib(8 * 1024),
                checkout_files: 1_000_000,
                mirrors_size: ByteSize::mib(20 * 1024),
                ssh_key_file: None,
                ssh_known_hosts: None,
            },
            stop_grace: Period::seconds(10),
            sweep: Sweep { interval: Period::seconds(60) },
            limits: Limits {
                memory: None,
                cpus: 0.0,
                pids: NonZeroU32::MIN.saturating_add(4095),
                nofile: 0,
                shm: ByteSize::mib(64),
                disk: ByteSize::mib(32 * 1024),
            },
            network: Network::Bridge,
            image: ImageConfig {
                pull: PullPolicy::IfMissing,
                registries: Vec::new(),
                timeout: Period::seconds(30 * 60),
                stall: Period::seconds(60),
                size_max: None,
                credentials_file: None,
            },
        }
    }
}

/// The arguments that configure a runner.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// Where the settings come from.
    #[command(flatten)]
    pub sources: Sources,
    /// Where the coordinator is.
    #[arg(long, value_name = "URL")]
    pub coordinator_url: Option<String>,
    /// File that holds the token which registers the runner.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// The runner's name, unique among its coordinator's runners.
    #[arg(long)]
    pub name: Option<String>,
    /// How many builds run at once.
    #[arg(long, value_name = "NUMBER")]
    pub capacity: Option<String>,
    /// Folder for workspaces, mirrors and the spool.
    #[arg(long, value_name = "FOLDER")]
    pub work_dir: Option<String>,
}

impl Arguments {
    /// Reads the settings: defaults < file < environment < these arguments.
    ///
    /// # Errors
    /// When a source can't be read, names an unknown key or has a value that does not fit.
    pub fn load(&self) -> Result<Loaded<Config>, SettingsError> {
        let arguments = [
            ("coordinator_url", self.coordinator_url.clone()),
            ("token_file", self.token_file.clone()),
            ("name", self.name.clone()),
            ("capacity", self.capacity.clone()),
            ("work_dir", self.work_dir.clone()),
        ];
        self.sources.load(ENV_PREFIX, &arguments)
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// None was configured.
    #[error(
        "no token: set token_file (or token) to a token from the coordinator, which writes one to data_dir/runner-token"
    )]
    Missing,
    /// Two were.
    #[error("both token and token_file are set: keep one of them")]
    Both,
    /// The file can't be read.
    #[error("the token file {} can't be read: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// What was given can't be sent.
    #[error(
        "the token is empty or has characters that no token has: copy the coordinator's data_dir/runner-token"
    )]
    Malformed,
}

impl Config {
    /// Whose the things are that this runner makes on its engine.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner { runner: self.name.clone(), coordinator: self.coordinator_url.clone() }
    }

    /// The token that registers the runner.
    ///
    /// # Errors
    /// When none is configured, its file can't be read, or it is no token.
    pub fn read_token(&self) -> Result<Secret, TokenError> {
        let text = match (&self.token, &self.token_file) {
            (None, None) => return Err(TokenError::Missing),
            (Some(_), Some(_)) => return Err(TokenError::Both),
            (Some(token), None) => token.expose().to_owned(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|cause| TokenError::Unreadable { path: path.clone(), cause })?,
        };
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed);
        }
        Ok(Secret::new(token.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_from_one_place() {
        let with = |token: Option<&str>, file: Option<&str>| Config {
            token: token.map(|text| Secret::new(text.to_owned())),
            token_file: file.map(PathBuf::from),
            ..Config::default()
        };
        assert!(matches!(with(None, None).read_token(), Err(TokenError::Missing)));
        assert!(matches!(with(Some("a"), Some("b")).read_token(), Err(TokenError::Both)));
        assert!(matches!(with(None, Some("/nowhere")).read_token(), Err(TokenError::Unreadable { .. })));
        assert!(matches!(with(Some("a\nb"), None).read_token(), Err(TokenError::Malformed)));
        assert_eq!(with(Some(" abc\n"), None).read_token().unwrap().expose(), "abc");
    }

    #[test]
    fn a_sweep_comes_once_a_second_at_most() {
        let with = |setting: &str| {
            let sources = Sources { set: vec![setting.into()], ..Sources::default() };
            Arguments { sources, ..Arguments::default() }.load()
        };
        assert_eq!(with("sweep.interval=1s").unwrap().settings.sweep.interval, Period::seconds(1));
        let error = with("sweep.interval=0s").unwrap_err().to_string();
        assert!(error.contains("sweep.interval") && error.contains("1s or more"), "{error}");
    }

    #[test]
    fn the_defaults_read_back_as_they_are_written() {
        let loaded = Arguments::default().load().unwrap();
        assert_eq!(loaded.settings.connect.attempts, 5);
        assert_eq!(loaded.settings.limits.pids.get(), 4096);
        assert_eq!(loaded.settings.sweep.interval, Period::seconds(60));
        assert!(loaded.print().contains("stop_grace: \"10s\"") || loaded.print().contains("stop_grace: 10s"));
    }
}
