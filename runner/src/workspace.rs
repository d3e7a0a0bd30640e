//! The workspace: the folder `tmp/<build id>` with the checkout, seen by one container only, gone afterwards.

mod archive;
mod removal;
mod transport;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use caisson_protocol::BuildId;

use crate::engine::{Engine, Owner};

pub use transport::{BindNeedsRoot, Transport};

use removal::remove_tree;

/// The folder of all workspaces.
#[derive(Debug, Clone)]
pub struct Workspaces {
    root: PathBuf,
}

impl Workspaces {
    /// Opens the folder of workspaces under `work_dir`, and makes it where there is none. Blocks.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(work_dir: &Path) -> io::Result<Self> {
        let root = work_dir.join("tmp");
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// The folder of all workspaces.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the workspace of a build is.
    #[must_use]
    pub fn path(&self, build: BuildId) -> PathBuf {
        self.root.join(build.to_string())
    }

    /// Makes an empty workspace, which nobody else on this host can enter.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn make(&self, build: BuildId) -> io::Result<PathBuf> {
        let path = self.path(build);
        blocking(move || {
            // What an earlier attempt could not remove must not be part of this one.
            remove_tree(&path)?;
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            Ok(path)
        })
        .await
    }

    /// Removes the workspace of a build, if there is one.
    ///
    /// # Errors
    /// When something in it can't be removed.
    pub async fn remove(&self, build: BuildId) -> io::Result<()> {
        let path = self.path(build);
        blocking(move || remove_tree(&path)).await
    }

    /// Whether the engine sees what the runner writes here.
    ///
    /// # Errors
    /// When the engine, or the disk, does not let that be found out.
    pub async fn are_seen(&self, engine: &dyn Engine, owner: &Owner) -> io::Result<bool> {
        let folder = self.root.join("probe");
        // A name that no other host has in this place by chance.
        let file = uuid::Uuid::new_v4().simple().to_string();
        let path = folder.join(&file);
        let made = folder.clone();
        blocking(move || {
            remove_tree(&made)?;
            fs::DirBuilder::new().mode(0o700).create(&made)?;
            fs::write(path, [])
        })
        .await?;
        let seen = engine.sees(owner, &folder, &file).await;
        blocking(move || remove_tree(&folder)).await?;
        seen.map_err(io::Error::other)
    }

    /// Every build that has a workspace. What bears no build's name is not ours and is passed over.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub async fn list(&self) -> io::Result<Vec<BuildId>> {
        let root = self.root.clone();
        blocking(move || {
            let names = fs::read_dir(root)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            Ok(names.filter_map(|name| name.parse().ok()).collect())
        })
        .await
    }
}

/// Runs what blocks where it can't hold up anything else.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_workspace_is_empty_private_and_goes_away() {
        let home = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::open(home.path()).unwrap();
        let build: BuildId = "019aac1e-7c00-7000-8000-000000000001".parse().unwrap();

        let path = workspaces.make(build).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir(path.join("read-only")).unwrap();
        fs::write(path.join("read-only/file"), "x").unwrap();
        fs::set_permissions(path.join("read-only"), fs::Permissions::from_mode(0o500)).unwrap();
        std::os::unix::fs::symlink("/etc", path.join("link")).unwrap();
        assert_eq!(workspaces.list().await.unwrap(), [build]);

        let path = workspaces.make(build).await.unwrap();
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
        workspaces.remove(build).await.unwrap();
        workspaces.remove(build).await.unwrap();
        assert_eq!(workspaces.list().await.unwrap(), []);
        assert!(Path::new("/etc/passwd").exists());
    }
}
