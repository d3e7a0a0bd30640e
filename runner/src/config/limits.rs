//! What a build's container may use: what its runner allows, or less where the build asks for less.

use std::num::NonZeroU32;

use caisson_protocol::{BuildLimits, Cpus, Network};
use caisson_settings::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// What a build's container may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory, swap included. Not limited where it is not set.
    pub memory: Option<ByteSize>,
    /// Processors, in parts of one; 0 for all there are.
    #[serde(deserialize_with = "processors")]
    pub cpus: f64,
    /// Processes and threads.
    pub pids: NonZeroU32,
    /// Open files of each process; 0 for what the engine gives. It can't give more than it was given itself.
    pub nofile: u32,
    /// Shared memory under `/dev/shm`.
    pub shm: ByteSize,
    /// What it may write, the workspace and its container together. It is killed soon after it has written more.
    pub disk: ByteSize,
}

fn processors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let cpus = f64::deserialize(deserializer)?;
    let fits = cpus == 0.0 || Cpus::try_from(cpus).is_ok();
    if fits { Ok(cpus) } else { Err(D::Error::custom("expected 0 for all there are, or from 0.01 to 1024")) }
}

impl Limits {
    /// The settings without which a build may take all that its host has.
    #[must_use]
    pub fn not_set(&self) -> Vec<&'static str> {
        let memory = self.memory.is_none().then_some("limits.memory");
        let cpus = (self.cpus == 0.0).then_some("limits.cpus");
        memory.into_iter().chain(cpus).collect()
    }

    /// These, or what a build asks for where that is less.
    #[must_use]
    pub fn lowered_to(&self, asked: &BuildLimits) -> Self {
        let cpus = asked.cpus.map(Cpus::get);
        let nofile = asked.nofile.map(|files| number(files.get()));
        Self {
            memory: self
                .memory
                .into_iter()
                .chain(asked.memory_bytes.map(|bytes| ByteSize(bytes.get())))
                .min(),
            cpus: cpus.filter(|cpus| self.cpus == 0.0 || *cpus < self.cpus).unwrap_or(self.cpus),
            pids: lower(self.pids, asked.pids.and_then(|pids| NonZeroU32::new(number(pids.get())))),
            nofile: if self.nofile == 0 { nofile.unwrap_or(0) } else { lower(self.nofile, nofile) },
            shm: lower(self.shm, asked.shm_bytes.map(|bytes| ByteSize(bytes.get()))),
            disk: lower(self.disk, asked.disk_bytes.map(|bytes| ByteSize(bytes.get()))),
        }
    }
}

fn lower<T: Ord>(allowed: T, asked: Option<T>) -> T {
    match asked {
        Some(asked) => allowed.min(asked),
        None => allowed,
    }
}

fn number(asked: u64) -> u32 {
    u32::try_from(asked).unwrap_or(u32::MAX)
}

/// What a build asks for, as its log tells it; nothing where it asks for nothing.
#[must_use]
pub fn in_words(asked: &BuildLimits, network: Network) -> Option<String> {
    let BuildLimits { memory_bytes, cpus, pids, nofile, shm_bytes, disk_bytes, log_bytes } = asked;
    let words = [
        memory_bytes.map(|bytes| format!("memory {}", ByteSize(bytes.get()))),
        cpus.map(|cpus| format!("cpus {}", cpus.get())),
        pids.map(|pids| format!("pids {}", pids.get())),
        nofile.map(|files| format!("nofile {}", files.get())),
        shm_bytes.map(|bytes| format!("shm {}", ByteSize(bytes.get()))),
        disk_bytes.map(|bytes| format!("disk {}", ByteSize(bytes.get()))),
        log_bytes.map(|bytes| format!("log {}", ByteSize(bytes.get()))),
        (network == Network::None).then(|| "no network".to_owned()),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    fn asked(limits: serde_json::Value) -> BuildLimits {
        serde_json::from_value(limits).unwrap()
    }

    #[test]
    fn a_build_that_asks_for_nothing_gets_what_its_runner_allows() {
        let allowed = Config::default().limits;
        assert_eq!(allowed.lowered_to(&BuildLimits::default()), allowed);
        assert_eq!(in_words(&BuildLimits::default(), Network::Bridge), None);
    }

    #[test]
    fn what_a_runner_does_not_limit_is_known() {
        let limits = Config::default().limits;
        assert_eq!(limits.not_set(), ["limits.memory", "limits.cpus"]);
        let limits = Limits { memory: Some(ByteSize::mib(1024)), ..limits };
        assert_eq!(limits.not_set(), ["limits.cpus"]);
        assert_eq!(Limits { cpus: 1.5, ..limits }.not_set(), [""; 0]);
    }

    #[test]
    fn a_build_gets_less_where_it_asks_for_less() {
        let all = json!({
            "memory_bytes": 64 << 20, "cpus": 0.5, "pids": 100, "nofile": 512, "shm_bytes": 1 << 20,
            "disk_bytes": 8 << 20, "log_bytes": 64 << 10,
        });
        let expected = Limits {
            memory: Some(ByteSize::mib(64)),
            cpus: 0.5,
            pids: NonZeroU32::new(100).unwrap(),
            nofile: 512,
            shm: ByteSize::mib(1),
            disk: ByteSize::mib(8),
        };
        assert_eq!(Config::default().limits.lowered_to(&asked(all.clone())), expected);
        let words =
            "memory 64MiB, cpus 0.5, pids 100, nofile 512, shm 1MiB, disk 8MiB, log 64KiB, no network";
        assert_eq!(in_words(&asked(all), Network::None).as_deref(), Some(words));
    }

    #[test]
    fn nobody_gets_more_by_asking_for_more() {
        let allowed = Limits {
            memory: Some(ByteSize::mib(32)),
            cpus: 0.25,
            pids: NonZeroU32::new(64).unwrap(),
            nofile: 256,
            shm: ByteSize::mib(1),
            disk: ByteSize::mib(16),
        };
        let more = json!({
            "memory_bytes": 1u64 << 40, "cpus": 64, "pids": 4_000_000, "nofile": 65_536, "shm_bytes": 1u64 << 40,
            "disk_bytes": 1u64 << 40,
        });
        assert_eq!(allowed.lowered_to(&asked(more)), allowed);
    }
}
