//! Functions and graphs that are not understood are refused by name, all in one message.

use crate::build::*;
use onnx_unlearn::onnx::schema::*;

fn neg() -> FunctionProto {
    function("F", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])])
}

fn f(inputs: &[&str], outputs: &[&str]) -> NodeProto {
    call("c", "F", inputs, outputs)
}

#[test]
fn a_function_in_another_opset() {
    let other = FunctionProto { opset_import: vec![import("ai.onnx", 13)], ..neg() };
    let words = ["node \"c\" (local.F): function local.F is written in opset 13 of ai.onnx and the model in opset 18"];
    refused(&model(vec![f(&["x"], &["y"])], vec![], vec![other]), &words);
    // One that nobody calls says nothing, nor does the opset of a domain that is the model's own.
    let unused = FunctionProto { opset_import: vec![import("", 13)], ..neg() };
    same(&model(vec![node("Neg", &["x"], &["y"])], vec![], vec![unused]));
    let local = FunctionProto { opset_import: vec![import("", OPSET), import(LOCAL, 7)], ..neg() };
    same(&model(vec![f(&["x"], &["y"])], vec![], vec![local]));
}

#[test]
fn a_function_that_reads_around_itself() {
    // ONNX Runtime takes the main graph's `t`, the standard has functions see nothing but their inputs.
    let open = function("F", &["a"], &["b"], vec![node("Add", &["a", "t"], &["b"])]);
    let nodes = vec![node("Neg", &["x"], &["t"]), f(&["x"], &["y"])];
    refused(&model(nodes, vec![], vec![open]), &["function local.F: node \"b\" (Add): \"t\" is read in the function"]);
    let nothing = FunctionProto { output: names(&["z"]), ..neg() };
    refused(&model(vec![f(&["x"], &["y"])], vec![], vec![nothing]), &["local.F", "\"z\" is read in the function"]);
    let left_out = function("F", &["a", "z"], &["z"], vec![node("Neg", &["a"], &["b"])]);
    refused(
        &model(vec![f(&["x"], &["y"])], vec![], vec![left_out]),
        &["output \"z\" is an input that the call leaves out"],
    );
}

#[test]
fn a_call_that_does_not_fit() {
    refused(&model(vec![f(&["x", "x"], &["y"])], vec![], vec![neg()]), &["2 inputs for function local.F, which has 1"]);
    refused(
        &model(vec![f(&["x"], &["y", "z"])], vec![], vec![neg()]),
        &["2 outputs for function local.F, which has 1"],
    );
    let twice = function("F", &["a"], &["b"], vec![node("Neg", &["a"], &["b"]), node("Abs", &["a"], &["b"])]);
    refused(&model(vec![f(&["x"], &["y"])], vec![], vec![twice]), &["function local.F: \"b\" is defined twice"]);
    refused(&model(vec![f(&["x"], &["y"])], vec![], vec![neg(), neg()]), &["the model defines function local.F twice"]);
    let leaky = node("LeakyRelu", &["a"], &["b"]).with(reference("alpha", "slope", attribute_type::FLOAT));
    let leaky = function("F", &["a"], &["b"], vec![leaky]);
    let number = f(&["x"], &["y"]).with(int("slope", 1));
    refused(&model(vec![number], vec![], vec![leaky]), &["node \"b\" (LeakyRelu): attribute alpha: slope has type 2"]);
}

#[test]
fn a_function_called_like_a_standard_operator() {
    for domain in ["", "ai.onnx", "com.microsoft"] {
        let f = FunctionProto { domain: Some(domain.into()), name: Some("Gelu".into()), ..neg() };
        let node = NodeProto { domain: Some(domain.into()), ..node("Gelu", &["x"], &["y"]) };
        refused(
            &model(vec![node], vec![], vec![f]),
            &["Gelu is a function of the model in a domain of standard operators"],
        );
    }
}

#[test]
fn an_attribute_that_refers_to_no_function() {
    let leaky =
        |x: &str, y: &str| node("LeakyRelu", &[x], &[y]).with(reference("alpha", "slope", attribute_type::FLOAT));
    refused(
        &model(vec![leaky("x", "y")], vec![], vec![]),
        &["\"y\" (LeakyRelu): attribute alpha refers to a function's"],
    );
    let looped = body("t", data_type::FLOAT, vec![leaky("t", "u")], "u");
    let looped = node("Loop", &["n", "", "x"], &["y"]).with(graph("body", looped));
    let words = ["\"y\" (Loop): attribute body: node \"u\": attribute alpha refers to a function's"];
    refused(&model(vec![looped], vec![integers("n", &[], &[2])], vec![]), &words);
}

#[test]
fn a_graph_that_holds_what_the_main_graph_may_not() {
    let looped = |g: GraphProto| {
        let looped = node("Loop", &["n", "", "x"], &["y"]).with(graph("body", g));
        model(vec![looped], vec![integers("n", &[], &[2])], vec![])
    };
    let foreign = NodeProto { domain: Some("ai.onnx.ml".into()), ..node("Scaler", &["t"], &["u"]) };
    let foreign = body("t", data_type::FLOAT, vec![foreign], "u");
    refused(
        &looped(foreign),
        &["\"y\" (Loop): attribute body: node \"u\" (ai.onnx.ml.Scaler): this domain is not supported"],
    );
    let sparse = SparseTensorProto { values: Some(floats("w", &[1], &[1.0])), ..SparseTensorProto::default() };
    let plain = body("t", data_type::FLOAT, vec![node("Neg", &["t"], &["u"])], "u");
    let sparse = GraphProto { sparse_initializer: vec![sparse], ..plain.clone() };
    refused(&looped(sparse), &["\"y\" (Loop): attribute body: initializer \"w\" is sparse; store it dense"]);
    let list = AttributeProto { graphs: vec![plain], ..attribute("bodies", attribute_type::GRAPHS) };
    let list = node("Choose", &["x"], &["y"]).with(list);
    refused(&model(vec![list], vec![], vec![]), &["\"y\" (Choose): attribute bodies holds a list of graphs"]);
}

#[test]
fn all_of_it_is_listed_at_once() {
    let nodes = vec![f(&["x", "x"], &["p"]), f(&["p"], &["q", "r"]), f(&["q"], &["s"])];
    let nodes = [nodes, vec![NodeProto { domain: Some("other".into()), ..node("Op", &["s"], &["y"]) }]].concat();
    refused(&model(nodes, vec![], vec![neg()]), &["3 node(s)", "2 inputs", "2 outputs", "domain \"other\""]);
}
