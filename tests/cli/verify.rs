//! `verify`: yes, no or undecided, with the exit code to match.

use crate::common::{
    fixture, model,
    program::{Forget, Ran, run},
};
use onnx_unlearn::{
    data::Seeded,
    onnx::wire::{Storage, layout},
    provenance::verify::{Answer, verify as check},
};
use std::{fs, path::Path, sync::LazyLock};

/// One result that all tests here look at.
fn stamped() -> &'static Forget {
    static RESULT: LazyLock<Forget> = LazyLock::new(|| {
        let forget = Forget::new(model("fashion-mnist")).flag("--keep-failed");
        forget.run().exits(1);
        forget
    });
    &RESULT
}

fn verify(model: &Path, more: &[&str]) -> Ran {
    run(["verify", model.to_str().expect("UTF-8")].iter().chain(more))
}

fn source() -> String {
    model("fashion-mnist").display().to_string()
}

#[test]
fn a_result_is_what_its_stamp_says() {
    let ran = verify(&stamped().result(), &[]).exits(0);
    assert_eq!(ran.stderr, "");
    assert!(ran.stdout.ends_with("model.onnx: yes (ok)\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("origin not authenticated"), "{}", ran.stdout);

    let ran = verify(&stamped().result(), &["--source", &source()]).exits(0);
    for name in
        ["model", "stamp", "digest.weights", "digest.graph", "lineage.source", "lineage.changes", "lineage.declared"]
    {
        let line = ran.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
        assert!(line.is_some_and(|line| line.trim_start().starts_with("pass")), "{name} in\n{}", ran.stdout);
    }
}

#[test]
fn json_says_the_same() {
    let ran = verify(&stamped().result(), &["--source", &source(), "--json"]).exits(0);
    let json = ran.json();
    assert_eq!((json["answer"].as_str(), json["reason"].as_str()), (Some("yes"), Some("ok")));
    assert_eq!(json["checks"].as_array().map(Vec::len), Some(14));
}

#[test]
fn another_source_is_a_no() {
    let other = model("fashion-mnist-bn").display().to_string();
    let ran = verify(&stamped().result(), &["--source", &other]).exits(1);
    assert!(ran.stdout.contains("FAIL  lineage.source"), "{}", ran.stdout);
    assert!(ran.stdout.contains("is not the source that the stamp names"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_told_is_undecided() {
    let plain = verify(&model("fashion-mnist"), &["--json"]);
    assert_ne!(plain.code, Some(0), "a model without a stamp is never a yes");
    for (path, word) in [("no/such/model.onnx", "No such file"), ("fixtures/README.md", "fixtures/README.md")] {
        let ran = verify(Path::new(path), &[]).exits(2);
        assert!(ran.stdout.contains(word) && ran.stdout.contains("undecided"), "{}", ran.stdout);
    }
    let ran = verify(&stamped().result(), &["--source", "no/such/model.onnx"]).exits(2);
    assert!(ran.stdout.contains("UNDECIDED  lineage.source"), "{}", ran.stdout);
}

#[test]
fn a_report_that_does_not_fit_is_a_no() {
    let folder = crate::common::temporary();
    let path = folder.path().join("model.onnx");
    fs::copy(stamped().result(), &path).expect("copied");
    let mut report = stamped().report();
    report["trained"].as_array_mut().expect("a list").pop();
    fs::write(folder.path().join("unlearn-report.json"), report.to_string()).expect("written");
    let ran = verify(&path, &["--source", &source()]).exits(1);
    assert!(ran.stdout.contains("changed but not declared"), "{}", ran.stdout);
}

#[test]
fn a_flipped_bit_in_weights_graph_or_stamp_is_never_a_yes() {
    let bytes = fs::read(stamped().result()).expect("readable");
    let places = layout(&bytes).expect("a model");
    let mut spots: Vec<usize> = Vec::new();
    let mut random = Seeded::new(3, "flips");
    for tensor in &places.tensors {
        if let Storage::Inline(ranges) = &tensor.storage {
            spots.extend(ranges.iter().map(|r| r.start + random.below(r.len() as u64) as usize));
        }
    }
    for attribute in ["kernel_shape", "strides", "pads", "dilations", "group"] {
        let name = attribute.as_bytes();
        let at = bytes.windows(name.len()).position(|w| w == name).expect("the fixture has convolutions");
        // The name itself, and the last byte of the first number that follows it.
        spots.extend([at, at + name.len() + 1]);
    }
    for entry in &places.metadata {
        let own = entry.key.starts_with("dev.onnx-unlearn.");
        spots
            .extend((0..20).filter(|_| own).map(|_| entry.span.start + random.below(entry.span.len() as u64) as usize));
    }
    assert!(spots.len() > 60, "{} places", spots.len());
    let folder = crate::common::temporary();
    let path = folder.path().join("model.onnx");
    for &at in &spots {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << random.below(8);
        fs::write(&path, &damaged).expect("written");
        let verdict = check(&path, None);
        assert_ne!(verdict.answer, Answer::Yes, "byte {at}: {:?}", verdict.checks);
    }
    // And the program's exit code on one of each.
    let weight = spots[0];
    let stamp = places.metadata.last().expect("stamped").span.end - 10;
    for at in [weight, stamp] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("written");
        verify(&path, &[]).exits(1);
    }
}

#[test]
fn the_stamps_of_other_versions_stay_verifiable() {
    run(["verify".as_ref(), fixture("stamps/stamped-v1.onnx").as_os_str()]).exits(0);
}
