use crate::harness::{Case, any, case, distinct, off};

/// Kernel, strides, pads, dilations.
type Window = (&'static [i64], &'static [i64], &'static [i64], &'static [i64]);

/// The kinds of windows, on maps of unequal sides.
const WINDOWS: &[Window] = &[
    (&[2, 2], &[2, 2], &[0, 0, 0, 0], &[1, 1]),
    (&[3, 3], &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[3, 2], &[1, 2], &[1, 0, 0, 1], &[1, 1]),
    (&[2, 2], &[3, 3], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 2], &[1, 2], &[1, 1, 0, 1], &[2, 2]),
    (&[5, 6], &[1, 1], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 3], &[2, 3], &[1, 1, 1, 2], &[1, 1]),
];

fn pool(op: &'static str, w: Window) -> Case {
    let node = case(op).attr("kernel_shape", w.0).attr("strides", w.1).attr("pads", w.2);
    if w.3.iter().any(|&d| d != 1) { node.attr("dilations", w.3) } else { node }
}

#[test]
fn max_pool() {
    for &w in WINDOWS {
        for ceil in [0, 1] {
            pool("MaxPool", w).attr("ceil_mode", ceil).grad(distinct(&[2, 2, 5, 6])).check();
        }
        pool("MaxPool", w).opset(22).grad(distinct(&[2, 2, 5, 6])).check();
    }
    for auto in ["VALID", "SAME_UPPER", "SAME_LOWER"] {
        let node = case("MaxPool").attr("kernel_shape", [3, 2]).attr("strides", [2, 1]).attr("auto_pad", auto);
        node.grad(distinct(&[1, 2, 5, 4])).check();
    }
    for opset in [7, 8, 10, 11, 12, 18, 21] {
        let node = case("MaxPool").opset(opset).attr("kernel_shape", [3, 3]).attr("strides", [2, 2]);
        node.attr("pads", [1, 1, 1, 1]).grad(distinct(&[1, 2, 5, 5])).check();
    }
    // Pools that keep the size take no notice of dilations where they put their padding.
    for auto in ["SAME_UPPER", "SAME_LOWER"] {
        let node = case("MaxPool").attr("auto_pad", auto).attr("kernel_shape", [2, 2]).attr("dilations", [2, 1]);
        node.grad(distinct(&[1, 2, 7, 5])).check();
    }
    // The node's own indices are used where it has them, and where their order allows.
    for order in [0, 1] {
        let node = case("MaxPool").outputs(2).attr("storage_order", order).attr("kernel_shape", [2, 2]);
        node.grad(distinct(&[2, 2, 3, 4])).check();
    }
    case("MaxPool").attr("kernel_shape", [3]).attr("strides", [2]).grad(distinct(&[2, 2, 7])).check();
    case("MaxPool").attr("kernel_shape", [2, 2, 2]).grad(distinct(&[1, 2, 3, 3, 3])).check();
}

#[test]
fn average_pool() {
    for &w in WINDOWS {
        for (ceil, padding) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let node = pool("AveragePool", w).opset(19).attr("ceil_mode", ceil).attr("count_include_pad", padding);
            node.grad(any(&[2, 2, 5, 6])).check();
        }
    }
    for auto in ["VALID", "SAME_UPPER", "SAME_LOWER"] {
        for padding in [0, 1] {
            let node = case("AveragePool").attr("kernel_shape", [3, 2]).attr("strides", [2, 1]).attr("auto_pad", auto);
            node.attr("count_include_pad", padding).grad(any(&[1, 2, 5, 4])).check();
        }
    }
    for auto in ["SAME_UPPER", "SAME_LOWER"] {
        let node = case("AveragePool").opset(19).attr("auto_pad", auto).attr("dilations", [2, 1]);
        node.attr("kernel_shape", [2, 2]).grad(any(&[1, 2, 7, 5])).check();
    }
    for opset in [7, 10, 11, 18, 19, 21, 22] {
        let node = case("AveragePool").opset(opset).attr("kernel_shape", [3, 3]).attr("strides", [2, 2]);
        node.attr("pads", [1, 1, 1, 1]).grad(any(&[1, 2, 5, 5])).check();
    }
    case("AveragePool").attr("kernel_shape", [3]).attr("strides", [2]).grad(any(&[2, 2, 7])).check();
    case("AveragePool").attr("kernel_shape", [2, 2, 2]).grad(any(&[1, 2, 3, 3, 3])).check();
    case("AveragePool").attr("kernel_shape", [2, 1, 2]).attr("strides", [2, 1, 2]).grad(any(&[1, 2, 4, 2, 5])).check();
}

#[test]
fn lp_pool() {
    for p in [1, 2, 3] {
        for opset in [7, 11, 18, 22] {
            let node = case("LpPool").opset(opset).attr("p", p).attr("kernel_shape", [3, 2]).attr("strides", [2, 1]);
            node.attr("pads", [1, 0, 1, 1]).grad(off(&[0.0], &[1, 2, 5, 4], -2.0, 2.0)).check();
        }
    }
}
