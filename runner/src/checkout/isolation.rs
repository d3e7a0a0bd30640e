//! Keeps a checkout's process apart from the host: its git configuration, and more memory than it should have.

#![expect(unsafe_code, reason = "libgit2's global options can be set in no other way")]

use std::ffi::c_int;

use git2::ConfigLevel;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::limits::Limits;

/// How much address space a checkout may use beyond its memory: for the packs that libgit2 maps.
const ADDRESS_SPACE_BYTES_MORE: u64 = 4 * 1024 * 1024 * 1024;
/// How much of its packs libgit2 maps at once.
const MAPPED_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Applies to the whole process, which therefore does nothing but one checkout.
///
/// # Errors
/// When libgit2 or the system refuses.
pub(super) fn isolate(limits: &Limits) -> Result<(), Box<dyn std::error::Error>> {
    let limit = |resource, bytes: u64| {
        // Where the host allows less, it stays at that: root has given up the privilege to raise it.
        let bytes = getrlimit(resource).maximum.map_or(bytes, |allowed| bytes.min(allowed));
        setrlimit(resource, Rlimit { current: Some(bytes), maximum: Some(bytes) })
    };
    // Mapped files count as address space, and only what the process itself fills as data.
    limit(Resource::Data, limits.memory_bytes)?;
    limit(Resource::As, limits.memory_bytes.saturating_add(ADDRESS_SPACE_BYTES_MORE))?;
    limit(Resource::Core, 0)?;

    let stall_ms = c_int::try_from(limits.stall_ms).unwrap_or(c_int::MAX);
    // SAFETY: nothing else runs in this process yet, so nothing reads these options while they are set.
    unsafe {
        for level in [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData] {
            git2::opts::set_search_path(level, "")?;
        }
        // With only one of these two set, every fetch over http fails.
        git2::opts::set_server_connect_timeout_in_milliseconds(stall_ms)?;
        git2::opts::set_server_timeout_in_milliseconds(stall_ms)?;
        git2::opts::set_mwindow_mapped_limit(MAPPED_BYTES_MAX)?;
        // No repository's configuration or hooks are ever acted upon, so it does not matter whose it is.
        git2::opts::set_verify_owner_validation(false)?;
    }
    Ok(())
}
