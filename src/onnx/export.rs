//! Encodes a graph of the tool's own (a step graph, never a result) as an ONNX file in memory.

use super::{
    schema::{
        AttributeProto, Dimension, DimensionValue, EXTERNAL, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, TypeProtoValue, TypeTensor, ValueInfoProto,
        attribute_type, data_type,
    },
    subgraph,
};
use crate::{
    graph::{Attr, Graph, NATIVE, Node, Port},
    tensor::{DType, Tensor},
};
use prost::Message;
use std::sync::Arc;

/// IR version of exported graphs: every ONNX Runtime the tool accepts reads it.
const IR_VERSION: i64 = 10;

/// Where the elements of a constant are said to lie that the reader is given by name.
const GIVEN: &str = "given";

/// The bytes of a model file that holds `graph`.
pub fn export(graph: &Graph) -> Vec<u8> {
    export_without(graph, |_, _| false)
}

/// The same without the elements of the constants that `given` picks by name and contents: who reads it has to be given them.
pub fn export_without(graph: &Graph, given: impl Fn(&str, &Tensor) -> bool) -> Vec<u8> {
    let constant =
        |(name, t): (&String, &Arc<Tensor>)| if given(name, t) { elsewhere(name, t) } else { tensor(name, t) };
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let mut opset_import = vec![import("", graph.opset)];
    let nodes: Vec<NodeProto> = graph.nodes.iter().map(node).collect();
    if nodes.iter().any(of_microsoft) {
        opset_import.push(import("com.microsoft", 1));
    }
    if graph.nodes.iter().any(|n| n.domain == NATIVE) {
        opset_import.push(import(NATIVE, 1));
    }
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("onnx-unlearn".into()),
        opset_import,
        graph: Some(GraphProto {
            name: Some("step".into()),
            node: nodes,
            initializer: graph.constants.iter().map(constant).collect(),
            input: graph.inputs.iter().map(port).collect(),
            output: graph.outputs.iter().map(port).collect(),
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

/// True when the node, or one in a graph inside it, is an operator of ONNX Runtime's own.
fn of_microsoft(n: &NodeProto) -> bool {
    n.domain() == "com.microsoft" || subgraph::inside(n).flat_map(|g| &g.node).any(of_microsoft)
}

pub(super) fn node(n: &Node) -> NodeProto {
    NodeProto {
        name: Some(n.name.clone()),
        op_type: Some(n.op.clone()),
        domain: (!n.domain.is_empty()).then(|| n.domain.clone()),
        input: n.inputs.clone(),
        output: n.outputs.clone(),
        attribute: n.attrs.iter().map(|(name, value)| attribute(name, value)).collect(),
        ..NodeProto::default()
    }
}

fn attribute(name: &str, value: &Attr) -> AttributeProto {
    let mut a = AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let kind = match value {
        Attr::Int(v) => {
            a.i = Some(*v);
            attribute_type::INT
        }
        Attr::Float(v) => {
            a.f = Some(*v);
            attribute_type::FLOAT
        }
        Attr::Str(v) => {
            a.s = Some(v.clone().into_bytes());
            attribute_type::STRING
        }
        Attr::Ints(v) => {
            a.ints.clone_from(v);
            attribute_type::INTS
        }
        Attr::Floats(v) => {
            a.floats.clone_from(v);
            attribute_type::FLOATS
        }
        Attr::Strs(v) => {
            a.strings = v.iter().map(|s| s.clone().into_bytes()).collect();
            attribute_type::STRINGS
        }
        Attr::Tensor(t) => {
            a.t = Some(tensor("", t));
            attribute_type::TENSOR
        }
        Attr::Graph(g) => {
            a.g = Some(Box::new(subgraph::decode(g)));
            attribute_type::GRAPH
        }
        // The importer refuses nodes with such attributes before a graph is exported.
        Attr::Other(_) => 0,
    };
    a.r#type = Some(kind);
    a
}

pub(super) fn tensor(name: &str, t: &Tensor) -> TensorProto {
    TensorProto { raw_data: Some(t.to_le_bytes().into()), ..empty(name, t) }
}

fn elsewhere(name: &str, t: &Tensor) -> TensorProto {
    let location = StringStringEntryProto { key: Some("location".into()), value: Some(GIVEN.into()) };
    TensorProto { external_data: vec![location], data_location: Some(EXTERNAL), ..empty(name, t) }
}

fn empty(name: &str, t: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: t.shape().iter().map(|&d| d as i64).collect(),
        data_type: Some(wire_type(t.dtype())),
        ..TensorProto::default()
    }
}

fn port(p: &Port) -> ValueInfoProto {
    let r#type = p.dtype.map(|dtype| TypeProto {
        value: Some(TypeProtoValue::Tensor(TypeTensor {
            elem_type: Some(wire_type(dtype)),
            shape: p.dims.as_ref().map(|dims| TensorShapeProto {
                dim: dims
                    .iter()
                    .map(|d| Dimension { value: d.map(|d| DimensionValue::DimValue(d as i64)), denotation: None })
                    .collect(),
            }),
        })),
        denotation: None,
    });
    ValueInfoProto { name: Some(p.name.clone()), r#type, ..ValueInfoProto::default() }
}

/// The number of an element type in the file format.
pub fn wire_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => data_type::FLOAT,
        DType::F64 => data_type::DOUBLE,
        DType::F16 => data_type::FLOAT16,
        DType::BF16 => data_type::BFLOAT16,
        DType::I8 => data_type::INT8,
        DType::I16 => data_type::INT16,
        DType::I32 => data_type::INT32,
        DType::I64 => data_type::INT64,
        DType::U8 => data_type::UINT8,
        DType::U16 => data_type::UINT16,
        DType::U32 => data_type::UINT32,
        DType::U64 => data_type::UINT64,
        DType::Bool => data_type::BOOL,
    }
}

/// The element type behind a number in the file format, `None` for types the tool does not hold.
pub fn dtype_of(wire: i32) -> Option<DType> {
    Some(match wire {
        data_type::FLOAT => DType::F32,
        data_type::DOUBLE => DType::F64,
        data_type::FLOAT16 => DType::F16,
        data_type::BFLOAT16 => DType::BF16,
        data_type::INT8 => DType::I8,
        data_type::INT16 => DType::I16,
        data_type::INT32 => DType::I32,
        data_type::INT64 => DType::I64,
        data_type::UINT8 => DType::U8,
        data_type::UINT16 => DType::U16,
        data_type::UINT32 => DType::U32,
        data_type::UINT64 => DType::U64,
        data_type::BOOL => DType::Bool,
        _ => return None,
    })
}
