use crate::harness::{any, case};

#[test]
fn arithmetic() {
    // Broadcasting in every direction: equal shapes, missing axes, axes of length 1 on either side, a scalar.
    for (a, b) in [(&[2, 3][..], &[2, 3][..]), (&[2, 3], &[3]), (&[3], &[2, 3]), (&[2, 1, 3], &[4, 1]), (&[2, 3], &[])]
    {
        for op in ["Add", "Mul"] {
            case(op).grad(any(a)).grad(any(b)).check();
        }
    }
}
