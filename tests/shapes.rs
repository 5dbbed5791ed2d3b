//! Shapes that the runtime infers are those that a run finds, or are not taken.

mod common;

use onnx_unlearn::{
    graph::{Attr, Attrs, Graph, Node, Port},
    onnx,
    runtime::Device,
    tensor::{DType, Tensor},
    train::{Traced, trace},
};
use std::collections::BTreeSet;

const BATCH: usize = 16;
const FEW: usize = 2;

/// Numbers of this shape, which differ.
fn numbers(shape: &[usize]) -> Tensor {
    let n = shape.iter().product::<usize>();
    Tensor::f32(shape, (0..n).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect())
}

/// The graph traced by a run, and with a few samples.
fn both(graph: &Graph) -> Option<[Traced; 2]> {
    let feeds = |batch: usize| {
        let feed = |port: &Port| {
            let dims = port.dims.as_ref()?.iter().enumerate();
            let shape: Vec<usize> = dims.map(|(i, d)| if i == 0 { Some(batch) } else { *d }).collect::<Option<_>>()?;
            (port.dtype == Some(DType::F32)).then(|| (port.name.clone(), numbers(&shape)))
        };
        graph.inputs.iter().map(feed).collect::<Option<Vec<_>>>()
    };
    let (whole, few) = (feeds(BATCH)?, feeds(FEW)?);
    let live: BTreeSet<String> = graph.inputs.iter().map(|p| p.name.clone()).collect();
    let engine = common::engine(Device::Cpu);
    Some([trace(&engine, graph, &whole, &[], &live).ok()?, trace(&engine, graph, &whole, &few, &live).ok()?])
}

/// True where shapes were inferred; what was found is the same in any case.
fn same([run, other]: &[Traced; 2], what: &str) -> bool {
    assert!(!run.inferred);
    assert_eq!(run.nodes, other.nodes, "{what}");
    assert_eq!(run.values, other.values, "{what}");
    assert_eq!(run.known, other.known, "{what}");
    other.inferred
}

#[test]
fn models_have_the_shapes_that_a_run_finds() {
    let (mut inferred, mut compared) = (0, 0);
    for folder in ["models", "traps"] {
        for name in common::program::names(&common::fixture(folder)) {
            let path = common::fixture(folder).join(&name);
            let open =
                |graph: &Graph| graph.inputs.iter().all(|p| p.dims.as_ref().is_some_and(|d| d.first() == Some(&None)));
            let Ok(model) = onnx::read(&path) else { continue };
            let Some(traced) = open(&model.graph).then(|| both(&model.graph)).flatten() else { continue };
            compared += 1;
            inferred += usize::from(same(&traced, &name));
        }
    }
    assert!(compared >= 20 && inferred >= compared / 2, "{inferred} of {compared}");
}

fn node(op: &str, inputs: &[&str], output: &str, attrs: &[(&str, Attr)]) -> Node {
    Node {
        name: output.into(),
        op: op.into(),
        domain: String::new(),
        inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
        outputs: vec![output.into()],
        attrs: attrs.iter().map(|(name, attr)| ((*name).to_owned(), attr.clone())).collect::<Attrs>(),
    }
}

/// A graph of one input x [batch, 3, 5, 4] and these nodes.
fn graph(nodes: Vec<Node>) -> Graph {
    let dims = [None, Some(3), Some(5), Some(4)].to_vec();
    Graph {
        opset: 18,
        inputs: vec![Port { name: "x".into(), dtype: Some(DType::F32), dims: Some(dims) }],
        outputs: vec![Port::open("y")],
        nodes,
        ..Graph::default()
    }
}

#[test]
fn arithmetic_of_shapes_is_folded() {
    // Ends of a shape by negative numbers, and the number of all elements.
    let first = node("Shape", &["x"], "first", &[("end", Attr::Int(1))]);
    let last = node("Shape", &["x"], "last", &[("start", Attr::Int(-1))]);
    let size = node("Size", &["x"], "size", &[]);
    let arithmetic = vec![
        first,
        last,
        size,
        node("Div", &["size", "last"], "rest", &[]),
        node("Div", &["rest", "first"], "middle", &[]),
        node("Concat", &["first", "middle", "last"], "target", &[("axis", Attr::Int(0))]),
        node("Reshape", &["x", "target"], "flat", &[]),
        // What is read of a value whose shape was open before.
        node("Shape", &["flat"], "again", &[]),
        node("ConstantOfShape", &["again"], "zeros", &[]),
        node("Add", &["flat", "zeros"], "y", &[]),
    ];
    let traced = both(&graph(arithmetic)).expect("it runs");
    assert!(same(&traced, "arithmetic of shapes"));
    assert_eq!(traced[1].values["y"].1, [BATCH, 15, 4]);
    assert_eq!(traced[1].known["target"].to_i64s(), Some(vec![BATCH as i64, 15, 4]));
    assert_eq!(traced[1].known["zeros"].shape(), [BATCH, 15, 4]);
}

#[test]
fn shapes_that_depend_on_data_need_the_run() {
    let nodes = vec![
        node("NonZero", &["x"], "places", &[]),
        node("Shape", &["places"], "count", &[]),
        node("ConstantOfShape", &["count"], "zeros", &[]),
        node("Cast", &["places"], "floats", &[("to", Attr::Int(1))]),
        node("Add", &["floats", "zeros"], "y", &[]),
    ];
    let traced = both(&graph(nodes)).expect("it runs");
    assert!(!same(&traced, "places of numbers"));
}

/// ONNX Runtime infers one window too many here.
#[test]
fn shapes_that_are_inferred_wrongly_are_not_taken() {
    let attrs = [
        ("auto_pad", Attr::Str("SAME_UPPER".into())),
        ("kernel_shape", vec![2i64, 1].into()),
        ("dilations", vec![2i64, 1].into()),
    ];
    let mut pool = graph(vec![node("MaxPool", &["x"], "y", &attrs)]);
    pool.inputs[0].dims.as_mut().expect("dims")[2] = Some(7);
    let traced = both(&pool).expect("it runs");
    assert!(!same(&traced, "a pool"));
    assert_eq!(traced[1].values["y"].1, [BATCH, 3, 6, 4]);
}
