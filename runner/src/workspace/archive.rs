//! A folder as a tar archive that is made while it is sent: no piece of it lies anywhere.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::engine::Archive;

/// How large a piece is, and how many of them may wait to be sent.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_WAITING_MAX: usize = 4;

/// The archive of a folder, which bears the name `prefix` in it. Everything belongs to root, as it would in a
/// container that had cloned by itself.
pub(super) fn of(folder: PathBuf, prefix: PathBuf) -> Archive {
    let (sender, mut receiver) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        let pieces = BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        if let Err(error) = write(&folder, &prefix, pieces) {
            // Whoever does not want the archive any more does not want to know.
            let _ = sender.blocking_send(Err(error));
        }
    });
    stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
}

/// Where the archive goes, a piece at a time.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map(|()| piece.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(folder: &Path, prefix: &Path, pieces: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(pieces);
    let mut folders = vec![(folder.to_owned(), prefix.to_owned())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), prefix.join(entry.file_name()));
            append(&mut archive, &path, &name)?;
            if entry.file_type()?.is_dir() {
                folders.push((path, name));
            }
        }
    }
    archive.into_inner()?.flush()
}

fn append(archive: &mut tar::Builder<impl Write>, path: &Path, name: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&metadata);
    header.set_uid(0);
    header.set_gid(0);
    if metadata.is_symlink() {
        let target = fs::read_link(path)?;
        let target = target.as_os_str().as_bytes();
        // To the byte: for git, another spelling would be a change.
        if header.set_link_name_literal(target).is_err() {
            archive.append_pax_extensions([("linkpath", target)])?;
        }
        archive.append_data(&mut header, name, io::empty())
    } else if metadata.is_dir() {
        archive.append_data(&mut header, name, io::empty())
    } else {
        // No more than was announced, should it grow meanwhile.
        archive.append_data(&mut header, name, File::open(path)?.take(metadata.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use futures_util::TryStreamExt;

    use super::*;

    async fn collect(archive: Archive) -> io::Result<Vec<u8>> {
        Ok(archive.try_collect::<Vec<Bytes>>().await?.concat())
    }

    #[tokio::test]
    async fn an_archive_has_everything_as_it_is_and_roots() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("workspace");
        let (deep, far) = ("d".repeat(90), "t".repeat(200));
        fs::create_dir_all(folder.join(&deep).join(&deep)).unwrap();
        fs::write(folder.join(&deep).join(&deep).join("large"), vec![7; 300_000]).unwrap();
        fs::write(folder.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("./a//../b", folder.join("link")).unwrap();
        symlink(&far, folder.join("far")).unwrap();

        let bytes = collect(of(folder, "w".into())).await.unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
                let name = entry.path().unwrap().display().to_string();
                let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
                (name, entry.size(), header.mode().unwrap() & 0o777, link)
            })
            .collect();
        found.sort();
        let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
        let expected = [
            format!("w/{deep}"),
            format!("w/{deep}/{deep}"),
            format!("w/{deep}/{deep}/large"),
            "w/far".into(),
            "w/link".into(),
            "w/run".into(),
        ];
        assert_eq!(names, expected);
        assert_eq!(found[2].1, 300_000);
        assert_eq!(found[3].3.as_deref(), Some(far.as_str()));
        assert_eq!(found[4].3.as_deref(), Some("./a//../b"));
        assert_eq!(found[5].2, 0o755);
    }

    #[tokio::test]
    async fn an_archive_that_cant_be_made_whole_ends_in_an_error() {
        let home = tempfile::tempdir().unwrap();
        assert!(collect(of(home.path().join("nowhere"), "w".into())).await.is_err());
    }
}
