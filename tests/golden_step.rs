//! A step of the whole network against PyTorch in float64 (`fixtures/make_golden_step.py`).

mod common;

use npyz::NpyFile;
use onnx_unlearn::{
    onnx,
    runtime::Device,
    tensor::Tensor,
    train::{BatchNorm, Network, Optimizer, Weights},
};
use std::{collections::BTreeMap, fs::File, io::Read, path::Path, sync::Arc};

/// Largest difference allowed, relative to the largest element of the array.
const TOLERANCE: f64 = 1e-4;

struct Golden(BTreeMap<String, Tensor>);

impl Golden {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(name);
        let mut archive = zip::ZipArchive::new(File::open(path).expect("the golden file")).expect("an archive");
        let mut arrays = BTreeMap::new();
        for i in 0..archive.len() {
            let mut entry = archive.by_index(i).expect("an entry");
            let name = entry.name().expect("a name").into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            let npy = NpyFile::new(&bytes[..]).expect("an array");
            let shape: Vec<usize> = npy.shape().iter().map(|&d| d as usize).collect();
            let key = name.trim_end_matches(".npy").to_owned();
            let tensor = if key == "labels" {
                Tensor::i64(shape, npy.into_vec::<i64>().expect("int64"))
            } else {
                Tensor::f32(shape, npy.into_vec::<f32>().expect("float32"))
            };
            arrays.insert(key, tensor);
        }
        Self(arrays)
    }

    fn floats(&self, key: &str) -> &[f32] {
        self.0[key].as_f32().expect("float32")
    }

    fn one_hot(&self) -> Tensor {
        let labels = self.0["labels"].to_i64s().expect("int64");
        let mut rows = vec![0.0; labels.len() * 10];
        for (row, &label) in rows.chunks_exact_mut(10).zip(&labels) {
            row[label as usize] = 1.0;
        }
        Tensor::f32([labels.len(), 10], rows)
    }

    /// Names of the arrays `prefix/NAME`.
    fn below<'g>(&'g self, prefix: &'g str) -> impl Iterator<Item = &'g str> {
        self.0.keys().filter_map(move |k| k.strip_prefix(prefix))
    }
}

fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let scale = want.iter().fold(0.0f64, |m, &w| m.max(f64::from(w).abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - f64::from(w)).abs() / scale;
        assert!(error <= TOLERANCE, "{what}: element {i} is {g}, PyTorch has {w} (largest {scale})");
    }
}

/// Compares gradients, and the weights after `steps` Adam steps of which `kept` are in the file.
fn check(device: Device, model: &str, golden: &str, kept: &[usize]) {
    let golden = Golden::read(golden);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models").join(model);
    let model = onnx::read(&path).expect("the fixture reads");
    let network = Network::new(&model, None).expect("the fixture is trainable");
    let weights = network.weights().expect("weights");
    let engine = common::engine(device);
    let x = golden.0["input"].clone();
    let targets = golden.one_hot();
    let batched = network.at_batch(&engine, &x, BatchNorm::Frozen).expect("the batch runs");

    let (loss, gradients) = batched.gradients(&weights, &x, &targets).expect("gradients");
    close("loss", &[loss], &golden.floats("losses")[..1]);
    close("gradient of the input", gradients["input"].as_f32().expect("float32"), golden.floats("grad_input"));
    let mut trained = 0;
    for name in golden.below("grad/") {
        let got = gradients.get(name).unwrap_or_else(|| panic!("no gradient reaches {name}"));
        close(name, got.as_f32().expect("float32"), golden.floats(&format!("grad/{name}")));
        trained += 1;
    }
    assert_eq!(trained, network.trained().count(), "every trained tensor has a golden gradient");

    let mut stepper = batched.weight_stepper(&weights, Optimizer::ADAM, None, batched.batch).expect("a step graph");
    let rows = x.shape()[0];
    for step in 1..=kept.iter().copied().max().unwrap_or(0) {
        stepper.feed(x.as_f32().expect("float32"), targets.as_f32().expect("float32"), &vec![1.0; rows]);
        let loss = stepper.step(0.0005).expect("a step").loss;
        close(&format!("loss before step {step}"), &[loss], &golden.floats("losses")[step - 1..step]);
        if kept.contains(&step) {
            let after = stepper.weights().expect("weights");
            let prefix = format!("adam{step}/");
            for name in golden.below(&prefix) {
                close(
                    &format!("{name} after {step} steps"),
                    floats(&after, name),
                    golden.floats(&format!("{prefix}{name}")),
                );
            }
        }
    }
}

fn floats<'w>(weights: &'w Weights, name: &str) -> &'w [f32] {
    weights.get(name).map(Arc::as_ref).and_then(Tensor::as_f32).expect("a trained tensor")
}

#[test]
fn folded_network() {
    check(Device::Cpu, "fashion-mnist.onnx", "fashion-mnist.npz", &[1, 3]);
}

#[test]
fn network_with_frozen_batch_norm() {
    check(Device::Cpu, "fashion-mnist-bn.onnx", "fashion-mnist-bn.npz", &[1]);
}

/// `cargo test --test golden_step -- --ignored`, with `ORT_DYLIB_PATH` naming the library of onnxruntime-gpu.
#[test]
#[ignore = "needs an NVIDIA GPU and the CUDA build of ONNX Runtime"]
fn on_cuda() {
    check(Device::Cuda(0), "fashion-mnist.onnx", "fashion-mnist.npz", &[1, 3]);
    check(Device::Cuda(0), "fashion-mnist-bn.onnx", "fashion-mnist-bn.npz", &[1]);
}

/// Every way of storing the same weights trains to the same weights.
#[test]
fn storage_forms_give_the_same_gradients() {
    let golden = Golden::read("fashion-mnist.npz");
    let engine = common::engine(Device::Cpu);
    for name in ["external", "constants", "inputs", "float-data", "softmax"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/models/fashion-mnist-{name}.onnx"));
        let model = onnx::read(&path).expect("the fixture reads");
        let network = Network::new(&model, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        let weights = network.weights().expect("weights");
        let x = golden.0["input"].clone();
        let batched = network.at_batch(&engine, &x, BatchNorm::Frozen).expect("the batch runs");
        let (loss, gradients) = batched.gradients(&weights, &x, &golden.one_hot()).expect("gradients");
        close(&format!("{name}: loss"), &[loss], &golden.floats("losses")[..1]);
        let input = &gradients[&network.input];
        close(&format!("{name}: gradient of the input"), input.as_f32().expect("float32"), golden.floats("grad_input"));
    }
}
