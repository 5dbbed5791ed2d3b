//! Files in other element types: trained as real numbers, written back in their own type, as accurate as float32.

use crate::common::{
    fixture, model, models,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{
    graph::Graph,
    onnx,
    tensor::{DType, Data, Tensor},
};
use std::{fs, path::Path, sync::Arc};

/// The fixture with every float in another type.
fn converted(path: &Path, dtype: DType) {
    let mut graph: Graph = onnx::read(&model("fashion-mnist")).expect("a model").graph;
    for tensor in graph.constants.values_mut().filter(|t| t.dtype().is_float()) {
        *tensor = Arc::new(Tensor::from_f32s(dtype, tensor.shape(), tensor.to_f32s()));
    }
    for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        port.dtype = Some(dtype);
    }
    fs::write(path, onnx::export(&graph)).expect("written");
}

/// Forgets Trouser with settings as of the demonstration, on a quarter of its retain sample and all held-out images.
fn forget(source: &Path) -> Forget {
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
    forget.set("--check-atol", "0.02").set("--check-rtol", "0.02").flag("--keep-failed").flag("--allow-unchecked")
}

/// Accuracy on the forgotten and on the retained classes after the run, and the types of the trained tensors.
fn outcome(source: &Path) -> (f64, f64, Vec<DType>) {
    let forget = forget(source);
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
    let types = trained.map(|name| {
        let (old, new) = (&before.graph.constants[name], &after.graph.constants[name]);
        assert_eq!(old.dtype(), new.dtype(), "{name} keeps its type");
        assert!(old != new, "{name} was trained");
        new.dtype()
    });
    (share(&|c| c == 1), share(&|c| c != 1), types.collect())
}

#[test]
fn float16_and_quantized_files_forget_as_float32_does() {
    let folder = temporary();
    let half = folder.path().join("half.onnx");
    converted(&half, DType::F16);
    let (forgotten, retained, types) = outcome(&model("fashion-mnist"));
    assert!(forgotten <= 0.05 && retained >= 0.85, "float32: {forgotten}, {retained}");
    assert!(types.iter().all(|&t| t == DType::F32));
    // The same accuracies within a point for float16, within three for int8, whose source is less accurate by itself.
    for (name, path, bound, wanted) in [
        ("float16", half, 0.01, vec![DType::F16]),
        ("QDQ", model("fashion-mnist-qdq"), 0.03, vec![DType::I8, DType::I32]),
    ] {
        let (a, b, types) = outcome(&path);
        assert!(a <= 0.05 && (b - retained).abs() <= bound, "{name}: {a}, {b}; float32: {forgotten}, {retained}");
        assert!(
            types.iter().all(|t| wanted.contains(t)) && wanted.iter().all(|t| types.contains(t)),
            "{name}: {types:?}"
        );
    }
}

#[test]
fn float64_keeps_the_digits_that_training_did_not_move() {
    let folder = temporary();
    let path = folder.path().join("double.onnx");
    let double = |t: &Tensor| {
        Tensor::new(t.shape().to_vec(), Data::F64(t.to_f32s().iter().map(|&v| f64::from(v) + 1e-12).collect()))
    };
    models::write(
        &path,
        |b, x| vec![models::dense(b, &x, 10)],
        |graph| {
            for tensor in graph.constants.values_mut().filter(|t| t.dtype().is_float()) {
                *tensor = Arc::new(double(tensor));
            }
            for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
                port.dtype = Some(DType::F64);
            }
        },
    );
    let forget = Forget::new(&path).flag("--keep-failed").set("--impair-lr", "1e-30").set("--repair-lr", "1e-30");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let (before, after) = (onnx::read(&path).expect("a model"), onnx::read(&forget.result()).expect("a model"));
    assert!(before.graph.constants["w"] == after.graph.constants["w"], "a digit moved");
    let forget = Forget::new(&path).flag("--keep-failed").flag("--allow-unchecked");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    run(["verify".as_ref(), forget.result().as_os_str(), "--source".as_ref(), path.as_os_str()]).exits(0);
    assert_eq!(onnx::read(&forget.result()).expect("a model").graph.constants["w"].dtype(), DType::F64);
}
