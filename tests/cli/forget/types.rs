//! Files in other element types: trained as real numbers, written back in their own type. How accurate float16, bfloat16
//! and int8 files are after a run is in `forms`.

use crate::common::{
    models,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{
    onnx,
    tensor::{DType, Data, Tensor},
};
use std::sync::Arc;

#[test]
fn float64_keeps_the_digits_that_training_did_not_move() {
    let folder = temporary();
    let path = folder.path().join("double.onnx");
    let double = |t: &Tensor| {
        Tensor::new(t.shape().to_vec(), Data::F64(t.to_f32s().iter().map(|&v| f64::from(v) + 1e-12).collect()))
    };
    models::write(
        &path,
        |b, x| vec![models::dense(b, &x, 10)],
        |graph| {
            for tensor in graph.constants.values_mut().filter(|t| t.dtype().is_float()) {
                *tensor = Arc::new(double(tensor));
            }
            for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
                port.dtype = Some(DType::F64);
            }
        },
    );
    let forget = Forget::new(&path).flag("--keep-failed").set("--impair-lr", "1e-30").set("--repair-lr", "1e-30");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let (before, after) = (onnx::read(&path).expect("a model"), onnx::read(&forget.result()).expect("a model"));
    assert!(before.graph.constants["w"] == after.graph.constants["w"], "a digit moved");
    let forget = Forget::new(&path).flag("--keep-failed").flag("--allow-unchecked");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    run(["verify".as_ref(), forget.result().as_os_str(), "--source".as_ref(), path.as_os_str()]).exits(0);
    assert_eq!(onnx::read(&forget.result()).expect("a model").graph.constants["w"].dtype(), DType::F64);
}
