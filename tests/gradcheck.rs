//! The check of gradients itself: what is right passes, and what is wrong is found and named.

#![allow(
    clippy::needless_for_each,
    clippy::type_complexity,
    clippy::elidable_lifetime_names,
    clippy::needless_lifetimes
)] // Closures read best here.

mod common;

use common::models::{self, dense};
use onnx_unlearn::{
    autodiff::{self, NotDifferentiable},
    data::Seeded,
    graph::{Attr, Builder, Node, Value},
    onnx,
    runtime::Device,
    tensor::{DType, Data, Tensor},
    train::{
        BatchNorm, Network,
        gradcheck::{self, Backward, Checked, NodeCheck, Outcome, Settings},
    },
};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

const TOLERANCE: f64 = 1e-3;

fn draw(purpose: &str, n: usize) -> Vec<f32> {
    Seeded::new(5, purpose).normal(n)
}

/// Checks two random samples of [1, 28, 28] with rules that may be wrong; `spoil` may spoil the gradients of the whole.
fn check_with(path: &Path, backward: Backward<'_>, spoil: &dyn Fn(&str, &mut Vec<f32>)) -> Checked {
    let model = onnx::read(path).expect("the model reads");
    let network = Network::new(&model, None).expect("the model is trainable");
    let weights = network.weights().expect("weights");
    let x = Tensor::f32([2, 1, 28, 28], draw("data", 2 * 784));
    let batched = network.at_batch(&common::engine(Device::Cpu), &x, BatchNorm::Frozen).expect("the batch runs");
    let mut targets = vec![0.0; 2 * batched.layout.classes];
    targets[3] = 1.0;
    targets[batched.layout.classes] = 1.0;
    let targets = Tensor::f32([2, batched.layout.classes], targets);
    let settings = Settings { tolerance: TOLERANCE, draw: &draw, backward };
    let mut gradient = batched.gradient().expect("a gradient graph");
    let mut gradients = |weights: &_| {
        let (loss, mut gradients) = gradient.at(weights, &x, &targets)?;
        gradients.iter_mut().for_each(|(name, g)| spoil(name, g.as_f32_mut().expect("float32")));
        Ok((loss, gradients))
    };
    gradcheck::check_gradients(&batched, &settings, &weights, (&x, &targets), &mut gradients, &mut |_, _| {})
        .expect("the check runs")
}

fn check(path: &Path, backward: Backward<'_>) -> Checked {
    check_with(path, backward, &|_, _| {})
}

/// Checks a model built on the spot; `build` makes scores from images.
fn check_built(build: impl FnOnce(&mut Builder, Value) -> Value, backward: Backward<'_>) -> Checked {
    let folder = common::temporary();
    let path = folder.path().join("built.onnx");
    models::write(&path, |b, x| vec![build(b, x)], |_| {});
    check(&path, backward)
}

type Found = Result<HashMap<String, Value>, NotDifferentiable>;

/// Rules with a mistake: `change` is done to the gradient of input number `at` of nodes of operator `op`.
fn mistaken(
    op: &'static str,
    at: usize,
    change: impl Fn(&mut Builder, &Value) -> Value,
) -> impl Fn(&mut Builder, &[Node], &HashMap<String, Arc<Tensor>>, &[(Value, Value)], &BTreeSet<String>, DType) -> Found
{
    move |b, nodes, known, seeds, wanted, float| {
        let mut found = autodiff::backward(b, nodes, known, seeds, wanted, float)?;
        for node in nodes.iter().filter(|n| n.op == op) {
            if let Some(gradient) = node.input(at).and_then(|name| found.get_mut(name)) {
                *gradient = change(b, gradient);
            }
        }
        Ok(found)
    }
}

/// Gradient times a constant of its shape.
fn times(b: &mut Builder, g: &Value, factor: impl Fn(usize) -> f32) -> Value {
    let factors = b.constant(Tensor::f32(g.shape(), (0..g.len()).map(factor).collect()));
    b.op("Mul", &[g, &factors], &[], g.shape())
}

fn of<'c>(checked: &'c Checked, outcome: Outcome) -> Vec<&'c NodeCheck> {
    checked.nodes.iter().filter(|n| n.outcome == outcome).collect()
}

fn worst(checked: &Checked) -> &NodeCheck {
    let error = |n: &&NodeCheck| n.error.unwrap_or(0.0);
    checked.nodes.iter().max_by(|a, b| error(a).total_cmp(&error(b))).expect("a node")
}

#[test]
fn the_real_rules_agree() {
    let checked = check(&common::model("fashion-mnist"), &autodiff::backward);
    assert_eq!(checked.outcome(), Outcome::Agrees);
    assert_eq!(of(&checked, Outcome::Agrees).len(), checked.nodes.len());
    // 6 Conv and a Gemm with three inputs each, Add with two, 9 nodes with one.
    assert_eq!(checked.nodes.len(), 6 * 3 + 3 + 2 + 9);
    let whole = &checked.end_to_end;
    assert_eq!((whole.arithmetic, whole.nudged), ("float64", false));
    // What float64 differences are for: far below the tolerance.
    assert!(worst(&checked).error < Some(1e-4), "{:?}", worst(&checked));
    assert!(whole.weights.median_error < 1e-5 && whole.input.median_error < 1e-5, "{whole:?}");
}

#[test]
fn a_rule_that_is_off_by_one_in_a_hundred_is_named() {
    for (op, at, nodes) in [
        ("Conv", 0, 6),
        ("Conv", 1, 6),
        ("Conv", 2, 6),
        ("Relu", 0, 6),
        ("MaxPool", 0, 1),
        ("Add", 1, 1),
        ("GlobalAveragePool", 0, 1),
        ("Gemm", 0, 1),
    ] {
        let rules = mistaken(op, at, |b, g| times(b, g, |_| 1.01));
        let checked = check(&common::model("fashion-mnist"), &rules);
        let wrong = of(&checked, Outcome::Disagrees);
        assert_eq!(checked.outcome(), Outcome::Disagrees, "{op} input {at}");
        assert_eq!((worst(&checked).operator.as_str(), wrong.len()), (op, nodes), "{op} input {at}: {wrong:?}");
        assert!(wrong.iter().all(|n| n.operator == op), "{wrong:?}");
    }
}

#[test]
fn one_wrong_element_is_found() {
    // The corner of every image that enters the first convolution; 1568 elements in all.
    let rules = mistaken("MaxPool", 0, |b, g| times(b, g, |i| if i % 784 == 783 { 0.0 } else { 1.0 }));
    let checked = check(&common::model("fashion-mnist"), &rules);
    assert_eq!(worst(&checked).operator, "MaxPool");
    assert_eq!(checked.outcome(), Outcome::Disagrees);
}

#[test]
fn a_gradient_that_is_not_a_number_is_wrong() {
    let rules = mistaken("Gemm", 2, |b, g| times(b, g, |i| if i == 0 { f32::NAN } else { 1.0 }));
    let checked = check(&common::model("fashion-mnist"), &rules);
    let wrong = of(&checked, Outcome::Disagrees);
    assert_eq!(wrong.iter().map(|n| n.operator.as_str()).collect::<Vec<_>>(), ["Gemm"]);

    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in ["head.weight", "input"] {
            let spoil = |n: &str, g: &mut Vec<f32>| {
                if n == name {
                    g[0] = value;
                }
            };
            let checked = check_with(&common::model("fashion-mnist"), &autodiff::backward, &spoil);
            let (right, wrong) = (Outcome::Agrees, Outcome::Disagrees);
            let expected = if name == "input" { (right, wrong, None) } else { (wrong, right, Some(name)) };
            let whole = &checked.end_to_end;
            let found = (whole.weights.outcome, whole.input.outcome, whole.worst_weight.as_deref());
            assert_eq!((checked.outcome(), found), (wrong, expected), "{value} in {name}: {whole:?}");
        }
    }
}

/// Every node is right by itself, and so are differences in float64; in float32 the gradient leaves the range of numbers on
/// its way.
#[test]
fn a_gradient_that_overflows_on_its_way_is_wrong() {
    let build = |b: &mut Builder, x: Value| {
        let scores = scored(b, &x);
        let large = b.named_constant("large", Arc::new(Tensor::scalar(1e20)));
        let by = |b: &mut Builder, op: &str, y: &Value| b.op(op, &[y, &large], &[], &[1, 10]);
        ["Div", "Div", "Mul", "Mul"].into_iter().fold(scores, |y, op| by(b, op, &y))
    };
    let checked = check_built(build, &autodiff::backward);
    assert!(of(&checked, Outcome::Disagrees).is_empty(), "every node is right by itself: {checked:?}");
    let whole = &checked.end_to_end;
    assert_eq!((whole.weights.outcome, whole.input.outcome), (Outcome::Disagrees, Outcome::Disagrees), "{whole:?}");
    assert!(whole.weights.directions.iter().all(|d| !d.gradient.is_finite() && d.differences.is_finite()), "{whole:?}");
}

#[test]
fn rules_put_together_wrongly_are_found_end_to_end() {
    let name = "head.weight";
    let checked = check_with(&common::model("fashion-mnist"), &autodiff::backward, &|n, g| {
        if n == name {
            g.iter_mut().for_each(|v| *v *= 1.05);
        }
    });
    assert!(of(&checked, Outcome::Disagrees).is_empty(), "every node is right by itself");
    let whole = &checked.end_to_end;
    assert_eq!((checked.outcome(), whole.weights.outcome), (Outcome::Disagrees, Outcome::Disagrees), "{whole:?}");
    assert_eq!((whole.worst_weight.as_deref(), whole.input.outcome), (Some(name), Outcome::Agrees));

    let of_input = |n: &str, g: &mut Vec<f32>| {
        if n == "input" {
            g.fill(0.0);
        }
    };
    let checked = check_with(&common::model("fashion-mnist"), &autodiff::backward, &of_input);
    let whole = &checked.end_to_end;
    assert_eq!((whole.weights.outcome, whole.input.outcome), (Outcome::Agrees, Outcome::Disagrees), "{whole:?}");
}

/// Images times 0 plus an offset, so that all values are the same: behind it Relu lies on its kink, and MaxPool on a tie.
fn constant(b: &mut Builder, x: &Value, offset: f32) -> Value {
    let zeros = b.named_constant("zeros", Arc::new(Tensor::f32([1, 1, 28, 28], vec![0.0; 784])));
    let offsets = b.named_constant("offsets", Arc::new(Tensor::f32([1, 1, 28, 28], vec![offset; 784])));
    let none = b.op("Mul", &[x, &zeros], &[], x.shape());
    b.op("Add", &[&none, &offsets], &[], x.shape())
}

fn scored(b: &mut Builder, x: &Value) -> Value {
    dense(b, x, 10)
}

/// A wrong rule is found also where the values of the batch show nothing.
#[track_caller]
fn right_and_wrong(op: &'static str, build: impl Fn(&mut Builder, Value) -> Value) {
    let right = check_built(&build, &autodiff::backward);
    let checked = |c: &Checked| c.nodes.iter().filter(|n| n.operator == op).cloned().collect::<Vec<_>>();
    assert!(checked(&right).iter().all(|n| n.outcome == Outcome::Agrees), "{:?}", checked(&right));
    let wrong = check_built(&build, &mistaken(op, 0, |b, g| times(b, g, |_| 0.9)));
    assert!(checked(&wrong).iter().all(|n| n.outcome == Outcome::Disagrees), "{:?}", checked(&wrong));
    assert_eq!(checked(&wrong).len(), 1);
}

#[test]
fn relu_on_its_kink_is_checked_beside_it() {
    right_and_wrong("Relu", |b, x| {
        let zero = constant(b, &x, 0.0);
        let y = b.op("Relu", &[&zero], &[], x.shape());
        scored(b, &y)
    });
}

#[test]
fn relu_that_lets_nothing_through_is_checked_elsewhere() {
    right_and_wrong("Relu", |b, x| {
        let low = constant(b, &x, -100.0);
        let y = b.op("Relu", &[&low], &[], x.shape());
        scored(b, &y)
    });
}

#[test]
fn a_dead_relu_that_lets_gradients_through_is_wrong() {
    let build = |b: &mut Builder, x: Value| {
        let low = constant(b, &x, -100.0);
        let y = b.op("Relu", &[&low], &[], x.shape());
        scored(b, &y)
    };
    let rules = mistaken("Relu", 0, |b, g| times(b, g, |_| 0.0));
    let through = |b: &mut Builder,
                   nodes: &[Node],
                   known: &HashMap<String, Arc<Tensor>>,
                   seeds: &[(Value, Value)],
                   wanted: &BTreeSet<String>,
                   float: DType| {
        let mut found = rules(b, nodes, known, seeds, wanted, float)?;
        if nodes[0].op == "Relu" {
            found.insert(nodes[0].inputs[0].clone(), seeds[0].1.clone());
        }
        Ok(found)
    };
    let checked = check_built(build, &through);
    assert_eq!(worst(&checked).operator, "Relu");
    assert_eq!(worst(&checked).outcome, Outcome::Disagrees);
}

#[test]
fn max_pool_on_ties_is_checked_beside_them() {
    right_and_wrong("MaxPool", |b, x| {
        let same = constant(b, &x, 3.0);
        let attrs = [("kernel_shape", Attr::Ints(vec![2, 2])), ("strides", Attr::Ints(vec![1, 1]))];
        let y = b.op("MaxPool", &[&same], &attrs, &[1, 1, 27, 27]);
        let flat = b.op("Flatten", &[&y], &[], &[1, 729]);
        models::product(b, &flat, 10)
    });
}

#[test]
fn operators_without_a_float64_kernel_are_compared_in_float32() {
    let build = |b: &mut Builder, x: Value| {
        let y = b.op("Erf", &[&x], &[], x.shape());
        let z = b.op("LRN", &[&y], &[("size", Attr::Int(3))], x.shape());
        scored(b, &z)
    };
    let checked = check_built(build, &autodiff::backward);
    assert_eq!(checked.outcome(), Outcome::Agrees);
    let whole = &checked.end_to_end;
    assert_eq!(whole.arithmetic, "float32");
    assert_eq!(whole.float32_operators, ["Erf", "LRN"].map(str::to_owned).into());
    let differences = |op: &str| {
        checked.nodes.iter().find(|n| n.operator == op).and_then(|n| n.differences.clone()).expect("compared")
    };
    assert_eq!([differences("Erf"), differences("LRN"), differences("MatMul")], ["float32", "float32", "float64"]);
    let checked = check_built(build, &mistaken("Erf", 0, |b, g| times(b, g, |_| 1.01)));
    assert_eq!((worst(&checked).operator.as_str(), checked.outcome()), ("Erf", Outcome::Disagrees));
}

/// What the float64 forward writes in other operators gives the same loss as the runtime's own.
#[test]
fn written_out_operators_compute_the_same() {
    let pool = |b: &mut Builder, x: &Value, pads: [i64; 4], ceil: i64, count: i64, shape: &[usize]| {
        let attrs = [
            ("kernel_shape", Attr::Ints(vec![3, 2])),
            ("strides", Attr::Ints(vec![2, 2])),
            ("pads", Attr::Ints(pads.to_vec())),
            ("ceil_mode", Attr::Int(ceil)),
            ("count_include_pad", Attr::Int(count)),
        ];
        b.op("AveragePool", &[x], &attrs, shape)
    };
    let build = |b: &mut Builder, x: Value| {
        let w: Vec<f32> = draw("kernel", 4 * 9);
        let w = b.named_constant("kernel", Arc::new(Tensor::f32([4, 1, 3, 3], w)));
        let attrs = [("strides", Attr::Ints(vec![2, 1])), ("pads", Attr::Ints(vec![0, 1, 1, 0]))];
        let y = b.op("Conv", &[&x, &w], &attrs, &[1, 4, 14, 27]);
        let y = pool(b, &y, [1, 0, 0, 0], 1, 0, &[1, 4, 7, 14]);
        let y = pool(b, &y, [1, 1, 1, 0], 0, 1, &[1, 4, 4, 7]);
        let w: Vec<f32> = draw("groups", 4 * 2 * 4);
        let w = b.named_constant("groups", Arc::new(Tensor::f32([4, 2, 2, 2], w)));
        let attrs = [("group", Attr::Int(2)), ("dilations", Attr::Ints(vec![3, 1]))];
        let y = b.op("Conv", &[&y, &w], &attrs, &[1, 4, 1, 6]);
        let mean = b.op("GlobalAveragePool", &[&y], &[], &[1, 4, 1, 1]);
        let max = b.op("GlobalMaxPool", &[&y], &[], &[1, 4, 1, 1]);
        let both = b.op("Mean", &[&mean, &max], &[], &[1, 4, 1, 1]);
        let flat = b.op("Flatten", &[&both], &[], &[1, 4]);
        models::product(b, &flat, 10)
    };
    let checked = check_built(build, &autodiff::backward);
    let whole = &checked.end_to_end;
    assert_eq!((whole.arithmetic, whole.outcome), ("float64", Outcome::Agrees), "{whole:?}");
    assert!((whole.loss - whole.forward_loss).abs() < 1e-6, "{whole:?}");
    assert_eq!(of(&checked, Outcome::Agrees).len(), checked.nodes.len(), "{checked:?}");
}

#[test]
fn quantizers_are_not_comparable_and_say_why() {
    let build = |b: &mut Builder, x: Value| {
        let scale = b.named_constant("scale", Arc::new(Tensor::scalar(0.05)));
        let zero = b.named_constant("zero", Arc::new(Tensor::new(vec![], Data::U8(vec![128]))));
        let q = b.op("QuantizeLinear", &[&x, &scale, &zero], &[], x.shape());
        let y = b.op("DequantizeLinear", &[&q, &scale, &zero], &[], x.shape());
        scored(b, &y)
    };
    let checked = check_built(build, &autodiff::backward);
    let unclear: Vec<&str> = of(&checked, Outcome::NotComparable).iter().map(|n| n.operator.as_str()).collect();
    assert_eq!(unclear, ["QuantizeLinear", "DequantizeLinear"]);
    let reason = of(&checked, Outcome::NotComparable)[0].reason.clone().expect("a reason");
    assert!(reason.contains("element type uint8, which has no differences"), "{reason}");
    let whole = &checked.end_to_end;
    assert_eq!((whole.input.outcome, checked.outcome()), (Outcome::NotComparable, Outcome::NotComparable), "{whole:?}");
}
