//! What a checkout's process can reach of the host's files: its mirrors and its workspace, and for reading what it takes
//! to find and to know a server. What a hostile pack may make libgit2 do ends there: the runner's credential, other
//! builds and the host's other files are out of its reach (Landlock, where the kernel has it), and root has no privileges
//! in it. What it can connect to is limited in [`super::sockets`].

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    thread,
};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::wire::Request;

/// What is asked of the kernel. One that has less enforces what it can.
const VERSION: ABI = ABI::V3;

/// What it takes to find a server, and to check who it is. Of the folders for certificates only the parts that hold no
/// private keys.
const READ: [&str; 22] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/ca-certificates",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/passwd",
    "/etc/ld.so.cache",
    "/run/systemd/resolve",
    "/run/nscd",
    "/dev/urandom",
];
/// Variables that name more of it.
const READ_VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "HOME"];

/// What root keeps of its privileges: repositories on this host may be others'.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// What else a hole in libgit2 would let a checkout do on this kernel.
pub(super) fn gap() -> Option<&'static str> {
    // What a kernel enforces is told by confining a thread, for good: so one that does nothing else.
    let confined = || Ok(rules()?.restrict_self()?.ruleset);
    let confined = thread::scope(|scope| scope.spawn(confined).join());
    match confined {
        Ok(Ok::<_, RulesetError>(status)) => gap_of(&status),
        // The checkouts fail, and say why.
        _ => None,
    }
}

fn gap_of(enforced: &RulesetStatus) -> Option<&'static str> {
    match enforced {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => Some(
            "empty whatever files the runner's user may write: this kernel's Landlock is older than Linux 6.2",
        ),
        RulesetStatus::NotEnforced => Some(
            "read and write whatever the runner's user may: this kernel has no Landlock, which takes Linux 5.13 and \
             `landlock` among its security modules (lsm=)",
        ),
    }
}

fn rules() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default().handle_access(AccessFs::from_all(VERSION))?.create()
}

/// Applies to the calling thread and those that it starts, for good.
///
/// # Errors
/// When a folder that the checkout needs is not there, or the kernel refuses.
pub(super) fn confine(request: &Request) -> Result<(), Box<dyn Error>> {
    let mut rules = rules()?;
    for path in [&request.workspace, &request.mirrors] {
        rules = rules.add_rule(PathBeneath::new(PathFd::new(path)?, AccessFs::from_all(VERSION)))?;
    }
    let named = READ_VARIABLES.iter().filter_map(env::var_os).map(PathBuf::from);
    // A repository on this host may have parts of itself anywhere; where it is built, its owner lets builds read files.
    let source = request.repository.is_file().then(|| PathBuf::from("/"));
    let readable =
        READ.iter().map(PathBuf::from).chain(named).chain(source).chain(request.ssh_key_file.clone());
    for path in readable {
        rules = readable_beneath(rules, &path)?;
    }
    rules.restrict_self()?;
    renounce()?;
    Ok(())
}

/// Gives up what root may do beyond files: it could load a module into the kernel, and be everywhere.
fn renounce() -> rustix::io::Result<()> {
    let had = capabilities(None)?;
    let kept = CapabilitySets {
        effective: had.effective & KEPT,
        permitted: had.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept)
}

/// What is not there needs no rule.
fn readable_beneath(rules: RulesetCreated, path: &Path) -> Result<RulesetCreated, Box<dyn Error>> {
    match PathFd::new(path) {
        Ok(opened) => Ok(rules.add_rule(PathBeneath::new(opened, AccessFs::from_read(VERSION)))?),
        Err(PathFdError::OpenCall { .. }) => Ok(rules),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind};

    use super::*;
    use crate::{
        checkout::{limits::Limits, targets::Targets},
        config::Config,
    };

    #[test]
    fn what_a_kernel_leaves_open_is_told() {
        assert_eq!(gap_of(&RulesetStatus::FullyEnforced), None);
        assert!(gap_of(&RulesetStatus::PartiallyEnforced).unwrap().contains("Linux 6.2"));
        assert!(gap_of(&RulesetStatus::NotEnforced).unwrap().contains("has no Landlock"));
    }

    #[test]
    fn s19_a_checkout_reaches_its_mirrors_and_its_workspace_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (mirrors, workspace, source) = (folder("mirrors"), folder("workspace"), folder("source"));
        let [credential, object] = [home.path().join("credential"), source.join("object")];
        fs::write(&credential, "secret").unwrap();
        fs::write(&object, "object").unwrap();
        let config = Config::default();
        let request = |repository: &str| Request {
            repository: repository.parse().unwrap(),
            commit: "main".parse().unwrap(),
            workspace: workspace.clone(),
            mirrors: mirrors.clone(),
            mirrors_bytes: 0,
            limits: Limits {
                stall_ms: 0,
                memory_bytes: 0,
                fetch_bytes: 0,
                checkout_bytes: 0,
                checkout_files: 0,
            },
            ssh_key_file: None,
            targets: Targets::new(&config.git, &config.coordinator_url),
        };
        let denied = |outcome: std::io::Result<()>| {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied);
        };
        let works_and_changes_nothing_else = || {
            for folder in [&mirrors, &workspace] {
                fs::write(folder.join("a"), "a").unwrap();
                fs::rename(folder.join("a"), folder.join("b")).unwrap();
            }
            denied(fs::write(&credential, ""));
            denied(fs::write(&object, ""));
            denied(fs::write(source.join("new"), ""));
            // As an example of what root may do elsewhere.
            denied(rustix::process::chroot("/").map_err(Into::into));
        };
        // A thread is confined for good, so each of the two has one of its own; they use the same folders in turn.
        thread::scope(|scope| {
            let remote = scope.spawn(|| {
                confine(&request("https://example.org/app")).unwrap();
                works_and_changes_nothing_else();
                denied(fs::read(&credential).map(drop));
                denied(fs::read_dir("/").map(drop));
                // Beside the certificates that everyone may have lie the keys that nobody may.
                denied(fs::read_dir("/etc/ssl").map(drop));
                denied(fs::read("/proc/self/environ").map(drop));
                denied(std::process::Command::new(&credential).spawn().map(drop));
            });
            remote.join().unwrap();
            scope.spawn(|| {
                confine(&request(&format!("file://{}", source.display()))).unwrap();
                works_and_changes_nothing_else();
                assert_eq!(fs::read_to_string(&object).unwrap(), "object");
            });
        });
    }
}
