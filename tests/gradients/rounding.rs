//! Operators whose derivative is zero wherever it exists: they pass nothing, and say so.

use onnx_unlearn::{
    autodiff::{self, DeadEnds},
    graph::{Attr, Attrs, Node},
    ops::MICROSOFT,
};
use std::collections::BTreeSet;

fn node(domain: &str, op: &str, inputs: &[&str], output: &str) -> Node {
    let to = |to| Attrs::from([("to".to_owned(), Attr::Int(to))]);
    let (op, attrs) = match op {
        "Cast to int64" => ("Cast", to(7)),
        "Cast to float" => ("Cast", to(1)),
        op => (op, Attrs::new()),
    };
    Node {
        name: output.into(),
        op: op.into(),
        domain: domain.into(),
        inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
        outputs: vec![output.into()],
        attrs,
    }
}

/// A chain of operators from x to y, each with the weight of its place: x, w0 -> v0; v0, w1 -> v1; ...
fn chain(ops: &[&str]) -> Vec<Node> {
    let name = |i: usize| if i + 1 == ops.len() { "y".to_owned() } else { format!("v{i}") };
    let make = |(i, op): (usize, &&str)| {
        let x = if i == 0 { "x".to_owned() } else { name(i - 1) };
        let w = format!("w{i}");
        let inputs: &[&str] = if *op == "Mul" { &[&x, &w] } else { &[&x] };
        node("", op, inputs, &name(i))
    };
    ops.iter().enumerate().map(make).collect()
}

fn ends(nodes: &[Node], wanted: &[&str]) -> DeadEnds {
    autodiff::dead_ends(nodes, &["y"], &wanted.iter().map(|s| (*s).to_owned()).collect())
}

fn names(lost: &BTreeSet<String>) -> Vec<&str> {
    lost.iter().map(String::as_str).collect()
}

#[test]
fn rounding_passes_nothing_and_is_no_obstacle() {
    for op in ["Floor", "Ceil", "Round", "Sign", "Hardmax"] {
        let nodes = chain(&["Mul", op, "Mul"]);
        let wanted = BTreeSet::from(["x", "w0", "w2"].map(str::to_owned));
        let (active, obstacles) = autodiff::reach(&nodes, &["y"], &wanted);
        assert!(obstacles.is_empty() && !active.contains("v1") && active.contains("y"), "{op}");
        assert!(autodiff::heard(&nodes, &["y"]).contains("w2"));
        let found = ends(&nodes, &["x", "w0", "w2"]);
        assert_eq!(names(&found.lost), ["w0", "x"]);
        assert_eq!(found.nodes, [format!("\"v1\" ({op})")]);
        assert!(!found.quantised);
    }
}

#[test]
fn the_last_of_several_is_named() {
    let found = ends(&chain(&["Mul", "Floor", "Mul", "Sign", "Round", "Mul"]), &["x", "w0", "w2", "w5"]);
    assert_eq!(names(&found.lost), ["w0", "w2", "x"]);
    assert_eq!(found.nodes, ["\"v4\" (Round)"]);
}

#[test]
fn what_has_another_path_is_not_lost() {
    // x |x|, written as x * x * sign x: the derivative is right without what passes Sign.
    let nodes = [
        node("", "Sign", &["x"], "sign"),
        node("", "Mul", &["x", "x"], "square"),
        node("", "Mul", &["square", "sign"], "y"),
    ];
    let found = ends(&nodes, &["x"]);
    assert!(found.lost.is_empty() && found.nodes.is_empty(), "{found:?}");
    // A weight that only the rounded branch has is lost.
    let nodes = [
        node("", "Mul", &["x", "w"], "v"),
        node("", "Round", &["v"], "rounded"),
        node("", "Add", &["x", "rounded"], "y"),
    ];
    let found = ends(&nodes, &["x", "w"]);
    assert_eq!((names(&found.lost), found.nodes), (vec!["w"], vec!["\"rounded\" (Round)".to_owned()]));
}

#[test]
fn integers_are_named_where_they_come_back_as_floats() {
    let back = [node("", "Cast to int64", &["x"], "i"), node("", "Cast to float", &["i"], "y")];
    assert_eq!(ends(&back, &["x"]).nodes, ["\"i\" (Cast)"]);
    // An index is no path at all.
    let index = [node("", "Cast to int64", &["x"], "i"), node("", "Gather", &["table", "i"], "y")];
    let found = ends(&index, &["x", "table"]);
    assert!(found.lost.is_empty() && found.nodes.is_empty(), "{found:?}");
    assert!(!autodiff::heard(&index, &["y"]).contains("x"));
}

#[test]
fn quantised_operators_are_named_as_such() {
    let dynamic = [
        node("", "DynamicQuantizeLinear", &["x"], "q"),
        node("", "MatMulInteger", &["q", "w"], "i"),
        node("", "Cast to float", &["i"], "y"),
    ];
    let found = ends(&dynamic, &["x"]);
    assert!(found.quantised);
    assert_eq!(found.nodes, ["\"i\" (MatMulInteger)"]);
    for op in ["QLinearAdd", "QGemm", "QAttention", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"] {
        assert!(ends(&[node(MICROSOFT, op, &["x", "w"], "y")], &["x"]).quantised, "{op}");
    }
}
