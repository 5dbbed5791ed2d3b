use crate::harness::{Case, any, case};

/// Shape of x and w, group, strides, pads, dilations.
type Shape = (&'static [usize], &'static [usize], i64, &'static [i64], &'static [i64], &'static [i64]);

const SHAPES: &[Shape] = &[
    // Ordinary kernels: stride 1 and 2, with and without rows left over, unequal pads, dilation.
    (&[2, 2, 5, 4], &[3, 2, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 2, 6, 5], &[3, 2, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[1, 2, 7, 8], &[2, 2, 3, 2], 1, &[3, 2], &[0, 1, 2, 0], &[1, 1]),
    (&[1, 2, 7, 6], &[2, 2, 3, 2], 1, &[1, 2], &[2, 1, 2, 0], &[2, 3]),
    (&[2, 1, 8, 8], &[2, 1, 5, 5], 1, &[4, 3], &[2, 2, 2, 2], &[1, 1]),
    // Products: 1x1, and 1x1 with stride.
    (&[2, 3, 4, 4], &[2, 3, 1, 1], 1, &[1, 1], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 3, 5, 4], &[2, 3, 1, 1], 1, &[2, 2], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 3, 2, 2], &[4, 3, 1, 1], 1, &[2, 2], &[0, 0, 0, 0], &[1, 1]),
    // Small maps, where taps see nothing but padding.
    (&[3, 2, 1, 1], &[4, 2, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[3, 2, 2, 2], &[2, 2, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[3, 2, 2, 2], &[2, 2, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 2, 3, 2], &[3, 2, 3, 2], 1, &[1, 1], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 2, 4, 4], &[3, 2, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[1, 2, 1, 2], &[2, 2, 5, 5], 1, &[3, 3], &[4, 4, 4, 4], &[1, 1]),
    (&[1, 2, 2, 2], &[2, 2, 2, 2], 1, &[1, 1], &[3, 2, 0, 1], &[3, 2]),
    // Pads wider than the kernel.
    (&[1, 1, 3, 3], &[2, 1, 2, 2], 1, &[1, 1], &[3, 3, 3, 3], &[1, 1]),
    // Groups and depthwise.
    (&[2, 4, 4, 4], &[6, 2, 3, 3], 2, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 3, 5, 5], &[3, 1, 3, 3], 3, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 3, 4, 5], &[6, 1, 3, 3], 3, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 4, 1, 1], &[4, 2, 3, 3], 2, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    // One and three spatial axes.
    (&[2, 2, 7], &[3, 2, 3], 1, &[2], &[1, 1], &[1]),
    (&[2, 2, 6], &[2, 2, 2], 1, &[1], &[0, 2], &[2]),
    (&[1, 2, 3, 4, 3], &[2, 2, 2, 3, 2], 1, &[1, 2, 1], &[0, 1, 1, 0, 1, 0], &[1, 1, 1]),
    (&[2, 2, 1, 2, 1], &[2, 2, 3, 3, 3], 1, &[1, 1, 1], &[1, 1, 1, 1, 1, 1], &[1, 1, 1]),
];

fn node(op: &'static str, (x, w, group, strides, pads, dilations): Shape) -> Case {
    let node = case(op).attr("group", group).attr("strides", strides).attr("pads", pads).attr("dilations", dilations);
    node.grad(any(x)).grad(any(w))
}

#[test]
fn conv() {
    for &shape in SHAPES {
        node("Conv", shape).grad(any(&shape.1[..1])).check();
    }
    for opset in [7, 11, 18, 21, 22] {
        node("Conv", SHAPES[1]).opset(opset).attr("kernel_shape", [3, 3]).check();
    }
    case("Conv").grad(any(&[1, 2, 4, 4])).grad(any(&[2, 2, 2, 2])).check();
}

#[test]
fn conv_auto_pad() {
    for auto in ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"] {
        for (size, kernel, stride) in [([5, 6], [3, 2], 1), ([5, 6], [2, 3], 2), ([7, 4], [2, 1], 3)] {
            let node = case("Conv").attr("auto_pad", auto).attr("strides", [stride, stride]);
            let x = any(&[1, 2, size[0], size[1]]);
            node.grad(x).grad(any(&[3, 2, kernel[0], kernel[1]])).grad(any(&[3])).check();
        }
    }
}

#[test]
fn conv_transpose() {
    let shapes: &[Shape] = &[
        (&[2, 2, 3, 4], &[2, 3, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
        (&[2, 2, 3, 4], &[2, 3, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
        (&[1, 2, 3, 3], &[2, 1, 2, 3], 1, &[3, 2], &[0, 1, 2, 0], &[1, 2]),
        (&[2, 4, 3, 3], &[4, 3, 3, 2], 2, &[2, 1], &[1, 0, 0, 1], &[1, 1]),
        (&[2, 3, 4, 4], &[3, 1, 3, 3], 3, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
        (&[2, 3, 1, 1], &[3, 2, 4, 4], 1, &[1, 1], &[0, 0, 0, 0], &[1, 1]),
        (&[2, 2, 5], &[2, 3, 3], 1, &[2], &[0, 1], &[1]),
        (&[1, 2, 2, 3, 2], &[2, 2, 2, 2, 3], 1, &[1, 2, 1], &[0, 0, 1, 0, 0, 1], &[1, 1, 1]),
    ];
    for &shape in shapes {
        let bias = shape.1[1] * shape.2 as usize;
        node("ConvTranspose", shape).grad(any(&[bias])).check();
    }
    for opset in [7, 11, 21] {
        node("ConvTranspose", shapes[1]).opset(opset).attr("output_padding", [1, 1]).check();
    }
    let small = || case("ConvTranspose").grad(any(&[1, 2, 3, 3])).grad(any(&[2, 2, 3, 2]));
    for auto in ["VALID", "SAME_UPPER", "SAME_LOWER"] {
        small().attr("auto_pad", auto).attr("strides", [2, 1]).check();
    }
    for auto in ["NOTSET", "SAME_UPPER", "SAME_LOWER"] {
        small().attr("auto_pad", auto).attr("strides", [2, 2]).attr("output_shape", [6, 5]).check();
        small().attr("auto_pad", auto).attr("strides", [2, 2]).attr("output_shape", [4, 5]).check();
    }
    small().attr("strides", [3, 2]).attr("dilations", [1, 3]).attr("output_padding", [2, 1]).check();
}
