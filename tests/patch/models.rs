//! Tensors of every type in every storage form, spelled from the bits of their elements.

use onnx_unlearn::onnx::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, attribute_type,
};
use onnx_unlearn::onnx::wire_type;
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Every type that a tensor can have.
pub const TYPES: [DType; 13] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::Bool,
];

/// Elements from their bits.
pub fn tensor(dtype: DType, bits: &[u64]) -> Tensor {
    Tensor::from_le_bytes(dtype, vec![bits.len()], &bytes(dtype, bits)).unwrap()
}

fn bytes(dtype: DType, bits: &[u64]) -> Vec<u8> {
    bits.iter().flat_map(|b| b.to_le_bytes().into_iter().take(dtype.size())).collect()
}

/// A message without elements.
pub fn empty(dtype: DType, name: &str, n: usize) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(wire_type(dtype)),
        dims: vec![n as i64],
        ..TensorProto::default()
    }
}

/// Elements in `raw_data`.
pub fn raw(dtype: DType, name: &str, bits: &[u64]) -> TensorProto {
    TensorProto { raw_data: Some(bytes(dtype, bits).into()), ..empty(dtype, name, bits.len()) }
}

/// Elements in the typed field that onnx.proto names for the type.
pub fn typed(dtype: DType, name: &str, bits: &[u64]) -> TensorProto {
    let mut t = empty(dtype, name, bits.len());
    let each = bits.iter().copied();
    match dtype {
        DType::F32 => t.float_data = each.map(|b| f32::from_bits(b as u32)).collect(),
        DType::F64 => t.double_data = each.map(f64::from_bits).collect(),
        DType::F16 | DType::BF16 | DType::U16 | DType::U8 | DType::Bool => {
            t.int32_data = each.map(|b| b as i32).collect();
        }
        DType::I8 => t.int32_data = each.map(|b| i32::from(b as i8)).collect(),
        DType::I16 => t.int32_data = each.map(|b| i32::from(b as i16)).collect(),
        DType::I32 => t.int32_data = each.map(|b| b as i32).collect(),
        DType::I64 => t.int64_data = each.map(|b| b as i64).collect(),
        DType::U32 | DType::U64 => t.uint64_data = each.collect(),
    }
    t
}

/// The bits of one element; small numbers as often as large ones, so that varints have every length.
pub fn draw(random: &mut ChaCha8Rng, dtype: DType) -> u64 {
    if dtype == DType::Bool {
        return random.random_range(0..2);
    }
    let width = 8 * dtype.size() as u32;
    let bits = random.random::<u64>() >> (64 - width);
    match random.random_range(0..3) {
        0 => bits,
        1 => bits >> random.random_range(0..width),
        // Near the top: a small negative number.
        _ => (!0u64 >> (64 - width)) - (bits >> random.random_range(0..width)),
    }
}

/// A Constant node.
pub fn constant(output: &str, value: TensorProto) -> NodeProto {
    NodeProto {
        output: vec![output.into()],
        op_type: Some("Constant".into()),
        attribute: vec![AttributeProto {
            name: Some("value".into()),
            r#type: Some(attribute_type::TENSOR),
            t: Some(value),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

pub fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}

/// A tensor whose elements lie beside the model.
pub fn external(dtype: DType, name: &str, n: usize, pairs: &[(&str, &str)]) -> TensorProto {
    let external_data = pairs.iter().map(|(key, value)| entry(key, value)).collect();
    TensorProto { data_location: Some(1), external_data, ..empty(dtype, name, n) }
}

/// The bytes of a model that holds initializers and nothing else.
pub fn model_of(initializer: Vec<TensorProto>) -> Vec<u8> {
    let graph = GraphProto { initializer, ..GraphProto::default() };
    ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
}
