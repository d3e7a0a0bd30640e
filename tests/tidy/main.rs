//! What no compiler holds: that what is written about the sources is true of them.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a test that fails panics")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where sources are.
const ROOMS: [&str; 8] =
    ["coordinator", "fuzz", "logfile", "protocol", "runner", "settings", "simulation", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file, with its path from the root.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => walk(&path, found),
                Some(ending) if ending == "rs" => found.push(path),
                _ => {}
            }
        }
    }
    let mut paths = Vec::new();
    ROOMS.iter().for_each(|room| walk(&root().join(room), &mut paths));
    let named = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    paths.iter().map(|path| (named(path), fs::read_to_string(path).unwrap())).collect()
}

/// The names of all functions.
fn functions() -> BTreeSet<String> {
    let name = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
    let sources = sources();
    sources.iter().flat_map(|(_, text)| text.split("fn ").skip(1).map(name).collect::<Vec<_>>()).collect()
}

#[test]
fn each_row_of_the_threat_table_has_tests_that_exist_or_a_reason() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let functions = functions();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| S")).collect();
    assert_eq!(rows.len(), 60);
    for (row, number) in rows.into_iter().zip(1..) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, id, about, holds, shown, _] = cells[..] else { panic!("not four cells: {row}") };
        assert_eq!(id, format!("S{number:02}"), "in order, each once");
        let proofs: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        let reason = shown.strip_prefix("Not yet: ").is_some_and(|reason| !reason.is_empty());
        assert!(!about.is_empty() && (reason || (!proofs.is_empty() && !holds.is_empty())), "{row}");
        for proof in proofs {
            let exists = functions.contains(proof) || root().join(proof).is_file();
            assert!(exists, "{id}: there is no test or file {proof}");
        }
    }
}

#[test]
fn each_test_that_names_a_row_has_one_in_the_table() {
    let numbered = functions().into_iter().filter(|name| {
        let digits = name.strip_prefix('s').and_then(|rest| rest.split_once('_')).map(|(digits, _)| digits);
        digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let numbered: Vec<String> = numbered.collect();
    assert!(numbered.len() > 60, "{numbered:?}");
    for name in numbered {
        let number: u32 = name[1..3].parse().unwrap();
        assert!((1..=60).contains(&number), "{name} names no row");
    }
}

#[test]
fn s53_no_certificate_goes_unchecked() {
    // Put together, so that this file has none of them.
    let words = [
        ["danger_", "accept"],
        [".danger", "ous()"],
        ["certificate_", "check("],
        ["SslVerifyMode::", "NONE"],
    ];
    for (path, text) in sources() {
        for word in words.map(|halves| halves.concat()) {
            assert!(!text.contains(&word), "{path} has {word}");
        }
    }
}

#[test]
fn s58_unsafe_code_is_where_it_is_named() {
    let block = ["unsafe", " {"].concat();
    let of_its_own = |text: &str| text.contains(&block) || text.contains("(unsafe_code");
    let found = sources().into_iter().filter(|(_, text)| of_its_own(text));
    let unsafe_files: BTreeSet<String> = found.map(|(path, _)| path).collect();
    let named = ["fuzz/src/main.rs", "runner/src/checkout/isolation.rs", "tests/tidy/main.rs"];
    assert!(unsafe_files.iter().all(|path| named.contains(&path.as_str())), "{unsafe_files:?}");
}
