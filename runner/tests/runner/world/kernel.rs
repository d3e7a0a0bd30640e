//! A kernel that lacks something.

use std::{collections::BTreeMap, env, thread};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// What `start` starts finds a kernel that knows nothing of Landlock.
pub(crate) fn without_landlock<T: Send>(start: impl FnOnce() -> T + Send) -> T {
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let calls = BTreeMap::from([(libc::SYS_landlock_create_ruleset, Vec::new())]);
    let architecture = TargetArch::try_from(env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, unknown, architecture).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    // For good, and for what it starts: hence in a thread of its own.
    let start = move || {
        apply_filter(&filter).unwrap();
        start()
    };
    thread::scope(|scope| scope.spawn(start).join().unwrap())
}
