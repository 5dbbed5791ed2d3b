//! Models by hand, and ONNX Runtime as the judge: the file against the graph that was read from it.

pub use crate::common::proto::*;

use crate::common;
use onnx_unlearn::{
    graph::Graph,
    onnx::{self, ImportError, Model, schema::*},
    runtime::Device,
    tensor::Tensor,
};
use prost::Message;
use std::{collections::HashSet, fs, path::Path};

/// A model with input `x` [2, 3] and output `y`, both floats.
pub fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, functions: Vec<FunctionProto>) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![import("", OPSET), import(LOCAL, 1)],
        graph: Some(GraphProto {
            name: Some("main".into()),
            node: nodes,
            initializer,
            input: vec![shaped("x", data_type::FLOAT, Some(&[2, 3]))],
            output: vec![value("y", data_type::FLOAT)],
            ..GraphProto::default()
        }),
        functions,
        ..ModelProto::default()
    }
}

/// What is fed as `x`.
pub fn x() -> Tensor {
    Tensor::f32([2, 3], vec![-2.0, -0.5, 0.25, 0.75, 1.5, 3.0])
}

/// Reads the model from a file.
pub fn read(model: &ModelProto) -> Result<Model, ImportError> {
    let folder = common::temporary();
    read_at(model, &folder.path().join("model.onnx"))
}

pub fn read_at(model: &ModelProto, path: &Path) -> Result<Model, ImportError> {
    fs::write(path, model.encode_to_vec()).expect("written");
    onnx::read(path)
}

/// What ONNX Runtime computes for [`x`].
#[track_caller]
pub fn run(what: &str, bytes: &[u8]) -> Vec<f32> {
    let engine = common::engine(Device::Cpu);
    let folder = common::temporary();
    let path = folder.path().join("model.onnx");
    fs::write(&path, bytes).expect("written");
    let mut session = engine.session_from_file(&path, true).unwrap_or_else(|e| panic!("{what}: {e}"));
    let y = session.run(&[("x", &x())]).unwrap_or_else(|e| panic!("{what}: {e}")).remove(0);
    y.as_f32().expect("floats").to_vec()
}

/// Checks that ONNX Runtime computes the same for the file, for the graph that was read from it and for that graph in
/// the spelling of the step graphs; that it is not all one number; and that every name is written once.
#[track_caller]
pub fn same(model: &ModelProto) -> Graph {
    let graph = read(model).expect("readable").graph;
    let expected = run("the file", &model.encode_to_vec());
    assert!(expected.iter().any(|v| v.to_bits() != expected[0].to_bits()), "{expected:?}");
    assert_eq!(run("the graph", &onnx::export(&graph)), expected, "{graph}");
    let lifted = onnx::lift(graph.clone()).expect("liftable");
    assert_eq!(run("the lifted graph", &onnx::export(&lifted)), expected, "{lifted}");
    names_are_unique(&onnx::export(&graph));
    names_are_unique(&onnx::export(&lifted));
    graph
}

/// Checks the names of values and nodes of a model.
#[track_caller]
pub fn names_are_unique(model: &[u8]) {
    let model = ModelProto::decode(model).expect("decodable");
    each_once(&model.graph.expect("a graph"), &HashSet::new(), &mut HashSet::new());
}

/// No value is called as another one in the same graph or in one around it, and no node as another one anywhere.
#[track_caller]
fn each_once(graph: &GraphProto, around: &HashSet<String>, nodes: &mut HashSet<String>) {
    let mut seen = around.clone();
    let inputs = graph.input.iter().map(ValueInfoProto::name);
    let tensors = graph.initializer.iter().map(TensorProto::name);
    let written = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    for name in inputs.chain(tensors).chain(written).filter(|name| !name.is_empty()) {
        assert!(seen.insert(name.to_owned()), "{name:?} is defined twice");
    }
    for n in &graph.node {
        assert!(n.name().is_empty() || nodes.insert(n.name().to_owned()), "two nodes are called {:?}", n.name());
        for g in n.attribute.iter().filter_map(|a| a.g.as_deref()) {
            each_once(g, &seen, nodes);
        }
    }
}

/// The operators of the graph, in order.
pub fn ops(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|n| n.op.as_str()).collect()
}

/// Checks that the model is refused at import, with these words.
#[track_caller]
pub fn refused(model: &ModelProto, words: &[&str]) {
    let error = read(model).expect_err("it must be refused").to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is missing in\n{error}");
    }
}
