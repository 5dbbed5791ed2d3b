//! No rule without a case.

use onnx_unlearn::ops::{self, Flow};
use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_rule_is_compared_with_differences() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gradients");
    let mut sources = String::new();
    for entry in fs::read_dir(folder).expect("the folder of the gradient tests") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "rs") {
            sources.push_str(&fs::read_to_string(path).expect("a test source"));
        }
    }
    let missing: Vec<&str> = ops::records()
        .filter(|op| op.inputs.iter().any(|flow| matches!(flow, Flow::Vjp(_))))
        .map(|op| op.name)
        .filter(|name| !sources.contains(&format!("\"{name}\"")))
        .collect();
    assert!(missing.is_empty(), "operators with a rule but without a case in tests/gradients: {}", missing.join(", "));
}

#[test]
fn every_operator_has_one_record() {
    let mut seen = BTreeSet::new();
    let twice: Vec<&str> = ops::records().filter(|op| !seen.insert((op.domain, op.name))).map(|op| op.name).collect();
    assert!(twice.is_empty(), "operators with two records: {}", twice.join(", "));
}

#[test]
fn the_documented_example_is_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let page = read("docs/adding-an-operator.md");
    let code = read("src/ops/softmax.rs") + &read("tests/gradients/softmax.rs");
    let blocks: Vec<&str> =
        page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().trim()).collect();
    assert_eq!(blocks.len(), 3, "a record, a rule and a test line");
    for block in blocks {
        assert!(code.contains(block), "docs/adding-an-operator.md shows code that is not there:\n{block}");
    }
}
