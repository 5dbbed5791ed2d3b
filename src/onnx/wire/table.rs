//! The messages of `onnx.proto` (IR version 14) as tables: what the strict walker accepts.
//!
//! They say the same as [`crate::onnx::schema`] says to prost; a test compares the two.

use self::Kind::{Bytes, Double, Float, Int32, Int64, Message, Text, Uint64};

/// What a field holds on the wire.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Int32,
    Int64,
    Uint64,
    Float,
    Double,
    /// A string: must be UTF-8.
    Text,
    Bytes,
    Message(&'static Table),
}

/// How often a field may stand in one message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Once,
    Many,
    /// Once, and alone among the fields so labelled (no ONNX message has two such groups).
    OneOf,
}

/// One field of a message.
pub(crate) struct Field {
    pub number: u32,
    pub name: &'static str,
    pub kind: Kind,
    pub label: Label,
}

/// One message.
pub(crate) struct Table {
    pub name: &'static str,
    pub fields: &'static [Field],
    /// True for metadata entries only: unknown fields are stepped over there, and keys must differ within one list.
    pub metadata: bool,
}

/// The largest number of fields a table has.
pub(crate) const MAX_FIELDS: usize = 20;

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, label: Label::Once }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, label: Label::Many }
}

const fn either(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, label: Label::OneOf }
}

const fn table(name: &'static str, fields: &'static [Field]) -> Table {
    assert!(fields.len() <= MAX_FIELDS);
    Table { name, fields, metadata: false }
}

pub(crate) static MODEL: Table = table(
    "ModelProto",
    &[
        one(1, "ir_version", Int64),
        many(8, "opset_import", Message(&OPSET)),
        one(2, "producer_name", Text),
        one(3, "producer_version", Text),
        one(4, "domain", Text),
        one(5, "model_version", Int64),
        one(6, "doc_string", Text),
        one(7, "graph", Message(&GRAPH)),
        many(14, "metadata_props", Message(&METADATA)),
        many(20, "training_info", Message(&TRAINING)),
        many(25, "functions", Message(&FUNCTION)),
        many(26, "configuration", Message(&CONFIGURATION)),
    ],
);

pub(crate) static GRAPH: Table = table(
    "GraphProto",
    &[
        many(1, "node", Message(&NODE)),
        one(2, "name", Text),
        many(5, "initializer", Message(&TENSOR)),
        many(15, "sparse_initializer", Message(&SPARSE)),
        one(10, "doc_string", Text),
        many(11, "input", Message(&VALUE_INFO)),
        many(12, "output", Message(&VALUE_INFO)),
        many(13, "value_info", Message(&VALUE_INFO)),
        many(14, "quantization_annotation", Message(&ANNOTATION)),
        many(16, "metadata_props", Message(&METADATA)),
    ],
);

pub(crate) static NODE: Table = table(
    "NodeProto",
    &[
        many(1, "input", Text),
        many(2, "output", Text),
        one(3, "name", Text),
        one(4, "op_type", Text),
        one(7, "domain", Text),
        one(8, "overload", Text),
        many(5, "attribute", Message(&ATTRIBUTE)),
        one(6, "doc_string", Text),
        many(9, "metadata_props", Message(&METADATA)),
        many(10, "device_configurations", Message(&NODE_DEVICE)),
    ],
);

pub(crate) static ATTRIBUTE: Table = table(
    "AttributeProto",
    &[
        one(1, "name", Text),
        one(21, "ref_attr_name", Text),
        one(13, "doc_string", Text),
        one(20, "type", Int32),
        one(2, "f", Float),
        one(3, "i", Int64),
        one(4, "s", Bytes),
        one(5, "t", Message(&TENSOR)),
        one(6, "g", Message(&GRAPH)),
        one(22, "sparse_tensor", Message(&SPARSE)),
        one(14, "tp", Message(&TYPE)),
        many(7, "floats", Float),
        many(8, "ints", Int64),
        many(9, "strings", Bytes),
        many(10, "tensors", Message(&TENSOR)),
        many(11, "graphs", Message(&GRAPH)),
        many(23, "sparse_tensors", Message(&SPARSE)),
        many(15, "type_protos", Message(&TYPE)),
    ],
);

pub(crate) static TENSOR: Table = table(
    "TensorProto",
    &[
        many(1, "dims", Int64),
        one(2, "data_type", Int32),
        one(3, "segment", Message(&SEGMENT)),
        many(4, "float_data", Float),
        many(5, "int32_data", Int32),
        many(6, "string_data", Bytes),
        many(7, "int64_data", Int64),
        one(8, "name", Text),
        one(12, "doc_string", Text),
        one(9, "raw_data", Bytes),
        many(13, "external_data", Message(&ENTRY)),
        one(14, "data_location", Int32),
        many(10, "double_data", Double),
        many(11, "uint64_data", Uint64),
        many(16, "metadata_props", Message(&METADATA)),
    ],
);

static SEGMENT: Table = table("Segment", &[one(1, "begin", Int64), one(2, "end", Int64)]);

static SPARSE: Table = table(
    "SparseTensorProto",
    &[one(1, "values", Message(&TENSOR)), one(2, "indices", Message(&TENSOR)), many(3, "dims", Int64)],
);

static VALUE_INFO: Table = table(
    "ValueInfoProto",
    &[
        one(1, "name", Text),
        one(2, "type", Message(&TYPE)),
        one(3, "doc_string", Text),
        many(4, "metadata_props", Message(&METADATA)),
    ],
);

static TYPE: Table = table(
    "TypeProto",
    &[
        either(1, "tensor_type", Message(&TYPE_TENSOR)),
        either(4, "sequence_type", Message(&TYPE_ELEMENT)),
        either(5, "map_type", Message(&TYPE_MAP)),
        either(9, "optional_type", Message(&TYPE_ELEMENT)),
        either(8, "sparse_tensor_type", Message(&TYPE_TENSOR)),
        either(7, "opaque_type", Message(&TYPE_OPAQUE)),
        one(6, "denotation", Text),
    ],
);

// TypeProto.Tensor and TypeProto.SparseTensor.
static TYPE_TENSOR: Table = table("TypeProto.Tensor", &[one(1, "elem_type", Int32), one(2, "shape", Message(&SHAPE))]);

// TypeProto.Sequence and TypeProto.Optional.
static TYPE_ELEMENT: Table = table("TypeProto.Sequence", &[one(1, "elem_type", Message(&TYPE))]);

static TYPE_MAP: Table = table("TypeProto.Map", &[one(1, "key_type", Int32), one(2, "value_type", Message(&TYPE))]);

static TYPE_OPAQUE: Table = table("TypeProto.Opaque", &[one(1, "domain", Text), one(2, "name", Text)]);

static SHAPE: Table = table("TensorShapeProto", &[many(1, "dim", Message(&DIMENSION))]);

static DIMENSION: Table = table(
    "TensorShapeProto.Dimension",
    &[either(1, "dim_value", Int64), either(2, "dim_param", Text), one(3, "denotation", Text)],
);

static ANNOTATION: Table =
    table("TensorAnnotation", &[one(1, "tensor_name", Text), many(2, "quant_parameter_tensor_names", Message(&ENTRY))]);

// An entry of external_data, quant_parameter_tensor_names or a training binding: no unknown field may hide there.
static ENTRY: Table = table("StringStringEntryProto", &[one(1, "key", Text), one(2, "value", Text)]);

/// An entry of any `metadata_props`.
pub(crate) static METADATA: Table =
    Table { name: "StringStringEntryProto", fields: &[one(1, "key", Text), one(2, "value", Text)], metadata: true };

static OPSET: Table = table("OperatorSetIdProto", &[one(1, "domain", Text), one(2, "version", Int64)]);

static FUNCTION: Table = table(
    "FunctionProto",
    &[
        one(1, "name", Text),
        many(4, "input", Text),
        many(5, "output", Text),
        many(6, "attribute", Text),
        many(11, "attribute_proto", Message(&ATTRIBUTE)),
        many(7, "node", Message(&NODE)),
        one(8, "doc_string", Text),
        many(9, "opset_import", Message(&OPSET)),
        one(10, "domain", Text),
        one(13, "overload", Text),
        many(12, "value_info", Message(&VALUE_INFO)),
        many(14, "metadata_props", Message(&METADATA)),
    ],
);

static TRAINING: Table = table(
    "TrainingInfoProto",
    &[
        one(1, "initialization", Message(&GRAPH)),
        one(2, "algorithm", Message(&GRAPH)),
        many(3, "initialization_binding", Message(&ENTRY)),
        many(4, "update_binding", Message(&ENTRY)),
    ],
);

static CONFIGURATION: Table =
    table("DeviceConfigurationProto", &[one(1, "name", Text), one(2, "num_devices", Int32), many(3, "device", Text)]);

static NODE_DEVICE: Table = table(
    "NodeDeviceConfigurationProto",
    &[one(1, "configuration_id", Text), many(2, "sharding_spec", Message(&SHARDING)), one(3, "pipeline_stage", Int32)],
);

static SHARDING: Table = table(
    "ShardingSpecProto",
    &[
        one(1, "tensor_name", Text),
        many(2, "device", Int64),
        many(3, "index_to_device_group_map", Message(&INT_LIST_ENTRY)),
        many(4, "sharded_dim", Message(&SHARDED_DIM)),
    ],
);

static INT_LIST_ENTRY: Table = table("IntIntListEntryProto", &[one(1, "key", Int64), many(2, "value", Int64)]);

static SHARDED_DIM: Table =
    table("ShardedDimProto", &[one(1, "axis", Int64), many(2, "simple_sharding", Message(&SIMPLE_SHARDED_DIM))]);

static SIMPLE_SHARDED_DIM: Table = table(
    "SimpleShardedDimProto",
    &[either(1, "dim_value", Int64), either(2, "dim_param", Text), one(3, "num_shards", Int64)],
);

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::onnx::schema;

    fn recode<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
        M::decode(bytes).map(|message| message.encode_to_vec())
    }

    /// A message with this field alone, set to something prost would not leave out.
    fn sample(field: &Field) -> Vec<u8> {
        let tag = |wire: u32| {
            let mut out = Vec::new();
            prost::encoding::encode_varint(u64::from(field.number << 3 | wire), &mut out);
            out
        };
        match field.kind {
            Kind::Int32 => [tag(0), vec![1]].concat(),
            // 2^40: a 32-bit field would cut it off.
            Kind::Int64 | Kind::Uint64 => [tag(0), vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x20]].concat(),
            Kind::Float => [tag(5), vec![1; 4]].concat(),
            Kind::Double => [tag(1), vec![1; 8]].concat(),
            Kind::Text | Kind::Bytes => [tag(2), vec![1, b'a']].concat(),
            Kind::Message(_) => [tag(2), vec![0]].concat(),
        }
    }

    #[test]
    fn every_field_is_one_that_prost_knows_with_the_same_type() {
        type Recode = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;
        let messages: [(&Table, Recode); 27] = [
            (&MODEL, recode::<schema::ModelProto>),
            (&GRAPH, recode::<schema::GraphProto>),
            (&NODE, recode::<schema::NodeProto>),
            (&ATTRIBUTE, recode::<schema::AttributeProto>),
            (&TENSOR, recode::<schema::TensorProto>),
            (&SEGMENT, recode::<schema::Segment>),
            (&SPARSE, recode::<schema::SparseTensorProto>),
            (&VALUE_INFO, recode::<schema::ValueInfoProto>),
            (&TYPE, recode::<schema::TypeProto>),
            (&TYPE_TENSOR, recode::<schema::TypeTensor>),
            (&TYPE_TENSOR, recode::<schema::TypeSparseTensor>),
            (&TYPE_ELEMENT, recode::<schema::TypeSequence>),
            (&TYPE_ELEMENT, recode::<schema::TypeOptional>),
            (&TYPE_MAP, recode::<schema::TypeMap>),
            (&TYPE_OPAQUE, recode::<schema::TypeOpaque>),
            (&SHAPE, recode::<schema::TensorShapeProto>),
            (&DIMENSION, recode::<schema::Dimension>),
            (&ANNOTATION, recode::<schema::TensorAnnotation>),
            (&ENTRY, recode::<schema::StringStringEntryProto>),
            (&METADATA, recode::<schema::StringStringEntryProto>),
            (&OPSET, recode::<schema::OperatorSetIdProto>),
            (&FUNCTION, recode::<schema::FunctionProto>),
            (&TRAINING, recode::<schema::TrainingInfoProto>),
            (&CONFIGURATION, recode::<schema::DeviceConfigurationProto>),
            (&NODE_DEVICE, recode::<schema::NodeDeviceConfigurationProto>),
            (&SHARDING, recode::<schema::ShardingSpecProto>),
            (&SHARDED_DIM, recode::<schema::ShardedDimProto>),
        ];
        for (table, recode) in messages {
            for field in table.fields {
                let bytes = sample(field);
                let found = recode(&bytes);
                // A packed list comes back in its packed form, everything else as it was.
                let known = found.as_ref().is_ok_and(|f| *f == bytes || (!f.is_empty() && recode(f) == Ok(f.clone())));
                assert!(known, "{}.{}: {found:?}", table.name, field.name);
                let value = found.unwrap_or_default();
                assert!(value.len() >= bytes.len(), "{}.{}: shortened to {value:?}", table.name, field.name);
            }
        }
    }
}
