//! One network in every form a file can have, and a run that forgets for real: what it comes to is the same in all of
//! them, to the last bit where the form leaves the arithmetic alone, and within a stated bound where it does not.

use super::batch::{frozen, node, reshape};
use crate::common::{
    fixture, model,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{
    graph::{Attr, Graph, Node},
    onnx,
    tensor::{DType, Tensor},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

/// What a run came to: accuracies on the 1,000 held-out images, and the trained tensors of the finished file.
struct Outcome {
    forgotten: f64,
    retained: f64,
    weights: BTreeMap<String, Tensor>,
}

impl Outcome {
    fn types(&self) -> BTreeSet<String> {
        self.weights.values().map(|t| t.dtype().to_string()).collect()
    }
}

/// Forgets Trouser with settings as of the demonstration, on a quarter of its retain sample and all held-out images.
fn outcome(source: &Path) -> Outcome {
    let forget = Forget::new(source)
        .set("--forget", "1")
        .set("--retain", fixture("data/fashion-mnist-retain.npz"))
        .set("--eval", fixture("data/fashion-mnist-eval.npz"))
        .set("--per-class", "120")
        .set("--batch-size", "64")
        .set("--noise-images", "32")
        .set("--noise-steps", "20")
        .set("--noise-samples", "600")
        .set("--impair-lr", "0.001")
        .set("--max-retain-drop", "0.05");
    let forget = forget.set("--check-atol", "0.02").set("--check-rtol", "0.02");
    let forget = forget.flag("--keep-failed").flag("--allow-unchecked");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}{}", ran.stdout, ran.stderr);
    let result = forget.result();
    run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
    let report = forget.report();
    let classes = report["measured"]["after_repair"]["classes"].as_array().expect("a list").clone();
    let share = |pick: &dyn Fn(usize) -> bool| {
        let sum = |field: &str| -> f64 {
            let picked = classes.iter().enumerate().filter(|(c, _)| pick(*c));
            picked.filter_map(|(_, class)| class[field].as_f64()).sum()
        };
        sum("correct") / sum("total")
    };
    let (before, after) = (onnx::read(source).expect("a model"), onnx::read(&result).expect("a model"));
    let trained = report["trained"].as_array().expect("a list").iter().filter_map(|t| t["name"].as_str());
    let weights = trained.map(|name| {
        let (old, new) = (&before.graph.constants[name], &after.graph.constants[name]);
        assert_eq!(old.dtype(), new.dtype(), "{name} keeps its type");
        assert!(old != new, "{name} was trained");
        (name.to_owned(), Tensor::clone(new))
    });
    Outcome { forgotten: share(&|c| c == 1), retained: share(&|c| c != 1), weights: weights.collect() }
}

/// The plain file: float32 in `raw_data`, batch left open. The others are held against it.
fn plain() -> &'static Outcome {
    static OUTCOME: LazyLock<Outcome> = LazyLock::new(|| {
        let outcome = outcome(&model("fashion-mnist"));
        let (forgotten, retained) = (outcome.forgotten, outcome.retained);
        assert!(forgotten <= 0.05 && retained >= 0.85, "the run forgets: {forgotten}, {retained}");
        outcome
    });
    &OUTCOME
}

/// Where weights are stored, and what batch the file declares, changes no operation of a step: all weights are equal.
#[test]
fn other_storage_and_a_freed_batch_give_the_same_weights() {
    let folder = temporary();
    let one = folder.path().join("one.onnx");
    frozen(&one, 1, |graph, from, to| vec![reshape(graph, 1, from, to)]);
    let stored = ["external", "constants", "float-data", "inputs"];
    let files = stored.map(|form| (form, model(&format!("fashion-mnist-{form}"))));
    for (form, path) in files.into_iter().chain([("batch of 1", one)]) {
        assert!(outcome(&path).weights == plain().weights, "{form}");
    }
}

/// Where numbers are rounded otherwise, weights differ, and the accuracies are close.
#[test]
fn other_types_and_a_fixed_batch_forget_as_well() {
    let folder = temporary();
    let [half, bfloat, fixed] = ["half", "bfloat", "fixed"].map(|name| folder.path().join(name).with_extension("onnx"));
    in_float16(&half);
    weights_in_bfloat16(&bfloat);
    frozen(&fixed, 16, scrambling);
    for (form, path, bound, types) in [
        // Inputs, weights and scores have 11 bits: an image between two classes may tip.
        ("float16", half, 0.01, &["float16"][..]),
        // Weights have 8 bits, from the start and again when they are written; a point for either.
        ("bfloat16", bfloat, 0.02, &["bfloat16"]),
        // The source itself is less accurate, and what a step moves by less than half a quantum is lost in the end.
        ("QDQ", model("fashion-mnist-qdq"), 0.03, &["int8", "int32"]),
        // The same float32 sums, four parts of 16 images instead of 64 at once: rounding grows over 44 steps of Adam.
        ("fixed batch", fixed, 0.01, &["float32"]),
    ] {
        let found = outcome(&path);
        let (a, b, expected) = (found.forgotten, found.retained, plain().retained);
        assert!(a <= 0.05 && (b - expected).abs() <= bound, "{form}: {a}, {b}; float32: {expected}");
        assert_eq!(found.types(), types.iter().map(ToString::to_string).collect(), "{form}");
        assert!(found.weights != plain().weights, "{form}: a file that is the plain one shows nothing");
    }
}

/// The fixture with every float in float16, input and scores too.
fn in_float16(path: &Path) {
    let mut graph = source();
    for tensor in graph.constants.values_mut().filter(|t| t.dtype().is_float()) {
        *tensor = Arc::new(Tensor::from_f32s(DType::F16, tensor.shape(), tensor.to_f32s()));
    }
    for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        port.dtype = Some(DType::F16);
    }
    fs::write(path, onnx::export(&graph)).expect("written");
}

/// The fixture with its weights in bfloat16, each behind a Cast: ONNX Runtime computes nothing in this type on the CPU.
fn weights_in_bfloat16(path: &Path) {
    let mut graph = source();
    let mut casts: Vec<Node> = Vec::new();
    let floats = graph.constants.iter_mut().filter(|(_, t)| t.dtype().is_float());
    for (name, tensor) in floats {
        *tensor = Arc::new(Tensor::from_f32s(DType::BF16, tensor.shape(), tensor.to_f32s()));
        let mut cast = node("Cast", &[name], &format!("{name}/float"));
        cast.attrs.insert("to".into(), Attr::Int(1));
        casts.push(cast);
    }
    for input in graph.nodes.iter_mut().flat_map(|n| &mut n.inputs) {
        if let Some(cast) = casts.iter().find(|cast| cast.inputs[0] == *input) {
            input.clone_from(&cast.outputs[0]);
        }
    }
    graph.nodes.splice(0..0, casts);
    fs::write(path, onnx::export(&graph)).expect("written");
}

/// A flat head whose Reshape has the batch last: freed along its first axis it mixes images, so that it is not freed.
fn scrambling(graph: &mut Graph, from: &str, to: &str) -> Vec<Node> {
    graph.constants.insert("columns".into(), Arc::new(Tensor::ints(&[256, 16])));
    vec![
        reshape(graph, 16, from, "rows"),
        node("Transpose", &["rows"], "turned"),
        node("Reshape", &["turned", "columns"], "same"),
        node("Transpose", &["same"], to),
    ]
}

fn source() -> Graph {
    onnx::read(&model("fashion-mnist")).expect("a model").graph
}
