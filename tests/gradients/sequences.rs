//! Lists, of which nothing is left for training. The harness compares the outputs of both forms.

use crate::harness::{Case, any, case};
use onnx_unlearn::{
    graph::{Attr, Graph, Node, Port},
    onnx,
    tensor::Tensor,
};

fn at(v: i64) -> Tensor {
    Tensor::i64([], vec![v])
}

fn axis(v: i64) -> [(&'static str, Attr); 1] {
    [("axis", Attr::Int(v))]
}

#[test]
fn parts_of_a_value() {
    let x = || case("SplitToSequence").grad(any(&[2, 6, 3]));
    for opset in [11, 13, 18, 24] {
        // Parts of given lengths, one of them not read.
        let node = x().opset(opset).ints(&[1, 3, 2]).constant(at(0)).constant(at(-1)).outputs(2);
        node.chain(&[
            ("SplitToSequence", &["x0", "x1"], "list", &axis(1)),
            ("SequenceAt", &["list", "x2"], "y0", &[]),
            ("SequenceAt", &["list", "x3"], "y1", &[]),
        ])
        .check();
        // Parts of one length, the last of them shorter, counted from the end too; and one that is longer than the whole.
        for (length, first, last) in [(4, 0, 1), (4, -2, -1), (i64::MAX, 0, -1)] {
            let node = x().opset(opset).constant(at(length)).constant(at(first)).constant(at(last)).outputs(2);
            node.chain(&[
                ("SplitToSequence", &["x0", "x1"], "list", &axis(-2)),
                ("SequenceAt", &["list", "x2"], "y0", &[]),
                ("SequenceAt", &["list", "x3"], "y1", &[]),
            ])
            .check();
        }
        // Single elements, with the axis and without.
        for keep in [0i64, 1] {
            let node = x().opset(opset).constant(at(1)).constant(at(-1)).constant(at(-2)).outputs(3);
            let attrs = [("axis", Attr::Int(2)), ("keepdims", keep.into())];
            node.chain(&[
                ("SplitToSequence", &["x0"], "list", &attrs),
                ("SequenceAt", &["list", "x1"], "y0", &[]),
                ("SequenceAt", &["list", "x2"], "y1", &[]),
                ("SequenceAt", &["list", "x3"], "y2", &[]),
            ])
            .check();
            let node = x().opset(opset).constant(at(1)).constant(at(-1));
            node.chain(&[
                ("SplitToSequence", &["x0", "x1"], "list", &attrs),
                ("SequenceAt", &["list", "x2"], "y0", &[]),
            ])
            .check();
            let back = [("axis", Attr::Int(2)), ("new_axis", (1 - keep).into())];
            x().chain(&[
                ("SplitToSequence", &["x0"], "list", &attrs),
                ("ConcatFromSequence", &["list"], "y", &back),
                ("Neg", &["y"], "y0", &[]),
            ])
            .check();
        }
    }
}

#[test]
fn values_put_together() {
    let two = || case("SequenceConstruct").grad(any(&[2, 3])).grad(any(&[2, 4]));
    let (x, y) = (("SequenceConstruct", &["x0", "x1"][..], "list", &[][..]), ("ConcatFromSequence", &["list"][..]));
    two().chain(&[x, (y.0, y.1, "y0", &axis(1))]).check();
    let same = || case("SequenceConstruct").grad(any(&[2, 3])).grad(any(&[3, 2]).reshaped([2, 3]));
    for (place, opset) in [(0, 11), (2, 13), (-1, 18), (-3, 24)] {
        let stack = [("axis", Attr::Int(place)), ("new_axis", 1i64.into())];
        same().opset(opset).chain(&[x, (y.0, y.1, "y0", &stack)]).check();
    }
}

#[test]
fn lists_that_grow_and_shrink() {
    let node: Case = case("SequenceInsert").grad(any(&[2, 1])).grad(any(&[2, 2])).data(any(&[2, 3]));
    let node = node.constant(at(0)).constant(at(-1)).outputs(2);
    node.chain(&[
        ("SequenceEmpty", &[], "empty", &[]),
        ("SequenceInsert", &["empty", "x0"], "one", &[]),
        ("SequenceInsert", &["one", "x1"], "two", &[]),
        ("SequenceInsert", &["two", "x2", "x3"], "three", &[]),
        ("SequenceErase", &["three", "x4"], "less", &[]),
        ("SequenceErase", &["less", "x3"], "least", &[]),
        ("SequenceInsert", &["least", "x1"], "more", &[]),
        ("Identity", &["more"], "same", &[]),
        ("ConcatFromSequence", &["same"], "y0", &axis(1)),
        ("SequenceLength", &["three"], "n", &[]),
        ("Cast", &["n"], "count", &[("to", Attr::Int(1))]),
        ("Mul", &["x0", "count"], "y1", &[]),
    ])
    .check();
}

/// Why a graph of these nodes cannot be written out.
fn refused(nodes: &[(&str, &[&str], &str)], constants: &[(&str, Tensor)]) -> String {
    let node = |(op, inputs, output): &(&str, &[&str], &str)| Node {
        name: format!("{output}1"),
        op: (*op).into(),
        domain: String::new(),
        inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
        outputs: vec![(*output).into()],
        attrs: [].into(),
    };
    let graph = Graph {
        opset: 18,
        nodes: nodes.iter().map(node).collect(),
        outputs: vec![Port::open("y")],
        constants: constants.iter().map(|(name, t)| ((*name).to_owned(), t.clone().into())).collect(),
        ..Graph::default()
    };
    onnx::lift(graph).expect_err("a refusal")[0].to_string()
}

#[test]
fn what_is_refused() {
    let two = [("two", at(2)), ("back", at(-1)), ("far", at(7))];
    let why = refused(&[("SequenceConstruct", &["a", "b"], "list"), ("SequenceAt", &["list", "i"], "y")], &two);
    let said = "in node \"y1\" (SequenceAt): the position in the list is computed by the graph (\"i\"); fold it";
    assert!(why.contains(said), "{why}");
    let why = refused(&[("SequenceConstruct", &["a", "b"], "list"), ("SequenceAt", &["list", "far"], "y")], &two);
    assert!(why.contains("position 7 of a list of 2"), "{why}");
    let why = refused(&[("SplitToSequence", &["a", "n"], "list")], &two);
    assert!(why.contains("the lengths of the parts are computed by the graph (\"n\")"), "{why}");
    let why = refused(&[("SplitToSequence", &["a", "back"], "list")], &two);
    assert!(why.contains("(SplitToSequence): parts of length -1"), "{why}");
    let parts: (&str, &[&str], &str) = ("SplitToSequence", &["a", "two"], "list");
    let why = refused(&[parts, ("SequenceLength", &["list"], "y")], &two);
    assert!(why.contains("and with it its length, is not known from the file"), "{why}");
    let why = refused(&[parts, ("Loop", &["n", "", "list"], "y")], &two);
    assert!(why.contains("it reads the list \"list\""), "{why}");
    let why = refused(&[("SequenceAt", &["given", "two"], "y")], &two);
    assert!(why.contains("what the list \"given\" holds is not known from the file"), "{why}");
    for op in ["RandomNormal", "RandomUniformLike", "Bernoulli"] {
        let why = refused(&[(op, &["a"], "y")], &[]);
        assert!(why.contains(&format!("({op}): it draws random numbers")), "{why}");
    }
}
