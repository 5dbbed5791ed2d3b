//! Reads a model file into a graph. What is not understood stops the import, all of it listed at once.

use super::{
    OLDEST_OPSET,
    condition::Conditions,
    dtype_of,
    external::{ExternalError, ExternalRef},
    inline::{Inliner, domain_of, name_of},
    schema::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProtoValue, ValueInfoProto,
        attribute_type, data_type,
    },
    subgraph,
    wire::{self, WireError},
};
use crate::{
    graph::{Attr, Attrs, Graph, Node, Port},
    tensor::{DType, Data, Tensor},
};
use prost::bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;

/// A model file, read.
#[derive(Debug)]
pub struct Model {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes, without external data.
    pub bytes: Bytes,
    /// What it computes, in its own opset. Constant nodes are constants of the graph; inputs that only give defaults
    /// to initializers are left out; functions of the model and branches that are always taken are written out.
    pub graph: Graph,
    /// Initializers and Constant nodes of the file's main graph, in its order: what a patch can replace.
    pub stored: Vec<String>,
    /// Tensors that lie in a function or a branch, by their name in `graph`: no patch reaches them.
    pub enclosed: BTreeSet<String>,
    /// Version of the file format.
    pub ir_version: i64,
    /// Program that wrote the file.
    pub producer: String,
    /// Files that hold external data, relative to the model's folder.
    pub external: BTreeSet<String>,
}

/// Why a model was not read.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum ImportError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not an ONNX file, or is cut off or damaged: {source}", path.display())]
    NotOnnx { path: PathBuf, source: WireError },
    #[error("{}: {source}", path.display())]
    Refused { path: PathBuf, source: WireError },
    #[error("{} holds no graph: it is not an ONNX model", path.display())]
    NoGraph { path: PathBuf },
    #[error("{}: {source}", path.display())]
    External { path: PathBuf, source: ExternalError },
    #[error("{}: tensor {tensor:?}: {reason}", path.display())]
    Tensor { path: PathBuf, tensor: String, reason: String },
    #[error("{}: opset {found} is older than {OLDEST_OPSET}; convert the model to opset {OLDEST_OPSET} or later", path.display())]
    Opset { path: PathBuf, found: i64 },
    #[error("{}: no operator set is imported for ai.onnx", path.display())]
    NoOpset { path: PathBuf },
    #[error("{}: {} node(s) cannot be read:{}", path.display(), reasons.len(), list(reasons))]
    Nodes { path: PathBuf, reasons: Vec<String> },
}

fn list(reasons: &[String]) -> String {
    reasons.iter().flat_map(|r| ["\n  ", r]).collect()
}

/// Reads the model at `path`.
pub fn read(path: &Path) -> Result<Model, ImportError> {
    let bytes = std::fs::read(path).map_err(|source| ImportError::Io { path: path.into(), source })?;
    of_bytes(path, bytes.into())
}

/// Reads the model that these bytes of the file at `path` are.
pub fn of_bytes(path: &Path, bytes: Bytes) -> Result<Model, ImportError> {
    let proto = wire::decode(bytes.clone()).map_err(|source| {
        let path = path.to_owned();
        // Bytes of another kind of file trip over the first tag, at the top of the model.
        let other_file = source.problem.is_malformed() || source.path == "model";
        if other_file { ImportError::NotOnnx { path, source } } else { ImportError::Refused { path, source } }
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let reader = Reader { path, folder, external: BTreeSet::new(), stored: Vec::new(), enclosed: BTreeSet::new() };
    reader.model(proto, bytes)
}

struct Reader<'a> {
    path: &'a Path,
    folder: &'a Path,
    external: BTreeSet<String>,
    stored: Vec<String>,
    enclosed: BTreeSet<String>,
}

impl Reader<'_> {
    fn model(mut self, proto: ModelProto, bytes: Bytes) -> Result<Model, ImportError> {
        let path = self.path.to_owned();
        let ir_version = proto.ir_version();
        let producer = format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned();
        let opset = proto.opset_import.iter().find(|o| domain_of(o.domain()).is_empty());
        let opset = opset.map(super::schema::OperatorSetIdProto::version);
        let Some(graph) = proto.graph else { return Err(ImportError::NoGraph { path }) };
        let opset = opset.ok_or_else(|| ImportError::NoOpset { path: path.clone() })?;
        if opset < OLDEST_OPSET {
            return Err(ImportError::Opset { path, found: opset });
        }
        let graph = self.graph(graph, opset, proto.functions)?;
        let Self { external, stored, enclosed, .. } = self;
        Ok(Model { path, bytes, graph, stored, enclosed, ir_version, producer, external })
    }

    fn graph(&mut self, proto: GraphProto, opset: i64, functions: Vec<FunctionProto>) -> Result<Graph, ImportError> {
        let mut graph = Graph { opset, ..Graph::default() };
        let mut inliner = Inliner::new(functions, &proto, opset);
        let (nodes, mut reasons) = inliner.flatten(proto.node);
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().map(|v| v.name().to_owned()).unwrap_or_default();
            reasons.push(format!("initializer {name:?} is sparse; store it dense"));
        }
        for t in &proto.initializer {
            if self.initializer(&mut graph, t)? {
                self.stored.push(t.name().to_owned());
            }
        }
        // The next node last: a branch puts its own on top.
        let mut left: Vec<NodeProto> = nodes.into_iter().rev().collect();
        let mut conditions = Conditions::default();
        while let Some(n) = left.pop() {
            if let Some(tensor) = self.constant_node(&n)? {
                let name = &n.output[0];
                // Elements in an attribute's own lists are numbers of the architecture; weights are tensors.
                match (n.attribute[0].t.is_some(), inliner.is_enclosed(name)) {
                    (true, true) => _ = self.enclosed.insert(name.clone()),
                    (true, false) => self.stored.push(name.clone()),
                    (false, _) => {}
                }
                graph.constants.insert(name.clone(), Arc::new(tensor));
            } else if let Some(then) = conditions.decided(&graph, &n) {
                match inliner.branch(&n, then) {
                    Ok(branch) => {
                        for t in &branch.initializers {
                            if self.initializer(&mut graph, t)? {
                                self.enclosed.insert(t.name().to_owned());
                            }
                        }
                        left.extend(branch.nodes.into_iter().rev());
                    }
                    Err(reason) => reasons.push(format!("node {:?} (If): {reason}", name_of(&n))),
                }
            } else {
                match self.node(n)? {
                    Ok(node) => {
                        conditions.note(&graph, &node);
                        graph.nodes.push(node);
                    }
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        if !reasons.is_empty() {
            return Err(ImportError::Nodes { path: self.path.to_owned(), reasons });
        }
        graph.inputs = proto.input.iter().filter(|i| !graph.constants.contains_key(i.name())).map(port).collect();
        graph.outputs = proto.output.iter().map(port).collect();
        graph.sort();
        Ok(graph)
    }

    /// Takes an initializer into the graph; false for text, which is never computed with on the way to a prediction: a
    /// node that reads it is refused by the runtime.
    fn initializer(&mut self, graph: &mut Graph, t: &TensorProto) -> Result<bool, ImportError> {
        let number = t.data_type() != data_type::STRING;
        if number {
            graph.constants.insert(t.name().to_owned(), Arc::new(self.tensor(t)?));
        }
        Ok(number)
    }

    /// The tensor of a Constant node; `None` for every other node.
    fn constant_node(&mut self, n: &NodeProto) -> Result<Option<Tensor>, ImportError> {
        if n.op_type() != "Constant" || !n.domain().is_empty() || n.output.len() != 1 {
            return Ok(None);
        }
        let [a] = n.attribute.as_slice() else { return Ok(None) };
        let tensor = match (a.name(), a.r#type()) {
            ("value", _) => a.t.as_ref().map(|t| self.tensor(t)).transpose()?,
            ("value_float", _) => a.f.map(Tensor::scalar),
            ("value_int", _) => a.i.map(|i| Tensor::i64([], vec![i])),
            ("value_floats", _) => Some(Tensor::f32([a.floats.len()], a.floats.clone())),
            ("value_ints", _) => Some(Tensor::ints(&a.ints)),
            _ => None,
        };
        Ok(tensor)
    }

    fn node(&mut self, n: NodeProto) -> Result<Result<Node, String>, ImportError> {
        let name = name_of(&n).to_owned();
        let domain = domain_of(n.domain()).to_owned();
        let mut attrs = Attrs::new();
        let mut refused = None;
        for a in n.attribute {
            if !a.ref_attr_name().is_empty() {
                refused = Some(format!("attribute {} refers to a function's, and stands in none", a.name()));
            }
            if let Some(reason) = a.g.as_deref().and_then(|g| subgraph::check(g).err()) {
                refused = Some(format!("attribute {}: {reason}", a.name()));
            }
            attrs.insert(a.name().to_owned(), self.attribute(a)?);
        }
        let node = Node { name, op: n.op_type.unwrap_or_default(), domain, inputs: n.input, outputs: n.output, attrs };
        let label = node.label();
        if let Some(reason) = refused {
            return Ok(Err(format!("node {label}: {reason}")));
        }
        if let Some((attr, Attr::Other(kind))) = node.attrs.iter().find(|(_, v)| matches!(v, Attr::Other(_))) {
            return Ok(Err(format!(
                "node {label}: attribute {attr} holds a {kind}, which training cannot pass through"
            )));
        }
        if node.domain == "com.microsoft.nchwc" {
            return Ok(Err(format!(
                "node {label}: ONNX Runtime has laid the file out for one kind of processor; use the file it was made from"
            )));
        }
        match node.domain.as_str() {
            "" | "com.microsoft" => {}
            "ai.onnx.ml" => {
                return Ok(Err(format!(
                    "node {label}: ai.onnx.ml (trees, linear and other classic models) has no weights that a gradient \
                     could train"
                )));
            }
            domain => {
                return Ok(Err(format!(
                    "node {label}: ONNX Runtime has no operators of domain {domain:?}; export the model in standard \
                     operators (a quantiser as QuantizeLinear and DequantizeLinear)"
                )));
            }
        }
        Ok(Ok(node))
    }

    fn attribute(&mut self, a: AttributeProto) -> Result<Attr, ImportError> {
        Ok(match (kind(&a), a.t, a.g) {
            (attribute_type::TENSOR, Some(t), _) if t.data_type() != data_type::STRING => {
                Attr::Tensor(self.tensor(&t)?)
            }
            (attribute_type::GRAPH, _, Some(mut g)) => {
                // The runtime gets the graph from memory and would not know beside which file the data lies.
                subgraph::each_tensor(&mut g, &mut |t| self.embed(t))?;
                Attr::Graph(subgraph::keep(&g))
            }
            (_, t, g) => plain_attribute(&AttributeProto { t, g, ..a }),
        })
    }

    /// Puts external data into the tensor itself.
    fn embed(&mut self, t: &mut TensorProto) -> Result<(), ImportError> {
        if !t.external_data.is_empty() {
            t.raw_data = Some(self.tensor(t)?.to_le_bytes().into());
            t.external_data.clear();
            t.data_location = None;
        }
        Ok(())
    }

    fn tensor(&mut self, t: &TensorProto) -> Result<Tensor, ImportError> {
        let path = self.path;
        let fail = |reason: String| ImportError::Tensor { path: path.into(), tensor: t.name().into(), reason };
        let dtype = dtype_of(t.data_type())
            .ok_or_else(|| fail(format!("element type {} of onnx.proto is not supported", t.data_type())))?;
        let shape = t.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| fail(format!("negative length in shape {:?}", t.dims)))?;
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let size = n.and_then(|n| n.checked_mul(dtype.size()));
        let (Some(n), Some(size)) = (n, size) else { return Err(fail(format!("shape {:?} is too large", t.dims))) };
        let misfit = |held: u64| fail(format!("{held} bytes do not fill shape {:?} of {dtype}", t.dims));
        let external = self.external(t, size as u64, misfit)?;
        let raw = external.as_deref().or(t.raw_data.as_deref());
        let tensor = match raw.filter(|raw| !raw.is_empty()) {
            Some(raw) => Tensor::from_le_bytes(dtype, shape, raw),
            None => typed(t, dtype, shape, n),
        };
        tensor.ok_or_else(|| misfit(raw.map_or(0, <[u8]>::len) as u64))
    }

    /// The bytes beside the model, `None` when the elements are in it. A length that does not fit is found before
    /// anything is read: without `length`, a tensor claims all of a file that may be larger than the memory.
    fn external(
        &mut self,
        t: &TensorProto,
        expected: u64,
        misfit: impl Fn(u64) -> ImportError,
    ) -> Result<Option<Vec<u8>>, ImportError> {
        let fail = |source| ImportError::External { path: self.path.into(), source };
        let Some(reference) = ExternalRef::of(t).map_err(fail)? else { return Ok(None) };
        let bytes = reference.open(self.folder).map_err(fail)?;
        if bytes.length() != expected {
            return Err(misfit(bytes.length()));
        }
        let bytes = bytes.read().map_err(fail)?;
        self.external.insert(reference.location);
        Ok(Some(bytes))
    }
}

/// A tensor from the typed field that its element type is stored in.
fn typed(t: &TensorProto, dtype: DType, shape: Vec<usize>, n: usize) -> Option<Tensor> {
    let ints = || t.int32_data.iter();
    let data = match dtype {
        DType::F32 => Data::F32(t.float_data.clone()),
        DType::F64 => Data::F64(t.double_data.clone()),
        DType::I64 => Data::I64(t.int64_data.clone()),
        DType::I32 => Data::I32(t.int32_data.clone()),
        DType::U8 => Data::U8(ints().map(|&v| v as u8).collect()),
        DType::Bool => Data::Bool(ints().map(|&v| v != 0).collect()),
        DType::U32 => Data::Raw(dtype, t.uint64_data.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect()),
        DType::U64 => Data::Raw(dtype, t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::I8 => Data::Raw(dtype, ints().map(|&v| v as u8).collect()),
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => {
            Data::Raw(dtype, ints().flat_map(|&v| (v as u16).to_le_bytes()).collect())
        }
    };
    let held = match &data {
        Data::F32(v) => v.len(),
        Data::F64(v) => v.len(),
        Data::I64(v) => v.len(),
        Data::I32(v) => v.len(),
        Data::U8(v) => v.len(),
        Data::Bool(v) => v.len(),
        Data::Raw(t, v) => v.len() / t.size(),
    };
    (held == n).then(|| Tensor::new(shape, data))
}

/// An attribute of numbers or text; of anything else its kind alone.
pub(super) fn plain_attribute(a: &AttributeProto) -> Attr {
    let text = |s: &[u8]| String::from_utf8_lossy(s).into_owned();
    match kind(a) {
        attribute_type::FLOAT => Attr::Float(a.f()),
        attribute_type::INT => Attr::Int(a.i()),
        attribute_type::STRING => Attr::Str(text(a.s())),
        attribute_type::INTS => Attr::Ints(a.ints.clone()),
        attribute_type::FLOATS => Attr::Floats(a.floats.clone()),
        attribute_type::STRINGS => Attr::Strs(a.strings.iter().map(|s| text(s)).collect()),
        attribute_type::TENSOR => Attr::Other("text tensor"),
        attribute_type::GRAPH => Attr::Other("graph"),
        attribute_type::GRAPHS => Attr::Other("list of graphs"),
        attribute_type::TYPE_PROTO | attribute_type::TYPE_PROTOS => Attr::Other("type"),
        attribute_type::SPARSE_TENSOR | attribute_type::SPARSE_TENSORS => Attr::Other("sparse tensor"),
        _ => Attr::Other("value of unknown kind"),
    }
}

/// The kind of an attribute. Files of the oldest IR leave it out; then the field that is filled says it.
fn kind(a: &AttributeProto) -> i32 {
    if let Some(kind) = a.r#type {
        kind
    } else if a.f.is_some() {
        attribute_type::FLOAT
    } else if a.i.is_some() {
        attribute_type::INT
    } else if a.s.is_some() {
        attribute_type::STRING
    } else if a.t.is_some() {
        attribute_type::TENSOR
    } else if a.g.is_some() {
        attribute_type::GRAPH
    } else if !a.floats.is_empty() {
        attribute_type::FLOATS
    } else if !a.strings.is_empty() {
        attribute_type::STRINGS
    } else {
        attribute_type::INTS
    }
}

fn port(v: &ValueInfoProto) -> Port {
    let Some(TypeProtoValue::Tensor(t)) = v.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Port::open(v.name());
    };
    let dims = t.shape.as_ref().map(|s| {
        s.dim
            .iter()
            .map(|d| match &d.value {
                Some(super::schema::DimensionValue::DimValue(n)) => usize::try_from(*n).ok().filter(|&n| n > 0),
                _ => None,
            })
            .collect()
    });
    Port { name: v.name().to_owned(), dtype: dtype_of(t.elem_type()), dims }
}

impl Model {
    /// Inputs that the file asks for and no node reads: ONNX Runtime would want them fed all the same.
    pub fn idle_inputs(&self) -> Vec<String> {
        let read: BTreeSet<&str> = self.graph.nodes.iter().flat_map(Node::reads).collect();
        self.graph.inputs.iter().filter(|i| !read.contains(i.name.as_str())).map(|i| i.name.clone()).collect()
    }

    /// Number of elements of every stored float tensor, by name.
    pub fn parameters(&self) -> BTreeMap<&str, usize> {
        let float = |name: &String| self.graph.constants.get(name).filter(|t| t.dtype().is_float()).map(|t| t.len());
        self.stored.iter().filter_map(|name| float(name).map(|n| (name.as_str(), n))).collect()
    }
}
