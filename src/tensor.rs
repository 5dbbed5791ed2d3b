//! Holds an array: shape, element type, data. No arithmetic lives here, but for changing the element type.

use half::{bf16, f16};
use std::{borrow::Cow, fmt};

/// Element types the tool can hold. The names are those of the ONNX type they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 32-bit IEEE float, the type everything is trained in.
    F32,
    /// 64-bit IEEE float.
    F64,
    /// 16-bit IEEE float, held as its bits.
    F16,
    /// bfloat16, held as its bits.
    BF16,
    /// Signed integers.
    I8,
    /// Signed integers.
    I16,
    /// Signed integers.
    I32,
    /// Signed integers: what ONNX uses for shapes and indices.
    I64,
    /// Unsigned bytes.
    U8,
    /// Unsigned integers.
    U16,
    /// Unsigned integers.
    U32,
    /// Unsigned integers.
    U64,
    /// One byte an element, 0 or 1.
    Bool,
}

impl DType {
    /// Bytes one element takes.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// True for the types a gradient can flow through.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::Bool => "bool",
        })
    }
}

/// The elements, row-major.
///
/// The types that are computed with have a vector of their own; the others are carried as little-endian bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// float32 elements.
    F32(Vec<f32>),
    /// float64 elements.
    F64(Vec<f64>),
    /// int32 elements.
    I32(Vec<i32>),
    /// int64 elements.
    I64(Vec<i64>),
    /// uint8 elements.
    U8(Vec<u8>),
    /// bool elements.
    Bool(Vec<bool>),
    /// Any other type, as its little-endian bytes.
    Raw(DType, Vec<u8>),
}

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// Puts elements and shape together.
    ///
    /// # Panics
    /// When the number of elements is not the product of `shape`: callers check what comes from a file.
    pub fn new(shape: Vec<usize>, data: Data) -> Self {
        let tensor = Self { shape, data };
        let held = match &tensor.data {
            Data::F32(v) => v.len(),
            Data::F64(v) => v.len(),
            Data::I32(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::U8(v) => v.len(),
            Data::Bool(v) => v.len(),
            Data::Raw(t, v) => v.len() / t.size(),
        };
        assert_eq!(held, tensor.len(), "{held} elements do not fill the shape {:?}", tensor.shape);
        tensor
    }

    /// A float32 array.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self::new(shape.into(), Data::F32(data))
    }

    /// An int64 array.
    pub fn i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self::new(shape.into(), Data::I64(data))
    }

    /// A float32 array of rank 0.
    pub fn scalar(value: f32) -> Self {
        Self::f32([], vec![value])
    }

    /// An int64 list, the form in which ONNX takes axes, shapes, pads and sizes.
    pub fn ints(values: &[i64]) -> Self {
        Self::i64([values.len()], values.to_vec())
    }

    /// A float32 array of zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let n = shape.iter().product();
        Self::f32(shape, vec![0.0; n])
    }

    /// Decodes row-major little-endian bytes (the layout of ONNX `raw_data`); `None` when the length does not fit.
    pub fn from_le_bytes(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Option<Self> {
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if n.checked_mul(dtype.size())? != bytes.len() {
            return None;
        }
        let data = match dtype {
            DType::F32 => {
                Data::F32(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            DType::F64 => Data::F64(
                bytes
                    .chunks_exact(8)
                    .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                    .collect(),
            ),
            DType::I32 => {
                Data::I32(bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            DType::I64 => Data::I64(
                bytes
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                    .collect(),
            ),
            DType::U8 => Data::U8(bytes.to_vec()),
            DType::Bool => Data::Bool(bytes.iter().map(|&b| b != 0).collect()),
            other => Data::Raw(other, bytes.to_vec()),
        };
        Some(Self { shape, data })
    }

    /// The elements as row-major little-endian bytes.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() * self.dtype().size());
        self.append_le_bytes(&mut bytes);
        bytes
    }

    /// Puts the elements behind other bytes, as [`Tensor::to_le_bytes`] gives them.
    pub fn append_le_bytes(&self, bytes: &mut Vec<u8>) {
        match &self.data {
            Data::F32(v) => {
                let at = bytes.len();
                bytes.resize(at + 4 * v.len(), 0);
                bytes[at..].chunks_exact_mut(4).zip(v).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
            }
            Data::F64(v) => bytes.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Data::I32(v) => bytes.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Data::I64(v) => bytes.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            Data::U8(v) | Data::Raw(_, v) => bytes.extend_from_slice(v),
            Data::Bool(v) => bytes.extend(v.iter().map(|&b| u8::from(b))),
        }
    }

    /// Length of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when an axis has length 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Data::F32(_) => DType::F32,
            Data::F64(_) => DType::F64,
            Data::I32(_) => DType::I32,
            Data::I64(_) => DType::I64,
            Data::U8(_) => DType::U8,
            Data::Bool(_) => DType::Bool,
            Data::Raw(t, _) => *t,
        }
    }

    /// The elements, whatever their type.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements, given away.
    pub fn into_data(self) -> Data {
        self.data
    }

    /// The elements of a float32 array, else `None`.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if let Data::F32(v) = &self.data { Some(v) } else { None }
    }

    /// The elements of a float32 array for writing, else `None`.
    pub fn as_f32_mut(&mut self) -> Option<&mut Vec<f32>> {
        if let Data::F32(v) = &mut self.data { Some(v) } else { None }
    }

    /// The elements of an int64 or int32 array as int64, else `None`.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        match &self.data {
            Data::I64(v) => Some(v.clone()),
            Data::I32(v) => Some(v.iter().map(|&x| i64::from(x)).collect()),
            _ => None,
        }
    }

    /// The one element of a float array of one element as float64, else `None`.
    pub fn to_scalar(&self) -> Option<f64> {
        match &self.data {
            Data::F32(v) if v.len() == 1 => Some(f64::from(v[0])),
            Data::F64(v) if v.len() == 1 => Some(v[0]),
            _ => None,
        }
    }

    /// What [`Tensor::to_f32s`] gives, without a copy where the elements are float32.
    pub fn f32s(&self) -> Cow<'_, [f32]> {
        self.as_f32().map_or_else(|| self.to_f32s().into(), Into::into)
    }

    /// The elements of a numeric array as float32, rounded to nearest where float32 cannot hold them.
    pub fn to_f32s(&self) -> Vec<f32> {
        let pairs = |v: &[u8]| v.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>();
        match &self.data {
            Data::F32(v) => v.clone(),
            Data::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::I32(v) => v.iter().map(|&x| x as f32).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Data::Bool(v) => v.iter().map(|&x| f32::from(u8::from(x))).collect(),
            Data::Raw(DType::F16, v) => pairs(v).into_iter().map(|b| f16::from_bits(b).to_f32()).collect(),
            Data::Raw(DType::BF16, v) => pairs(v).into_iter().map(|b| bf16::from_bits(b).to_f32()).collect(),
            Data::Raw(DType::I8, v) => v.iter().map(|&b| f32::from(b.cast_signed())).collect(),
            Data::Raw(DType::I16, v) => pairs(v).into_iter().map(|b| f32::from(b.cast_signed())).collect(),
            Data::Raw(DType::U16, v) => pairs(v).into_iter().map(f32::from).collect(),
            Data::Raw(DType::U32, v) => {
                v.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect()
            }
            Data::Raw(_, v) => v
                .chunks_exact(8)
                .map(|b| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
                .collect(),
        }
    }

    /// float32 numbers in another element type: rounded to nearest, ties to even; beyond the range of an integer type the
    /// nearest end of it.
    ///
    /// # Panics
    /// When `values` do not fill the shape.
    pub fn from_f32s(dtype: DType, shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        let whole = |v: &f32| v.round_ties_even();
        let data = match dtype {
            DType::F32 => Data::F32(values),
            DType::F64 => Data::F64(values.iter().map(|&v| f64::from(v)).collect()),
            DType::I32 => Data::I32(values.iter().map(|v| whole(v) as i32).collect()),
            DType::I64 => Data::I64(values.iter().map(|v| whole(v) as i64).collect()),
            DType::U8 => Data::U8(values.iter().map(|v| whole(v) as u8).collect()),
            DType::Bool => Data::Bool(values.iter().map(|&v| v != 0.0).collect()),
            DType::F16 => Data::Raw(dtype, values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
            DType::BF16 => Data::Raw(dtype, values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()),
            DType::I8 => Data::Raw(dtype, values.iter().flat_map(|v| (whole(v) as i8).to_le_bytes()).collect()),
            DType::I16 => Data::Raw(dtype, values.iter().flat_map(|v| (whole(v) as i16).to_le_bytes()).collect()),
            DType::U16 => Data::Raw(dtype, values.iter().flat_map(|v| (whole(v) as u16).to_le_bytes()).collect()),
            DType::U32 => Data::Raw(dtype, values.iter().flat_map(|v| (whole(v) as u32).to_le_bytes()).collect()),
            DType::U64 => Data::Raw(dtype, values.iter().flat_map(|v| (whole(v) as u64).to_le_bytes()).collect()),
        };
        Self::new(shape.into(), data)
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// When the shapes hold different numbers of elements.
    #[must_use]
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Self {
        Self::new(shape.into(), self.data)
    }
}
