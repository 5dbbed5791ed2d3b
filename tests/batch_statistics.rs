//! Training with the statistics of the batch: whose rows enter them, and with what weight.

mod common;

use onnx_unlearn::{
    data::Seeded,
    graph::{Attr, Builder, Value},
    onnx,
    runtime::Device,
    tensor::{DType, Tensor},
    train::{BatchNorm, Network, Optimizer, TrainError, Weights},
};
use std::{fs, path::Path, sync::Arc};

const SAMPLES: usize = 4;
const STEPS: usize = 2;
const CHANNELS: usize = 3;

/// Samples [steps, channels] whose time steps are normalised per channel, summed, and taken for logits. `arrange` lays
/// out [batch, steps, channels] for BatchNormalization and back.
struct Form {
    before: fn(&mut Builder, &Value) -> Value,
    after: fn(&mut Builder, &Value) -> Value,
}

fn reshape(b: &mut Builder, x: &Value, target: &[i64], shape: &[usize]) -> Value {
    let target = b.constant(Tensor::ints(target));
    b.op("Reshape", &[x, &target], &[], shape)
}

fn transpose(b: &mut Builder, x: &Value, perm: &[i64], shape: &[usize]) -> Value {
    b.op("Transpose", &[x], &[("perm", Attr::Ints(perm.to_vec()))], shape)
}

/// [batch, channels, steps]: the first axis is the batch.
const APART: Form = Form {
    before: |b, x| transpose(b, x, &[0, 2, 1], &[1, CHANNELS, STEPS]),
    after: |b, x| transpose(b, x, &[0, 2, 1], &[1, STEPS, CHANNELS]),
};

/// [batch * steps, channels]: the time steps of a sample follow each other.
const MERGED: Form = Form {
    before: |b, x| reshape(b, x, &[-1, 3], &[STEPS, CHANNELS]),
    after: |b, x| reshape(b, x, &[-1, 2, 3], &[1, STEPS, CHANNELS]),
};

/// [steps * batch, channels]: the samples of a time step follow each other.
const TIME_FIRST: Form = Form {
    before: |b, x| {
        let x = transpose(b, x, &[1, 0, 2], &[STEPS, 1, CHANNELS]);
        reshape(b, &x, &[-1, 3], &[STEPS, CHANNELS])
    },
    after: |b, x| {
        let x = reshape(b, x, &[2, -1, 3], &[STEPS, 1, CHANNELS]);
        transpose(b, &x, &[1, 0, 2], &[1, STEPS, CHANNELS])
    },
};

fn write(path: &Path, form: &Form) {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[1, STEPS, CHANNELS]);
    let constant = |b: &mut Builder, name: &str, values: [f32; CHANNELS]| {
        b.named_constant(name, Arc::new(Tensor::f32([CHANNELS], values.to_vec())))
    };
    let weights = Seeded::new(1, "weights").normal(CHANNELS * CHANNELS);
    let weights = b.named_constant("w", Arc::new(Tensor::f32([CHANNELS, CHANNELS], weights)));
    let x = b.op("MatMul", &[&x, &weights], &[], &[1, STEPS, CHANNELS]);
    let x = (form.before)(&mut b, &x);
    let scale = constant(&mut b, "scale", [1.1, 0.9, 1.3]);
    let bias = constant(&mut b, "bias", [0.1, -0.2, 0.3]);
    let mean = constant(&mut b, "mean", [0.5, 0.0, -0.5]);
    let var = constant(&mut b, "var", [1.0, 2.0, 0.5]);
    let shape = x.shape().to_vec();
    let x = b.op("BatchNormalization", &[&x, &scale, &bias, &mean, &var], &[], &shape);
    let x = (form.after)(&mut b, &x);
    let axes = b.constant(Tensor::ints(&[1]));
    let y = b.op("ReduceSum", &[&x, &axes], &[("keepdims", Attr::Int(0))], &[1, CHANNELS]);
    b.output(&y);
    let mut graph = b.finish();
    graph.inputs[0].dims.as_mut().expect("dims")[0] = None;
    graph.outputs[0].dtype = Some(DType::F32);
    fs::write(path, onnx::export(&graph)).expect("written");
}

/// One step on a batch whose last sample is padding; `padding` is what stands there.
fn step(path: &Path, shape: &[usize], padding: f32) -> Result<Weights, TrainError> {
    let model = onnx::read(path).expect("the model reads");
    let network = Network::new(&model, None)?;
    let row: usize = shape.iter().product();
    let mut data = Seeded::new(2, "data").normal(SAMPLES * row);
    let whole: Vec<usize> = [&[SAMPLES], shape].concat();
    let sample = Tensor::f32(whole, data.clone());
    let batched = network.at_batch(&common::engine(Device::Cpu), &sample, BatchNorm::Batch)?;
    let classes = batched.layout.classes;
    let mut stepper = batched.weight_stepper(&network.weights()?, Optimizer::ADAM, None, SAMPLES)?;
    data[(SAMPLES - 1) * row..].fill(padding);
    let mut targets = vec![0.0; SAMPLES * classes];
    targets.chunks_exact_mut(classes).enumerate().for_each(|(i, t)| t[i % classes] = 1.0);
    stepper.feed(&data, &targets, &[1.0, 1.0, 1.0, 0.0]);
    stepper.step(0.001).expect("a step");
    Ok(stepper.weights().expect("weights"))
}

fn close(a: &Weights, b: &Weights) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, t) in a {
        for (x, y) in t.to_f32s().iter().zip(b[name].to_f32s()) {
            assert!((x - y).abs() < 1e-5, "{name}: {x} and {y}");
        }
    }
}

#[test]
fn padding_stays_out_of_the_statistics_however_samples_are_laid_out() {
    let folder = common::temporary();
    let path = folder.path().join("model.onnx");
    write(&path, &APART);
    let apart = step(&path, &[STEPS, CHANNELS], 0.0).expect("it trains");
    close(&apart, &step(&path, &[STEPS, CHANNELS], 100.0).expect("it trains"));
    write(&path, &MERGED);
    close(&apart, &step(&path, &[STEPS, CHANNELS], 100.0).expect("it trains"));

    // By hand: the mean of the three samples that count, a tenth of which goes into the running one.
    let row = STEPS * CHANNELS;
    let data = Seeded::new(2, "data").normal(SAMPLES * row);
    let w = Seeded::new(1, "weights").normal(CHANNELS * CHANNELS);
    for (channel, start) in [0.5, 0.0, -0.5].into_iter().enumerate() {
        let steps = data[..3 * row].chunks_exact(CHANNELS);
        let sum: f32 = steps.map(|x| (0..CHANNELS).map(|i| x[i] * w[i * CHANNELS + channel]).sum::<f32>()).sum();
        let mean = 0.9 * start + 0.1 * sum / (3 * STEPS) as f32;
        let found = apart["mean"].to_f32s()[channel];
        assert!((found - mean).abs() < 1e-5, "channel {channel}: {found}, by hand {mean}");
    }
}

#[test]
fn samples_that_do_not_lie_together_are_refused() {
    let folder = common::temporary();
    let path = folder.path().join("model.onnx");
    write(&path, &TIME_FIRST);
    let error = step(&path, &[STEPS, CHANNELS], 0.0).expect_err("rows of others would be left out").to_string();
    for word in ["BatchNormalization", "8 rows", "not 4 samples one after another", "--batch-norm frozen"] {
        assert!(error.contains(word), "{word:?} is missing in {error}");
    }
}

/// A number for each sample is one channel.
#[test]
fn vectors_have_one_channel() {
    let folder = common::temporary();
    let write = |name: &str, vector: bool| {
        let path = folder.path().join(name);
        let mut b = Builder::new(17);
        let x = b.input("x", DType::F32, &[1, 3]);
        let w = b.named_constant("w", Arc::new(Tensor::f32([3, 1], vec![0.5, -0.3, 0.8])));
        let mut x = b.op("MatMul", &[&x, &w], &[], &[1, 1]);
        if vector {
            x = reshape(&mut b, &x, &[-1], &[1]);
        }
        let numbers = [("scale", 1.2), ("bias", 0.3), ("mean", 0.1), ("var", 2.0)]
            .map(|(name, v)| b.named_constant(name, Arc::new(Tensor::f32([1], vec![v]))));
        let [scale, bias, mean, var] = &numbers;
        let shape = x.shape().to_vec();
        let x = b.op("BatchNormalization", &[&x, scale, bias, mean, var], &[], &shape);
        let x = reshape(&mut b, &x, &[-1, 1], &[1, 1]);
        let head = b.named_constant("head", Arc::new(Tensor::f32([1, 2], vec![0.4, -0.6])));
        let y = b.op("MatMul", &[&x, &head], &[], &[1, 2]);
        b.output(&y);
        let mut graph = b.finish();
        graph.inputs[0].dims.as_mut().expect("dims")[0] = None;
        graph.outputs[0].dtype = Some(DType::F32);
        fs::write(&path, onnx::export(&graph)).expect("written");
        step(&path, &[3], 9.0).expect("it trains")
    };
    close(&write("vector.onnx", true), &write("column.onnx", false));
}
