//! Keeps a checkout's process apart from the host: its git configuration, and more memory than it should have.

#![expect(unsafe_code, reason = "libgit2's global options can be set in no other way")]

use std::ffi::c_int;

use git2::ConfigLevel;
use rustix::process::{Resource, Rlimit, setrlimit};

/// How much address space a checkout may use: a repository of some gigabytes fits, a pack bomb does not.
const ADDRESS_SPACE_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// How much of its packs libgit2 maps at once.
const MAPPED_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Applies to the whole process, which therefore does nothing but one checkout.
///
/// # Errors
/// When libgit2 or the system refuses.
pub(super) fn isolate(stall_ms: u64) -> Result<(), Box<dyn std::error::Error>> {
    let limit = Rlimit { current: Some(ADDRESS_SPACE_BYTES_MAX), maximum: Some(ADDRESS_SPACE_BYTES_MAX) };
    setrlimit(Resource::As, limit)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;

    let stall_ms = c_int::try_from(stall_ms).unwrap_or(c_int::MAX);
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
