//! The builds that wait, in the order of their submission.

use std::collections::BTreeMap;

use caisson_protocol::BuildId;

/// A FIFO by submission: a build that comes back stands where it stood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Queue(BTreeMap<u64, BuildId>);

impl Queue {
    pub(crate) fn insert(&mut self, number: u64, build: BuildId) {
        self.0.insert(number, build);
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.0.remove(&number);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The builds, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = BuildId> {
        self.0.values().copied()
    }

    /// How many builds stand before this one.
    pub(crate) fn ahead_of(&self, number: u64) -> usize {
        self.0.range(..number).count()
    }
}
