//! What a checkout's process can connect to: servers in the network, and nothing on this host that listens at a path.
//! Landlock does not cover that, and who may use the engine's socket, as the runner may, is root on the host (seccomp).

use std::env;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// What it takes to ask for a name, to choose among its addresses, and to speak to a server there.
const FAMILIES: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// What an x86-64 kernel that also runs programs with short pointers (x32) adds to a call's number. There is no call of
/// such a number elsewhere.
const X32: libc::c_long = 0x4000_0000;

/// Applies to the calling thread and those that it starts, for good. An ssh agent listens at a path: where one is
/// needed, so is everything else that listens at one in reach.
///
/// # Errors
/// When the kernel has no such filters, or the architecture is one for which we can't write any.
pub(super) fn limit(agent_needed: bool) -> Result<(), Error> {
    let families = FAMILIES.into_iter().chain(agent_needed.then_some(libc::AF_UNIX));
    apply_filter(&filter(families)?)
}

/// What calls are refused. Of another architecture than ours every call ends the process.
fn filter(families: impl Iterator<Item = libc::c_int>) -> Result<BpfProgram, BackendError> {
    let other = families.map(|family| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family.unsigned_abs().into())
    });
    let of_another_family = SeccompRule::new(other.collect::<Result<_, _>>()?)?;
    let refused = [
        (libc::SYS_socket, vec![of_another_family]),
        (libc::SYS_socketpair, Vec::new()),
        // Opens sockets and connects them as well, unseen by a filter.
        (libc::SYS_io_uring_setup, Vec::new()),
    ];
    let in_both_ways =
        refused.into_iter().flat_map(|(call, rules)| [(call, rules.clone()), (call | X32, rules)]);
    SeccompFilter::new(
        in_both_ways.collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES.unsigned_abs()),
        TargetArch::try_from(env::consts::ARCH)?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{TcpListener, TcpStream, ToSocketAddrs},
        os::unix::net::{UnixDatagram, UnixListener, UnixStream},
        path::Path,
        thread,
    };

    use super::*;

    /// Limits a thread of its own, since that is for good.
    fn limited(agent_needed: bool, tries: impl FnOnce() + Send) {
        thread::scope(|scope| {
            scope.spawn(move || {
                limit(agent_needed).unwrap();
                tries();
            });
        });
    }

    fn denied<T: std::fmt::Debug>(outcome: io::Result<T>) {
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    fn reaches_the_network(server: &TcpListener) {
        let port = server.local_addr().unwrap().port();
        let names: Vec<_> = ("localhost", port).to_socket_addrs().unwrap().collect();
        assert!(names.iter().any(|address| TcpStream::connect(address).is_ok()), "{names:?}");
    }

    #[test]
    fn s19_a_checkout_connects_to_servers_and_to_nothing_that_listens_at_a_path() {
        let home = tempfile::tempdir().unwrap();
        let path: &Path = &home.path().join("engine.sock");
        let (_engine, server) =
            (UnixListener::bind(path).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        limited(false, || {
            denied(UnixStream::connect(path));
            denied(UnixStream::pair());
            denied(UnixDatagram::unbound());
            reaches_the_network(&server);
            // What it starts is held to the same.
            thread::scope(|scope| _ = scope.spawn(|| denied(UnixStream::connect(path))));
        });
        limited(true, || {
            UnixStream::connect(path).unwrap();
            reaches_the_network(&server);
        });
    }
}
