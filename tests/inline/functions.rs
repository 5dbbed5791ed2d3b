//! Functions of the model are written out, and compute what they did.

use crate::{
    build::*,
    common::{self, fixture},
};
use onnx_unlearn::{
    onnx::{self, schema::*},
    runtime::Device,
    tensor::Tensor,
    train::{BatchNorm, Network, TrainError},
};
use prost::Message;

/// y = max(x, 0) + 1, and the same twice.
fn raised() -> Vec<FunctionProto> {
    let one = constant("one", floats("", &[1], &[1.0]));
    vec![
        function("Raised", &["a"], &["b"], vec![one, node("Relu", &["a"], &["t"]), node("Add", &["t", "one"], &["b"])]),
        function(
            "Twice",
            &["a"],
            &["b"],
            vec![call("inner", "Raised", &["a"], &["t"]), call("outer", "Raised", &["t"], &["b"])],
        ),
    ]
}

#[test]
fn nested_functions_are_written_out_in_their_place() {
    let nodes = vec![
        call("first", "Twice", &["x"], &["p"]),
        node("Neg", &["p"], &["q"]),
        call("second", "Raised", &["q"], &["r"]),
        node("Sub", &["r", "p"], &["y"]),
    ];
    let graph = same(&model(nodes, vec![], raised()));
    assert_eq!(ops(&graph), ["Relu", "Add", "Relu", "Add", "Neg", "Relu", "Add", "Sub"]);
    let written: Vec<&str> = graph.nodes.iter().map(|n| n.outputs[0].as_str()).collect();
    assert_eq!(
        written,
        ["first/inner/t", "first/t", "first/outer/t", "p", "q", "second/t", "r", "y"],
        "names of the main graph stay"
    );
}

#[test]
fn names_that_clash_get_new_ones() {
    // Values and nodes of the main graph are called as those of the function are, and as those would be renamed.
    let nodes = vec![
        node("Neg", &["x"], &["t"]),
        node("Abs", &["t"], &["call/t"]),
        call("call", "Raised", &["call/t"], &["one"]),
        NodeProto { name: Some("call/b".into()), ..node("Add", &["one", "t"], &["a"]) },
        NodeProto { name: None, ..call("", "Raised", &["a"], &["b"]) },
        node("Mul", &["b", "call/t"], &["y"]),
    ];
    let graph = same(&model(nodes, vec![], raised()));
    let relus: Vec<&str> = graph.nodes.iter().filter(|n| n.op == "Relu").map(|n| n.outputs[0].as_str()).collect();
    assert_eq!(relus, ["call/t_2", "b/t"]);
}

#[test]
fn calls_of_one_name_are_told_apart() {
    // ONNX Runtime refuses the file for the name, so it gets another one.
    let nodes = |second| vec![call("call", "Twice", &["x"], &["p"]), call(second, "Twice", &["p"], &["y"])];
    let expected = run("the file", &model(nodes("other"), vec![], raised()).encode_to_vec());
    let graph = read(&model(nodes("call"), vec![], raised())).expect("readable").graph;
    let exported = onnx::export(&graph);
    names_are_unique(&exported);
    assert_eq!(run("the graph", &exported), expected);
}

#[test]
fn attributes_come_from_the_call_else_from_the_function_else_from_the_operator() {
    let leaky = node("LeakyRelu", &["a"], &["b"]).with(reference("alpha", "slope", attribute_type::FLOAT));
    let plain =
        FunctionProto { attribute: names(&["slope"]), ..function("Plain", &["a"], &["b"], vec![leaky.clone()]) };
    let default = FunctionProto {
        attribute_proto: vec![float("slope", 0.25)],
        ..function("Default", &["a"], &["b"], vec![leaky])
    };
    // Handed on by a function in between, under another name.
    let nested = call("inner", "Default", &["a"], &["b"]).with(reference("slope", "of", attribute_type::FLOAT));
    let handed = FunctionProto { attribute: names(&["of"]), ..function("Handed", &["a"], &["b"], vec![nested]) };
    let alpha = |node: NodeProto| {
        let functions = vec![plain.clone(), default.clone(), handed.clone()];
        let graph = same(&model(vec![node], vec![], functions));
        assert_eq!(ops(&graph), ["LeakyRelu"]);
        graph.nodes[0].attrs.get("alpha").map(ToString::to_string)
    };
    let of = |function: &str| call("c", function, &["x"], &["y"]);
    assert_eq!(alpha(of("Plain").with(float("slope", 0.5))).as_deref(), Some("0.5"));
    assert_eq!(alpha(of("Plain")), None, "the operator's own default counts");
    assert_eq!(alpha(of("Default")).as_deref(), Some("0.25"));
    assert_eq!(alpha(of("Default").with(float("slope", 0.5))).as_deref(), Some("0.5"));
    assert_eq!(alpha(of("Handed").with(float("of", 0.125))).as_deref(), Some("0.125"));
    assert_eq!(alpha(of("Handed")).as_deref(), Some("0.25"));
    assert_eq!(alpha(of("Plain").with(float("unknown", 2.0))), None, "what the function does not read says nothing");
}

#[test]
fn a_constant_in_a_function_may_be_an_attribute() {
    let value = node("Constant", &[], &["k"]).with(reference("value", "table", attribute_type::TENSOR));
    let scale = node("Constant", &[], &["s"]).with(reference("value_float", "scale", attribute_type::FLOAT));
    let f = function(
        "F",
        &["a"],
        &["b"],
        vec![value, scale, node("Mul", &["a", "k"], &["m"]), node("Add", &["m", "s"], &["b"])],
    );
    let f = FunctionProto { attribute: names(&["table"]), attribute_proto: vec![float("scale", 3.0)], ..f };
    let table = || tensor("table", floats("", &[3], &[1.0, 2.0, 3.0]));
    let nodes = vec![
        call("one", "F", &["x"], &["t"]).with(table()),
        call("two", "F", &["t"], &["y"]).with(table()).with(float("scale", -1.0)),
    ];
    let model = model(nodes, vec![], vec![f]);
    let graph = same(&model);
    assert_eq!(graph.constants.keys().map(String::as_str).collect::<Vec<_>>(), ["one/k", "one/s", "two/k", "two/s"]);
    let model = read(&model).expect("readable");
    assert!(model.stored.is_empty(), "the file has no tensor of this name in its main graph");
    assert_eq!(model.enclosed.iter().map(String::as_str).collect::<Vec<_>>(), ["one/k", "two/k"]);
}

#[test]
fn inputs_may_be_left_out() {
    let clip = function("F", &["a", "low", "high"], &["b"], vec![node("Clip", &["a", "low", "high"], &["b"])]);
    let zero = || floats("zero", &[], &[0.0]);
    let inputs = |inputs: &[&str]| {
        let graph = same(&model(vec![call("c", "F", inputs, &["y"])], vec![zero()], vec![clip.clone()]));
        graph.nodes[0].inputs.clone()
    };
    assert_eq!(inputs(&["x", "", "zero"]), ["x", "", "zero"]);
    assert_eq!(inputs(&["x", "zero"]), ["x", "zero"]);
    assert_eq!(inputs(&["x", "", ""]), ["x"]);
    assert_eq!(inputs(&["x"]), ["x"]);
}

#[test]
fn outputs_may_be_left_out() {
    let nodes = vec![node("Neg", &["a"], &["b"]), node("Abs", &["b"], &["c"])];
    let f = function("F", &["a"], &["b", "c"], nodes);
    let nodes = |outputs| vec![call("one", "F", &["x"], &["", "t"]), call("two", "F", &["t"], outputs)];
    let graph = same(&model(nodes(&["y", ""]), vec![], vec![f.clone()]));
    assert_eq!(ops(&graph), ["Neg", "Abs", "Neg", "Abs"]);
    let outputs: Vec<&str> = graph.nodes.iter().map(|n| n.outputs[0].as_str()).collect();
    assert_eq!(outputs, ["one/b", "t", "y", "two/c"]);
    // ONNX Runtime wants the empty name to stand there, the standard does not.
    let shorter = read(&model(nodes(&["y"]), vec![], vec![f])).expect("readable").graph;
    assert_eq!(shorter.to_string(), graph.to_string());
}

#[test]
fn an_output_that_no_node_writes_is_passed_on() {
    // An input handed through, and one value under two names: ONNX Runtime takes neither from a function.
    let nodes = vec![node("Neg", &["a"], &["b"])];
    let f = function("F", &["a"], &["a", "b", "b"], nodes);
    let nodes = vec![
        call("c", "F", &["x"], &["p", "q", "r"]),
        node("Sub", &["p", "q"], &["s"]),
        node("Sub", &["s", "r"], &["y"]),
    ];
    let graph = read(&model(nodes, vec![], vec![f])).expect("readable").graph;
    let expected: Vec<f32> = x().as_f32().expect("floats").iter().map(|v| 3.0 * v).collect();
    assert_eq!(run("the graph", &onnx::export(&graph)), expected);
}

#[test]
fn overloads_are_told_apart() {
    let one = FunctionProto {
        overload: Some("one".into()),
        ..function("F", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])])
    };
    let two = FunctionProto {
        overload: Some("two".into()),
        ..function("F", &["a"], &["b"], vec![node("Exp", &["a"], &["b"])])
    };
    let of = |overload: &str, inputs, outputs: &[&str]| NodeProto {
        overload: Some(overload.into()),
        ..call(outputs[0], "F", inputs, outputs)
    };
    let nodes = vec![of("two", &["x"], &["t"]), of("one", &["t"], &["y"])];
    let functions = vec![one, two];
    assert_eq!(ops(&same(&model(nodes, vec![], functions.clone()))), ["Exp", "Neg"]);
    refused(
        &model(vec![of("three", &["x"], &["y"])], vec![], functions),
        &["node \"y\" (local.F (overload \"three\"))", "no function local.F of this overload", "overload \"three\""],
    );
}

#[test]
fn a_graph_inside_a_function_sees_the_function() {
    // The loop reads an input of the function and a value written there, and calls a function of its own.
    let nodes = vec![node("Add", &["t", "shift"], &["u"]), call("deep", "Raised", &["u"], &["next"])];
    let looped = node("Loop", &["n", "", "a"], &["b"]).with(graph("body", body("t", data_type::FLOAT, nodes, "next")));
    let f = function("F", &["a", "n"], &["b"], vec![node("Neg", &["a"], &["shift"]), looped]);
    let functions = || [vec![f.clone()], raised()].concat();
    let calls = vec![
        node("Exp", &["x"], &["t"]),
        call("one", "F", &["t", "three"], &["shift"]),
        call("two", "F", &["shift", "three"], &["z"]),
        node("Add", &["z", "t"], &["y"]),
    ];
    let graph = same(&model(calls, vec![integers("three", &[], &[3])], functions()));
    assert_eq!(ops(&graph), ["Exp", "Neg", "Loop", "Neg", "Loop", "Add"]);
    assert_eq!(graph.nodes[2].captures().collect::<Vec<_>>(), ["one/shift"]);
    assert_eq!(graph.nodes[4].captures().collect::<Vec<_>>(), ["two/shift"]);
}

#[test]
fn a_graph_of_the_main_graph_may_call_a_function() {
    let nodes = vec![call("deep", "Twice", &["t"], &["u"]), node("Sub", &["u", "x"], &["next"])];
    let looped = node("Loop", &["n", "", "x"], &["y"]).with(graph("body", body("t", data_type::FLOAT, nodes, "next")));
    let graph = same(&model(vec![looped], vec![integers("n", &[], &[2])], raised()));
    assert_eq!(graph.nodes[0].captures().collect::<Vec<_>>(), ["x"]);
}

/// x w + v + bias, with w an initializer, v in a function and bias in a Constant of the main graph.
fn dense() -> ModelProto {
    let shift = vec![constant("v", floats("", &[4], &[1.0, 2.0, 3.0, 4.0])), node("Add", &["a", "v"], &["b"])];
    let nodes = vec![
        node("MatMul", &["x", "w"], &["m"]),
        call("shift", "Shift", &["m"], &["s"]),
        constant("bias", floats("", &[4], &[0.5, 0.25, 0.0, 1.0])),
        node("Add", &["s", "bias"], &["y"]),
    ];
    let w: Vec<f32> = (0..12).map(|i| i as f32 / 8.0 - 0.5).collect();
    model(nodes, vec![floats("w", &[3, 4], &w)], vec![function("Shift", &["a"], &["b"], shift)])
}

#[test]
fn weights_in_functions_stay_as_they_are() {
    let model = read(&dense()).expect("readable");
    let network = Network::new(&model, None).expect("trainable");
    let stored: Vec<_> = network.stored.iter().map(|s| (s.name.as_str(), s.frozen)).collect();
    let why = Some("inside a function or a branch of the file, where new values cannot be written");
    assert_eq!(stored, [("bias", None), ("shift/v", why), ("w", None)]);
}

#[test]
fn statistics_in_functions_do_not_move() {
    let of = |name: &str, value: f32| constant(name, floats("", &[3], &[value; 3]));
    let norm = node("BatchNormalization", &["a", "one", "zero", "zero", "one"], &["b"]);
    let f = function("F", &["a"], &["b"], vec![of("one", 1.0), of("zero", 0.0), norm]);
    let nodes = vec![call("c", "F", &["x"], &["t"]), node("MatMul", &["t", "w"], &["y"])];
    let model = read(&model(nodes, vec![floats("w", &[3, 2], &[0.5; 6])], vec![f])).expect("readable");
    let network = Network::new(&model, None).expect("trainable");
    let engine = common::engine(Device::Cpu);
    network.at_batch(&engine, &x(), BatchNorm::Frozen).map(|_| ()).expect("frozen statistics may lie anywhere");
    let error = network.at_batch(&engine, &x(), BatchNorm::Batch).map(|_| ()).expect_err("no place to write to");
    assert!(matches!(error, TrainError::BatchNorm { .. }), "{error}");
    assert!(error.to_string().contains("statistics \"c/zero\" are no tensor of the main graph"), "{error}");
}

#[test]
fn the_fixture_with_functions_has_the_gradients_of_the_one_without() {
    let gradients = |name: &str| {
        let model = onnx::read(&fixture("models").join(name)).expect("readable");
        let network = Network::new(&model, None).expect("trainable");
        let weights = network.weights().expect("weights");
        let x: Vec<f32> = (0..4 * 784).map(|i| (i % 23) as f32 / 10.0 - 1.0).collect();
        let x = Tensor::f32([4, 1, 28, 28], x);
        let targets = Tensor::f32([4, 10], (0..40).map(|i| f32::from(i % 11 == 0)).collect());
        let network = network.at_batch(&common::engine(Device::Cpu), &x, BatchNorm::Frozen).expect("it runs");
        network.gradients(&weights, &x, &targets).expect("gradients")
    };
    let (plain, functions) = (gradients("fashion-mnist.onnx"), gradients("fashion-mnist-functions.onnx"));
    assert_eq!(plain.1.len(), 15, "14 weights and the input");
    assert_eq!(plain, functions);
}
