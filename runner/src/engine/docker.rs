//! The Docker Engine API, through bollard.
//!
//! What bollard 0.21 and Docker 20.10 need to be handled with care is said where it is done: attaching comes before
//! starting, waiting after it, every call has a deadline of its own, and no name from outside becomes part of a URL.

mod connect;
mod containers;
mod credentials;
mod error;
mod images;
mod networks;
mod probe;
mod request;
mod volumes;

use std::{collections::HashMap, path::Path, sync::OnceLock, time::Duration};

use async_trait::async_trait;
use bollard::{
    Docker,
    models::{SystemInfo, SystemVersion},
    query_parameters::{
        ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions,
        RemoveVolumeOptions,
    },
};
use caisson_protocol::{ImageRef, Network};
use tokio::{sync::Mutex, time::timeout};

use super::{
    Archive, ContainerId, ContainerRequest, Engine, EngineError, EngineInfo, Exit, Image, ImageError, Output,
    Owned, OwnedKind, Owner, Signal, container_name,
};
use crate::config::{EngineConfig, ImageConfig};

/// How long the engine has, at most, to say who it is.
const PROBE_DEADLINE_MAX: Duration = Duration::from_secs(5);

/// How long the engine has to measure what a build has written: millions of files take their time.
const MEASURE_DEADLINE: Duration = Duration::from_secs(600);

/// The labels by which what a runner made is found again.
mod label {
    pub(super) const BUILD: &str = "caisson.build";
    pub(super) const ATTEMPT: &str = "caisson.attempt";
    pub(super) const RUNNER: &str = "caisson.runner";
    pub(super) const COORDINATOR: &str = "caisson.coordinator";

    /// Those of an owner, on everything that it makes.
    pub(super) fn owner(owner: &super::Owner) -> [(String, String); 2] {
        [(RUNNER, owner.runner.to_string()), (COORDINATOR, owner.coordinator.to_string())]
            .map(|(name, value)| (name.to_owned(), value))
    }
}

/// A Docker engine, on this host or another.
pub struct DockerEngine {
    docker: Docker,
    config: EngineConfig,
    host: String,
    /// How long the engine has for what it does at once. Making a container can wait for a slow disk.
    deadline: Duration,
    /// Docker lets two networks have one name, so only one is made at a time.
    network: Mutex<()>,
    /// Docker measures all its volumes at once, and for one at a time.
    measuring: Mutex<()>,
    /// What it has said of itself, once it was asked.
    facts: OnceLock<Facts>,
}

/// What an engine has said of itself.
#[derive(Debug, Clone, Default)]
struct Facts {
    dialect: Dialect,
    /// How many processors it has.
    processors: Option<u32>,
    /// The newest version of its API, such as `1.41`.
    api: String,
    /// Whether it runs containers with a containerd.
    has_containerd: bool,
}

/// Who speaks Docker's language.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Dialect {
    #[default]
    Docker,
    Podman,
}

impl Dialect {
    /// Podman says by its parts who it is.
    fn of(version: &SystemVersion) -> Self {
        let is_podman = version.components.iter().flatten().any(|part| part.name.starts_with("Podman"));
        if is_podman { Self::Podman } else { Self::Docker }
    }
}

impl Facts {
    fn of(info: &SystemInfo, version: &SystemVersion) -> Self {
        Self {
            dialect: Dialect::of(version),
            processors: info.ncpu.and_then(|processors| u32::try_from(processors).ok()),
            api: version.api_version.clone().unwrap_or_default(),
            has_containerd: has_containerd(version),
        }
    }
}

/// Docker names its containerd among its parts as long as that answers.
fn has_containerd(version: &SystemVersion) -> bool {
    version.components.iter().flatten().any(|part| part.name == "containerd")
}

impl DockerEngine {
    /// The engine at an address. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When there is no socket, or no certificate.
    pub fn at(config: &EngineConfig) -> Result<Self, EngineError> {
        let host = config.host.as_str().to_owned();
        let docker = connect::connect(config)?;
        Ok(Self {
            docker,
            config: config.clone(),
            host,
            deadline: config.deadline.0,
            network: Mutex::new(()),
            measuring: Mutex::new(()),
            facts: OnceLock::new(),
        })
    }

    /// Gives a call its deadline, and its errors our names.
    async fn call<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        self.call_within(self.deadline, name, call).await
    }

    /// The same for a call that reads whatever builds have written.
    async fn measure<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        self.call_within(MEASURE_DEADLINE.max(self.deadline), name, call).await
    }

    async fn call_within<T>(
        &self,
        deadline: Duration,
        name: &'static str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        match timeout(deadline, call).await {
            Ok(result) => result.map_err(|error| error::of_call(&self.host, error)),
            Err(_) => Err(self.silent(name, deadline)),
        }
    }

    /// Removes a thing, and tells whether it was there.
    async fn remove_one(&self, owned: &Owned) -> Result<bool, EngineError> {
        let removed = match owned.kind {
            OwnedKind::Container => {
                let options = RemoveContainerOptions { v: true, force: true, link: false };
                self.call("remove container", self.docker.remove_container(&owned.id, Some(options))).await
            }
            OwnedKind::Network => self.call("remove network", self.docker.remove_network(&owned.id)).await,
            OwnedKind::Volume => {
                let options = RemoveVolumeOptions { force: true };
                self.call("remove volume", self.docker.remove_volume(&owned.id, Some(options))).await
            }
        };
        match removed {
            Err(EngineError::NotFound(_)) => Ok(false),
            result => result.map(|()| true),
        }
    }

    fn facts(&self) -> Facts {
        self.facts.get().cloned().unwrap_or_default()
    }

    fn probe_deadline(&self) -> Duration {
        PROBE_DEADLINE_MAX.min(self.deadline)
    }

    fn silent(&self, call: &'static str, deadline: Duration) -> EngineError {
        EngineError::Silent { host: self.host.clone(), call, seconds: deadline.as_secs() }
    }
}

fn describe(version: &SystemVersion) -> String {
    format!("{:?} {}", Dialect::of(version), version.version.as_deref().unwrap_or("of unknown version"))
}

/// An option is told as `name=seccomp,profile=builtin`, where one that is turned off has the profile `unconfined`.
fn has_security(info: &SystemInfo, name: &str) -> bool {
    info.security_options.iter().flatten().any(|option| {
        let mut parts = option.split(',');
        let is_it = parts.next().is_some_and(|first| first.trim_start_matches("name=") == name);
        is_it && parts.all(|part| part != "profile=unconfined")
    })
}

fn remaps_users(info: &SystemInfo) -> bool {
    has_security(info, "userns") || has_security(info, "rootless")
}

/// What an engine can't do that builds are promised, or that whoever runs it should know.
fn shortcomings(info: &SystemInfo, dialect: Dialect) -> Vec<String> {
    let can = |capability: Option<bool>| capability != Some(false);
    let limits = can(info.memory_limit) && can(info.cpu_cfs_quota) && can(info.pids_limit);
    let found = [
        (limits, "it can't limit what builds use: memory, processors or processes"),
        (can(info.swap_limit), "it can't limit swap: a build may use more than limits.memory says"),
        (has_security(info, "seccomp"), "it has no seccomp: builds can make any system call"),
        (
            remaps_users(info),
            "root in a build's container is root on its host, held by capabilities, seccomp and namespaces only: turn \
             on userns-remap, or run it rootless, where builds are not trusted",
        ),
        (
            dialect != Dialect::Podman,
            "where its netavark uses iptables, builds can meet from the end of any container to the start of the next: set \
             firewall_driver = \"nftables\" in containers.conf (from netavark 1.10 on), or network: none, where builds are \
             not trusted",
        ),
    ];
    found.into_iter().filter(|(fine, _)| !fine).map(|(_, warning)| warning.to_owned()).collect()
}

#[async_trait]
impl Engine for DockerEngine {
    async fn probe(&self) -> Result<EngineInfo, EngineError> {
        let (info, version) = timeout(self.probe_deadline(), async {
            tokio::try_join!(self.docker.info(), self.docker.version())
        })
        .await
        .map_err(|_| self.silent("info", self.probe_deadline()))?
        .map_err(|error| error::of_call(&self.host, error))?;
        let facts = Facts::of(&info, &version);
        let warnings = shortcomings(&info, facts.dialect);
        let _ = self.facts.set(facts);
        Ok(EngineInfo {
            description: describe(&version),
            architecture: version.arch.unwrap_or_default(),
            remaps_users: remaps_users(&info),
            root: info.docker_root_dir.as_ref().map(Into::into),
            warnings,
        })
    }

    async fn check(&self) -> Result<(), EngineError> {
        let fresh = connect::connect(&self.config)?;
        self.call_within(self.probe_deadline(), "ping", fresh.ping()).await?;
        // Without its containerd it still answers, and fails whatever it is to run.
        if self.facts().has_containerd && !has_containerd(&self.call("version", fresh.version()).await?) {
            return Err(EngineError::Failed(
                "its containerd does not answer: start it (systemctl restart containerd)".into(),
            ));
        }
        Ok(())
    }

    async fn sees(&self, owner: &Owner, folder: &Path, file: &str) -> Result<bool, EngineError> {
        probe::sees(self, owner, folder, file).await
    }

    async fn ensure_image(
        &self,
        image: &ImageRef,
        config: &ImageConfig,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Image, ImageError> {
        images::ensure(self, image, config, progress).await
    }

    async fn image_bytes(&self, id: &str) -> Result<Option<u64>, EngineError> {
        images::bytes(self, id).await
    }

    async fn remove_image(&self, id: &str, names: &[ImageRef]) -> Result<(), EngineError> {
        images::remove_named(self, id, names).await
    }

    async fn create(&self, request: &ContainerRequest) -> Result<ContainerId, EngineError> {
        if request.network == Network::Bridge {
            networks::ensure(self, request).await?;
        }
        containers::create(self, request).await
    }

    async fn upload(&self, container: &ContainerId, archive: Archive) -> Result<(), EngineError> {
        containers::upload(self, container, archive).await
    }

    async fn attach(&self, container: &ContainerId) -> Result<Output, EngineError> {
        containers::attach(self, container).await
    }

    async fn start(&self, container: &ContainerId) -> Result<(), EngineError> {
        self.call("start container", self.docker.start_container(&container.0, None)).await
    }

    async fn wait(&self, container: &ContainerId) -> Result<(), EngineError> {
        containers::wait(self, container).await
    }

    async fn inspect(&self, container: &ContainerId) -> Result<Option<Exit>, EngineError> {
        containers::inspect(self, container).await
    }

    async fn saw_end(&self, container: &ContainerId) -> Result<(), EngineError> {
        containers::saw_end(self, container).await
    }

    async fn has_shell(&self, container: &ContainerId, image: &Image) -> Result<bool, EngineError> {
        containers::has_shell(self, container, image).await
    }

    async fn written(&self, container: &ContainerId) -> Result<Option<u64>, EngineError> {
        containers::written(self, container).await
    }

    async fn kill(&self, container: &ContainerId, signal: Signal) -> Result<(), EngineError> {
        containers::kill(self, container, signal).await
    }

    async fn remove(&self, owned: &Owned) -> Result<bool, EngineError> {
        let was_there = self.remove_one(owned).await?;
        if let Some(network) = networks::goes_with(owned, self.facts().dialect) {
            self.remove_one(&network).await?;
        }
        Ok(was_there)
    }

    async fn list_owned(&self, owner: &Owner) -> Result<Vec<Owned>, EngineError> {
        let labels = || label::owner(owner).map(|(name, value)| format!("{name}={value}")).to_vec();
        let filters = || Some(HashMap::from([("label".to_owned(), labels())]));
        let options =
            ListContainersOptions { all: true, filters: filters(), ..ListContainersOptions::default() };
        let containers = self.call("list containers", self.docker.list_containers(Some(options))).await?;
        let options = ListVolumesOptions { filters: filters() };
        let volumes = self.call("list volumes", self.docker.list_volumes(Some(options))).await?;
        let options = ListNetworksOptions { filters: filters() };
        let networks = self.call("list networks", self.docker.list_networks(Some(options))).await?;

        let owned = |kind, id: String, labels: &HashMap<String, String>| Owned {
            kind,
            id,
            attempt: labels.get(label::ATTEMPT).and_then(|attempt| attempt.parse().ok()),
        };
        let containers = containers.into_iter().filter_map(|container| {
            let owned = owned(OwnedKind::Container, container.id?, &container.labels.unwrap_or_default());
            let made = owned.attempt.map_or_else(|| probe::name(owner), container_name);
            // An image that was made of a container has its labels, and gives them to others.
            let names = container.names.unwrap_or_default();
            names.iter().any(|name| name.trim_start_matches('/') == made).then_some(owned)
        });
        let volumes = volumes.volumes.unwrap_or_default().into_iter();
        let volumes = volumes.map(|volume| owned(OwnedKind::Volume, volume.name, &volume.labels));
        let networks = networks.into_iter().filter_map(|network| {
            Some(owned(OwnedKind::Network, network.id?, &network.labels.unwrap_or_default()))
        });
        // Containers come first: what they use can't be removed before them.
        Ok(containers.chain(volumes).chain(networks).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_cant_do_is_told() {
        let good = SystemInfo {
            memory_limit: Some(true),
            swap_limit: Some(true),
            cpu_cfs_quota: Some(true),
            pids_limit: Some(true),
            security_options: Some(vec!["name=seccomp,profile=default".into(), "name=userns".into()]),
            ..SystemInfo::default()
        };
        assert_eq!(shortcomings(&good, Dialect::Docker), [""; 0]);
        assert!(shortcomings(&good, Dialect::Podman)[0].contains("nftables"));
        let told = |info: SystemInfo, word: &str| {
            let told = shortcomings(&info, Dialect::Docker);
            assert!(told.len() == 1 && told[0].contains(word), "{told:?}");
        };
        told(SystemInfo { pids_limit: Some(false), ..good.clone() }, "processes");
        told(SystemInfo { swap_limit: Some(false), ..good.clone() }, "swap");
        let secured = |options: &[&str]| {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            SystemInfo { security_options: Some(options), ..good.clone() }
        };
        told(secured(&["name=userns"]), "seccomp");
        told(secured(&["name=userns", "name=seccomp,profile=unconfined"]), "seccomp");
        told(secured(&["name=seccomp"]), "userns-remap");
    }
}
