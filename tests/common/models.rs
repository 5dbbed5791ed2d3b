//! Models made on the spot: small, and wrong in one way each.

use onnx_unlearn::{
    graph::{Builder, Graph, Value},
    onnx::export,
    tensor::{DType, Tensor},
};
use std::{fs, path::Path, sync::Arc};

/// Opset of the models here.
const OPSET: i64 = 17;

/// Writes a model with input `input` [batch, 1, 28, 28] whose outputs are what `build` hands back. The batch is open
/// unless `change` says otherwise.
pub fn write(path: &Path, build: impl FnOnce(&mut Builder, Value) -> Vec<Value>, change: impl FnOnce(&mut Graph)) {
    let mut b = Builder::new(OPSET);
    let input = b.input("input", DType::F32, &[1, 1, 28, 28]);
    for output in build(&mut b, input) {
        b.output(&output);
    }
    let mut graph = b.finish();
    if let Some(dims) = &mut graph.inputs[0].dims {
        dims[0] = None;
    }
    for output in &mut graph.outputs {
        output.dtype = Some(if output.name.starts_with("ArgMax") { DType::I64 } else { DType::F32 });
    }
    change(&mut graph);
    fs::write(path, export(&graph)).expect("written");
}

/// Flatten, then one dense layer to `classes` scores.
pub fn dense(b: &mut Builder, x: &Value, classes: usize) -> Value {
    let flat = b.op("Flatten", &[x], &[], &[1, 784]);
    product(b, &flat, classes)
}

/// One dense layer on [batch, n].
pub fn product(b: &mut Builder, x: &Value, classes: usize) -> Value {
    let n = x.shape()[1];
    let w: Vec<f32> = (0..n * classes).map(|i| ((i % 13) as f32 - 6.0) / 100.0).collect();
    let w = b.named_constant("w", Arc::new(Tensor::f32([n, classes], w)));
    b.op("MatMul", &[x, &w], &[], &[1, classes])
}

/// One dense layer whose weights are the signs of the stored ones, and an offset.
pub fn binary_weights(b: &mut Builder, x: &Value) -> Vec<Value> {
    let flat = b.op("Flatten", &[x], &[], &[1, 784]);
    let w: Vec<f32> = (0..7840).map(|i| ((i % 13) as f32 - 6.5) / 100.0).collect();
    let w = b.named_constant("w", Arc::new(Tensor::f32([784, 10], w)));
    let signs = b.op("Sign", &[&w], &[], &[784, 10]);
    let products = b.op("MatMul", &[&flat, &signs], &[], &[1, 10]);
    let offset = b.named_constant("b", Arc::new(Tensor::f32([10], vec![0.1; 10])));
    vec![b.op("Add", &[&products, &offset], &[], &[1, 10])]
}
