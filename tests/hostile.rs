//! Damaged model files: never a panic, never a hang, never more than an error.

mod common;

use common::{fixture, model};
use onnx_unlearn::{
    data::Seeded,
    onnx,
    provenance::verify::{Answer, verify},
    train::Network,
};
use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Damaged copies of each model.
const COPIES: usize = 150;
/// A copy takes milliseconds, a model seconds; a minute is a hang, on a busy machine too.
const HANG: Duration = Duration::from_mins(1);

/// Reads, takes apart and verifies a file; gives whether each went well.
fn probe(path: &Path) -> [bool; 3] {
    let read = onnx::read(path);
    let network = read.as_ref().ok().map(|model| Network::new(model, None).and_then(|n| n.weights().map(|_| ())));
    let answer = verify(path, None).answer;
    [read.is_ok(), network.is_some_and(|n| n.is_ok()), answer == Answer::Yes]
}

/// Cuts, flips, overwrites, repeats or takes out bytes.
fn damage(bytes: &[u8], random: &mut Seeded) -> Vec<u8> {
    let n = bytes.len();
    // Most of a model is weights, where a flipped bit is a number; what describes the graph lies at both ends.
    let place = |random: &mut Seeded| match random.below(3) {
        0 => random.below(n as u64) as usize,
        1 => random.below(4096.min(n) as u64) as usize,
        _ => n - 1 - random.below(4096.min(n) as u64) as usize,
    };
    let mut damaged = bytes.to_vec();
    match random.below(5) {
        0 => damaged.truncate(place(random)),
        1 => {
            let at = place(random);
            damaged[at] ^= 1 << random.below(8);
        }
        2 => {
            for _ in 0..=random.below(8) {
                let at = place(random);
                damaged[at] = random.bits() as u8;
            }
        }
        3 => {
            let at = place(random);
            let end = n.min(at + 1 + random.below(64) as usize);
            damaged.drain(at..end);
        }
        _ => {
            let (from, to) = (place(random), place(random));
            let piece = bytes[from..n.min(from + 1 + random.below(64) as usize)].to_vec();
            damaged.splice(to..to, piece);
        }
    }
    damaged
}

/// Works through all copies of one model; panics are answers too.
fn work(source: &Path) -> Vec<Result<[bool; 3], String>> {
    let folder = common::temporary();
    let name = source.file_name().expect("a file").to_string_lossy().into_owned();
    let path = folder.path().join(&name);
    for data in ["fashion-mnist-external.data", "external.data"] {
        let beside = source.with_file_name(data);
        if beside.exists() {
            fs::copy(&beside, folder.path().join(data)).expect("copied");
        }
    }
    let bytes = fs::read(source).expect("the fixture is there");
    let mut random = Seeded::new(1, &name);
    let one = |copy: usize| {
        fs::write(&path, damage(&bytes, &mut random)).expect("written");
        catch_unwind(|| probe(&path)).map_err(|_| format!("{name}, copy {copy}: a panic"))
    };
    (0..COPIES).map(one).collect()
}

fn models() -> Vec<PathBuf> {
    let names = ["", "-bn", "-constants", "-external", "-float-data", "-functions", "-inputs", "-opset11", "-softmax"];
    let mut all: Vec<PathBuf> = names.iter().map(|name| model(&format!("fashion-mnist{name}"))).collect();
    let stamps = ["stamped-v1", "nested", "functions", "dtypes", "constants", "external"];
    all.extend(stamps.iter().map(|name| fixture("stamps").join(name).with_extension("onnx")));
    all
}

#[test]
fn damaged_models_are_answered() {
    let (send, receive) = mpsc::channel();
    let all = models();
    let expected = all.len();
    thread::spawn(move || {
        for source in all {
            if send.send(work(&source)).is_err() {
                return;
            }
        }
    });
    let mut answers = Vec::new();
    for _ in 0..expected {
        answers.extend(receive.recv_timeout(HANG).expect("an answer within a minute for each model"));
    }
    let panics: Vec<&String> = answers.iter().filter_map(|a| a.as_ref().err()).collect();
    assert!(panics.is_empty(), "{panics:?}");
    // The damage is neither always fatal nor always harmless, so all stages were reached.
    let count = |stage: usize| answers.iter().filter(|a| matches!(a, Ok(stages) if stages[stage])).count();
    let (read, ready) = (count(0), count(1));
    assert!(read > COPIES && ready > COPIES && read < answers.len() - COPIES, "{read} read, {ready} ready");
}

#[test]
fn every_cut_of_a_small_model_is_answered() {
    let folder = common::temporary();
    let path = folder.path().join("cut.onnx");
    for name in ["matmul", "stamped-v1", "nested"] {
        let bytes = fs::read(fixture("stamps").join(name).with_extension("onnx")).expect("the fixture is there");
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).expect("written");
            let [_, _, yes] = probe(&path);
            assert!(!yes, "{name} cut to {length} bytes is no model that its stamp speaks of");
        }
    }
}
