//! Commitments to data: the same for the same data and key, and for nothing else.

use onnx_unlearn::provenance::commitment::{CommitmentKey, Files};
use std::fs;

#[test]
fn data_and_key_make_the_commitment() {
    let folder = crate::common::temporary();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a"), "data").expect("written");
    fs::write(path("b"), "date").expect("written");
    let one = CommitmentKey::generate().expect("a key");
    let commit = |key: &CommitmentKey, name| key.commit(&Files::One(path(name))).expect("a commitment");
    assert_ne!(commit(&one, "a"), commit(&one, "b"));
    assert_ne!(commit(&one, "a"), commit(&CommitmentKey::generate().expect("a key"), "a"));
    one.write(&path("key")).expect("written");
    let again = CommitmentKey::read(&path("key")).expect("read");
    assert_eq!(commit(&one, "a"), commit(&again, "a"));
}

#[test]
fn a_folder_is_its_files_and_their_paths() {
    let folder = crate::common::temporary();
    let key = CommitmentKey::generate().expect("a key");
    let commit = || key.commit(&Files::of_folder(folder.path()).expect("files")).expect("a commitment");
    fs::create_dir(folder.path().join("cat")).expect("made");
    fs::write(folder.path().join("cat/1.png"), "picture").expect("written");
    let one = commit();
    assert_eq!(commit(), one);
    fs::rename(folder.path().join("cat/1.png"), folder.path().join("cat/2.png")).expect("renamed");
    assert_ne!(commit(), one);
}

#[test]
fn what_is_no_key_is_refused() {
    let folder = crate::common::temporary();
    let path = folder.path().join("key");
    fs::write(&path, "0011\n").expect("written");
    let error = CommitmentKey::read(&path).err().expect("too short").to_string();
    assert!(error.contains("64 hex digits") && !error.contains("0011"), "{error}");
}
