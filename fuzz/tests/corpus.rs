//! Every example, and what a fuzzer has found, once more.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails panics")]

use std::{collections::BTreeSet, fs, path::PathBuf};

use caisson_fuzz::TARGETS;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The examples of a target.
fn examples(target: &str) -> Vec<Vec<u8>> {
    let folder = corpus(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn s59_no_example_breaks_its_target() {
    for (name, target) in TARGETS {
        let examples = examples(name);
        assert!(examples.len() >= 3, "{name} has {} examples", examples.len());
        for example in examples {
            target(&example);
            target(&[]);
            // What is cut off anywhere, as by a connection that ends.
            for end in 0..example.len().min(512) {
                target(&example[..end]);
            }
        }
    }
}

#[test]
fn s59_examples_with_one_byte_changed_break_no_target() {
    for (name, target) in TARGETS {
        // Files are slow, and the fuzzer goes much further.
        let few = if ["settings", "log_file"].contains(&name) { 64 } else { 512 };
        for example in examples(name) {
            let mut changed = example.clone();
            for at in 0..example.len().min(few) {
                for byte in [0, b'"', b'\n', b'-', 0x7f, 0xff] {
                    changed[at] = byte;
                    target(&changed);
                }
                changed[at] = example[at];
            }
        }
    }
}

#[test]
fn every_folder_of_examples_has_a_target() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folders = fs::read_dir(corpus("")).unwrap();
    let found = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(known, found);
}
