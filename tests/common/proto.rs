//! Models by hand, in the messages of the file.

use onnx_unlearn::onnx::schema::*;

/// Opset of the models, unless a test says otherwise.
pub const OPSET: i64 = 18;

/// The domain of the functions here.
pub const LOCAL: &str = "local";

pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|s| (*s).to_owned()).collect()
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { op_type: Some(op.into()), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

/// A node that calls a function of [`LOCAL`].
pub fn call(name: &str, function: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { name: Some(name.into()), domain: Some(LOCAL.into()), ..node(function, inputs, outputs) }
}

/// More about a node.
pub trait With {
    fn with(self, attribute: AttributeProto) -> Self;
}

impl With for NodeProto {
    fn with(mut self, attribute: AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }
}

pub fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind), ..AttributeProto::default() }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, attribute_type::FLOAT) }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, attribute_type::INT) }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, attribute_type::INTS) }
}

pub fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(value), ..attribute(name, attribute_type::TENSOR) }
}

pub fn graph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(Box::new(value)), ..attribute(name, attribute_type::GRAPH) }
}

/// An attribute that is what the call of the function gives as `of`.
pub fn reference(name: &str, of: &str, kind: i32) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(of.into()), ..attribute(name, kind) }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type::FLOAT),
        dims: dims.to_vec(),
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

pub fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        data_type: Some(data_type::INT64),
        int64_data: values.to_vec(),
        float_data: Vec::new(),
        ..floats(name, dims, &[])
    }
}

pub fn boolean(name: &str, value: bool) -> TensorProto {
    TensorProto { data_type: Some(data_type::BOOL), int32_data: vec![value.into()], ..floats(name, &[], &[]) }
}

pub fn constant(output: &str, value: TensorProto) -> NodeProto {
    node("Constant", &[], &[output]).with(tensor("value", value))
}

/// A value of this element type whose shape is left open.
pub fn value(name: &str, kind: i32) -> ValueInfoProto {
    shaped(name, kind, None)
}

/// The same with these lengths, where given; a negative one stays open.
pub fn shaped(name: &str, kind: i32, dims: Option<&[i64]>) -> ValueInfoProto {
    let dim = |&n: &i64| Dimension { value: (n >= 0).then_some(DimensionValue::DimValue(n)), denotation: None };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let of = TypeTensor { elem_type: Some(kind), shape };
    let r#type = Some(TypeProto { value: Some(TypeProtoValue::Tensor(of)), denotation: None });
    ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
}

pub fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

pub fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: Some(name.into()),
        domain: Some(LOCAL.into()),
        input: names(inputs),
        output: names(outputs),
        node: nodes,
        opset_import: vec![import("", OPSET), import(LOCAL, 1)],
        ..FunctionProto::default()
    }
}

/// A graph inside a node, with outputs of floats.
pub fn inner(nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("inner".into()),
        node: nodes,
        output: outputs.iter().map(|o| value(o, data_type::FLOAT)).collect(),
        ..GraphProto::default()
    }
}

/// The body of a Loop that carries one value and knows no other end than its count.
pub fn body(carried: &str, kind: i32, nodes: Vec<NodeProto>, next: &str) -> GraphProto {
    GraphProto {
        name: Some("body".into()),
        node: [vec![node("Identity", &["on"], &["still"])], nodes].concat(),
        input: vec![
            shaped("count", data_type::INT64, Some(&[])),
            shaped("on", data_type::BOOL, Some(&[])),
            value(carried, kind),
        ],
        output: vec![value("still", data_type::BOOL), value(next, kind)],
        ..GraphProto::default()
    }
}
