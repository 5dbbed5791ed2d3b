use crate::harness::{case, uniform};

#[test]
fn softmax() {
    for op in ["Softmax", "LogSoftmax"] {
        for shape in [&[4][..], &[2, 3], &[2, 3, 2], &[2, 2, 3, 2], &[1, 2, 1, 2, 3]] {
            let x = || uniform(shape, -2.0, 2.0, 5);
            let rank = shape.len() as i64;
            case(op).grad(x()).check();
            for axis in -rank..rank {
                case(op).attr("axis", axis).grad(x()).check();
            }
        }
        for opset in [13, 18, 21] {
            case(op).opset(opset).attr("axis", 1i64).grad(uniform(&[2, 3, 2], -2.0, 2.0, 5)).check();
        }
    }
}

#[test]
fn flattening_spelling() {
    for op in ["Softmax", "LogSoftmax"] {
        for opset in [7, 11, 12] {
            for shape in [&[2, 3][..], &[2, 3, 2], &[2, 2, 1, 3]] {
                let x = || uniform(shape, -2.0, 2.0, 5);
                case(op).opset(opset).grad(x()).check();
                for axis in 0..shape.len() as i64 {
                    case(op).opset(opset).attr("axis", axis).grad(x()).check();
                }
            }
        }
        case(op).opset(11).attr("axis", -1i64).grad(uniform(&[2, 3, 2], -2.0, 2.0, 5)).check();
        case(op).opset(12).attr("axis", -2i64).grad(uniform(&[2, 3, 2], -2.0, 2.0, 5)).check();
    }
}
