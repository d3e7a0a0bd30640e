//! The images that this runner has pulled, and the bound on what they take together.
//!
//! Those used least recently go first. One that a build uses stays, and so does every image that was there before the
//! runner wanted it: whoever put it there may want it too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, mem,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use caisson_protocol::ImageRef;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::engine::{Engine, EngineError, Image};

/// The images that this runner has pulled.
#[derive(Debug)]
pub struct Images {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// By their ids: a name goes on to another image when its registry has a newer one, and leaves the older with none.
    pulled: BTreeMap<String, Pulled>,
    /// How many builds use an image, pulled or not, by its name and by its id.
    #[serde(skip)]
    in_use: BTreeMap<String, usize>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Pulled {
    /// Those by which it was pulled.
    names: BTreeSet<ImageRef>,
    /// When it was used last: how many uses of any there had been before.
    used: u64,
}

/// A build's use of an image, as long as it is held.
#[derive(Debug)]
pub struct Use<'a> {
    images: &'a Images,
    image: ImageRef,
    keys: Vec<String>,
    pulled: bool,
}

impl Images {
    /// Reads what earlier processes have pulled. Blocks.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn open(work_dir: &Path) -> io::Result<Self> {
        let file = work_dir.join("images.json");
        let known = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                // They are kept, as those of others are.
                warn!("{}: it is not known which images this runner has pulled: {error}", file.display());
                Known::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, known: Mutex::new(known) })
    }

    /// Begins to use an image, which is not removed meanwhile.
    pub fn begin_use(&self, image: &ImageRef) -> Use<'_> {
        let mut begun = Use { images: self, image: image.clone(), keys: Vec::new(), pulled: false };
        begun.hold(&mut self.known(), image.as_str());
        begun
    }

    /// Removes images until those that are left take at most `bytes_max`, and gives how many that were. An image
    /// counts whole, also what it shares with another.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn trim(&self, engine: &dyn Engine, bytes_max: u64) -> Result<usize, EngineError> {
        let mut sizes = Vec::new();
        for id in self.least_recently_used_first() {
            match engine.image_bytes(&id).await? {
                Some(bytes) => sizes.push((id, bytes)),
                // Someone else has removed it.
                None => self.forget(&id),
            }
        }
        let mut total: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
        let mut removed = 0;
        for (id, bytes) in sizes {
            if total <= bytes_max {
                break;
            }
            let Some(names) = self.unused(&id) else { continue };
            match engine.remove_image(&id, &names).await {
                Ok(()) => {
                    self.forget(&id);
                    total -= bytes;
                    removed += 1;
                }
                // A container that is not ours uses it.
                Err(EngineError::Busy(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn least_recently_used_first(&self) -> Vec<String> {
        let mut pulled: Vec<_> =
            self.known().pulled.iter().map(|(id, pulled)| (pulled.used, id.clone())).collect();
        pulled.sort();
        pulled.into_iter().map(|(_, id)| id).collect()
    }

    /// The names of an image that no build uses.
    fn unused(&self, id: &str) -> Option<Vec<ImageRef>> {
        let known = self.known();
        let names: Vec<_> = known.pulled.get(id)?.names.iter().cloned().collect();
        let is_used =
            names.iter().map(ImageRef::as_str).chain([id]).any(|key| known.in_use.contains_key(key));
        (!is_used).then_some(names)
    }

    fn forget(&self, id: &str) {
        let mut known = self.known();
        known.pulled.remove(id);
        self.write(&known);
    }

    /// What is not written down is not removed by the next process, which is no harm.
    fn write(&self, known: &Known) {
        let next = self.file.with_extension("next");
        let written = serde_json::to_vec(known).map_err(io::Error::other).and_then(|text| {
            fs::write(&next, text)?;
            fs::rename(&next, &self.file)
        });
        if let Err(error) = written {
            warn!("{}: {error}", self.file.display());
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Use<'_> {
    /// The image is there.
    pub fn found(&mut self, image: &Image) {
        self.pulled = image.pulled;
        let mut known = self.images.known();
        self.hold(&mut known, &image.id);
        for (_, other) in known.pulled.iter_mut().filter(|(id, _)| **id != image.id) {
            other.names.remove(&self.image);
        }
        if image.pulled {
            known.pulled.entry(image.id.clone()).or_default().names.insert(self.image.clone());
        }
        let latest = known.pulled.values().map(|pulled| pulled.used + 1).max().unwrap_or_default();
        if let Some(pulled) = known.pulled.get_mut(&image.id) {
            pulled.used = latest;
            self.images.write(&known);
        }
    }

    /// Whether the image was pulled for this use.
    #[must_use]
    pub fn has_pulled(&self) -> bool {
        self.pulled
    }

    fn hold(&mut self, known: &mut Known, key: &str) {
        *known.in_use.entry(key.to_owned()).or_default() += 1;
        self.keys.push(key.to_owned());
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let mut known = self.images.known();
        for key in mem::take(&mut self.keys) {
            if let Some(uses) = known.in_use.get_mut(&key) {
                *uses -= 1;
                if *uses == 0 {
                    known.in_use.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(images: &Images, name: &str, id: &str, pulled: bool) {
        let image = Image {
            id: id.to_owned(),
            digest: None,
            architecture: String::new(),
            path: String::new(),
            pulled,
        };
        images.begin_use(&name.parse().unwrap()).found(&image);
    }

    #[test]
    fn what_was_there_before_is_not_ours_and_what_is_ours_is_known_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let images = Images::open(home.path()).unwrap();
        for (name, pulled) in [("a", true), ("theirs", false), ("b", true), ("a", false)] {
            found(&images, name, &format!("id-of-{name}"), pulled);
        }
        drop(images);
        let images = Images::open(home.path()).unwrap();
        assert_eq!(images.least_recently_used_first(), ["id-of-b", "id-of-a"]);
    }

    #[test]
    fn an_image_whose_name_has_gone_on_to_another_is_known_without_it() {
        let home = tempfile::tempdir().unwrap();
        let images = Images::open(home.path()).unwrap();
        found(&images, "a", "older", true);
        found(&images, "a", "newer", true);
        assert_eq!(images.unused("older"), Some(vec![]));
        assert_eq!(images.unused("newer"), Some(vec!["a".parse().unwrap()]));
        let in_use = images.begin_use(&"a".parse().unwrap());
        assert_eq!((images.unused("older"), images.unused("newer")), (Some(vec![]), None));
        drop(in_use);
        assert!(images.unused("newer").is_some());
    }

    #[test]
    fn a_file_that_cant_be_read_makes_no_image_ours() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("images.json"), "{").unwrap();
        assert!(Images::open(home.path()).unwrap().least_recently_used_first().is_empty());
    }
}
