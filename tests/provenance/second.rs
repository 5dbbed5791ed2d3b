//! The digests beside those of a second implementation, which was written from the specification's text.

use crate::common::fixture;
use onnx_unlearn::provenance::{digest::digest_file, verify::verify};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Every model among the fixtures.
fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            models(&path, found);
        } else if path.extension().is_some_and(|end| end == "onnx") {
            found.push(path);
        }
    }
}

#[test]
fn a_second_implementation_says_the_same_of_every_fixture() {
    let mut paths = Vec::new();
    models(&fixture(""), &mut paths);
    paths.sort();
    assert!(paths.len() > 80, "{} models", paths.len());
    let output = Command::new("python3").arg("tests/second/onnx_content_v1.py").args(&paths).output().expect("python3");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(text.lines().count(), paths.len(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut refused = 0;
    for (path, line) in paths.iter().zip(text.lines()) {
        let theirs: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        let shown = path.display();
        let Ok(ours) = digest_file(path) else {
            assert!(theirs["refused"].is_string(), "{shown} is refused here, not there: {line}");
            refused += 1;
            continue;
        };
        for (key, digest) in
            [("sha256", ours.file), ("weights", ours.weights), ("graph", ours.graph), ("model", ours.model)]
        {
            assert_eq!(theirs[key], digest.to_string(), "{shown}: {key}, {line}");
        }
        let verdict = verify(path, None);
        let expected = match verdict.reason {
            "stamp.missing" => "absent",
            reason => reason,
        };
        assert_eq!(theirs["stamp"], expected, "{shown}");
    }
    assert!(refused < paths.len() / 10, "{refused} of {} are refused", paths.len());
}
