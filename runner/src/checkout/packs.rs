//! Keeps a mirror's objects in few files, since each build copies every one of them.
//!
//! A pack of objects that were written one by one is made without looking for similar ones: libgit2 takes minutes to
//! find in a large repository what saves some megabytes once.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use git2::{Oid, Repository};
use rustix::{fs::OFlags, io::Errno};

/// How many small files a mirror may consist of before they become one. Each fetch adds a pack.
const SMALL_FILES_MAX: usize = 16;
/// What is worth being written again so that there are fewer files.
const SMALL_PACK_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Beyond this many objects git itself would have packed them.
const LOOSE_OBJECTS_MAX: usize = 100_000;

/// The files that hold a git folder's objects.
#[derive(Debug, Default)]
struct Objects {
    /// Each with its index, the endings left out.
    packs: Vec<PathBuf>,
    loose: Vec<(Oid, PathBuf)>,
}

/// Where a repository on this host keeps what git knows: the folder itself, or the one in a working copy.
pub(super) fn git_folder(repository: &Path) -> PathBuf {
    let nested = repository.join(".git");
    if nested.is_dir() { nested } else { repository.to_owned() }
}

/// Fills an empty mirror from the git folder of a repository on this host. What can't be taken over is left to the fetch.
///
/// libgit2 fetches from a path by making one pack of everything, some fifty times slower than copying.
pub(super) fn seed(mirror: &Repository, source: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let objects = Objects::of(source)?;
    copy_packs(&objects.packs, mirror.path(), &mut |_| {})?;
    if let Some(folder) = source.join("objects").to_str().filter(|_| !objects.loose.is_empty()) {
        mirror.odb()?.add_disk_alternate(folder)?;
        pack(mirror, objects.loose.iter().map(|(id, _)| *id))?;
    }
    Ok(())
}

/// Copies every object of a mirror to another git folder. `each` is told of every pack with the number of them all.
pub(super) fn copy(mirror: &Path, to: &Path, each: &mut dyn FnMut(usize)) -> io::Result<()> {
    let objects = Objects::of(mirror)?;
    copy_packs(&objects.packs, to, each)?;
    for (_, path) in objects.loose {
        let names = path.strip_prefix(mirror).map_err(io::Error::other)?;
        fs::create_dir_all(to.join(names).with_file_name(""))?;
        fs::copy(&path, to.join(names))?;
    }
    Ok(())
}

/// Makes one pack of a mirror's loose objects and small packs, where there are many. Returns whether it did; the
/// mirror has to be opened again then.
pub(super) fn consolidate(mirror: &Repository) -> Result<bool, Box<dyn std::error::Error>> {
    let objects = Objects::of(mirror.path())?;
    let small = |pack: &&PathBuf| {
        fs::metadata(pack.with_extension("pack")).is_ok_and(|pack| pack.len() <= SMALL_PACK_BYTES_MAX)
    };
    let small: Vec<&PathBuf> = objects.packs.iter().filter(small).collect();
    if small.len() + objects.loose.len() <= SMALL_FILES_MAX {
        return Ok(false);
    }
    let mut ids: Vec<Oid> = objects.loose.iter().map(|(id, _)| *id).collect();
    for pack in &small {
        ids.extend(read_index(&pack.with_extension("idx"))?);
    }
    let name = pack(mirror, ids.into_iter())?;
    for (_, path) in &objects.loose {
        fs::remove_file(path)?;
    }
    for pack in small {
        // A pack bears the name of what is in it, so the new one may have been there before.
        if !name.as_ref().is_some_and(|name| pack.to_string_lossy().ends_with(name)) {
            fs::remove_file(pack.with_extension("idx"))?;
            fs::remove_file(pack.with_extension("pack"))?;
        }
    }
    Ok(true)
}

/// What all files under a folder take, in bytes. What vanishes meanwhile takes nothing.
pub(super) fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size_of(&entry.path()),
        _ => entry.metadata().map_or(0, |file| file.len()),
    };
    entries.flatten().map(size).sum()
}

impl Objects {
    /// Everything that is whole: an index comes after its pack, and what is still being written has another name.
    fn of(git_folder: &Path) -> io::Result<Self> {
        let root = git_folder.join("objects");
        if root.join("info/alternates").exists() {
            return Err(io::Error::other("the repository borrows objects from another"));
        }
        let mut objects = Self::default();
        for folder in fs::read_dir(&root)? {
            let folder = folder?;
            let Ok(name) = folder.file_name().into_string() else { continue };
            let prefix = name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if name == "pack" {
                objects.list_packs(&folder.path())?;
            } else if prefix {
                objects.list_loose(&name, &folder.path())?;
            }
        }
        objects.packs.sort();
        Ok(objects)
    }

    fn list_packs(&mut self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let index = path.extension().is_some_and(|extension| extension == "idx");
            if index && path.with_extension("pack").is_file() {
                self.packs.push(path.with_extension(""));
            }
        }
        Ok(())
    }

    fn list_loose(&mut self, prefix: &str, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let id = entry.file_name().into_string().map(|rest| format!("{prefix}{rest}"));
            let Some(id) = id.ok().and_then(|id| Oid::from_str(&id).ok()) else { continue };
            self.loose.push((id, entry.path()));
            if self.loose.len() > LOOSE_OBJECTS_MAX {
                return Err(io::Error::other("the repository has too many loose objects: run git gc in it"));
            }
        }
        Ok(())
    }
}

fn copy_packs(packs: &[PathBuf], git_folder: &Path, each: &mut dyn FnMut(usize)) -> io::Result<()> {
    let to = git_folder.join("objects/pack");
    fs::create_dir_all(&to)?;
    for pack in packs {
        for ending in ["pack", "idx"] {
            let from = pack.with_extension(ending);
            copy_file(&from, &to.join(from.file_name().unwrap_or_default()))?;
        }
        each(packs.len());
    }
    Ok(())
}

/// Copies a file that is one. Behind a link in a repository on this host could be any other file that the runner may read,
/// and behind a pipe nothing, for ever; neither is taken over.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let as_it_is = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = as_it_is.bits().cast_signed();
    let mut source = match File::options().read(true).custom_flags(flags).open(from) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(()),
        source => source?,
    };
    if source.metadata()?.is_file() {
        let mut copy = File::options().write(true).create_new(true).mode(0o444).open(to)?;
        io::copy(&mut source, &mut copy)?;
    }
    Ok(())
}

/// Writes a pack into a mirror, and tells its name without ending.
fn pack(
    mirror: &Repository,
    ids: impl Iterator<Item = Oid>,
) -> Result<Option<String>, Box<dyn std::error::Error>> {
    // libgit2 reads from this key how large an object may be for which it looks for similar ones.
    mirror.config()?.set_i64("pack.deltaCacheSize", 1)?;
    let mut builder = mirror.packbuilder()?;
    for id in ids {
        builder.insert_object(id, None)?;
    }
    builder.write(&mirror.path().join("objects/pack"), 0o444)?;
    Ok(builder.name()?.map(|name| format!("pack-{name}")))
}

/// The objects in a pack, from its index of version 2: a header, 256 counts of which the last is the sum, and the
/// names in order.
fn read_index(path: &Path) -> io::Result<Vec<Oid>> {
    const HEADER: [u8; 8] = *b"\xfftOc\0\0\0\x02";
    const NAMES: usize = 8 + 256 * 4;
    const NAME_BYTES: usize = 20;
    let broken = || io::Error::other(format!("{} is not an index of a pack", path.display()));
    let index = fs::read(path)?;
    let sum = index.get(NAMES - 4..NAMES).and_then(|sum| sum.try_into().ok()).map(u32::from_be_bytes);
    let count = sum.filter(|_| index.starts_with(&HEADER)).ok_or_else(broken)? as usize;
    let names = index.get(NAMES..NAMES + count * NAME_BYTES).ok_or_else(broken)?;
    names.chunks(NAME_BYTES).map(|name| Oid::from_bytes(name).map_err(io::Error::other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(path: &Path, objects: usize) -> Repository {
        let repository = Repository::init_bare(path).unwrap();
        for number in 0..objects {
            repository.blob(format!("object {number}").as_bytes()).unwrap();
        }
        repository
    }

    #[test]
    fn a_seeded_mirror_is_one_pack_whatever_the_source_is_made_of() {
        let home = tempfile::tempdir().unwrap();
        let source = repository(&home.path().join("source"), 300);
        let ids: Vec<Oid> = Objects::of(source.path()).unwrap().loose.iter().map(|(id, _)| *id).collect();
        let mirror = repository(&home.path().join("mirror"), 0);
        seed(&mirror, source.path()).unwrap();

        let mirror = Repository::open_bare(home.path().join("mirror")).unwrap();
        let objects = Objects::of(mirror.path()).unwrap();
        assert_eq!((objects.packs.len(), objects.loose.len()), (1, 0));
        for id in ids {
            assert_eq!(mirror.find_blob(id).unwrap().content(), source.find_blob(id).unwrap().content());
        }
    }

    #[test]
    fn many_small_packs_become_one_and_nothing_is_lost() {
        let home = tempfile::tempdir().unwrap();
        let mirror = repository(&home.path().join("mirror"), 0);
        let mut ids = Vec::new();
        for number in 0..SMALL_FILES_MAX {
            let id = mirror.blob(format!("packed {number}").as_bytes()).unwrap();
            pack(&mirror, [id].into_iter()).unwrap();
            fs::remove_file(Objects::of(mirror.path()).unwrap().loose.remove(0).1).unwrap();
            ids.push(id);
        }
        assert!(!consolidate(&mirror).unwrap());
        ids.push(mirror.blob(b"loose").unwrap());
        assert!(consolidate(&mirror).unwrap());

        let mirror = Repository::open_bare(home.path().join("mirror")).unwrap();
        let objects = Objects::of(mirror.path()).unwrap();
        assert_eq!((objects.packs.len(), objects.loose.len()), (1, 0));
        for id in ids {
            mirror.find_blob(id).unwrap();
        }
        assert!(!consolidate(&mirror).unwrap());
    }

    #[test]
    fn a_damaged_index_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let index = home.path().join("pack.idx");
        for bytes in [&b""[..], b"damaged", b"\xfftOc\0\0\0\x02"] {
            fs::write(&index, bytes).unwrap();
            assert!(read_index(&index).is_err());
        }
        let mut lying = b"\xfftOc\0\0\0\x02".to_vec();
        lying.resize(8 + 1020, 0);
        lying.extend_from_slice(&[0xff; 4]);
        fs::write(&index, lying).unwrap();
        assert!(read_index(&index).is_err());
    }
}
