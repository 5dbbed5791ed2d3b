use crate::{
    harness::{Case, any, case, engine, uniform},
    norm::refusal,
};
use onnx_unlearn::{
    autodiff,
    graph::{Attr, Attrs, Builder, Graph, Node, Port},
    onnx,
    tensor::{DType, Data, Tensor},
};
use std::collections::{BTreeSet, HashMap};

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
            for opset in [7, 13, 14, 18, 22, 23] {
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
            let node = || {
                bare(op, direction, size)
                    .grad(any(&[if direction == "bidirectional" { 2 } else { 1 }, 2 * gates(op) * 2]))
            };
            node().constant(lengths(&[3, 1, 4])).check();
            node().constant(lengths(&[4, 4, 4])).check();
            // Without peepholes the cells are computed in another way.
            node().data(lengths(&[3, 1, 4])).check();
            // Empty sequences.
            node().data(lengths(&[3, 0, 4])).check();
            full(op, direction, size, Some(lengths(&[0, 2, 0]))).check();
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
    // Weights small enough for every sum to stay on its side of the clip, which its bias decides.
    let small = |shape: &[usize], size: f32| uniform(shape, -size, size, 5);
    let node = |op: &'static str, steps: usize| {
        let n = gates(op) * 3;
        let bias = (0..2 * n).map(|i| if i < n { [-1.5, 0.2, 1.5][i % 3] } else { 0.0 }).collect();
        let node = case(op).outputs(if op == "LSTM" { 3 } else { 2 }).attr("hidden_size", 3i64).attr("clip", 0.8f32);
        let node = node.grad(small(&[steps, 2, 2], 0.3)).grad(small(&[1, n, 2], 0.1)).grad(small(&[1, n, 3], 0.1));
        node.grad(Tensor::f32([1, 2 * n], bias))
    };
    node("RNN", 3).check();
    for on in [0, 1] {
        node("GRU", 3).attr("linear_before_reset", on).check();
        node("LSTM", 3).attr("input_forget", on).check();
    }
    // Cell states beyond the clip are not cut.
    let cells = || node("LSTM", 2).none().none().grad(uniform(&[1, 2, 3], 4.0, 5.0, 3));
    cells().check();
    cells().grad(small(&[1, 9], 0.02)).check();
    // A negative clip is none.
    bare("RNN", "forward", SIZE).attr("clip", -1.0f32).check();
}

#[test]
fn what_is_refused() {
    let with = |name: &str, value: Attr| Attrs::from([(name.to_owned(), value)]);
    let why = |attrs: Attrs| {
        let shapes: [&[usize]; 3] = [&[2, 1, 2], &[1, 12, 2], &[1, 12, 3]];
        refusal("LSTM", attrs, &shapes, &[&[2, 1, 1, 3], &[1, 1, 3], &[1, 1, 3]], 1)
    };
    let said = why(with("direction", "backward".into()));
    assert!(said.contains("direction: expected forward, reverse or bidirectional, got \"backward\""), "{said}");
    let said = why(with("activations", names(&["Sigmoid", "Tanh"])));
    assert!(said.contains("activations: expected 3 functions, got [\"Sigmoid\", \"Tanh\"]"), "{said}");
    let said = why(with("activations", names(&["Sigmoid", "Tanh", "Gelu"])));
    assert!(said.contains("activations: expected functions that the operator's definition lists"), "{said}");
    let said = why(with("activations", names(&["Sigmoid", "ThresholdedRelu", "Tanh"])));
    assert!(said.contains("activation_alpha: expected a number for ThresholdedRelu, got none"), "{said}");
    let said = why(with("activations", names(&["Sigmoid", "Affine", "Tanh"])));
    assert!(said.contains("activation_alpha: expected a number for Affine, got none"), "{said}");
    let said = why(with("activation_beta", Attr::Ints(vec![1])));
    assert!(said.contains("activation_beta: expected a list of floats"), "{said}");
    let said = why(with("output_sequence", 1.into()));
    assert!(said.contains("attribute output_sequence is not understood"), "{said}");
}

/// Such a file could be rewritten, but not run: neither the source nor the result could be measured.
#[test]
fn batches_in_front_are_run_by_nobody() {
    for op in OPS {
        let [t, b, i, h] = SIZE;
        let g = gates(op) * h;
        let mut graph = Graph { opset: 22, outputs: vec![Port::open("y")], ..Graph::default() };
        let inputs: [(&str, &[usize]); 3] = [("x", &[b, t, i]), ("w", &[1, g, i]), ("r", &[1, g, h])];
        graph.inputs = inputs.iter().map(|(name, shape)| Port::fixed(*name, DType::F32, shape)).collect();
        graph.nodes.push(Node {
            name: "recurrent1".into(),
            op: op.into(),
            domain: String::new(),
            inputs: ["x", "w", "r"].map(String::from).to_vec(),
            outputs: vec!["y".into()],
            attrs: Attrs::from([("layout".to_owned(), Attr::Int(1)), ("hidden_size".to_owned(), Attr::Int(h as i64))]),
        });
        let refused = engine().session(op, &graph).err().expect("no such kernel").to_string();
        assert!(refused.contains("layout == 1"), "{refused}");
    }
}

#[test]
fn batches_in_front_are_refused() {
    for (layout, runs) in [(0, true), (1, false)] {
        let node = Node {
            name: "lstm1".into(),
            op: "LSTM".into(),
            domain: String::new(),
            inputs: ["x", "w", "r"].map(String::from).to_vec(),
            outputs: vec![String::new(), "last".into()],
            attrs: Attrs::from([("layout".to_owned(), Attr::Int(layout))]),
        };
        match onnx::lift(Graph { opset: 14, nodes: vec![node], ..Graph::default() }) {
            Ok(graph) => {
                assert!(runs, "layout={layout} was lifted");
                assert!(graph.nodes[0].attrs.is_empty(), "layout=0 says nothing");
                assert_eq!(graph.nodes[0].outputs, ["last/steps", "last"], "Y has a name");
            }
            Err(errors) => {
                assert!(!runs, "layout={layout}: {}", errors[0]);
                let said = errors[0].to_string();
                assert!(said.contains("\"lstm1\" (LSTM): layout=1 (batch first)"), "{said}");
            }
        }
    }
}

/// All inputs share one way back, with one matrix product a step; what is summed over the steps is one product each.
#[test]
fn the_way_back_is_written_once() {
    let (t, b, i, h) = (70, 2, 3, 4);
    let mut graph = Builder::new(18);
    let inputs: [(&str, DType, &[usize]); 8] = [
        ("x", DType::F32, &[t, b, i]),
        ("w", DType::F32, &[1, 4 * h, i]),
        ("r", DType::F32, &[1, 4 * h, h]),
        ("b", DType::F32, &[1, 8 * h]),
        ("ends", DType::I32, &[b]),
        ("h", DType::F32, &[1, b, h]),
        ("c", DType::F32, &[1, b, h]),
        ("p", DType::F32, &[1, 3 * h]),
    ];
    for (name, dtype, shape) in inputs {
        graph.input(name, dtype, shape);
    }
    let node = Node {
        name: "lstm1".into(),
        op: "LSTM".into(),
        domain: String::new(),
        inputs: inputs.iter().map(|(name, ..)| (*name).to_owned()).collect(),
        outputs: vec!["y".into()],
        attrs: Attrs::from([("hidden_size".to_owned(), Attr::Int(h as i64))]),
    };
    graph.forward(node.clone(), &[vec![t, 1, b, h]]);
    let y = graph.value("y").expect("the output").clone();
    let dy = graph.input("dy", DType::F32, y.shape());
    let wanted: BTreeSet<String> = node.inputs.iter().filter(|name| *name != "ends").cloned().collect();
    let found =
        autodiff::backward(&mut graph, &[node], &HashMap::new(), &[(y, dy)], &wanted, DType::F32).expect("rules");
    assert_eq!(found.len(), 7);
    for gradient in found.values() {
        graph.output(gradient);
    }
    let nodes = graph.finish().nodes;
    let count = |op: &str| nodes.iter().filter(|n| n.op == op).count();
    // Gemm: W and R of the gates, dx, dW, dR.
    assert_eq!([count("MatMul"), count("Gemm")], [t, 5]);
}
