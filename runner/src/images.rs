//! The images that this runner has pulled, and the bound on what they take together.
//!
//! Those used least recently go first. One that a build uses stays, and so does every image that was there before the
//! runner wanted it: whoever put it there may want it too.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use caisson_protocol::ImageRef;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::engine::{Engine, EngineError};

/// The images that this runner has pulled.
#[derive(Debug)]
pub struct Images {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// When each was used last: how many uses of any there had been before.
    pulled: BTreeMap<ImageRef, u64>,
    /// How many builds use an image, pulled or not.
    #[serde(skip)]
    in_use: BTreeMap<ImageRef, usize>,
}

/// A build's use of an image, as long as it is held.
#[derive(Debug)]
pub struct Use<'a> {
    images: &'a Images,
    image: ImageRef,
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
        *self.known().in_use.entry(image.clone()).or_default() += 1;
        Use { images: self, image: image.clone(), pulled: false }
    }

    /// Removes images until those that are left take at most `bytes_max`, and gives how many that were. An image
    /// counts whole, also what it shares with another.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn trim(&self, engine: &dyn Engine, bytes_max: u64) -> Result<usize, EngineError> {
        let mut sizes = Vec::new();
        for image in self.least_recently_used_first() {
            match engine.image_bytes(&image).await? {
                Some(bytes) => sizes.push((image, bytes)),
                // Someone else has removed it.
                None => self.forget(&image),
            }
        }
        let mut total: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
        let mut removed = 0;
        for (image, bytes) in sizes {
            if total <= bytes_max {
                break;
            }
            if self.known().in_use.contains_key(&image) {
                continue;
            }
            match engine.remove_image(&image).await {
                Ok(()) => {
                    self.forget(&image);
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

    fn least_recently_used_first(&self) -> Vec<ImageRef> {
        let mut pulled: Vec<_> =
            self.known().pulled.iter().map(|(image, used)| (*used, image.clone())).collect();
        pulled.sort();
        pulled.into_iter().map(|(_, image)| image).collect()
    }

    fn forget(&self, image: &ImageRef) {
        let mut known = self.known();
        known.pulled.remove(image);
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
    /// The image is there; whether it was pulled for this use, and was not there before.
    pub fn found(&mut self, pulled: bool) {
        self.pulled = pulled;
        let mut known = self.images.known();
        if pulled || known.pulled.contains_key(&self.image) {
            let latest = known.pulled.values().max().map_or(0, |latest| latest + 1);
            known.pulled.insert(self.image.clone(), latest);
            self.images.write(&known);
        }
    }

    /// Whether the image was pulled for this use.
    #[must_use]
    pub fn has_pulled(&self) -> bool {
        self.pulled
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let mut known = self.images.known();
        if let Some(uses) = known.in_use.get_mut(&self.image) {
            *uses -= 1;
            if *uses == 0 {
                known.in_use.remove(&self.image);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> ImageRef {
        name.parse().unwrap()
    }

    #[test]
    fn what_was_there_before_is_not_ours_and_what_is_ours_is_known_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let images = Images::open(home.path()).unwrap();
        for (name, pulled) in [("a", true), ("theirs", false), ("b", true), ("a", false)] {
            images.begin_use(&image(name)).found(pulled);
        }
        drop(images);
        let images = Images::open(home.path()).unwrap();
        assert_eq!(images.least_recently_used_first(), [image("b"), image("a")]);
    }

    #[test]
    fn a_file_that_cant_be_read_makes_no_image_ours() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("images.json"), "{").unwrap();
        assert!(Images::open(home.path()).unwrap().least_recently_used_first().is_empty());
    }
}
