//! Tensors and the values of `ort`: what goes in, and what comes back.

use super::session::{RuntimeError, failed};
use crate::tensor::{DType, Data, Tensor};
use half::{bf16, f16};
use ort::{
    session::SessionInputValue,
    value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef, ValueRef},
};
use std::fmt;

pub(super) fn borrowed<'t>(name: &str, tensor: &'t Tensor) -> Result<SessionInputValue<'t>, RuntimeError> {
    let shape = tensor.shape().to_vec();
    let value = match tensor.data() {
        Data::F32(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::F64(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::I32(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::I64(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::U8(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::Bool(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::Raw(DType::F16, v) => return owned(name, shape, pairs(v).map(f16::from_bits).collect()),
        Data::Raw(DType::BF16, v) => return owned(name, shape, pairs(v).map(bf16::from_bits).collect()),
        Data::Raw(DType::I8, v) => return owned(name, shape, v.iter().map(|b| b.cast_signed()).collect()),
        Data::Raw(DType::I16, v) => return owned(name, shape, pairs(v).map(u16::cast_signed).collect()),
        Data::Raw(DType::U16, v) => return owned(name, shape, pairs(v).collect()),
        Data::Raw(dtype, _) => return Err(RuntimeError::Type { name: name.into(), dtype: dtype.to_string() }),
    };
    value.map_err(|e| failed(name, &e))
}

/// A copy, for types that are held as bytes.
fn owned<'t, T>(name: &str, shape: Vec<usize>, values: Vec<T>) -> Result<SessionInputValue<'t>, RuntimeError>
where
    T: PrimitiveTensorElementType + Clone + fmt::Debug + 'static,
{
    OrtTensor::from_array((shape, values)).map(Into::into).map_err(|e| failed(name, &e))
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

pub(super) fn copied(
    name: &str,
    value: &ValueRef<'_, ort::value::DynValueTypeMarker>,
    what: &str,
) -> Result<Tensor, RuntimeError> {
    let fail = |e: ort::Error| failed(what, &e);
    let value: &DynValue = value;
    let unknown = |dtype: String| RuntimeError::Type { name: name.into(), dtype };
    let ort::value::ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(unknown(value.dtype().to_string()));
    };
    let tensor = value;
    let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
    let data = match ty {
        TensorElementType::Float32 => Data::F32(tensor.try_extract_tensor::<f32>().map_err(fail)?.1.to_vec()),
        TensorElementType::Float64 => Data::F64(tensor.try_extract_tensor::<f64>().map_err(fail)?.1.to_vec()),
        TensorElementType::Int32 => Data::I32(tensor.try_extract_tensor::<i32>().map_err(fail)?.1.to_vec()),
        TensorElementType::Int64 => Data::I64(tensor.try_extract_tensor::<i64>().map_err(fail)?.1.to_vec()),
        TensorElementType::Uint8 => Data::U8(tensor.try_extract_tensor::<u8>().map_err(fail)?.1.to_vec()),
        TensorElementType::Bool => Data::Bool(tensor.try_extract_tensor::<bool>().map_err(fail)?.1.to_vec()),
        TensorElementType::Int8 => {
            let v = tensor.try_extract_tensor::<i8>().map_err(fail)?.1;
            Data::Raw(DType::I8, v.iter().map(|x| x.to_le_bytes()[0]).collect())
        }
        TensorElementType::Int16 => {
            let v = tensor.try_extract_tensor::<i16>().map_err(fail)?.1;
            Data::Raw(DType::I16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        TensorElementType::Uint16 => {
            let v = tensor.try_extract_tensor::<u16>().map_err(fail)?.1;
            Data::Raw(DType::U16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        TensorElementType::Float16 => {
            let v = tensor.try_extract_tensor::<f16>().map_err(fail)?.1;
            Data::Raw(DType::F16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        TensorElementType::Bfloat16 => {
            let v = tensor.try_extract_tensor::<bf16>().map_err(fail)?.1;
            Data::Raw(DType::BF16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        other => return Err(unknown(other.to_string())),
    };
    Ok(Tensor::new(shape, data))
}

pub(super) fn dtype_of(ty: TensorElementType) -> Option<DType> {
    Some(match ty {
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::BF16,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    })
}
