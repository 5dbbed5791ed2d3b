//! Every trap of importing has a tiny file in `fixtures/traps`, and here is what becomes of it: which tensors are trained
//! and why the others are not, that a run changes those and nothing else, or with which words the file is refused.

mod harness;
mod network;
mod operators;
mod refused;
mod weights;

#[path = "../common/mod.rs"]
mod common;

use std::{collections::BTreeSet, fs};

/// A fixture without a test, or without its line in the list of fixtures, is a mistake.
#[test]
fn every_fixture_is_tested_and_described() {
    let tests = [
        include_str!("network.rs"),
        include_str!("operators.rs"),
        include_str!("refused.rs"),
        include_str!("weights.rs"),
    ]
    .concat();
    let readme = fs::read_to_string("fixtures/README.md").expect("readable");
    let files = common::program::names("fixtures/traps".as_ref());
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.strip_suffix(".onnx")).collect();
    assert_eq!(names.len(), files.len(), "models only: {files:?}");
    for name in &names {
        assert!(tests.contains(&format!("\"{name}\"")), "{name} has no test");
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in fixtures/README.md");
    }
    let described = readme.split("\n| `").filter_map(|row| row.split_once("` |")).map(|(name, _)| name);
    let traps: BTreeSet<&str> = described.filter(|name| !name.contains(['.', '/'])).collect();
    assert_eq!(traps, names, "the list holds what is there");
}
