//! Control flow: branches that are always taken are written out; what only a run decides is kept, and counted with what
//! it reads.

use crate::{
    build::*,
    common::{self, temporary},
};
use onnx_unlearn::{
    graph::Graph,
    onnx::{self, schema::*},
    runtime::Device,
    tensor::Tensor,
    train::{self, BatchNorm, Network, Optimizer},
};
use prost::Message;
use std::{collections::BTreeSet, fs};

/// y = then: -x, else: exp x.
fn which(condition: &str) -> NodeProto {
    NodeProto { name: Some("which".into()), ..node("If", &[condition], &["y"]) }
        .with(graph("then_branch", inner(vec![node("Neg", &["x"], &["t"])], &["t"])))
        .with(graph("else_branch", inner(vec![node("Exp", &["x"], &["e"])], &["e"])))
}

#[test]
fn a_condition_that_is_a_constant_decides() {
    let decided = |nodes: Vec<NodeProto>, initializers: Vec<TensorProto>| {
        let graph = same(&model([nodes, vec![which("c")]].concat(), initializers, vec![]));
        assert!(!graph.nodes.iter().any(|n| n.op == "If"), "{graph}");
        graph.nodes.last().expect("a node").op.clone()
    };
    for (value, op) in [(true, "Neg"), (false, "Exp")] {
        let other = if value { "Exp" } else { "Neg" };
        assert_eq!(decided(vec![], vec![boolean("c", value)]), op);
        assert_eq!(decided(vec![constant("c", boolean("", value))], vec![]), op);
        let through = |node: NodeProto| decided(vec![node], vec![boolean("b", value)]);
        assert_eq!(through(node("Identity", &["b"], &["c"])), op);
        assert_eq!(through(node("Not", &["b"], &["c"])), other);
        let cast = |from: TensorProto| {
            decided(vec![node("Cast", &["n"], &["c"]).with(int("to", data_type::BOOL.into()))], vec![from])
        };
        assert_eq!(cast(integers("n", &[], &[i64::from(value) * 5])), op);
        assert_eq!(cast(floats("n", &[1], &[f32::from(value) * 0.5])), op);
        let equal = vec![node("Equal", &["n", "m"], &["same"]), node("Not", &["same"], &["c"])];
        // Two numbers that a float64 cannot tell apart.
        let large = (1 << 53) + i64::from(!value);
        let numbers = vec![integers("n", &[], &[large]), integers("m", &[], &[1 << 53])];
        assert_eq!(decided(equal, numbers), other);
    }
}

#[test]
fn a_condition_that_a_run_decides_is_left_alone() {
    let rank = vec![
        node("Shape", &["x"], &["s"]),
        node("Size", &["s"], &["r"]),
        node("Equal", &["r", "two"], &["c"]),
        which("c"),
    ];
    let graph = same(&model(rank, vec![integers("two", &[], &[2])], vec![]));
    assert_eq!(ops(&graph), ["Shape", "Size", "Equal", "If"]);
    assert_eq!(graph.nodes[3].captures().collect::<BTreeSet<_>>(), ["x"].into());
}

#[test]
fn a_branch_sees_what_is_around_it_and_keeps_its_names_apart() {
    // The branch calls its values as the main graph calls others, has a weight of its own and a branch inside.
    let deepest = inner(vec![node("Mul", &["w", "t"], &["q"])], &["q"]);
    let other = inner(vec![node("Neg", &["w"], &["n"])], &["n"]);
    let inside = node("If", &["yes"], &["m"]).with(graph("then_branch", deepest)).with(graph("else_branch", other));
    let nodes = vec![node("Add", &["x", "v"], &["w"]), inside, node("Sub", &["m", "shift"], &["out"])];
    let then = GraphProto { initializer: vec![floats("v", &[3], &[1.0, 2.0, 3.0])], ..inner(nodes, &["out"]) };
    let not = inner(vec![node("Neg", &["x"], &["n"])], &["n"]);
    let which = NodeProto { name: Some("which".into()), ..node("If", &["yes"], &["p"]) };
    let nodes = vec![
        node("Exp", &["x"], &["which/w"]),
        node("Abs", &["x"], &["t"]),
        which.with(graph("then_branch", then)).with(graph("else_branch", not)),
        node("Add", &["p", "which/w"], &["y"]),
    ];
    let initializers = vec![boolean("yes", true), floats("shift", &[1], &[0.5])];
    let model = model(nodes, initializers, vec![]);
    let graph = same(&model);
    assert_eq!(ops(&graph), ["Exp", "Abs", "Add", "Mul", "Sub", "Add"]);
    let model = read(&model).expect("readable");
    assert_eq!(model.enclosed.iter().collect::<Vec<_>>(), ["which/v"]);
    assert_eq!(model.stored, ["yes", "shift"]);
}

/// A Loop that adds `step`, a value from around it, `n` times.
fn adding(n: &str, start: &str, step: &str, out: &str) -> NodeProto {
    let body = body("t", data_type::FLOAT, vec![node("Add", &["t", step], &["u"])], "u");
    NodeProto { name: Some("adding".into()), ..node("Loop", &[n, "", start], &[out]) }.with(graph("body", body))
}

#[test]
fn what_a_kept_graph_reads_is_needed() {
    let nodes = vec![
        node("Exp", &["x"], &["step"]),
        node("Neg", &["x"], &["unread"]),
        node("Abs", &["x"], &["start"]),
        adding("n", "start", "step", "y"),
    ];
    let mut graph = same(&model(nodes, vec![integers("n", &[], &[3]), floats("w", &[], &[1.0])], vec![]));
    graph.prune();
    assert_eq!(ops(&graph), ["Exp", "Abs", "Loop"]);
    assert_eq!(graph.constants.keys().collect::<Vec<_>>(), ["n"]);
    // An input that only a graph inside a node reads is read.
    let only = vec![adding("n", "zeros", "x", "y")];
    let numbers = || vec![integers("n", &[], &[3]), floats("zeros", &[2, 3], &[0.0; 6])];
    assert!(read(&model(only, numbers(), vec![])).expect("readable").idle_inputs().is_empty());
    let constant = vec![node("Neg", &["zeros"], &["y"])];
    assert_eq!(read(&model(constant, numbers(), vec![])).expect("readable").idle_inputs(), ["x"]);
}

#[test]
fn a_graph_is_written_back_as_it_was() {
    let nodes = vec![adding("n", "x", "x", "y")];
    let source = model(nodes, vec![integers("n", &[], &[3])], vec![]);
    let graph = read(&source).expect("readable").graph;
    let back = ModelProto::decode(&*onnx::export(&graph)).expect("decodable").graph.expect("a graph");
    assert_eq!(back.node[0].attribute, source.graph.expect("a graph").node[0].attribute);
}

#[test]
fn operators_of_the_runtime_inside_a_graph_bring_their_domain() {
    let gelu = NodeProto { domain: Some("com.microsoft".into()), ..node("Gelu", &["t"], &["u"]) };
    let looped =
        node("Loop", &["n", "", "x"], &["y"]).with(graph("body", body("t", data_type::FLOAT, vec![gelu], "u")));
    let mut model = model(vec![looped], vec![integers("n", &[], &[2])], vec![]);
    model.opset_import.push(import("com.microsoft", 1));
    same(&model);
}

#[test]
fn external_data_inside_a_graph_is_taken_along() {
    let folder = temporary();
    fs::write(folder.path().join("w.data"), [1.0f32, -2.0, 3.0].map(f32::to_le_bytes).concat()).expect("written");
    let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
    let w = TensorProto {
        data_location: Some(1),
        external_data: vec![entry("location", "w.data")],
        ..floats("w", &[3], &[])
    };
    let body = body("t", data_type::FLOAT, vec![constant("w", w), node("Mul", &["t", "w"], &["u"])], "u");
    let looped = node("Loop", &["n", "", "x"], &["y"]).with(graph("body", body));
    let path = folder.path().join("model.onnx");
    let model = read_at(&model(vec![looped], vec![integers("n", &[], &[2])], vec![]), &path).expect("readable");
    assert_eq!(model.external.iter().collect::<Vec<_>>(), ["w.data"]);
    let squared = [1.0, 4.0, 9.0].repeat(2);
    let expected: Vec<f32> = x().as_f32().expect("floats").iter().zip(squared).map(|(a, b)| a * b).collect();
    assert_eq!(run("the graph", &onnx::export(&model.graph)), expected);
}

#[test]
fn old_spellings_inside_a_graph_are_lifted() {
    // Opset 11: axes and split are attributes, Softmax flattens, and Dropout knows no training mode.
    let deep = inner(vec![node("ReduceSum", &["p"], &["d"]).with(ints("axes", &[0]))], &["d"]);
    let other = inner(vec![node("ReduceMax", &["p"], &["m"]).with(ints("axes", &[0]))], &["m"]);
    let nodes = vec![
        node("Unsqueeze", &["t"], &["wide"]).with(ints("axes", &[0, 2])),
        node("Softmax", &["wide"], &["soft"]).with(int("axis", 3)),
        node("Squeeze", &["soft"], &["p"]).with(ints("axes", &[0, 2])),
        node("ReduceMean", &["p"], &["mean"]).with(ints("axes", &[1])).with(int("keepdims", 0)),
        node("ReduceMax", &["mean"], &["top"]).with(int("keepdims", 0)),
        node("Greater", &["top", "limit"], &["large"]),
        node("If", &["large"], &["sum"]).with(graph("then_branch", deep)).with(graph("else_branch", other)),
        node("Split", &["p"], &["one", "rest"]).with(int("axis", 1)).with(ints("split", &[1, 2])),
        node("Mul", &["one", "sum"], &["scaled"]),
        node("Dropout", &["scaled"], &["kept"]).with(float("ratio", 0.5)),
        node("Add", &["t", "kept"], &["u"]),
    ];
    for limit in [0.0, 1.0] {
        let looped =
            node("Loop", &["n", "", "x"], &["y"]).with(graph("body", body("t", data_type::FLOAT, nodes.clone(), "u")));
        let mut model = model(vec![looped], vec![integers("n", &[], &[3]), floats("limit", &[], &[limit])], vec![]);
        model.opset_import = vec![import("", 11)];
        let graph = same(&model);
        let lifted = onnx::lift(graph).expect("liftable");
        assert_eq!(lifted.opset, 18);
        assert_eq!(lifted.nodes[0].captures().collect::<Vec<_>>(), ["limit"]);
    }
}

#[test]
fn an_old_spelling_without_a_counterpart_is_named_inside_a_graph_too() {
    let nodes = vec![node("Dropout", &["t"], &["d", "mask"]), node("Mul", &["d", "mask"], &["u"])];
    let looped = node("Loop", &["n", "", "x"], &["y"]).with(graph("body", body("t", data_type::FLOAT, nodes, "u")));
    let mut model = model(vec![looped], vec![integers("n", &[], &[3])], vec![]);
    model.opset_import = vec![import("", 9)];
    let errors = onnx::lift(read(&model).expect("readable").graph).expect_err("no counterpart");
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "in node \"y\" (Loop): in its node \"d\" (Dropout): the mask output is used, which has no meaning outside training"
        ]
    );
}

#[test]
fn inside_a_graph_only_the_spelling_changes() {
    // What is rewritten for the sake of gradients outside (a CastLike, a fused operator) is left alone here.
    let fused = NodeProto { domain: Some("com.microsoft".into()), ..node("BiasGelu", &["same", "bias"], &["u"]) };
    let nodes = vec![node("CastLike", &["t", "x"], &["same"]), fused];
    let looped = node("Loop", &["n", "", "x"], &["y"]).with(graph("body", body("t", data_type::FLOAT, nodes, "u")));
    let numbers = vec![integers("n", &[], &[2]), floats("bias", &[3], &[0.5, 0.0, -0.5])];
    let mut model = model(vec![looped], numbers, vec![]);
    model.opset_import = vec![import("", 17), import("com.microsoft", 1)];
    let graph = same(&model);
    assert_eq!(onnx::lift(graph.clone()).expect("liftable").nodes, graph.nodes);
}

#[test]
fn a_graph_in_another_float_type_than_the_training_is_refused() {
    const FLOAT16: i32 = data_type::FLOAT16;
    // Off the path of the gradient, and yet it would be fed float32.
    const FLOAT: i32 = data_type::FLOAT;
    let to = |x: &str, kind: i32, y: &str| node("Cast", &[x], &[y]).with(int("to", kind.into()));
    // x, cast to `outside`, in a loop that turns it into `inside` and back.
    let network = |w: TensorProto, outside: i32, inside: i32| {
        let body = body("t", outside, vec![to("t", inside, "i"), to("i", outside, "u")], "u");
        let nodes = vec![
            to("x", outside, "typed"),
            node("Loop", &["n", "", "typed"], &["turned"]).with(graph("body", body)),
            node("Shape", &["turned"], &["shape"]),
            node("Reshape", &["x", "shape"], &["p"]),
            to("w", FLOAT, "wide"),
            node("MatMul", &["p", "wide"], &["y"]),
        ];
        let model = read(&model(nodes, vec![integers("n", &[], &[2]), w], vec![])).expect("readable");
        let network = Network::new(&model, None).map_err(|e| e.to_string())?;
        let engine = common::engine(Device::Cpu);
        network.at_batch(&engine, &x(), BatchNorm::Frozen).map(|_| ()).map_err(|e| e.to_string())
    };
    let bytes = Some([0, 60].repeat(6).into());
    let half = || TensorProto { data_type: Some(FLOAT16), raw_data: bytes.clone(), ..floats("w", &[3, 2], &[]) };
    let single = || floats("w", &[3, 2], &[1.0; 6]);
    for (w, outside, inside) in [(half(), FLOAT16, FLOAT16), (half(), FLOAT, FLOAT16), (single(), FLOAT16, FLOAT16)] {
        let error = network(w, outside, inside).expect_err("float16 inside");
        assert!(error.contains("in node \"turned\" (Loop): the model is trained in float32"), "{error}");
    }
    network(half(), FLOAT, FLOAT).expect("nothing but float32 inside");
    network(single(), FLOAT, FLOAT16).expect("nothing but float32 outside");
}

/// y = reshape(x, shape) w, where a Loop counts the rows of x one by one and an If looks at x to find the other side.
fn plumbing() -> ModelProto {
    let count = body("so_far", data_type::INT64, vec![node("Add", &["so_far", "one"], &["more"])], "more");
    let whole = |nodes| GraphProto { output: vec![value("s", data_type::INT64)], ..inner(nodes, &[]) };
    let three = || whole(vec![node("Add", &["two", "one"], &["s"])]);
    let nodes = vec![
        node("Shape", &["x"], &["shape"]),
        node("Gather", &["shape", "zero"], &["n"]),
        NodeProto { name: Some("counts".into()), ..node("Loop", &["n", "", "zeros"], &["rows"]) }
            .with(graph("body", count)),
        node("ReduceSum", &["x"], &["sum"]).with(int("keepdims", 0)),
        node("Greater", &["sum", "limit"], &["c"]),
        NodeProto { name: Some("looks".into()), ..node("If", &["c"], &["side"]) }
            .with(graph("then_branch", three()))
            .with(graph("else_branch", three())),
        node("Concat", &["rows", "side"], &["sides"]).with(int("axis", 0)),
        node("Reshape", &["x", "sides"], &["flat"]),
        node("MatMul", &["flat", "w"], &["y"]),
    ];
    let numbers = vec![
        integers("zero", &[], &[0]),
        integers("zeros", &[1], &[0]),
        integers("one", &[1], &[1]),
        integers("two", &[1], &[2]),
        floats("limit", &[], &[0.0]),
        floats("w", &[3, 2], &[1.0, -1.0, 0.5, 2.0, 0.0, 1.0]),
    ];
    model(nodes, numbers, vec![])
}

fn live(graph: &Graph, names: &[&str]) -> Vec<String> {
    let live = names.iter().map(|s| (*s).to_owned()).collect();
    let engine = common::engine(Device::Cpu);
    let traced = train::trace(&engine, graph, &[("x".to_owned(), x())], &[], &live).expect("it runs");
    traced.nodes.iter().map(|n| n.name.clone()).collect()
}

#[test]
fn control_flow_off_the_gradients_path_is_folded_or_run() {
    let source = plumbing();
    let graph = same(&source);
    let kept = live(&graph, &["x", "w"]);
    assert!(!kept.contains(&"counts".to_owned()), "the number of rows is known: {kept:?}");
    assert!(kept.contains(&"looks".to_owned()), "the sum of the batch is not: {kept:?}");

    let model = read(&source).expect("readable");
    let network = Network::new(&model, None).expect("trainable");
    assert_eq!(network.trained().collect::<Vec<_>>(), ["w"]);
    let weights = network.weights().expect("a weight");
    let engine = common::engine(Device::Cpu);
    let batched = network.at_batch(&engine, &x(), BatchNorm::Frozen).expect("it runs");
    let targets = Tensor::f32([2, 2], vec![1.0, 0.0, 0.0, 1.0]);
    let (_, gradients) = batched.gradients(&weights, &x(), &targets).expect("gradients");
    // dw = x^T (softmax(x w) - targets) / 2, by hand.
    let (x, w) = (x(), [1.0f32, -1.0, 0.5, 2.0, 0.0, 1.0]);
    let x = x.as_f32().expect("floats");
    let mut expected = [0.0f32; 6];
    for row in 0..2 {
        let score = |class: usize| (0..3).map(|k| x[row * 3 + k] * w[k * 2 + class]).sum::<f32>().exp();
        let (a, b) = (score(0), score(1));
        for class in 0..2 {
            let p = [a, b][class] / (a + b) - f32::from(row == class);
            (0..3).for_each(|k| expected[k * 2 + class] += x[row * 3 + k] * p / 2.0);
        }
    }
    let found = gradients["w"].as_f32().expect("floats");
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
    let mut stepper = batched.weight_stepper(&weights, Optimizer::ADAM, None, batched.batch).expect("a step graph");
    stepper.feed(x, &[1.0, 0.0, 0.0, 1.0], &[1.0, 1.0]);
    let first = stepper.step(0.1).expect("a step").loss;
    assert!(stepper.step(0.1).expect("a step").loss < first);
}

#[test]
fn names_inside_a_graph_are_not_taken_by_a_step_graph() {
    // ONNX Runtime refuses a graph whose names are also those of a graph around it; these are what step graphs call
    // their constants and the gradient of the product.
    let mut source = plumbing();
    let nodes = &mut source.graph.as_mut().expect("a graph").node;
    let looks = nodes.iter_mut().find(|n| n.name() == "looks").expect("the If");
    let names = ["const", "const_2", "const_3", "y/grad/MatMul", "y/grad/Transpose", "loss/Sub", "s"];
    for g in looks.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
        let from = ["two"].iter().chain(&names).copied();
        g.node = from.zip(names).map(|(x, y)| node("Identity", &[x], &[y])).collect();
        g.node[0] = node("Add", &["two", "one"], &["const"]);
    }
    let model = read(&source).expect("readable");
    let network = Network::new(&model, None).expect("trainable");
    let engine = common::engine(Device::Cpu);
    let batched = network.at_batch(&engine, &x(), BatchNorm::Frozen).expect("it runs");
    let targets = Tensor::f32([2, 2], vec![1.0, 0.0, 0.0, 1.0]);
    batched.gradients(&network.weights().expect("a weight"), &x(), &targets).expect("gradients");
}

#[test]
fn a_graph_that_reads_data_varies_with_it() {
    // Neither the condition nor an input of the node is data; the branch reads it.
    let rank = vec![node("Shape", &["x"], &["s"]), node("Size", &["s"], &["r"]), node("Equal", &["r", "two"], &["c"])];
    let graph = same(&model([rank, vec![which("c")]].concat(), vec![integers("two", &[], &[2])], vec![]));
    assert_eq!(live(&graph, &["x"]), ["which"]);
    assert_eq!(live(&graph, &[]), [""; 0], "nothing varies when the data does not");
}

/// The message about what cannot be differentiated.
fn obstacles(model: &ModelProto) -> String {
    let model = read(model).expect("readable");
    Network::new(&model, None).map(|_| ()).expect_err("in the way").to_string()
}

#[test]
fn control_flow_on_the_gradients_path_is_refused_by_name() {
    let rank = vec![node("Shape", &["x"], &["s"]), node("Size", &["s"], &["r"]), node("Equal", &["r", "two"], &["c"])];
    let mut first = which("c");
    first.output[0] = "p".into();
    let nodes = [rank, vec![first, adding("n", "p", "p", "q"), node("MatMul", &["q", "w"], &["y"])]].concat();
    let numbers = || vec![integers("two", &[], &[2]), integers("n", &[], &[3]), floats("w", &[3, 2], &[0.5; 6])];
    let error = obstacles(&model(nodes, numbers(), vec![]));
    assert!(error.contains("2 node(s) cannot be differentiated"), "{error}");
    for node in ["\"which\" (If)", "\"adding\" (Loop)"] {
        let line = error.lines().find(|line| line.contains(node)).unwrap_or_else(|| panic!("{node} in\n{error}"));
        assert!(line.contains("in node ") && line.contains("no gradient rule for control flow; take it out"), "{line}");
    }
}

#[test]
fn a_gradient_does_not_get_lost_in_what_a_graph_reads() {
    // All the Loop is fed is a constant; the data, then a weight, reach it from around.
    let zeros = || floats("zeros", &[2, 3], &[0.0; 6]);
    let numbers = || vec![integers("n", &[], &[3]), zeros(), floats("w", &[3, 2], &[0.5; 6])];
    let data = vec![adding("n", "zeros", "x", "t"), node("MatMul", &["t", "w"], &["y"])];
    let error = obstacles(&model(data, numbers(), vec![]));
    assert!(error.contains("in node \"adding\" (Loop): no gradient rule for control flow"), "{error}");
    let weight =
        vec![node("MatMul", &["x", "w"], &["m"]), adding("n", "start", "b", "t"), node("Add", &["m", "t"], &["y"])];
    let weights = || vec![floats("b", &[2], &[0.5; 2]), floats("start", &[2], &[0.0; 2])];
    let error = obstacles(&model(weight, [numbers(), weights()].concat(), vec![]));
    assert!(error.contains("in node \"adding\" (Loop): no gradient rule for control flow"), "{error}");
}
