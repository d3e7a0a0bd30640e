//! The fuzzer's program: one for all targets. `CAISSON_FUZZ_TARGET` names the one that it is to try.

#![no_main]
#![allow(
    missing_docs,
    unsafe_code,
    reason = "the macro makes the function that the fuzzer's own `main` calls"
)]

use std::{process, sync::OnceLock};

use caisson_fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(chosen)(bytes));

fn chosen() -> Target {
    let name = std::env::var("CAISSON_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => *target,
        // There is nobody to return an error to.
        None => process::exit(2),
    }
}
