//! Graphs inside nodes: what they read from outside, and which of them are refused.

use super::{
    inline::{domain_of, name_of},
    schema::{AttributeProto, GraphProto, NodeProto, TensorProto, TypeProtoValue, ValueInfoProto},
};
use crate::graph::Subgraph;
use prost::Message as _;
use std::collections::BTreeSet;

/// The graph as an attribute holds it.
pub(super) fn keep(graph: &GraphProto) -> Subgraph {
    let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
    let mut defines = BTreeSet::new();
    all_definitions(graph, &mut defines);
    Subgraph { bytes: graph.encode_to_vec().into(), captures: owned(captures(graph)), defines: owned(defines) }
}

fn all_definitions<'g>(graph: &'g GraphProto, into: &mut BTreeSet<&'g str>) {
    into.extend(definitions(graph));
    graph.node.iter().flat_map(inside).for_each(|g| all_definitions(g, into));
}

/// The graph behind an attribute.
///
/// # Panics
/// When the bytes are not what [`keep`] made.
pub(super) fn decode(subgraph: &Subgraph) -> GraphProto {
    GraphProto::decode(&*subgraph.bytes).expect("encoded by `keep`")
}

/// Graphs inside a node.
pub(super) fn inside(n: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    n.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs))
}

/// Names that the graph gives to values: inputs, initializers and what its nodes write.
pub(super) fn definitions(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let tensors = graph.initializer.iter().map(TensorProto::name);
    let written = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    graph.input.iter().map(ValueInfoProto::name).chain(tensors).chain(written).filter(|name| !name.is_empty())
}

/// Names that the graph reads and does not define.
pub(super) fn captures(graph: &GraphProto) -> BTreeSet<&str> {
    let own: BTreeSet<&str> = definitions(graph).collect();
    let mut read: BTreeSet<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
    for n in &graph.node {
        read.extend(n.input.iter().map(String::as_str));
        read.extend(inside(n).flat_map(captures));
    }
    read.into_iter().filter(|name| !name.is_empty() && !own.contains(name)).collect()
}

/// Refuses what the main graph may not hold either.
pub(super) fn check(graph: &GraphProto) -> Result<(), String> {
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |v| v.name());
        return Err(format!("initializer {name:?} is sparse; store it dense"));
    }
    for n in &graph.node {
        let domain = domain_of(n.domain());
        if !domain.is_empty() && domain != "com.microsoft" {
            return Err(format!("node {:?} ({domain}.{}): this domain is not supported", name_of(n), n.op_type()));
        }
        if let Some(a) = n.attribute.iter().find(|a| !a.ref_attr_name().is_empty()) {
            return Err(format!(
                "node {:?}: attribute {} refers to a function's, and stands in none",
                name_of(n),
                a.name()
            ));
        }
        inside(n).try_for_each(check)?;
    }
    Ok(())
}

/// True when the graph, or one inside it, has tensors, inputs, outputs or casts of one of these element types.
pub(super) fn names_type(graph: &GraphProto, types: &[i64]) -> bool {
    let named = |kind: i32| types.contains(&i64::from(kind));
    let port = |v: &ValueInfoProto| match v.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(TypeProtoValue::Tensor(t)) => named(t.elem_type()),
        _ => false,
    };
    let attribute = |a: &AttributeProto| {
        let casts = matches!(a.name(), "to" | "dtype") && types.contains(&a.i());
        casts || a.t.iter().chain(&a.tensors).any(|t| named(t.data_type()))
    };
    graph.input.iter().chain(&graph.output).any(port)
        || graph.initializer.iter().any(|t| named(t.data_type()))
        || graph.node.iter().any(|n| n.attribute.iter().any(attribute) || inside(n).any(|g| names_type(g, types)))
}

/// Every tensor in the graph and in the graphs inside it.
pub(super) fn each_tensor<E>(
    graph: &mut GraphProto,
    visit: &mut impl FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    for a in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        a.t.iter_mut().chain(&mut a.tensors).try_for_each(&mut *visit)?;
        for g in a.g.as_deref_mut().into_iter().chain(&mut a.graphs) {
            each_tensor(g, visit)?;
        }
    }
    Ok(())
}
