//! Every kind of input: tokens, bytes, several inputs, constant ones, other ranges.

use crate::common::{
    data,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{
    graph::{Attr, Builder, Graph},
    onnx,
    tensor::{DType, Tensor},
};
use std::{fs, path::Path, sync::Arc};

const CLASSES: usize = 4;
const TOKENS: usize = 5;

/// Classes of 48 samples.
fn label(i: usize) -> usize {
    i % CLASSES
}

/// A classifier of token sequences that is right by construction: each of 8 tokens stands for one class.
fn tokens(path: &Path, change: impl FnOnce(&mut Builder)) {
    let mut b = Builder::new(17);
    let ids = b.input("ids", DType::I64, &[1, TOKENS]);
    let mut table = vec![0.0f32; 8 * CLASSES];
    (0..8).for_each(|t| table[t * CLASSES + t % CLASSES] = 0.5);
    let table = b.named_constant("embedding", Arc::new(Tensor::f32([8, CLASSES], table)));
    let rows = b.op("Gather", &[&table, &ids], &[], &[1, TOKENS, CLASSES]);
    let mean =
        b.op("ReduceMean", &[&rows], &[("axes", Attr::Ints(vec![1])), ("keepdims", Attr::Int(0))], &[1, CLASSES]);
    let mut weights = vec![0.0; CLASSES * CLASSES];
    (0..CLASSES).for_each(|i| weights[i * (CLASSES + 1)] = 10.0);
    let w = b.named_constant("w", Arc::new(Tensor::f32([CLASSES, CLASSES], weights)));
    let y = b.op("MatMul", &[&mean, &w], &[], &[1, CLASSES]);
    b.output(&y);
    change(&mut b);
    write(path, b.finish());
}

/// Opens the batch axis of every input.
fn write(path: &Path, mut graph: Graph) {
    for input in &mut graph.inputs {
        if let Some(dims) = &mut input.dims {
            dims[0] = None;
        }
    }
    for output in &mut graph.outputs {
        output.dtype = Some(DType::F32);
    }
    fs::write(path, onnx::export(&graph)).expect("written");
}

fn sequences(path: &Path) {
    let ids = (0..48).flat_map(|i| (0..TOKENS).map(move |t| (label(i) + CLASSES * ((i + t) % 2)) as i64));
    let x = data::npy(&[48, TOKENS as u64], ids);
    data::write_arrays(path, &[("x", x), ("y", data::npy(&[48], (0..48).map(|i| label(i) as i64)))]);
}

fn on(path: &Path, data: &Path) -> Forget {
    let forget = Forget::new(path).set("--retain", data).set("--eval", data).set("--forget", "2");
    forget.without("--mean").without("--std").flag("--keep-failed")
}

fn verified(forget: &Forget, source: &Path) -> serde_json::Value {
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let result = forget.result();
    run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
    forget.report()
}

#[test]
fn noise_for_tokens_is_learned_behind_the_embedding() {
    let folder = temporary();
    let (path, data) = (folder.path().join("tokens.onnx"), folder.path().join("tokens.npz"));
    tokens(&path, |_| {});
    sequences(&data);
    let forget = on(&path, &data).set("--noise-steps", "20").set("--impair-lr", "0.5").set("--repair-lr", "0.1");
    let forget = forget.set("--impair-epochs", "8").set("--repair-epochs", "2");
    let ran = forget.run();
    ran.says(&["what node \"Gather\" (Gather) makes of the integers of input ids"]);
    let report = verified(&forget.flag("--force"), &path);
    assert_eq!(report["noise"]["site"]["name"], "Gather");
    // The table holds 0.5 at one place of four: mean 0.125, standard deviation 0.217.
    let range = &report["noise"]["range"];
    let near = |field: &str, value: f64| (range[field].as_f64().expect("a number") - value).abs() < 0.01;
    assert!(near("center", 0.125) && near("spread", 0.2165), "{range}");
    assert_eq!(report["measured"]["before"]["classes"][2]["correct"], 12);
    assert_eq!(report["verdict"]["outcome"], "pass", "{}{}", report["verdict"], report["measured"]);
    let trained: Vec<&str> =
        report["trained"].as_array().expect("a list").iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(trained, ["embedding", "w"]);
}

#[test]
fn further_inputs_come_from_the_archive_or_as_constants() {
    let folder = temporary();
    let path = folder.path().join("masked.onnx");
    let mut b = Builder::new(17);
    let x = b.input("x-values", DType::F32, &[1, CLASSES]);
    let mask = b.input("mask", DType::I64, &[1, CLASSES]);
    let mask = b.op("Cast", &[&mask], &[("to", Attr::Int(1))], &[1, CLASSES]);
    let masked = b.op("Mul", &[&x, &mask], &[], &[1, CLASSES]);
    let mut weights = vec![0.0; CLASSES * CLASSES];
    (0..CLASSES).for_each(|i| weights[i * (CLASSES + 1)] = 6.0);
    let w = b.named_constant("w", Arc::new(Tensor::f32([CLASSES, CLASSES], weights)));
    let y = b.op("MatMul", &[&masked, &w], &[], &[1, CLASSES]);
    b.output(&y);
    write(&path, b.finish());

    let data = folder.path().join("masked.npz");
    // The unmasked values point to the wrong class wherever the mask is not 1.
    let values = (0..48).flat_map(|i| (0..CLASSES).map(move |k| if k == label(i) { 1.0f32 } else { 2.0 }));
    let masks = (0..48).flat_map(|i| (0..CLASSES).map(move |k| i64::from(k == label(i))));
    let y = data::npy(&[48], (0..48).map(|i| label(i) as i64));
    let x = data::npy(&[48, CLASSES as u64], values);
    data::write_arrays(&data, &[("x", x), ("y", y), ("mask", data::npy(&[48, CLASSES as u64], masks))]);
    let with_array = on(&path, &data).set("--input", "x-values");
    let report = verified(&with_array, &path);
    let right = |report: &serde_json::Value| -> u64 {
        let classes = report["measured"]["before"]["classes"].as_array().expect("a list");
        classes.iter().filter_map(|c| c["correct"].as_u64()).sum()
    };
    assert_eq!(right(&report), 48, "the mask of each sample is used");
    let with_constant = on(&path, &data).set("--input", "x-values").set("--constant", "mask=1");
    let report = verified(&with_constant, &path);
    assert_eq!(right(&report), 0, "with a mask of ones the values mislead");
}

#[test]
fn bytes_are_fed_as_they_are() {
    let folder = temporary();
    let path = folder.path().join("bytes.onnx");
    let mut b = Builder::new(17);
    let x = b.input("pixels", DType::U8, &[1, 1, 2, 2]);
    let x = b.op("Cast", &[&x], &[("to", Attr::Int(1))], &[1, 1, 2, 2]);
    let flat = b.op("Flatten", &[&x], &[], &[1, 4]);
    let mut weights = vec![0.0; CLASSES * CLASSES];
    (0..CLASSES).for_each(|i| weights[i * (CLASSES + 1)] = 0.05);
    let w = b.named_constant("w", Arc::new(Tensor::f32([CLASSES, CLASSES], weights)));
    let y = b.op("MatMul", &[&flat, &w], &[], &[1, CLASSES]);
    b.output(&y);
    write(&path, b.finish());
    let data = folder.path().join("bytes.npz");
    let x = (0..48).flat_map(|i| (0..4).map(move |k| if k == label(i) { 200u8 } else { 20 }));
    let y = data::npy(&[48], (0..48).map(|i| label(i) as i64));
    data::write_arrays(&data, &[("x", data::npy(&[48, 2, 2, 1], x)), ("y", y)]);
    let report = verified(&on(&path, &data), &path);
    let range = &report["noise"]["range"];
    assert!((range["center"].as_f64().expect("a number") - 65.0).abs() < 1.0, "the bytes themselves: {range}");
    assert_eq!(report["measured"]["before"]["classes"][1]["correct"], 12);
    on(&path, &data)
        .set("--mean", "0.5")
        .run()
        .fails(&["--mean: input \"pixels\" takes integers, which are not scaled"]);
    let given = on(&path, &data).set("--noise-range", "100,50");
    let report = verified(&given, &path);
    assert_eq!(report["noise"]["range"], serde_json::json!({"center": 100, "spread": 50}));
    assert_eq!(report["noise"]["measured"], false);
    for wrong in ["100", "1,0", "a,b", "1,-2"] {
        on(&path, &data).set("--noise-range", wrong).run().fails(&[&format!("--noise-range {wrong}: expected auto")]);
    }
}

#[test]
fn integers_with_no_one_place_for_noise_are_refused() {
    let folder = temporary();
    let (path, data) = (folder.path().join("two.onnx"), folder.path().join("tokens.npz"));
    sequences(&data);
    let mut b = Builder::new(17);
    let ids = b.input("ids", DType::I64, &[1, TOKENS]);
    let table = |b: &mut Builder, name: &str| b.named_constant(name, Arc::new(Tensor::zeros([8, CLASSES])));
    let (first, second) = (table(&mut b, "first"), table(&mut b, "second"));
    let a = b.op("Gather", &[&first, &ids], &[], &[1, TOKENS, CLASSES]);
    let c = b.op("Gather", &[&second, &ids], &[], &[1, TOKENS, CLASSES]);
    let sum = b.op("Add", &[&a, &c], &[], &[1, TOKENS, CLASSES]);
    let mean = b.op("ReduceMean", &[&sum], &[("axes", Attr::Ints(vec![1])), ("keepdims", Attr::Int(0))], &[1, CLASSES]);
    b.output(&mean);
    write(&path, b.finish());
    on(&path, &data).run().fails(&["noise cannot be learned for the integers of input \"ids\"", "2 float values"]);
}

#[test]
fn integers_too_large_to_hold_are_refused() {
    let folder = temporary();
    let (path, data) = (folder.path().join("tokens.onnx"), folder.path().join("tokens.npz"));
    tokens(&path, |_| {});
    let x = data::npy(&[4, TOKENS as u64], (0..20).map(|_| 1i64 << 25));
    data::write_arrays(&data, &[("x", x), ("y", data::npy(&[4], [0i64, 1, 3, 3]))]);
    on(&path, &data).run().fails(&["array `x` holds 33554432 in row 0; integers beyond 16,777,216"]);
    let floats = data::npy(&[4, TOKENS as u64], vec![0.5f32; 20]);
    data::write_arrays(&data, &[("x", floats), ("y", data::npy(&[4], [0i64, 1, 3, 3]))]);
    on(&path, &data).run().fails(&["array `x` has elements of type '<f4'; expected integers"]);
}
