//! The graph digest, and the weights found on the way through the graph.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Digest, DigestError, Refusal, TensorDigest, encode, tensor};
use crate::onnx::schema::{
    AttributeProto, DimensionValue, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, TypeProtoValue, ValueInfoProto, attribute_type as at,
};

/// The graph digest of a model and its weights, sorted by key.
pub(super) fn model(model: &ModelProto, folder: &Path) -> Result<(Digest, Vec<TensorDigest>), DigestError> {
    let refuse = |problem: Refusal| Err(problem.at("model"));
    if !model.training_info.is_empty() {
        return refuse(Refusal::TrainingInfo);
    }
    if !model.configuration.is_empty() {
        return refuse(Refusal::DeviceConfiguration);
    }
    let Some(graph) = &model.graph else { return refuse(Refusal::NoGraph) };
    let mut encoder = Encoder { folder, weights: BTreeMap::new(), used: BTreeSet::new() };
    let body = encoder.body(graph, &Scope { root: vec![0], steps: Vec::new(), label: String::new() }, "graph")?;
    let mut out = Vec::new();
    encode::text(&mut out, "onnx-graph-v1");
    out.extend(encoder.opsets(&model.opset_import, "model")?);
    out.extend(body);
    let mut functions = BTreeMap::new();
    for (i, function) in model.functions.iter().enumerate() {
        let place = format!("functions[{i}]");
        let key = function_key(function);
        let encoded = encoder.function(function, &key, &place)?;
        if functions.insert(key, encoded).is_some() {
            return Err(Refusal::FunctionTwice(function.name().into()).at(place));
        }
    }
    encode::list(&mut out, &functions.into_values().collect::<Vec<_>>());
    Ok((Digest::of(&out), encoder.weights.into_values().collect()))
}

/// The weights digest: `H(lp("onnx-weights-v1") || list(key || digest, sorted by key))`.
pub(super) fn weights(tensors: &[TensorDigest]) -> Digest {
    let mut out = Vec::new();
    encode::text(&mut out, "onnx-weights-v1");
    encode::count(&mut out, tensors.len());
    for tensor in tensors {
        out.extend_from_slice(&tensor.id);
        out.extend(tensor.digest.0);
    }
    Digest::of(&out)
}

fn function_key(function: &FunctionProto) -> Vec<u8> {
    let mut key = Vec::new();
    encode::text(&mut key, encode::domain(function.domain()));
    encode::text(&mut key, function.name());
    encode::text(&mut key, function.overload());
    key
}

/// Where a graph stands: how the keys of its weights begin.
struct Scope {
    root: Vec<u8>,
    steps: Vec<Vec<u8>>,
    /// The same for people; empty for the main graph.
    label: String,
}

impl Scope {
    fn nested(&self, node: &NodeProto, attribute: &str, index: Option<usize>) -> Result<Self, Refusal> {
        let output = node.output.iter().find(|o| !o.is_empty()).ok_or(Refusal::NoNamedOutput)?;
        let mut step = Vec::new();
        encode::text(&mut step, output);
        encode::text(&mut step, attribute);
        encode::count(&mut step, index.unwrap_or(0));
        let mut steps = self.steps.clone();
        steps.push(step);
        let index = index.map_or_else(String::new, |i| format!("[{i}]"));
        Ok(Self { root: self.root.clone(), steps, label: format!("{}{output}:{attribute}{index}/", self.label) })
    }
}

struct Encoder<'m> {
    folder: &'m Path,
    weights: BTreeMap<Vec<u8>, TensorDigest>,
    /// Domains of the nodes seen since the last call of `opsets`.
    used: BTreeSet<String>,
}

impl Encoder<'_> {
    fn body(&mut self, graph: &GraphProto, scope: &Scope, place: &str) -> Result<Vec<u8>, DigestError> {
        self.initializers(graph, scope, place)?;
        let inputs = graph.input.iter().map(ValueInfoProto::name);
        let weights = graph.initializer.iter().map(TensorProto::name);
        let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(TensorProto::name);
        check_definitions(inputs, weights.chain(sparse), &graph.node, place)?;
        let mut out = Vec::new();
        encode::list(&mut out, &graph.input.iter().map(value_info).collect::<Vec<_>>());
        encode::list(&mut out, &graph.output.iter().map(value_info).collect::<Vec<_>>());
        out.extend(self.nodes(&graph.node, scope, place)?);
        let mut annotations = Vec::new();
        for annotation in &graph.quantization_annotation {
            let mut item = Vec::new();
            encode::text(&mut item, annotation.tensor_name());
            let mut entries = Vec::new();
            for entry in &annotation.quant_parameter_tensor_names {
                let mut pair = Vec::new();
                encode::text(&mut pair, entry.key());
                encode::text(&mut pair, entry.value());
                entries.push(pair);
            }
            entries.sort();
            encode::list(&mut item, &entries);
            annotations.push(item);
        }
        annotations.sort();
        encode::list(&mut out, &annotations);
        Ok(out)
    }

    fn initializers(&mut self, graph: &GraphProto, scope: &Scope, place: &str) -> Result<(), DigestError> {
        for (i, t) in graph.initializer.iter().enumerate() {
            let place = || format!("{place}.initializer[{i}] {:?}", t.name());
            let digest = tensor::tensor(t, self.folder).map_err(|p| p.at(place()))?;
            self.weight(scope, t.name(), t.data_type(), &t.dims, digest).map_err(|p| p.at(place()))?;
        }
        for (i, s) in graph.sparse_initializer.iter().enumerate() {
            let values = s.values.as_ref();
            let (name, data_type) = (values.map_or("", |v| v.name()), values.map_or(0, TensorProto::data_type));
            let place = || format!("{place}.sparse_initializer[{i}] {name:?}");
            let digest = tensor::sparse(s, self.folder).map_err(|p| p.at(place()))?;
            self.weight(scope, name, data_type, &s.dims, digest).map_err(|p| p.at(place()))?;
        }
        Ok(())
    }

    fn weight(&mut self, scope: &Scope, name: &str, kind: i32, dims: &[i64], digest: Digest) -> Result<(), Refusal> {
        let mut id = scope.root.clone();
        encode::list(&mut id, &scope.steps);
        encode::text(&mut id, name);
        let key = format!("{}{name}", scope.label);
        let entry = TensorDigest { key, data_type: kind, dims: dims.to_vec(), digest, id: id.clone() };
        match self.weights.insert(id, entry) {
            None => Ok(()),
            Some(_) => Err(Refusal::DefinedTwice(name.into())),
        }
    }

    fn nodes(&mut self, nodes: &[NodeProto], scope: &Scope, place: &str) -> Result<Vec<u8>, DigestError> {
        let mut encoded = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            let place = format!("{place}.node[{i}] ({})", node.op_type());
            if !self.lift(node, scope, &place)? {
                encoded.push(self.node(node, scope, &place)?);
            }
        }
        let mut out = Vec::new();
        encode::list(&mut out, &encoded);
        Ok(out)
    }

    /// Takes a Constant node for the weight it is; false when it stays a node.
    fn lift(&mut self, node: &NodeProto, scope: &Scope, place: &str) -> Result<bool, DigestError> {
        let plain = node.op_type() == "Constant" && encode::domain(node.domain()).is_empty();
        let ([output], [attribute], true) = (&node.output[..], &node.attribute[..], plain) else { return Ok(false) };
        let named = node.overload().is_empty() && node.input.is_empty() && !output.is_empty();
        if !named || !attribute.ref_attr_name().is_empty() || !node.device_configurations.is_empty() {
            return Ok(false);
        }
        let Some((kind, dims, digest)) = self.constant(attribute).map_err(|p| p.at(place))? else {
            return Ok(false);
        };
        self.weight(scope, output, kind, &dims, digest).map_err(|p| p.at(place))?;
        Ok(true)
    }

    /// Type, dims and digest of a Constant's attribute; `None` when it has no standard name and type.
    fn constant(&self, a: &AttributeProto) -> Result<Option<(i32, Vec<i64>, Digest)>, Refusal> {
        const FLOAT: i32 = 1;
        const INT64: i32 = 7;
        const STRING: i32 = 8;
        let standard = matches!(
            (a.name(), a.r#type()),
            ("value", at::TENSOR)
                | ("sparse_value", at::SPARSE_TENSOR)
                | ("value_float", at::FLOAT)
                | ("value_int", at::INT)
                | ("value_string", at::STRING)
                | ("value_floats", at::FLOATS)
                | ("value_ints", at::INTS)
                | ("value_strings", at::STRINGS)
        );
        if !standard {
            return Ok(None);
        }
        check_fields(a)?;
        let (kind, dims, data): (_, _, Vec<u8>) = match a.r#type() {
            at::TENSOR => {
                let t = a.t.as_ref().ok_or(Refusal::Missing("t"))?;
                return Ok(Some((t.data_type(), t.dims.clone(), tensor::tensor(t, self.folder)?)));
            }
            at::SPARSE_TENSOR => {
                let s = a.sparse_tensor.as_ref().ok_or(Refusal::Missing("sparse_tensor"))?;
                let kind = s.values.as_ref().map_or(0, TensorProto::data_type);
                return Ok(Some((kind, s.dims.clone(), tensor::sparse(s, self.folder)?)));
            }
            at::FLOAT => (FLOAT, vec![], a.f().to_le_bytes().to_vec()),
            at::INT => (INT64, vec![], a.i().to_le_bytes().to_vec()),
            at::STRING => (STRING, vec![], tensor::string_bytes(&[a.s().to_vec()])),
            at::FLOATS => (FLOAT, vec![a.floats.len() as i64], a.floats.iter().flat_map(|v| v.to_le_bytes()).collect()),
            at::INTS => (INT64, vec![a.ints.len() as i64], a.ints.iter().flat_map(|v| v.to_le_bytes()).collect()),
            _ => (STRING, vec![a.strings.len() as i64], tensor::string_bytes(&a.strings)),
        };
        Ok(Some((kind, dims.clone(), tensor::plain(kind, &dims, &data))))
    }

    fn node(&mut self, node: &NodeProto, scope: &Scope, place: &str) -> Result<Vec<u8>, DigestError> {
        if !node.device_configurations.is_empty() {
            return Err(Refusal::DeviceConfiguration.at(place));
        }
        let domain = encode::domain(node.domain());
        self.used.insert(domain.into());
        let mut out = Vec::new();
        encode::text(&mut out, domain);
        encode::text(&mut out, node.op_type());
        encode::text(&mut out, node.overload());
        encode::texts(&mut out, &node.input);
        encode::texts(&mut out, &node.output);
        let mut attributes = BTreeMap::new();
        for attribute in &node.attribute {
            let place = format!("{place}.attribute {:?}", attribute.name());
            let encoded = self.attribute(attribute, Some((node, scope)), &place)?;
            if attributes.insert(attribute.name(), encoded).is_some() {
                return Err(Refusal::AttributeTwice(attribute.name().into()).at(place));
            }
        }
        encode::list(&mut out, &attributes.into_values().collect::<Vec<_>>());
        Ok(out)
    }

    /// An attribute of a node, or of a function's defaults (`owner` is `None`), where no graph may stand.
    fn attribute(
        &mut self,
        a: &AttributeProto,
        owner: Option<(&NodeProto, &Scope)>,
        place: &str,
    ) -> Result<Vec<u8>, DigestError> {
        let refuse = |problem: Refusal| problem.at(place);
        check_fields(a).map_err(refuse)?;
        let mut out = Vec::new();
        encode::text(&mut out, a.name());
        out.extend(a.r#type().to_le_bytes());
        if !a.ref_attr_name().is_empty() {
            out.push(1);
            encode::text(&mut out, a.ref_attr_name());
            return Ok(out);
        }
        out.push(0);
        let missing = |field| refuse(Refusal::Missing(field));
        match a.r#type() {
            at::FLOAT => out.extend(a.f().to_le_bytes()),
            at::INT => out.extend(a.i().to_le_bytes()),
            at::STRING => encode::bytes(&mut out, a.s()),
            at::TENSOR => {
                let t = a.t.as_ref().ok_or_else(|| missing("t"))?;
                out.extend(tensor::tensor(t, self.folder).map_err(refuse)?.0);
            }
            at::SPARSE_TENSOR => {
                let s = a.sparse_tensor.as_ref().ok_or_else(|| missing("sparse_tensor"))?;
                out.extend(tensor::sparse(s, self.folder).map_err(refuse)?.0);
            }
            at::TYPE_PROTO => out.extend(value_type(Some(a.tp.as_ref().ok_or_else(|| missing("tp"))?))),
            at::FLOATS => {
                encode::count(&mut out, a.floats.len());
                out.extend(a.floats.iter().flat_map(|v| v.to_le_bytes()));
            }
            at::INTS => encode::dims(&mut out, &a.ints),
            at::STRINGS => {
                encode::count(&mut out, a.strings.len());
                a.strings.iter().for_each(|s| encode::bytes(&mut out, s));
            }
            at::TENSORS => {
                let digests = a.tensors.iter().map(|t| tensor::tensor(t, self.folder).map(|d| d.0));
                encode::list(&mut out, &digests.collect::<Result<Vec<_>, _>>().map_err(refuse)?);
            }
            at::SPARSE_TENSORS => {
                let digests = a.sparse_tensors.iter().map(|s| tensor::sparse(s, self.folder).map(|d| d.0));
                encode::list(&mut out, &digests.collect::<Result<Vec<_>, _>>().map_err(refuse)?);
            }
            at::TYPE_PROTOS => {
                encode::list(&mut out, &a.type_protos.iter().map(|t| value_type(Some(t))).collect::<Vec<_>>());
            }
            _ => self.graphs(a, owner, place, &mut out)?,
        }
        Ok(out)
    }

    /// The payload of a GRAPH or GRAPHS attribute.
    fn graphs(
        &mut self,
        a: &AttributeProto,
        owner: Option<(&NodeProto, &Scope)>,
        place: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), DigestError> {
        let refuse = |problem: Refusal| problem.at(place);
        let (node, scope) = owner.ok_or_else(|| refuse(Refusal::GraphDefault(a.name().into())))?;
        if a.r#type() == at::GRAPH {
            let graph = a.g.as_ref().ok_or_else(|| refuse(Refusal::Missing("g")))?;
            let scope = scope.nested(node, a.name(), None).map_err(refuse)?;
            out.extend(self.body(graph, &scope, &format!("{place}.g"))?);
            return Ok(());
        }
        encode::count(out, a.graphs.len());
        for (i, graph) in a.graphs.iter().enumerate() {
            let scope = scope.nested(node, a.name(), Some(i)).map_err(refuse)?;
            out.extend(self.body(graph, &scope, &format!("{place}.graphs[{i}]"))?);
        }
        Ok(())
    }

    fn function(&mut self, f: &FunctionProto, key: &[u8], place: &str) -> Result<Vec<u8>, DigestError> {
        let label = match (f.domain(), f.overload()) {
            (domain, "") => format!("{domain}::{}()/", f.name()),
            (domain, overload) => format!("{domain}::{}({overload})/", f.name()),
        };
        let root = [&[1], key].concat();
        let inputs = f.input.iter().map(String::as_str);
        check_definitions(inputs, std::iter::empty(), &f.node, place)?;
        let nodes = self.nodes(&f.node, &Scope { root, steps: Vec::new(), label }, place)?;
        let mut out = key.to_vec();
        encode::texts(&mut out, &f.input);
        encode::texts(&mut out, &f.output);
        let mut names = f.attribute.clone();
        names.sort_by_cached_key(|name| {
            let mut encoded = Vec::new();
            encode::text(&mut encoded, name);
            encoded
        });
        encode::texts(&mut out, &names);
        let mut defaults = BTreeMap::new();
        for default in &f.attribute_proto {
            let place = format!("{place}.attribute_proto {:?}", default.name());
            let encoded = self.attribute(default, None, &place)?;
            if defaults.insert(default.name(), encoded).is_some() {
                return Err(Refusal::AttributeTwice(default.name().into()).at(place));
            }
        }
        encode::list(&mut out, &defaults.into_values().collect::<Vec<_>>());
        out.extend(self.opsets(&f.opset_import, place)?);
        out.extend(nodes);
        Ok(out)
    }

    /// The versions of the domains used since the last call.
    fn opsets(&mut self, imports: &[OperatorSetIdProto], place: &str) -> Result<Vec<u8>, DigestError> {
        let mut items = Vec::new();
        for domain in std::mem::take(&mut self.used) {
            let versions =
                imports.iter().filter(|i| encode::domain(i.domain()) == domain).map(OperatorSetIdProto::version);
            let versions: BTreeSet<_> = versions.collect();
            let mut versions = versions.into_iter();
            let version = match (versions.next(), versions.next()) {
                (Some(version), None) => version,
                (None, _) => return Err(Refusal::NoImport(domain).at(place)),
                _ => return Err(Refusal::TwoVersions(domain).at(place)),
            };
            let mut item = Vec::new();
            encode::text(&mut item, &domain);
            item.extend(version.to_le_bytes());
            items.push(item);
        }
        let mut out = Vec::new();
        encode::list(&mut out, &items);
        Ok(out)
    }
}

/// No name is defined twice; an input that also is an initializer is one definition.
fn check_definitions<'g>(
    inputs: impl Iterator<Item = &'g str>,
    weights: impl Iterator<Item = &'g str>,
    nodes: &'g [NodeProto],
    place: &str,
) -> Result<(), DigestError> {
    let twice = |name: &str| Err(Refusal::DefinedTwice(name.into()).at(place));
    let mut defined = BTreeSet::new();
    for name in inputs {
        if !defined.insert(name) {
            return twice(name);
        }
    }
    defined.extend(weights);
    for name in nodes.iter().flat_map(|n| &n.output).filter(|n| !n.is_empty()) {
        if !defined.insert(name) {
            return twice(name);
        }
    }
    Ok(())
}

/// An attribute has a type, and sets no field of another type; a reference sets none at all.
fn check_fields(a: &AttributeProto) -> Result<(), Refusal> {
    let declared = a.r#type();
    if declared == 0 {
        return Err(Refusal::NoAttributeType);
    }
    if !(at::FLOAT..=at::TYPE_PROTOS).contains(&declared) {
        return Err(Refusal::AttributeType(declared));
    }
    let fields = [
        (at::FLOAT, "f", a.f.is_some()),
        (at::INT, "i", a.i.is_some()),
        (at::STRING, "s", a.s.is_some()),
        (at::TENSOR, "t", a.t.is_some()),
        (at::GRAPH, "g", a.g.is_some()),
        (at::SPARSE_TENSOR, "sparse_tensor", a.sparse_tensor.is_some()),
        (at::TYPE_PROTO, "tp", a.tp.is_some()),
        (at::FLOATS, "floats", !a.floats.is_empty()),
        (at::INTS, "ints", !a.ints.is_empty()),
        (at::STRINGS, "strings", !a.strings.is_empty()),
        (at::TENSORS, "tensors", !a.tensors.is_empty()),
        (at::GRAPHS, "graphs", !a.graphs.is_empty()),
        (at::SPARSE_TENSORS, "sparse_tensors", !a.sparse_tensors.is_empty()),
        (at::TYPE_PROTOS, "type_protos", !a.type_protos.is_empty()),
    ];
    let reference = !a.ref_attr_name().is_empty();
    match fields.iter().find(|(kind, _, set)| *set && (reference || *kind != declared)) {
        Some((_, field, _)) => Err(Refusal::AttributeField { declared, field }),
        None => Ok(()),
    }
}

fn value_info(value: &ValueInfoProto) -> Vec<u8> {
    let mut out = Vec::new();
    encode::text(&mut out, value.name());
    out.extend(value_type(value.r#type.as_ref()));
    out
}

/// The kind, which is the field number in `TypeProto` (0: unset), and what it holds.
fn value_type(proto: Option<&TypeProto>) -> Vec<u8> {
    let Some(value) = proto.and_then(|p| p.value.as_ref()) else { return vec![0] };
    let array = |kind, elem_type: i32, shape: Option<&TensorShapeProto>| {
        let mut out = vec![kind];
        out.extend(elem_type.to_le_bytes());
        out.extend(self::shape(shape));
        out
    };
    match value {
        TypeProtoValue::Tensor(t) => array(1, t.elem_type(), t.shape.as_ref()),
        TypeProtoValue::SparseTensor(t) => array(8, t.elem_type(), t.shape.as_ref()),
        TypeProtoValue::Sequence(s) => [vec![4], value_type(s.elem_type.as_deref())].concat(),
        TypeProtoValue::Optional(o) => [vec![9], value_type(o.elem_type.as_deref())].concat(),
        TypeProtoValue::Map(m) => {
            let mut out = vec![5];
            out.extend(m.key_type().to_le_bytes());
            out.extend(value_type(m.value_type.as_deref()));
            out
        }
        TypeProtoValue::Opaque(o) => {
            let mut out = vec![7];
            encode::text(&mut out, o.domain());
            encode::text(&mut out, o.name());
            out
        }
    }
}

fn shape(shape: Option<&TensorShapeProto>) -> Vec<u8> {
    let Some(shape) = shape else { return vec![0] };
    let mut out = vec![1];
    encode::count(&mut out, shape.dim.len());
    for dim in &shape.dim {
        match &dim.value {
            Some(DimensionValue::DimValue(value)) => {
                out.push(1);
                out.extend(value.to_le_bytes());
            }
            Some(DimensionValue::DimParam(name)) if !name.is_empty() => {
                out.push(2);
                encode::text(&mut out, name);
            }
            _ => out.push(0),
        }
    }
    out
}
