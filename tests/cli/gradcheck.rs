//! `gradcheck`: the gradient graph of a file against central differences.

use crate::common::{
    fixture, model, models,
    program::{Ran, program, run},
    temporary,
};
use onnx_unlearn::{
    graph::{Builder, Value},
    onnx::export,
    tensor::{DType, Data, Tensor},
};
use std::{ffi::OsString, fs, path::Path, sync::Arc};

/// Two samples and one thread, so that the test is quick.
fn gradcheck(path: &Path, more: &[&str]) -> Ran {
    let quick = ["--samples=2", "--threads=1"].into_iter().chain(more.iter().copied());
    run([OsString::from("gradcheck"), path.into()].into_iter().chain(quick.map(OsString::from)))
}

#[test]
fn every_fixture_passes() {
    let mut seen = 0;
    for entry in fs::read_dir(fixture("models")).expect("the fixtures") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "onnx") || path.ends_with("fashion-mnist-qdq.onnx") {
            continue;
        }
        seen += 1;
        let json = gradcheck(&path, &["--json", "--quiet"]).exits(0).json();
        assert_eq!(json["answer"], "yes", "{}: {json:#}", path.display());
        let nodes = json["nodes"].as_array().expect("a list");
        assert!(nodes.len() > 30 && nodes.iter().all(|n| n["outcome"] == "agrees"), "{}: {json:#}", path.display());
        let whole = &json["end_to_end"];
        assert_eq!((whole["arithmetic"].as_str(), whole["outcome"].as_str()), (Some("float64"), Some("agrees")));
        for part in ["weights", "input"] {
            assert!(whole[part]["median_error"].as_f64().is_some_and(|e| e < 1e-5), "{}: {whole:#}", path.display());
        }
    }
    assert!(seen >= 8, "{seen} models");
}

#[test]
fn quantizers_have_no_differences_and_nothing_is_claimed() {
    let json = gradcheck(&model("fashion-mnist-qdq"), &["--json", "--quiet"]).exits(2).json();
    assert_eq!(json["answer"], "undecided");
    for node in json["nodes"].as_array().expect("a list") {
        let quantizer = node["operator"].as_str().is_some_and(|op| op.ends_with("eLinear"));
        let outcome = node["outcome"].as_str();
        assert!(outcome == Some("agrees") || (quantizer && outcome == Some("not_comparable")), "{node}");
    }
}

#[test]
fn the_text_says_what_was_compared() {
    let ran = gradcheck(&model("fashion-mnist-bn"), &["--seed=7"]).exits(0);
    for line in [
        "model        fixtures/models/fashion-mnist-bn.onnx\n",
        "batch        2 random samples, seed 7\n",
        "operator            nodes  agree  disagree  not comparable  worst error  at\n",
        "BatchNormalization      6      6         0               0 ",
        "worst node   ",
        "differences  of the loss in float64\n",
        "20 weights   agrees: along 3 directions error ",
        "input        agrees: along 3 directions error ",
        "verdict      the gradient graph agrees with central differences (tolerance 1.0e-3)\n",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    assert!(ran.stderr.contains("ONNX Runtime ") && ran.stderr.contains("  check: step "), "{}", ran.stderr);
    assert_eq!(gradcheck(&model("fashion-mnist"), &["--quiet"]).exits(0).stderr, "");
}

#[test]
fn a_tolerance_that_float32_cannot_meet_is_not_met() {
    let ran = gradcheck(&model("fashion-mnist"), &["--tolerance=1e-12"]).exits(1);
    assert!(ran.stdout.contains("verdict      the gradient graph does not agree"), "{}", ran.stdout);
    assert!(ran.stdout.lines().filter(|l| l.starts_with("disagrees    ")).count() > 10, "{}", ran.stdout);
    let json = gradcheck(&model("fashion-mnist"), &["--tolerance=1e-12", "--json"]).exits(1).json();
    assert_eq!(json["answer"], "no");
    assert_eq!(json["worst"]["outcome"], "disagrees");
    let worst = json["worst"]["error"].as_f64().expect("a number");
    let errors = json["nodes"].as_array().expect("a list").iter().filter_map(|n| n["error"].as_f64());
    assert!(errors.fold(0.0, f64::max) <= worst && worst > 1e-12, "{json:#}");
}

#[test]
fn equal_seeds_give_equal_results() {
    let of = |seed: &str| gradcheck(&model("fashion-mnist"), &["--json", seed]).exits(0).stdout;
    assert_eq!(of("--seed=1"), of("--seed=1"));
    assert_ne!(of("--seed=1"), of("--seed=2"));
}

#[test]
fn json_has_these_keys() {
    let json = gradcheck(&model("fashion-mnist-softmax"), &["--json", "--seed=3"]).exits(0).json();
    let object = json.as_object().expect("an object");
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    let mut expected =
        ["model", "answer", "tolerance", "batch", "seed", "weights", "operators", "worst", "nodes", "end_to_end"];
    expected.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!((json["batch"].as_u64(), json["seed"].as_u64(), json["weights"].as_u64()), (Some(2), Some(3), Some(14)));
    let conv = json["operators"].as_array().expect("a list").iter().find(|o| o["name"] == "Conv").expect("Conv");
    assert_eq!(
        (conv["nodes"].as_u64(), conv["agree"].as_u64(), conv["disagree"].as_u64()),
        (Some(6), Some(6), Some(0))
    );
    let node = &json["nodes"][0];
    for key in ["node", "operator", "input", "outcome", "error", "share", "differences"] {
        assert!(!node[key].is_null(), "{key} in {node:#}");
    }
    assert!(node["reason"].is_null());
    let whole = &json["end_to_end"];
    assert_eq!(whole["weights"]["directions"].as_array().map(Vec::len), Some(3));
    assert!(whole["loss"].is_f64() && whole["forward_loss"].is_f64(), "{whole:#}");
    assert_eq!(
        (&whole["float32_operators"], &whole["worst_weight"]),
        (&serde_json::json!([]), &serde_json::Value::Null)
    );
}

#[test]
fn what_cannot_be_compared_is_undecided() {
    let folder = temporary();
    let path = folder.path().join("quantized.onnx");
    let build = |b: &mut Builder, x: Value| {
        let scale = b.named_constant("scale", Arc::new(Tensor::scalar(0.05)));
        let zero = b.named_constant("zero", Arc::new(Tensor::new(vec![], Data::U8(vec![128]))));
        let q = b.op("QuantizeLinear", &[&x, &scale, &zero], &[], x.shape());
        let y = b.op("DequantizeLinear", &[&q, &scale, &zero], &[], x.shape());
        vec![models::dense(b, &y, 10)]
    };
    models::write(&path, build, |_| {});
    let ran = gradcheck(&path, &[]).exits(2);
    for line in ["not compared QuantizeLinear", "input        not comparable: ", "verdict      could not tell"] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    let json = gradcheck(&path, &["--json"]).exits(2).json();
    assert_eq!(json["answer"], "undecided");
}

#[test]
fn the_batch_is_that_of_the_file() {
    let folder = temporary();
    let path = folder.path().join("three.onnx");
    let declare = |graph: &mut onnx_unlearn::graph::Graph| {
        graph.inputs[0].dims = Some(vec![Some(3), Some(1), Some(28), Some(28)]);
    };
    models::write(&path, |b, x| vec![models::dense(b, &x, 10)], declare);
    let path = path.to_str().expect("UTF-8");
    assert_eq!(run(["gradcheck", path, "--json"]).exits(0).json()["batch"], 3);
    run(["gradcheck", path, "--samples=2"]).fails(&["--samples 2: the model declares batches of 3"]);
    let open = model("fashion-mnist");
    let open = open.to_str().expect("UTF-8");
    assert_eq!(run(["gradcheck", open, "--json", "--quiet"]).exits(0).json()["batch"], 4);
}

/// Tokens, two inputs and one score for two classes: noise for tokens lives behind the embedding, where half of the samples
/// are noise, so that the table has a gradient too.
#[test]
fn tokens_further_inputs_and_a_single_score_are_checked() {
    let folder = temporary();
    let path = folder.path().join("tokens.onnx");
    let mut b = Builder::new(17);
    let tokens = b.input("tokens", DType::I64, &[1, 6]);
    let mask = b.input("mask", DType::I64, &[1, 6]);
    let values = |n: usize| (0..n).map(|i| ((i * 7 % 11) as f32 - 5.0) / 10.0).collect::<Vec<_>>();
    let table = b.named_constant("table", Arc::new(Tensor::f32([9, 4], values(36))));
    let rows = b.op("Gather", &[&table, &tokens], &[], &[1, 6, 4]);
    let axis = b.constant(Tensor::ints(&[2]));
    let column = b.op("Unsqueeze", &[&mask, &axis], &[], &[1, 6, 1]);
    let column = b.op("Cast", &[&column], &[("to", 1i64.into())], &[1, 6, 1]);
    let masked = b.op("Mul", &[&rows, &column], &[], &[1, 6, 4]);
    let curved = b.op("Tanh", &[&masked], &[], &[1, 6, 4]);
    let mean = b.op("ReduceMean", &[&curved], &[("axes", vec![1i64].into()), ("keepdims", 0i64.into())], &[1, 4]);
    let w = b.named_constant("w", Arc::new(Tensor::f32([4, 1], values(4))));
    let score = b.op("MatMul", &[&mean, &w], &[], &[1, 1]);
    b.output(&score);
    let mut graph = b.finish();
    for port in &mut graph.inputs {
        port.dims = Some(vec![None, Some(6)]);
    }
    graph.outputs[0].dtype = Some(DType::F32);
    fs::write(&path, export(&graph)).expect("written");
    let json = gradcheck(&path, &["--json", "--input=tokens"]).exits(0).json();
    assert_eq!((json["answer"].as_str(), json["weights"].as_u64()), (Some("yes"), Some(2)));
    let nodes = json["nodes"].as_array().expect("a list");
    let looked_up = nodes.iter().find(|n| n["operator"] == "Gather").expect("the table has a gradient");
    assert_eq!(looked_up["outcome"], "agrees");
    let input = json["end_to_end"]["input"]["directions"].as_array().expect("a list");
    assert!(input.iter().any(|d| d["gradient"].as_f64().is_some_and(|g| g.abs() > 1e-6)), "noise has a gradient");
}

/// The window of a transform stays as it is; where it is to be trained, it learns.
#[test]
fn a_window_is_trained_on_demand() {
    let folder = temporary();
    let path = folder.path().join("frames.onnx");
    let build = |b: &mut Builder, x: Value| {
        let flat = b.op("Flatten", &[&x], &[], &[1, 784]);
        let step = b.constant(Tensor::i64([], vec![97]));
        let window = Tensor::f32([8], vec![0.1, 0.4, 0.8, 1.0, 0.9, 0.6, 0.3, 0.2]);
        let window = b.named_constant("window", Arc::new(window));
        let spectra = b.op("STFT", &[&flat, &step, &window], &[("onesided", 1i64.into())], &[1, 9, 5, 2]);
        let power = b.op("Mul", &[&spectra, &spectra], &[], &[1, 9, 5, 2]);
        let flat = b.op("Flatten", &[&power], &[], &[1, 90]);
        vec![models::product(b, &flat, 10)]
    };
    models::write(&path, build, |_| {});
    let ran = run([OsString::from("inspect"), path.clone().into()]).exits(0);
    assert!(ran.stdout.contains("frozen      window [8]: the window of a transform"), "{}", ran.stdout);
    let json = |more: &[&str]| gradcheck(&path, &[&["--json", "--quiet"], more].concat()).exits(0).json();
    assert_eq!(json(&[])["weights"], 1);
    let trained = json(&["--train=window"]);
    assert_eq!((trained["weights"].as_u64(), trained["answer"].as_str()), (Some(2), Some("yes")), "{trained:#}");
}

/// How many parts a list has is known from a run only, which names the node and the place.
#[test]
fn a_place_past_the_end_of_a_list() {
    let folder = temporary();
    let path = folder.path().join("parts.onnx");
    let at = |place: i64| {
        let build = |b: &mut Builder, x: Value| {
            let scores = models::dense(b, &x, 6);
            let [length, place] = [3, place].map(|v| b.constant(Tensor::i64([], vec![v])));
            let list = b.op("SplitToSequence", &[&scores, &length], &[("axis", 1i64.into())], &[]);
            vec![b.op("SequenceAt", &[&list, &place], &[], &[1, 3])]
        };
        models::write(&path, build, |_| {});
        gradcheck(&path, &["--quiet"])
    };
    for place in [1, -2] {
        at(place).exits(0);
    }
    for place in [2, -3, i64::MAX / 2] {
        let index = format!("idx={place} must be within the inclusive range [-2,1]");
        at(place).fails(&["parts.onnx", "'SequenceAt/from'", &index]);
    }
}

/// Makes a table of another one.
type Table<'t> = &'t dyn Fn(&mut Builder, &Value) -> Value;

/// A classifier of tokens, each of which has a segment as well. `table` makes a table of 9 rows of 4 from one of 4 rows of
/// 9, which is looked up along `axis`; there is only one segment.
fn segments(path: &Path, axis: i64, table: Table<'_>) {
    let mut b = Builder::new(17);
    let [tokens, kinds] = ["tokens", "kinds"].map(|name| b.input(name, DType::I64, &[1, 6]));
    let mut stored = |name: &str, shape: [usize; 2]| {
        let values = (0..shape[0] * shape[1]).map(|i| ((i * 7 % 11) as f32 - 5.0) / 10.0).collect();
        b.named_constant(name, Arc::new(Tensor::f32(shape, values)))
    };
    let [across, segment, w] = [("across", [4, 9]), ("segment", [1, 4]), ("w", [4, 3])].map(|(n, s)| stored(n, s));
    let table = table(&mut b, &across);
    let rows = b.op("Gather", &[&table, &tokens], &[("axis", axis.into())], &[1, 6, 4]);
    let segments = b.op("Gather", &[&segment, &kinds], &[], &[1, 6, 4]);
    let sum = b.op("Add", &[&rows, &segments], &[], &[1, 6, 4]);
    let curved = b.op("Tanh", &[&sum], &[], &[1, 6, 4]);
    let mean = b.op("ReduceMean", &[&curved], &[("axes", vec![1i64].into()), ("keepdims", 0i64.into())], &[1, 4]);
    let score = b.op("MatMul", &[&mean, &w], &[], &[1, 3]);
    b.output(&score);
    let mut graph = b.finish();
    graph.inputs.iter_mut().for_each(|port| port.dims = Some(vec![None, Some(6)]));
    graph.outputs[0].dtype = Some(DType::F32);
    fs::write(path, export(&graph)).expect("written");
}

#[test]
fn indices_are_those_of_the_table_wherever_it_comes_from() {
    let folder = temporary();
    let path = folder.path().join("segments.onnx");
    let across =
        |b: &mut Builder, table: &Value| b.op("Transpose", &[table], &[("perm", vec![1i64, 0].into())], &[9, 4]);
    let reshaped = |b: &mut Builder, table: &Value| {
        let shape = b.constant(Tensor::ints(&[9, 4]));
        b.op("Reshape", &[table, &shape], &[], &[9, 4])
    };
    let seven = |b: &mut Builder, table: &Value| {
        let table = across(b, table);
        let [from, to] = [0, 7].map(|at| b.constant(Tensor::ints(&[at])));
        b.op("Slice", &[&table, &from, &to], &[], &[7, 4])
    };
    let tables: [Table<'_>; 3] = [&across, &reshaped, &seven];
    for (i, table) in tables.iter().enumerate() {
        for axis in [0, -2] {
            segments(&path, axis, table);
            // Enough tokens for every row of the table to be asked for, and for any other.
            let ran = run([
                "gradcheck",
                path.to_str().expect("UTF-8"),
                "--input=tokens",
                "--samples=16",
                "--json",
                "--quiet",
            ]);
            let json = ran.exits(0).json();
            assert_eq!(json["weights"].as_u64(), Some(3), "table {i}, axis {axis}: {json:#}");
        }
    }
}

#[test]
fn refusals_leave_stdout_alone() {
    let folder = temporary();
    let path = folder.path().join("curved.onnx");
    let build = |b: &mut Builder, x: Value| {
        let curved = b.op("DeformConv", &[&x], &[], &[1, 1, 28, 28]);
        vec![models::dense(b, &curved, 10)]
    };
    models::write(&path, build, |_| {});
    gradcheck(&path, &["--json"]).fails(&["1 node(s) cannot be differentiated", "DeformConv", "no gradient rule"]);
    gradcheck(Path::new("no/such/model.onnx"), &[]).fails(&["cannot read no/such/model.onnx"]);
    models::write(&path, |b, x| vec![models::dense(b, &x, 0)], |_| {});
    gradcheck(&path, &[]).fails(&["curved.onnx: no classifier head", "shape [2, 0], which holds no scores"]);
    let sized = |graph: &mut onnx_unlearn::graph::Graph| {
        graph.inputs[0].dims = Some(vec![None, Some(1), None, Some(28)]);
    };
    models::write(&path, |b, x| vec![models::dense(b, &x, 10)], sized);
    gradcheck(&path, &[]).fails(&["leaves the length of 1 axes open", "--resize"]);
    gradcheck(&path, &["--resize=28"]).exits(0);
    let fine = model("fashion-mnist");
    gradcheck(&fine, &["--output=nothing"]).fails(&["--output nothing: the model has no such output"]);
    gradcheck(&fine, &["--tolerance=0"]).fails(&["--tolerance 0: expected a number above 0"]);
    let fine = fine.to_str().expect("UTF-8");
    run(["gradcheck", fine, "--samples=0"]).fails(&["--samples 0"]);
    run(["gradcheck", fine, "--threads=0"]).fails(&["--threads 0"]);
    let mut program = program();
    program.env("ORT_DYLIB_PATH", "/no/such/library.so").args(["gradcheck", fine]);
    Ran::new(&program.output().expect("the program starts")).fails(&["/no/such/library.so"]);
}
