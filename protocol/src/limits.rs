//! What a build asks to be held to. It only ever takes from what its runner allows: nothing here gives a build more.

use serde::{Deserialize, Serialize};

/// The largest size that can be asked for, in bytes: 1 PiB.
const BYTES_MAX: u64 = 1 << 50;
/// The most processors that can be asked for, in thousandths.
const CPUS_MILLIS_MAX: f64 = 1024.0 * 1000.0;
/// The least, in thousandths: engines give no smaller share.
const CPUS_MILLIS_MIN: f64 = 10.0;

/// What a build is held to, where that is less than its runner allows. The least values are what a container takes to
/// begin at all; one below them was most likely meant in another unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BuildLimits {
    /// Memory, swap included, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>, minimum = 16_777_216, example = 536_870_912))]
    pub memory_bytes: Option<Limit<{ 16 << 20 }, BYTES_MAX>>,
    /// Processors, in parts of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<f64>, minimum = 0.01, example = 1.5))]
    pub cpus: Option<Cpus>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>, minimum = 16, example = 512))]
    pub pids: Option<Limit<16, 4_194_304>>,
    /// Open files of each process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>, minimum = 64, maximum = 65_536, example = 1024))]
    pub nofile: Option<Limit<64, 65_536>>,
    /// Shared memory under `/dev/shm`, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>, minimum = 65_536, example = 67_108_864))]
    pub shm_bytes: Option<Limit<{ 64 << 10 }, BYTES_MAX>>,
    /// What it may write, the workspace and its container together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>, minimum = 1_048_576, example = 1_073_741_824))]
    pub disk_bytes: Option<Limit<{ 1 << 20 }, BYTES_MAX>>,
    /// The log of each attempt, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>, minimum = 65_536, example = 16_777_216))]
    pub log_bytes: Option<Limit<{ 64 << 10 }, BYTES_MAX>>,
}

impl BuildLimits {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a build's container can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The world, but no other build.
    #[default]
    Bridge,
    /// Nothing but itself.
    None,
}

impl Network {
    /// The narrower of two.
    #[must_use]
    pub fn narrowed_to(self, asked: Self) -> Self {
        if self == Self::None { self } else { asked }
    }

    /// Whether nothing narrower is asked for than what there is anyway.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        *self == Self::Bridge
    }
}

/// Why a limit is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A number out of range.
    #[error("not between {min} and {max}")]
    OutOfRange {
        /// The least that can be asked for.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A share of processors that none can be.
    #[error("not between 0.01 and 1024 processors")]
    Cpus,
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Limit<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Limit<MIN, MAX> {
    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Limit<MIN, MAX> {
    type Error = LimitError;

    fn try_from(number: u64) -> Result<Self, LimitError> {
        let fits = (MIN..=MAX).contains(&number);
        if fits { Ok(Self(number)) } else { Err(LimitError::OutOfRange { min: MIN, max: MAX }) }
    }
}

impl<const MIN: u64, const MAX: u64> From<Limit<MIN, MAX>> for u64 {
    fn from(limit: Limit<MIN, MAX>) -> Self {
        limit.0
    }
}

/// Processors, in thousandths of one: from a hundredth to 1024 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Cpus(u32);

impl Cpus {
    /// The number of processors.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl TryFrom<f64> for Cpus {
    type Error = LimitError;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked before"
    )]
    fn try_from(cpus: f64) -> Result<Self, LimitError> {
        let millis = (cpus * 1000.0).round();
        let fits = (CPUS_MILLIS_MIN..=CPUS_MILLIS_MAX).contains(&millis);
        if fits { Ok(Self(millis as u32)) } else { Err(LimitError::Cpus) }
    }
}

impl From<Cpus> for f64 {
    fn from(cpus: Cpus) -> Self {
        cpus.get()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_for_reads_back_as_it_was_written() {
        let text = json!({ "memory_bytes": 536_870_912, "cpus": 1.5, "pids": 100 });
        let limits: BuildLimits = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(limits.cpus.map(Cpus::get), Some(1.5));
        assert_eq!(serde_json::to_value(limits).unwrap(), text);
        assert!(!limits.is_empty() && BuildLimits::default().is_empty());
    }

    #[test]
    fn what_no_container_could_begin_with_is_refused() {
        let refused = [
            json!({ "memory_bytes": 512 }),
            json!({ "memory_bytes": -1 }),
            json!({ "memory_bytes": 1.5 }),
            json!({ "memory_bytes": "512MiB" }),
            json!({ "pids": 1 }),
            json!({ "nofile": 1_000_000 }),
            json!({ "shm_bytes": 0 }),
            json!({ "disk_bytes": 100 }),
            json!({ "log_bytes": u64::MAX }),
            json!({ "cpus": 0 }),
            json!({ "cpus": 0.004 }),
            json!({ "cpus": 1e300 }),
            json!({ "privileged": 1 }),
        ];
        for limits in refused {
            assert!(serde_json::from_value::<BuildLimits>(limits.clone()).is_err(), "{limits} was taken");
        }
    }

    #[test]
    fn a_network_is_only_ever_narrowed() {
        use Network::{Bridge, None};
        let narrowed = [Bridge, None].map(|allowed| [Bridge, None].map(|asked| allowed.narrowed_to(asked)));
        assert_eq!(narrowed, [[Bridge, None], [None, None]]);
    }
}
