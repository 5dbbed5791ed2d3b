//! `digest`: the same model has the same digests however its file is laid out.

use crate::common::{
    model,
    program::{Ran, run},
};

fn digest(name: &str, more: &[&str]) -> Ran {
    run(["digest", model(name).to_str().expect("UTF-8")].iter().chain(more)).exits(0)
}

#[test]
fn digests_are_printed_line_by_line() {
    let ran = digest("fashion-mnist", &[]);
    assert_eq!(ran.stderr, "");
    let mut lines = ran.stdout.lines();
    for name in ["file", "weights", "graph", "model"] {
        let words: Vec<&str> = lines.next().expect("a line").split_whitespace().collect();
        assert_eq!(words[0], name);
        let digest = words[1].rsplit(':').next().expect("a digest");
        assert_eq!(digest.len(), 64, "{}", words[1]);
        assert!(digest.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}");
    }
    assert!(lines.all(|line| line.starts_with("tensor   ")), "{}", ran.stdout);
    assert!(ran.stdout.contains(" float32 [16, 1, 3, 3]\n"), "{}", ran.stdout);
}

#[test]
fn the_file_digest_is_that_of_its_bytes() {
    use sha2::Digest;
    let bytes = std::fs::read(model("fashion-mnist")).expect("readable");
    let expected = hex::encode(sha2::Sha256::digest(bytes));
    let json = digest("fashion-mnist", &["--json"]).json();
    assert!(json["file"].as_str().is_some_and(|d| d.ends_with(&expected)), "{}", json["file"]);
}

#[test]
fn weights_have_one_digest_in_every_layout() {
    let of = |name: &str| digest(name, &["--json"]).json();
    let plain = of("fashion-mnist");
    for name in ["fashion-mnist-external", "fashion-mnist-float-data"] {
        let other = of(name);
        assert_eq!(other["weights"], plain["weights"], "{name}");
        assert_ne!(other["file"], plain["file"], "{name}");
    }
    assert_ne!(of("fashion-mnist-bn")["weights"], plain["weights"]);
}

#[test]
fn a_file_without_a_digest_says_why() {
    run(["digest", "no/such/model.onnx"]).fails(&["no/such/model.onnx", "No such file"]);
    run(["digest", "fixtures/README.md"]).fails(&["fixtures/README.md: no digest"]);
}
