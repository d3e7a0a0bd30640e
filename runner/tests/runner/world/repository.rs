//! Repositories on disk, made with git2.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use git2::{Oid, Signature};

/// What is under a name in a tree that is written by hand.
pub(crate) enum Entry<'a> {
    /// A file's content, or where a symbolic link leads.
    File(&'a str),
    Folder(&'a [(&'a str, &'a [u8], Entry<'a>)]),
}

/// A repository with one branch, `main`.
pub(crate) struct Repository {
    pub(crate) path: PathBuf,
    git: git2::Repository,
}

impl Repository {
    pub(crate) fn make(path: &Path, files: &[(&str, &str)]) -> Self {
        let mut options = git2::RepositoryInitOptions::new();
        options.initial_head("main").external_template(false);
        let git = git2::Repository::init_opts(path, &options).unwrap();
        let repository = Self { path: path.to_owned(), git };
        repository.commit(files);
        repository
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// Adds a commit to `main`, and gives its SHA.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        let parent = self.git.head().ok().map(|head| head.peel_to_commit().unwrap());
        self.commit_onto(parent.as_ref().map(git2::Commit::id), Some("HEAD"), files)
    }

    /// Adds a commit of files that are there.
    pub(crate) fn commit_as_it_is(&self, names: &[&str]) {
        let mut index = self.git.index().unwrap();
        for name in names {
            index.add_path(Path::new(name)).unwrap();
        }
        index.write().unwrap();
        self.commit(&[]);
    }

    /// Adds a commit in which a file can be executed.
    pub(crate) fn make_executable(&self, name: &str) {
        fs::set_permissions(self.path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        self.commit_as_it_is(&[name]);
    }

    /// Adds a commit that no branch or tag reaches.
    pub(crate) fn commit_unreachable(&self, files: &[(&str, &str)]) -> String {
        self.commit_onto(None, None, files)
    }

    /// Its server gives also commits that no branch or tag reaches, as the large ones do.
    pub(crate) fn gives_any_commit(&self) {
        self.git.config().unwrap().set_bool("uploadpack.allowAnySHA1InWant", true).unwrap();
    }

    /// Adds a commit with a branch of its own that a few hundred bytes make ten thousand million files.
    pub(crate) fn branch_with_bomb(&self, branch: &str) {
        let (mut id, mut mode) = (self.git.blob(b"boom").unwrap(), 0o100_644);
        for _ in 0..10 {
            let mut builder = self.git.treebuilder(None).unwrap();
            for number in 0..10 {
                builder.insert(format!("{number}"), id, mode).unwrap();
            }
            (id, mode) = (builder.write().unwrap(), 0o040_000);
        }
        let author = Signature::now("A User", "user@example.org").unwrap();
        let tree = self.git.find_tree(id).unwrap();
        let reference = format!("refs/heads/{branch}");
        self.git.commit(Some(&reference), &author, &author, "A bomb", &tree, &[]).unwrap();
    }

    /// Adds a branch of which a few kilobytes come over the wire, and one file is larger than a hundred megabytes: a
    /// difference that copies the whole of another file again and again.
    pub(crate) fn branch_with_delta_bomb(&self, branch: &str) {
        const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runner/world/delta_bomb.py");
        let write = "python3 \"$0\" | git -C \"$1\" index-pack --stdin > /dev/null";
        let written = Command::new("sh").args(["-c", write, SCRIPT]).arg(&self.path).output().unwrap();
        let said = String::from_utf8(written.stderr).unwrap();
        assert!(written.status.success(), "{said}");
        let (base, whole) = said.trim().split_once(' ').expect("it says what they are called");

        // An index of packs that was read before has not got it.
        let git = git2::Repository::open(&self.path).unwrap();
        let mut builder = git.treebuilder(None).unwrap();
        for (name, id) in [("base", base), ("whole", whole)] {
            builder.insert(name, id.parse().unwrap(), 0o100_644).unwrap();
        }
        let tree = git.find_tree(builder.write().unwrap()).unwrap();
        let author = Signature::now("A User", "user@example.org").unwrap();
        let reference = format!("refs/heads/{branch}");
        git.commit(Some(&reference), &author, &author, "A bomb", &tree, &[]).unwrap();
    }

    /// Adds a branch whose commit has one folder, written as it is given: `mode name` and what is in it.
    pub(crate) fn branch_with_tree(&self, branch: &str, entries: &[(&str, &[u8], Entry<'_>)]) {
        let tree = self.tree(entries);
        let author = Signature::now("A User", "user@example.org").unwrap();
        let tree = self.git.find_tree(tree).unwrap();
        let reference = format!("refs/heads/{branch}");
        self.git.commit(Some(&reference), &author, &author, "As no git would write it", &tree, &[]).unwrap();
    }

    /// No library writes names that lead elsewhere, so this is written by hand.
    fn tree(&self, entries: &[(&str, &[u8], Entry<'_>)]) -> Oid {
        let mut bytes = Vec::new();
        for (mode, name, entry) in entries {
            let id = match entry {
                Entry::File(content) => self.git.blob(content.as_bytes()).unwrap(),
                Entry::Folder(entries) => self.tree(entries),
            };
            bytes.extend_from_slice(&[mode.as_bytes(), b" ", name, b"\0", id.as_bytes()].concat());
        }
        self.git.odb().unwrap().write(git2::ObjectType::Tree, &bytes).unwrap()
    }

    fn commit_onto(&self, parent: Option<Oid>, reference: Option<&str>, files: &[(&str, &str)]) -> String {
        let mut index = self.git.index().unwrap();
        for (name, content) in files {
            let file = self.path.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
            index.add_path(Path::new(name)).unwrap();
        }
        index.write().unwrap();
        let tree = self.git.find_tree(index.write_tree().unwrap()).unwrap();
        let author = Signature::now("A User", "user@example.org").unwrap();
        let parent = parent.map(|parent| self.git.find_commit(parent).unwrap());
        let parents: Vec<_> = parent.iter().collect();
        self.git.commit(reference, &author, &author, "A change", &tree, &parents).unwrap().to_string()
    }

    /// A commit with a submodule that is another repository on this machine.
    pub(crate) fn submodule(&self, name: &str, of: &Self) {
        let declared = format!("[submodule \"{name}\"]\n\tpath = {name}\n\turl = {}\n", of.url());
        fs::write(self.path.join(".gitmodules"), declared).unwrap();
        let mut index = self.git.index().unwrap();
        index.add_path(Path::new(".gitmodules")).unwrap();
        index.write().unwrap();
        let files = self.git.find_tree(index.write_tree().unwrap()).unwrap();
        let mut builder = self.git.treebuilder(Some(&files)).unwrap();
        builder.insert(name, of.head().parse().unwrap(), 0o160_000).unwrap();
        let tree = self.git.find_tree(builder.write().unwrap()).unwrap();
        let author = Signature::now("A User", "user@example.org").unwrap();
        let parent = self.git.head().unwrap().peel_to_commit().unwrap();
        self.git.commit(Some("HEAD"), &author, &author, "A submodule", &tree, &[&parent]).unwrap();
    }

    pub(crate) fn head(&self) -> String {
        self.git.head().unwrap().target().unwrap().to_string()
    }

    pub(crate) fn branch(&self, name: &str) {
        let head = self.git.head().unwrap().peel_to_commit().unwrap();
        self.git.branch(name, &head, true).unwrap();
    }

    pub(crate) fn annotated_tag(&self, name: &str) {
        let head = self.git.head().unwrap().peel(git2::ObjectType::Commit).unwrap();
        let tagger = Signature::now("A User", "user@example.org").unwrap();
        self.git.tag(name, &head, &tagger, "A release", false).unwrap();
    }
    /// What was at one branch is at another, and so is `HEAD`, if it was there.
    pub(crate) fn rename_branch(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|branch| format!("refs/heads/{branch}"));
        let mut branch = self.git.find_reference(&from).unwrap();
        let at = branch.target().unwrap();
        branch.delete().unwrap();
        self.git.reference(&to, at, false, "renamed").unwrap();
        if self.git.find_reference("HEAD").unwrap().symbolic_target().unwrap() == Some(&from) {
            self.git.set_head(&to).unwrap();
        }
    }
}
