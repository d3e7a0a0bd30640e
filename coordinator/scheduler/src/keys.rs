//! Idempotency keys: the same submission twice is one build.

use std::collections::{BTreeMap, VecDeque};

use caisson_protocol::BuildId;

use crate::{IdempotencyKey, RememberedKey};

/// How many keys are remembered, the latest ones. A client that repeats a submission does so within minutes; this
/// many fit in some ten megabytes.
pub(crate) const KEYS_MAX: usize = 100_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Keys {
    known: BTreeMap<String, (String, BuildId)>,
    order: VecDeque<String>,
}

impl Keys {
    /// The digest and the build that came with this key, if it was used.
    pub(crate) fn get(&self, key: &str) -> Option<(&str, BuildId)> {
        self.known.get(key).map(|(digest, build)| (digest.as_str(), *build))
    }

    pub(crate) fn remember(&mut self, key: IdempotencyKey, build: BuildId) {
        if self.order.len() == KEYS_MAX {
            self.order.pop_front().map(|oldest| self.known.remove(&oldest));
        }
        self.order.push_back(key.key.clone());
        self.known.insert(key.key, (key.digest, build));
    }
}

impl FromIterator<RememberedKey> for Keys {
    fn from_iter<T: IntoIterator<Item = RememberedKey>>(remembered: T) -> Self {
        let mut keys = Self::default();
        for RememberedKey { key, build } in remembered {
            keys.remember(key, build);
        }
        keys
    }
}
