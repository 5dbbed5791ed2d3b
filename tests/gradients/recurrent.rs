use crate::harness::{Case, any, case, uniform};
use onnx_unlearn::{
    graph::Attr,
    tensor::{Data, Tensor},
};

/// Steps, samples, inputs and units of a case.
const SIZE: [usize; 4] = [3, 2, 2, 3];

fn gates(op: &str) -> usize {
    match op {
        "RNN" => 1,
        "GRU" => 3,
        _ => 4,
    }
}

fn names(v: &[&str]) -> Attr {
    Attr::Strs(v.iter().map(|s| (*s).to_owned()).collect())
}

fn lengths(v: &[i32]) -> Tensor {
    Tensor::new(vec![v.len()], Data::I32(v.to_vec()))
}

/// A node with x, W, R.
fn bare(op: &'static str, direction: &'static str, [t, b, i, h]: [usize; 4]) -> Case {
    let (g, d) = (gates(op), if direction == "bidirectional" { 2 } else { 1 });
    let node = case(op).outputs(if op == "LSTM" { 3 } else { 2 }).attr("hidden_size", h as i64);
    let node = if direction == "forward" { node } else { node.attr("direction", direction) };
    node.grad(any(&[t, b, i])).grad(any(&[d, g * h, i])).grad(any(&[d, g * h, h]))
}

/// A node with every input that carries a gradient, and sequence lengths if there are any.
fn full(op: &'static str, direction: &'static str, size: [usize; 4], ends: Option<Tensor>) -> Case {
    let [_, b, _, h] = size;
    let (g, d) = (gates(op), if direction == "bidirectional" { 2 } else { 1 });
    let node = bare(op, direction, size).grad(any(&[d, 2 * g * h]));
    let node = match ends {
        Some(ends) => node.data(ends),
        None => node.none(),
    };
    let node = node.grad(any(&[d, b, h]));
    if op == "LSTM" { node.grad(uniform(&[d, b, h], -1.0, 1.0, 3)).grad(any(&[d, 3 * h])) } else { node }
}

const OPS: [&str; 3] = ["RNN", "GRU", "LSTM"];
const DIRECTIONS: [&str; 3] = ["forward", "reverse", "bidirectional"];

#[test]
fn recurrent_layers() {
    for op in OPS {
        for direction in DIRECTIONS {
            for opset in [7, 14, 18, 22] {
                full(op, direction, SIZE, None).opset(opset).check();
            }
            bare(op, direction, SIZE).check();
            // One step, one sample.
            full(op, direction, [1, 1, 2, 2], None).check();
        }
    }
}

#[test]
fn every_output_alone() {
    for op in OPS {
        let outputs = if op == "LSTM" { 3 } else { 2 };
        for direction in DIRECTIONS {
            for kept in 0..outputs {
                let others = (0..outputs).filter(|&i| i != kept);
                others.fold(full(op, direction, SIZE, None), Case::without_output).check();
            }
            full(op, direction, SIZE, None).without_output(0).check();
        }
    }
    full("LSTM", "reverse", SIZE, None).outputs(1).opset(7).check();
}

#[test]
fn shorter_sequences() {
    for op in OPS {
        for direction in DIRECTIONS {
            let size = [4, 3, 2, 2];
            // Computed from data, a constant, all as long as the batch's, none as long.
            full(op, direction, size, Some(lengths(&[2, 4, 1]))).check();
            full(op, direction, size, Some(lengths(&[4, 4, 4]))).check();
            full(op, direction, size, Some(lengths(&[1, 3, 2]))).opset(7).check();
            let node = || bare(op, direction, size).grad(any(&[if direction == "bidirectional" { 2 } else { 1 }, 2 * gates(op) * 2]));
            node().constant(lengths(&[3, 1, 4])).check();
            node().constant(lengths(&[4, 4, 4])).check();
            // Without peepholes the cells are computed in another way.
            node().data(lengths(&[3, 1, 4])).check();
            if op != "RNN" {
                node().data(lengths(&[3, 0, 4])).check();
                full(op, direction, size, Some(lengths(&[0, 2, 0]))).check();
            }
        }
    }
}

#[test]
fn forms_of_the_cells() {
    for direction in DIRECTIONS {
        let ends = || Some(lengths(&[1, 3]));
        full("GRU", direction, SIZE, None).attr("linear_before_reset", 1).check();
        full("GRU", direction, SIZE, ends()).attr("linear_before_reset", 1).check();
        bare("GRU", direction, SIZE).attr("linear_before_reset", 1).check();
        full("LSTM", direction, SIZE, None).attr("input_forget", 1).check();
        full("LSTM", direction, SIZE, ends()).attr("input_forget", 1).check();
        bare("LSTM", direction, SIZE).attr("input_forget", 1).check();
    }
    // Initial states and peepholes one by one.
    let state = || any(&[1, 2, 3]);
    bare("LSTM", "forward", SIZE).none().none().grad(state()).check();
    bare("LSTM", "forward", SIZE).none().none().none().grad(state()).check();
    bare("LSTM", "reverse", SIZE).none().none().none().none().grad(any(&[1, 9])).check();
    bare("GRU", "forward", SIZE).none().none().grad(state()).check();
    bare("RNN", "reverse", SIZE).none().none().grad(state()).check();
}

#[test]
fn activation_functions() {
    let all = [
        ("Relu", 0, 0),
        ("Tanh", 0, 0),
        ("Sigmoid", 0, 0),
        ("Affine", 1, 1),
        ("LeakyRelu", 1, 0),
        ("ThresholdedRelu", 1, 0),
        ("ScaledTanh", 1, 1),
        ("HardSigmoid", 1, 1),
        ("Elu", 1, 0),
        ("Softsign", 0, 0),
        ("Softplus", 0, 0),
    ];
    // Every unit stays on its side of the kinks: its sum is close to its bias.
    let small = |shape: &[usize], size: f32| uniform(shape, -size, size, 5);
    let bias = || Tensor::f32([1, 6], vec![-1.0, 0.2, 0.8, -0.5, 0.1, 1.0]);
    for (name, alphas, betas) in all {
        let node = || case("RNN").outputs(2).attr("hidden_size", 3i64).attr("activations", names(&[name]));
        let data = |node: Case| {
            node.grad(small(&[2, 2, 3], 0.3)).grad(small(&[1, 3, 3], 0.05)).grad(small(&[1, 3, 3], 0.03)).grad(bias())
        };
        let node_with = |node: Case| {
            let node = if alphas == 1 { node.attr("activation_alpha", Attr::Floats(vec![0.6])) } else { node };
            if betas == 1 { node.attr("activation_beta", Attr::Floats(vec![0.4])) } else { node }
        };
        data(node_with(node())).check();
        // The defaults that every runtime agrees on.
        if !["Affine", "ThresholdedRelu", "ScaledTanh"].contains(&name) {
            data(node()).check();
        }
    }
}

#[test]
fn activation_lists() {
    let with = |op: &'static str, direction, functions: &[&str], alphas: &[f32], betas: &[f32]| {
        let node = full(op, direction, SIZE, None).attr("activations", names(functions));
        let node = node.attr("activation_alpha", Attr::Floats(alphas.to_vec()));
        node.attr("activation_beta", Attr::Floats(betas.to_vec())).check();
    };
    // The numbers go to the functions that take some, in their order.
    with("LSTM", "forward", &["Sigmoid", "ScaledTanh", "Affine"], &[1.2, 0.7], &[0.6, 0.3]);
    with("LSTM", "reverse", &["HardSigmoid", "Softplus", "Tanh"], &[0.15], &[]);
    let six = ["HardSigmoid", "Tanh", "ScaledTanh", "Sigmoid", "ScaledTanh", "Softplus"];
    with("LSTM", "bidirectional", &six, &[0.1, 1.5, 0.8], &[0.4, 0.7, 1.3]);
    with("GRU", "bidirectional", &["Softplus", "Affine", "HardSigmoid", "Softplus"], &[0.9, 0.1], &[0.2, 0.6]);
    with("GRU", "forward", &["sigmoid", "TANH"], &[], &[]);
    with("RNN", "bidirectional", &["Tanh", "ScaledTanh"], &[1.3], &[0.8]);
    with("RNN", "forward", &["Sigmoid", "Tanh"], &[], &[]);
}

#[test]
fn clipped_sums() {
    // Weights small enough for every sum to stay on its side of the clip.
    for op in OPS {
        let (g, h) = (gates(op), 3);
        for (reset, joint) in [(0, 0), (1, 1)] {
            let bias: Vec<f32> = (0..g * h).map(|i| if i % 3 == 0 { 0.3 } else { -1.3 + 2.6 * (i % 3 - 1) as f32 }).collect();
            let bias: Vec<f32> = bias.iter().chain(&vec![0.0; g * h]).copied().collect();
            let small = |shape: &[usize], size: f32| uniform(shape, -size, size, 5);
            let node = case(op).outputs(if op == "LSTM" { 3 } else { 2 }).attr("hidden_size", h as i64).attr("clip", 0.8f32);
            let node = match op {
                "GRU" => node.attr("linear_before_reset", reset),
                "LSTM" => node.attr("input_forget", joint),
                _ => node,
            };
            let node = node.grad(small(&[3, 2, 2], 0.3)).grad(small(&[1, g * h, 2], 0.1)).grad(small(&[1, g * h, h], 0.1));
            node.grad(Tensor::f32([1, 2 * g * h], bias)).check();
        }
    }
}
