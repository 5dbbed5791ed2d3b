//! Steps of the weights: batches that are fed in parts, batches that are not full, and starting anew.

mod common;

use onnx_unlearn::{
    data::Seeded,
    graph::{Builder, Value},
    onnx,
    runtime::Device,
    tensor::Tensor,
    train::{BatchNorm, BatchedNetwork, Network, Optimizer, Snapshot, WeightStepper, Weights},
};

const CLASSES: usize = 10;
const BATCH: usize = 7;
const LR: f64 = 0.001;

fn network(fixture: &str) -> Network {
    let model = onnx::read(&common::model(fixture)).expect("the fixture reads");
    Network::new(&model, None).expect("the fixture is trainable")
}

struct Data {
    x: Vec<f32>,
    targets: Vec<f32>,
}

impl Data {
    fn new() -> Self {
        let mut targets = vec![0.0; BATCH * CLASSES];
        targets.chunks_exact_mut(CLASSES).enumerate().for_each(|(i, row)| row[i % CLASSES] = 1.0);
        Self { x: Seeded::new(3, "samples").normal(BATCH * 28 * 28), targets }
    }

    /// The network that takes so many of the samples at once.
    fn batched<'n>(&self, network: &'n Network, at_once: usize, batch_norm: BatchNorm) -> BatchedNetwork<'n> {
        let some = Tensor::f32([at_once, 1, 28, 28], self.x[..at_once * 28 * 28].to_vec());
        network.at_batch(&common::engine(Device::Cpu), &some, batch_norm).expect("the batch runs")
    }

    fn step(&self, stepper: &mut WeightStepper<'_>) -> f32 {
        self.step_of(stepper, BATCH).0
    }

    /// A step on the first samples, and how many of them were predicted as their target.
    fn step_of(&self, stepper: &mut WeightStepper<'_>, samples: usize) -> (f32, f32) {
        let weights: Vec<f32> = (0..BATCH).map(|i| if i < samples { 1.0 } else { 0.0 }).collect();
        stepper.feed(&self.x, &self.targets, &weights);
        let step = stepper.step(LR).expect("a step");
        (step.loss, step.hits)
    }
}

/// Three steps on a batch of which the graph takes `at_once`.
fn trained(at_once: usize, optimizer: Optimizer, clip_norm: Option<f64>) -> (Vec<f32>, Weights) {
    let network = network("fashion-mnist.onnx");
    let data = Data::new();
    let batched = data.batched(&network, at_once, BatchNorm::Frozen);
    let weights = network.weights().expect("weights");
    let mut stepper = batched.weight_stepper(&weights, optimizer, clip_norm, BATCH).expect("a step graph");
    let losses = (0..3).map(|_| data.step(&mut stepper)).collect();
    (losses, stepper.weights().expect("weights"))
}

/// Largest difference of two weights, as a multiple of the learning rate, and the share of weights that differ by more than a
/// tenth of it.
fn apart(a: &Weights, b: &Weights) -> (f64, f64) {
    let pairs = a.iter().flat_map(|(name, t)| t.to_f32s().into_iter().zip(b[name].to_f32s()));
    let apart: Vec<f64> = pairs.map(|(x, y)| (f64::from(x) - f64::from(y)).abs() / LR).collect();
    assert!(apart.iter().all(|d| d.is_finite()), "the weights are numbers");
    let far = apart.iter().filter(|&&d| d > 0.1).count();
    (apart.iter().copied().fold(0.0, f64::max), far as f64 / apart.len() as f64)
}

/// The last part is short: 3, 3 and 1, and 5 and 2.
#[test]
fn a_batch_in_parts_comes_to_the_same() {
    let sgd = Optimizer::Sgd { momentum: 0.9 };
    for clip_norm in [None, Some(0.5)] {
        for optimizer in [Optimizer::ADAM, sgd] {
            let (losses, whole) = trained(BATCH, optimizer, clip_norm);
            for at_once in [3, 5] {
                let what = format!("{optimizer:?}, {clip_norm:?}, {at_once} at once");
                let (in_parts, weights) = trained(at_once, optimizer, clip_norm);
                for (a, b) in losses.iter().zip(&in_parts) {
                    assert!((a - b).abs() < 1e-4 * a, "{what}: losses {losses:?} and {in_parts:?}");
                }
                let (most, far) = apart(&whole, &weights);
                // Adam makes a whole step of a gradient that is nothing but rounding.
                let allowed = if optimizer == sgd { (1e-2, 0.0) } else { (6.0, 1e-3) };
                assert!(most <= allowed.0 && far <= allowed.1, "{what}: {most} learning rates, {far} of all");
            }
        }
    }
}

/// A batch that is not full has a graph of its own, with the weights and moments of the whole ones.
#[test]
fn a_short_batch_comes_to_the_same_in_a_graph_of_its_size() {
    let network = network("fashion-mnist.onnx");
    let data = Data::new();
    let batched = data.batched(&network, BATCH, BatchNorm::Frozen);
    let weights = network.weights().expect("weights");
    for (optimizer, clip_norm) in [(Optimizer::ADAM, None), (Optimizer::Sgd { momentum: 0.9 }, Some(0.5))] {
        let steps = |mut stepper: WeightStepper<'_>| {
            // Six of seven are worth no graph of their own.
            let read: Vec<_> = [7, 3, 7, 3, 1, 6, 7].map(|n| data.step_of(&mut stepper, n)).into();
            (read, stepper.weights().expect("weights"), stepper.graphs())
        };
        let stepper = || batched.weight_stepper(&weights, optimizer, clip_norm, BATCH).expect("a step graph");
        let (one, all) = (steps(stepper().in_one_size()), steps(stepper()));
        assert_eq!((one.2, all.2), (1, 3), "{optimizer:?}");
        for ((a, hits), (b, others)) in one.0.iter().zip(&all.0) {
            assert!(
                (a - b).abs() < 1e-4 * a && hits.total_cmp(others).is_eq(),
                "{optimizer:?}: {:?} {:?}",
                one.0,
                all.0
            );
        }
        let (most, far) = apart(&one.1, &all.1);
        let allowed = if clip_norm.is_some() { (1e-2, 0.0) } else { (6.0, 1e-3) };
        assert!(most <= allowed.0 && far <= allowed.1, "{optimizer:?}: {most} learning rates, {far} of all");
    }
}

/// Three steps of a model on batches of 32, the second one on `short` samples: with a graph for these and with one alone, which
/// come to the same. Gives the number of graphs.
fn graphs(path: &std::path::Path, short: usize) -> usize {
    const WHOLE: usize = 32;
    let model = onnx::read(path).expect("the model reads");
    let network = Network::new(&model, None).expect("the model is trainable");
    let dims = model.graph.inputs[0].dims.as_ref().expect("dims").iter().skip(1).map(|d| d.expect("a length"));
    let shape: Vec<usize> = std::iter::once(WHOLE).chain(dims).collect();
    let width: usize = shape[1..].iter().product();
    let numbers: Vec<f32> = (0..WHOLE * width).map(|i| (i * 7 % 5) as f32).collect();
    let sample = Tensor::f32(shape, numbers.clone());
    let batched = network.at_batch(&common::engine(Device::Cpu), &sample, BatchNorm::Frozen).expect("the batch runs");
    let (classes, predictions) = (batched.layout.classes, batched.layout.predictions);
    // Noise inside the model and its flag stand behind the data.
    let mut x = vec![0.0; WHOLE * batched.row.len()];
    let rows = x.chunks_exact_mut(batched.row.len()).zip(numbers.chunks_exact(width));
    rows.for_each(|(row, data)| row[..width].copy_from_slice(data));
    let mut targets = vec![0.0; WHOLE * predictions * classes];
    targets.chunks_exact_mut(classes).enumerate().for_each(|(i, row)| row[i % classes] = 1.0);
    let sgd = Optimizer::Sgd { momentum: 0.9 };
    let steps = |mut stepper: WeightStepper<'_>| {
        let step = |samples: usize| {
            let weights: Vec<f32> = (0..WHOLE * predictions).map(|i| f32::from(i < samples * predictions)).collect();
            stepper.feed(&x, &targets, &weights);
            stepper.step(LR).expect("a step")
        };
        let read: Vec<_> = [WHOLE, short, WHOLE].map(step).into();
        let snapshot = stepper.snapshot().expect("a snapshot").weights().expect("weights");
        (read, snapshot, stepper.graphs())
    };
    let start = network.weights().expect("weights");
    let stepper = || batched.weight_stepper(&start, sgd, None, WHOLE).expect("a step graph");
    let (one, all) = (steps(stepper().in_one_size()), steps(stepper()));
    for (a, b) in one.0.iter().zip(&all.0) {
        assert!((a.loss - b.loss).abs() < 1e-4 * a.loss && (a.hits - b.hits).abs() < 0.5, "{a:?} and {b:?}");
    }
    let (most, _) = apart(&one.1, &all.1);
    assert!(most < 1e-2, "{}: {most} learning rates", path.display());
    assert_ne!(one.1, start);
    all.2
}

#[test]
fn noise_inside_a_model_and_several_predictions_have_short_batches_too() {
    for name in ["tokens-int64.onnx", "outputs-steps.onnx", "logits-4d.onnx"] {
        assert_eq!(graphs(&common::fixture("traps").join(name), 5), 2, "{name}");
    }
    // The batch is part of the file.
    assert_eq!(graphs(&common::fixture("traps").join("batch-one.onnx"), 5), 1);
}

/// A model that drops every axis of length 1 has other scores of a single sample; such a batch is filled up.
#[test]
fn a_batch_that_the_model_takes_for_another_is_filled_up() {
    let folder = common::temporary();
    let path = folder.path().join("squeezed.onnx");
    let squeezed = |b: &mut Builder, x: Value| {
        let y = common::models::dense(b, &x, CLASSES);
        let apart = b.constant(Tensor::ints(&[0, CLASSES as i64, 1]));
        let apart = b.op("Reshape", &[&y, &apart], &[], &[1, CLASSES, 1]);
        vec![b.op("Squeeze", &[&apart], &[], &[1, CLASSES])]
    };
    common::models::write(&path, squeezed, |_| {});
    assert_eq!(graphs(&path, 1), 1);
    assert_eq!(graphs(&path, 5), 2);
}

/// Statistics move as well.
#[test]
fn training_starts_anew_from_a_snapshot() {
    let network = network("fashion-mnist-bn.onnx");
    let data = Data::new();
    let batched = data.batched(&network, BATCH, BatchNorm::Batch);
    let start = batched.with_statistics(&network.weights().expect("weights"));
    let mut stepper = batched.weight_stepper(&start, Optimizer::ADAM, None, BATCH).expect("a step graph");
    data.step(&mut stepper);
    let snapshot: Snapshot = stepper.snapshot().expect("a snapshot");
    let then = snapshot.weights().expect("weights");
    assert_eq!(then, stepper.weights().expect("weights"));
    assert!(network.running_statistics().iter().all(|(name, t)| then[name] != *t), "the statistics have moved");
    let mut again = || {
        stepper.restart_from(&snapshot).expect("starts");
        stepper.fresh_optimizer().expect("starts");
        assert_eq!(stepper.weights().expect("weights"), then);
        data.step(&mut stepper);
        data.step(&mut stepper);
        stepper.weights().expect("weights")
    };
    let (first, second) = (again(), again());
    assert_eq!(first, second);
    assert_ne!(first, then);
}
