use crate::harness::{any, case, off, positive, uniform};
use onnx_unlearn::{
    autodiff,
    graph::{Attr, Attrs, Builder, Node},
    tensor::{DType, Tensor},
};
use std::collections::{BTreeSet, HashMap};

/// Spread widely, so that the normalised values are smooth on the scale of the differences.
fn wide(shape: &[usize]) -> Tensor {
    uniform(shape, -3.0, 3.0, shape.iter().fold(5, |s, &d| s * 7 + d as u64))
}

#[test]
fn batch_normalization_with_frozen_statistics() {
    for shape in [&[4, 3][..], &[2, 3, 4], &[2, 3, 2, 2], &[1, 2, 2, 1, 3], &[3, 1, 2, 2]] {
        for opset in [7, 9, 14, 15, 18, 21] {
            let c = [shape[1]];
            let base = || case("BatchNormalization").opset(opset).grad(any(shape)).grad(any(&c)).grad(any(&c));
            base().constant(any(&c)).constant(positive(&c)).check();
            base().attr("epsilon", 0.3f32).attr("momentum", 0.5f32).data(any(&c)).data(positive(&c)).check();
        }
    }
    // Scale 0: the channel passes nothing, its scale still learns. Statistics far from those of the batch.
    let c = |v: f32| Tensor::f32([2], vec![v, -0.5]);
    case("BatchNormalization")
        .grad(any(&[2, 2, 3]))
        .grad(c(0.0))
        .grad(c(1.0))
        .constant(c(7.0))
        .constant(positive(&[2]))
        .check();
    case("BatchNormalization")
        .attr("training_mode", 0i64)
        .grad(any(&[2, 2, 3]))
        .grad(c(0.0))
        .grad(c(1.0))
        .constant(c(7.0))
        .constant(positive(&[2]))
        .check();
    case("BatchNormalization")
        .opset(7)
        .attr("spatial", 1i64)
        .grad(any(&[2, 2, 3]))
        .grad(c(0.0))
        .grad(c(1.0))
        .constant(c(7.0))
        .constant(positive(&[2]))
        .check();
}

#[test]
fn layer_normalization() {
    for (shape, axis) in [
        (&[2, 5][..], None),
        (&[2, 3, 4], None),
        (&[2, 3, 4], Some(1i64)),
        (&[2, 3, 4], Some(-2)),
        (&[2, 2, 3], Some(0)),
        (&[2, 3, 2, 2], Some(-1)),
        (&[2, 3, 2, 2], Some(1)),
        (&[1, 2, 1, 2, 3], Some(-3)),
    ] {
        let from = axis.unwrap_or(-1).rem_euclid(shape.len() as i64) as usize;
        let inner = &shape[from..];
        for opset in [17, 18, 21] {
            let base = || {
                let c = case("LayerNormalization").opset(opset).grad(wide(shape)).grad(any(inner));
                axis.map_or(case("LayerNormalization").opset(opset).grad(wide(shape)).grad(any(inner)), |a| {
                    c.attr("axis", a)
                })
            };
            base().attr("epsilon", 0.2f32).grad(any(inner)).check();
            base().attr("epsilon", 0.1f32).attr("stash_type", 1i64).check();
        }
    }
    case("LayerNormalization").grad(wide(&[2, 6])).grad(any(&[6])).grad(any(&[6])).check();
    // Scale and bias may themselves broadcast.
    case("LayerNormalization").attr("axis", 1i64).grad(wide(&[2, 3, 4])).grad(any(&[4])).grad(any(&[1])).check();
}

#[test]
fn root_mean_square_normalization() {
    for (shape, axis) in [
        (&[2, 5][..], None),
        (&[2, 3, 4], Some(-1i64)),
        (&[2, 3, 4], Some(1)),
        (&[2, 2, 3, 2], Some(2)),
        (&[1, 2, 1, 2, 3], Some(-3)),
    ] {
        let from = axis.unwrap_or(-1).rem_euclid(shape.len() as i64) as usize;
        let with_axis = |c: crate::harness::Case| if let Some(a) = axis { c.attr("axis", a) } else { c };
        let base = |op, opset| with_axis(case(op).opset(opset)).grad(wide(shape)).grad(any(&shape[from..]));
        base("RMSNormalization", 23).check();
        base("RMSNormalization", 23).attr("epsilon", 0.2f32).attr("stash_type", 1i64).check();
        // ONNX Runtime's own name for it, which it writes into files of any opset.
        for opset in [7, 13, 18, 23] {
            base("SimplifiedLayerNormalization", opset).attr("epsilon", 0.1f32).check();
        }
    }
    let node = || case("RMSNormalization").opset(23).grad(wide(&[2, 3, 4]));
    node().grad(any(&[4])).check();
    node().grad(any(&[1])).check();
    // InvStdDev is an output of ONNX Runtime's own form.
    let two = |axis: i64| case("SimplifiedLayerNormalization").attr("axis", axis).grad(wide(&[2, 3, 4])).outputs(2);
    two(-1).grad(any(&[4])).check();
    two(1).grad(any(&[3, 4])).check();
}

#[test]
fn statistics_of_layer_normalization() {
    for (axis, scale) in [(-1i64, &[4][..]), (1, &[3, 4]), (0, &[2, 3, 4])] {
        let node = || case("LayerNormalization").attr("axis", axis).grad(wide(&[2, 3, 4])).grad(any(scale));
        node().outputs(3).check();
        node().grad(any(scale)).outputs(2).check();
        node().outputs_at(vec![0, 2]).check();
    }
}

#[test]
fn layer_normalization_before_the_standard_had_it() {
    for opset in [7, 11, 16] {
        let node = case("LayerNormalization").opset(opset).attr("axis", -1i64).attr("epsilon", 0.1f32);
        node.grad(wide(&[2, 3, 4])).grad(any(&[4])).grad(any(&[4])).check();
    }
}

#[test]
fn mean_variance_normalization() {
    let x = || wide(&[2, 3, 2, 3]);
    for opset in [7, 8] {
        for across in [0i64, 1] {
            let node = || case("MeanVarianceNormalization").opset(opset).attr("across_channels", across);
            node().grad(x()).check();
            node().attr("normalize_variance", 0i64).grad(x()).check();
        }
    }
    for opset in [9, 13, 18, 23] {
        case("MeanVarianceNormalization").opset(opset).grad(x()).check();
    }
    for (shape, axes) in [
        (&[3, 2, 4][..], &[0, 2][..]),
        (&[2, 3, 2, 3], &[1, 2, 3]),
        (&[2, 3, 2, 3], &[-1]),
        (&[2, 2, 2, 1, 3], &[0, 2, 3, 4]),
    ] {
        case("MeanVarianceNormalization").attr("axes", axes).grad(wide(shape)).check();
    }
}

#[test]
fn instance_normalization() {
    for shape in [&[2, 3, 6][..], &[2, 3, 2, 3], &[1, 2, 2, 2, 2]] {
        for opset in [7, 18, 21] {
            let c = [shape[1]];
            let base = || case("InstanceNormalization").opset(opset).grad(wide(shape)).grad(any(&c)).grad(any(&c));
            base().attr("epsilon", 0.2f32).check();
            base().check();
        }
    }
}

#[test]
fn group_normalization() {
    for (shape, groups) in [
        (&[2, 4, 3][..], 2i64),
        (&[2, 4, 2, 2], 2),
        (&[2, 4, 2, 2], 1),
        (&[2, 4, 2, 3], 4),
        (&[1, 6, 2, 1, 2], 3),
        (&[2, 6], 2),
    ] {
        // Opset 18 has one scale and bias a group, opset 21 one a channel.
        for (opset, n) in [(18, groups as usize), (20, groups as usize), (21, shape[1])] {
            let base = || {
                case("GroupNormalization")
                    .opset(opset)
                    .attr("num_groups", groups)
                    .grad(wide(shape))
                    .grad(any(&[n]))
                    .grad(any(&[n]))
            };
            base().attr("epsilon", 0.2f32).check();
        }
    }
    case("GroupNormalization")
        .opset(21)
        .attr("num_groups", 2i64)
        .attr("stash_type", 1i64)
        .grad(wide(&[2, 4, 5]))
        .grad(any(&[4]))
        .grad(any(&[4]))
        .check();
}

#[test]
fn lp_normalization() {
    for opset in [7, 18, 21] {
        for (shape, axis) in [(&[2, 3][..], 1i64), (&[2, 3, 2], 1), (&[2, 3, 2], 0), (&[2, 2, 3, 2], -2)] {
            let x = || off(&[0.0], shape, -3.0, 3.0);
            case("LpNormalization").opset(opset).attr("axis", axis).grad(x()).check();
            case("LpNormalization").opset(opset).attr("axis", axis).attr("p", 1i64).grad(x()).check();
        }
        case("LpNormalization").opset(opset).grad(off(&[0.0], &[2, 3], -3.0, 3.0)).check();
    }
    // A vector of zeros has no direction.
    case("LpNormalization").grad(Tensor::zeros([2, 2])).check_on_kink(&[0.0; 4]);
}

#[test]
fn local_response_normalization() {
    for opset in [7, 13, 21] {
        // ONNX Runtime has this operator for four axes and odd sizes only.
        for shape in [&[2, 5, 1, 2], &[1, 6, 2, 2]] {
            for size in [1i64, 3, 5, 9] {
                let base = || case("LRN").opset(opset).attr("size", size).grad(any(shape));
                base().attr("alpha", 0.5f32).attr("beta", 0.6f32).attr("bias", 1.5f32).check();
                base().check();
            }
        }
    }
}

/// Why the gradient of the first input cannot be written when one arrives at output `at`.
pub fn refusal(op: &str, attrs: Attrs, shapes: &[&[usize]], outputs: &[&[usize]], at: usize) -> String {
    let mut b = Builder::new(18);
    let names = |prefix: &str, n: usize| (0..n).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>();
    let node = Node {
        name: "norm1".into(),
        op: op.into(),
        domain: String::new(),
        inputs: names("x", shapes.len()),
        outputs: names("y", outputs.len()),
        attrs,
    };
    for (name, shape) in node.inputs.iter().zip(shapes) {
        b.input(name, DType::F32, shape);
    }
    b.forward(node.clone(), &outputs.iter().map(|s| s.to_vec()).collect::<Vec<_>>());
    let y = b.value(&node.outputs[at]).expect("an output").clone();
    let seed = b.constant(Tensor::zeros(y.shape()));
    let wanted = BTreeSet::from(["x0".to_owned()]);
    match autodiff::backward(&mut b, &[node], &HashMap::new(), &[(y, seed)], &wanted, DType::F32) {
        Ok(_) => panic!("{op}: a gradient was written"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn what_is_refused() {
    let training = Attrs::from([("training_mode".to_owned(), Attr::Int(1))]);
    let c: &[usize] = &[3];
    let why = refusal("BatchNormalization", training, &[&[2, 3], c, c, c, c], &[&[2, 3]], 0);
    assert!(why.contains("\"norm1\" (BatchNormalization)") && why.contains("training_mode is 1"), "{why}");

    let groups = Attrs::from([("num_groups".to_owned(), Attr::Int(2))]);
    let why = refusal("GroupNormalization", groups, &[&[2, 3], c, c], &[&[2, 3]], 0);
    assert!(why.contains("num_groups: expected a divisor of the 3 channels, got 2"), "{why}");

    let axis = Attrs::from([("axis".to_owned(), Attr::Int(2))]);
    let why = refusal("LayerNormalization", axis, &[&[2, 3], c], &[&[2, 3]], 0);
    assert!(why.contains("axis: expected an axis of 2, got 2"), "{why}");
}
