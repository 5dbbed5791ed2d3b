//! ONNX Runtime computes with what was patched.

use onnx_unlearn::onnx::schema::{
    AttributeProto, Dimension, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto,
    TypeProto, TypeProtoValue, TypeTensor, ValueInfoProto, attribute_type, data_type,
};
use onnx_unlearn::runtime::Device;
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;

use super::models::{constant, tensor, typed};
use super::{common, patched};

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(output.into()),
        op_type: Some(op.into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn cast(input: &str, output: &str, to: i32) -> NodeProto {
    let to = AttributeProto {
        name: Some("to".into()),
        r#type: Some(attribute_type::INT),
        i: Some(to.into()),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![to], ..node("Cast", &[input], output) }
}

fn port(name: &str) -> ValueInfoProto {
    let dim = vec![Dimension { value: Some(DimensionValue::DimValue(2)), denotation: None }];
    let tensor = TypeTensor { elem_type: Some(data_type::FLOAT), shape: Some(TensorShapeProto { dim }) };
    let r#type = TypeProto { value: Some(TypeProtoValue::Tensor(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// y = (x + c) * w in float16, c in a Constant node and w an initializer, both in `int32_data`; then minus an int8 zero
/// point times a scale, in `int32_data` too.
fn model() -> Vec<u8> {
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![
            cast("x", "half", data_type::FLOAT16),
            constant("c", typed(DType::F16, "", &[0x0001, 0x0002])),
            node("Add", &["half", "c"], "sum"),
            node("Mul", &["sum", "w"], "product"),
            cast("product", "p", data_type::FLOAT),
            node("DequantizeLinear", &["q", "scale"], "d"),
            node("Add", &["p", "d"], "y"),
        ],
        initializer: vec![
            typed(DType::F16, "w", &[0x3c00, 0x0003]),
            typed(DType::I8, "q", &[1, 2]),
            typed(DType::F32, "scale", &[1f32.to_bits().into()]),
        ],
        input: vec![port("x")],
        output: vec![port("y")],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
    .encode_to_vec()
}

#[test]
fn typed_elements_arrive_in_the_runtime() {
    let source = model();
    // 1.5 and -1.0, 0.5 and 4.0; -100 and 100.
    let (c, w) = (tensor(DType::F16, &[0x3e00, 0xbc00]), tensor(DType::F16, &[0x3800, 0x4400]));
    let (q, scale) = (tensor(DType::I8, &[0x9c, 0x64]), Tensor::f32([1], vec![0.25]));
    let result = patched(&source, &[("c", &c), ("w", &w), ("q", &q), ("scale", &scale)]);
    assert!(result.len() > source.len(), "a Constant node and initializers have grown");
    let folder = common::temporary();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, &result).unwrap();
    let mut session = common::engine(Device::Cpu).session_from_file(&path, false).unwrap();
    let y = session.run(&[("x", &Tensor::f32([2], vec![1.0, 2.0]))]).unwrap();
    assert_eq!(y[0].as_f32().unwrap(), [(1.0 + 1.5) * 0.5 - 25.0, (2.0 - 1.0) * 4.0 + 25.0]);
}
