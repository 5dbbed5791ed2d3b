//! Functions that have no end, or only on paper one.

use crate::build::*;
use onnx_unlearn::onnx::schema::*;

#[test]
fn a_function_that_calls_itself() {
    let f = function("F", &["a"], &["b"], vec![call("again", "F", &["a"], &["b"])]);
    let model = model(vec![call("c", "F", &["x"], &["y"])], vec![], vec![f]);
    refused(&model, &["node \"c\" (local.F): a function calls itself: local.F -> local.F"]);
}

#[test]
fn functions_that_call_each_other() {
    let f = function("F", &["a"], &["b"], vec![call("to", "G", &["a"], &["b"])]);
    // The way back lies in a graph inside a node.
    let back = graph("then_branch", inner(vec![call("back", "F", &["a"], &["t"])], &["t"]));
    let other = graph("else_branch", inner(vec![node("Neg", &["a"], &["e"])], &["e"]));
    let which = NodeProto { name: Some("which".into()), ..node("If", &["c"], &["b"]) };
    let g = function("G", &["a"], &["b"], vec![constant("c", boolean("", true)), which.with(back).with(other)]);
    let model = model(vec![call("c", "F", &["x"], &["y"])], vec![], vec![f, g]);
    refused(&model, &["node \"c\" (local.F): a function calls itself: local.F -> local.G -> local.F"]);
}

/// F0 to Fn, each calling the next one `times` times in a row; the last one is a Neg.
fn chain(n: usize, times: usize) -> ModelProto {
    let mut functions = vec![function(&format!("F{n}"), &["v0"], &["v1"], vec![node("Neg", &["v0"], &["v1"])])];
    for i in 0..n {
        let next = format!("F{}", i + 1);
        let value = |k: usize| format!("v{k}");
        let calls = (0..times).map(|k| call(&format!("c{k}"), &next, &[&value(k)], &[&value(k + 1)]));
        functions.push(function(&format!("F{i}"), &["v0"], &[&value(times)], calls.collect()));
    }
    model(vec![call("c", "F0", &["x"], &["y"])], vec![], functions)
}

#[test]
fn functions_that_double_without_end() {
    assert_eq!(read(&chain(6, 2)).expect("readable").graph.nodes.len(), 64);
    refused(&chain(30, 2), &["node \"c\" (local.F0): ", "written out it is more than 200000 nodes"]);
}

#[test]
fn functions_nested_too_deep() {
    assert_eq!(read(&chain(31, 1)).expect("readable").graph.nodes.len(), 1);
    refused(&chain(1000, 1), &["node \"c\" (local.F0): functions and graphs are nested more than 32 deep"]);
}
