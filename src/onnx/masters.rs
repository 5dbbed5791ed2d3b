//! Float32 master copies: how a stored tensor of another type is trained, and how it is written back in its own type.
//!
//! Training works on a copy of the graph that computes in float32 throughout, so small gradients of a float16 model do not
//! underflow and no loss has to be scaled. Integer tensors behind `DequantizeLinear` are trained as the real numbers they
//! stand for, through their own quantizer: each `DequantizeLinear` of a stored tensor gets a `QuantizeLinear` before it,
//! which lets the gradient pass where nothing is clipped (straight-through estimator: Bengio, Léonard, Courville 2013,
//! arXiv 1308.3432). Scales and zero points stay as they are.

use super::subgraph;
use crate::{
    graph::{Attr, Attrs, Graph, Node},
    tensor::{DType, Data, Tensor},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a number of the element types of `onnx.proto` that hold floats is replaced by in the copy.
const FLOAT: i64 = 1;
const OTHER_FLOATS: [i64; 3] = [10, 11, 16];

/// How the elements of a stored tensor stand for real numbers.
#[derive(Clone, Debug, PartialEq)]
enum Encoding {
    /// As themselves, in a float type.
    Float,
    /// As (q - zero) * scale; both of length 1, or one an entry of `axis`.
    Quantized { scale: Vec<f32>, zero: Vec<f32>, axis: usize },
}

/// The stored tensors that are trained in another type than their own, by name.
#[derive(Clone, Debug, Default)]
pub struct Masters {
    originals: BTreeMap<String, (Arc<Tensor>, Encoding)>,
}

/// The copy of a graph (spelled in opset 18 or later) that training works on, and how to come back from it.
///
/// Fails with the node where an integer tensor is dequantized in a way that cannot be written back.
pub fn masters(mut graph: Graph) -> Result<(Graph, Masters), String> {
    let mut masters = Masters::default();
    let other = |t: DType| t.is_float() && t != DType::F32;
    let attribute = |(name, value): (&String, &Attr)| match value {
        Attr::Int(t) => is_type(name) && OTHER_FLOATS.contains(t),
        Attr::Tensor(t) => other(t.dtype()),
        _ => false,
    };
    let changed = graph.constants.values().any(|t| other(t.dtype()))
        || graph.inputs.iter().chain(&graph.outputs).any(|p| p.dtype.is_some_and(other))
        || graph.nodes.iter().flat_map(|n| &n.attrs).any(attribute);
    let inside = |n: &&Node| n.subgraphs().any(|g| subgraph::names_type(&subgraph::decode(g), &OTHER_FLOATS));
    if let Some(node) = graph.nodes.iter().find(inside).filter(|_| changed) {
        return Err(format!(
            "in node {}: the model is trained in float32, and the graph inside this node names another float type; \
             convert the model to float32, or take the control flow out of it",
            node.label()
        ));
    }
    for (name, tensor) in &mut graph.constants {
        if other(tensor.dtype()) {
            masters.originals.insert(name.clone(), (Arc::clone(tensor), Encoding::Float));
            *tensor = Arc::new(widened(tensor));
        }
    }
    for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        port.dtype = port.dtype.map(|t| if t.is_float() { DType::F32 } else { t });
    }
    for attrs in graph.nodes.iter_mut().map(|n| &mut n.attrs) {
        for (name, value) in attrs.iter_mut() {
            match value {
                Attr::Int(t) if is_type(name) && OTHER_FLOATS.contains(t) => *t = FLOAT,
                Attr::Tensor(t) if t.dtype().is_float() => *t = widened(t),
                _ => {}
            }
        }
    }
    quantizers(&mut graph, &mut masters)?;
    Ok((graph, masters))
}

/// True for attributes that say an element type.
fn is_type(attribute: &str) -> bool {
    matches!(attribute, "to" | "dtype")
}

fn widened(t: &Tensor) -> Tensor {
    Tensor::f32(t.shape(), t.to_f32s())
}

/// Puts a quantizer before every dequantizer of a stored tensor, and the real numbers in the tensor's place.
fn quantizers(graph: &mut Graph, masters: &mut Masters) -> Result<(), String> {
    let mut used: BTreeSet<String> = graph.constants.keys().cloned().collect();
    used.extend(graph.nodes.iter().flat_map(|n| n.outputs.iter().cloned()));
    let stored = |graph: &Graph, n: &Node| {
        let q = n.input(0)?;
        let dequantizes = n.op == "DequantizeLinear" && n.domain.is_empty();
        (dequantizes && graph.constants.contains_key(q)).then(|| q.to_owned())
    };
    let mut encodings: BTreeMap<String, Encoding> = BTreeMap::new();
    for node in &graph.nodes {
        let Some(q) = stored(graph, node) else { continue };
        let encoding = encoding(graph, node, &graph.constants[&q])?;
        if encodings.insert(q.clone(), encoding.clone()).is_some_and(|other| other != encoding) {
            return Err(format!("in node {}: tensor {q:?} is dequantized in two ways", node.label()));
        }
    }
    // A tensor that something else reads as integers has to stay what it is.
    for node in &graph.nodes {
        for (i, input) in node.reads().enumerate() {
            if i > 0 || stored(graph, node).is_none() {
                encodings.remove(input);
            }
        }
    }
    let mut nodes = Vec::with_capacity(graph.nodes.len() + encodings.len());
    for mut node in std::mem::take(&mut graph.nodes) {
        let q = stored(graph, &node).filter(|q| encodings.contains_key(q));
        let Some(q) = q else {
            nodes.push(node);
            continue;
        };
        let dtype = graph.constants[&q].dtype();
        if dtype == DType::I32 {
            // No operator quantizes to int32, whose steps are too fine to matter: the real numbers stand for themselves.
            node = Node { op: "Identity".into(), inputs: vec![q], attrs: Attrs::new(), ..node };
            nodes.push(node);
            continue;
        }
        let mut fresh = |part: &str| {
            let mut name = format!("{}/{part}", node.outputs[0]);
            while !used.insert(name.clone()) {
                name.push('_');
            }
            name
        };
        if node.input(2).is_none() {
            // Without a zero point QuantizeLinear would choose uint8.
            let name = fresh("zero");
            let shape = graph.constants[&node.inputs[1]].shape().to_vec();
            let zeros = vec![0.0; shape.iter().product()];
            graph.constants.insert(name.clone(), Arc::new(Tensor::from_f32s(dtype, shape, zeros)));
            node.inputs.resize(3, String::new());
            node.inputs[2] = name;
        }
        let quantized = fresh("quantized");
        nodes.push(Node {
            name: format!("{}/quantize", node.name),
            op: "QuantizeLinear".into(),
            domain: String::new(),
            inputs: vec![q, node.inputs[1].clone(), node.inputs[2].clone()],
            outputs: vec![quantized.clone()],
            attrs: node.attrs.clone(),
        });
        node.inputs[0] = quantized;
        nodes.push(node);
    }
    graph.nodes = nodes;
    for (name, encoding) in encodings {
        let original = Arc::clone(&graph.constants[&name]);
        let real = Tensor::f32(original.shape(), encoding.decode(&original));
        graph.constants.insert(name.clone(), Arc::new(real));
        masters.originals.insert(name, (original, encoding));
    }
    Ok(())
}

fn encoding(graph: &Graph, node: &Node, q: &Tensor) -> Result<Encoding, String> {
    let wrong = |what: &str| format!("in node {}: {what}", node.label());
    if node.attrs.contains_key("block_size") && node.attrs["block_size"] != Attr::Int(0) {
        return Err(wrong("blocked quantization (block_size) is not supported; quantize per tensor or per channel"));
    }
    let known = |i: usize| node.input(i).map(|name| graph.constants.get(name).ok_or(name));
    let scale = match known(1) {
        Some(Ok(scale)) => scale.to_f32s(),
        _ => return Err(wrong("the scale is not a constant of the model")),
    };
    let zero = match known(2) {
        None => vec![0.0; scale.len()],
        Some(Ok(zero)) => zero.to_f32s(),
        Some(Err(_)) => return Err(wrong("the zero point is not a constant of the model")),
    };
    let axis = match node.attrs.get("axis") {
        Some(Attr::Int(axis)) => *axis,
        _ => 1,
    };
    let rank = q.shape().len();
    let axis = if axis < 0 { axis + rank as i64 } else { axis } as usize;
    let fits = scale.len() == 1 || q.shape().get(axis) == Some(&scale.len());
    if !fits || zero.len() != scale.len() {
        return Err(wrong("scale and zero point do not fit the tensor"));
    }
    Ok(Encoding::Quantized { scale, zero, axis })
}

impl Encoding {
    /// The real numbers that the elements stand for.
    fn decode(&self, stored: &Tensor) -> Vec<f32> {
        let mut values = stored.to_f32s();
        if let Self::Quantized { scale, zero, axis } = self {
            each(&mut values, stored.shape(), *axis, scale.len(), |v, k| *v = (*v - zero[k]) * scale[k]);
        }
        values
    }

    /// The elements, in the type of the tensor `original` of the file, that stand for the real numbers `after`; `before` is
    /// what its own stand for.
    fn encode(&self, name: &str, original: &Tensor, before: &Tensor, after: &Tensor) -> Result<Tensor, String> {
        let values = after.to_f32s();
        let (dtype, shape) = (original.dtype(), original.shape());
        match (self, original.data()) {
            // What training did not move keeps the digits that float32 cannot hold.
            (Self::Float, Data::F64(stored)) => {
                let moved = before.to_f32s().into_iter().zip(values).map(|(a, b)| f64::from(b) - f64::from(a));
                Ok(Tensor::new(shape.to_vec(), Data::F64(stored.iter().zip(moved).map(|(s, d)| s + d).collect())))
            }
            (Self::Float, _) => {
                let written = Tensor::from_f32s(dtype, shape, values);
                let overflow = written.to_f32s().iter().position(|v| !v.is_finite());
                match overflow {
                    None => Ok(written),
                    Some(at) => {
                        Err(format!("tensor {name:?}: trained value {} does not fit {dtype}", after.to_f32s()[at]))
                    }
                }
            }
            (Self::Quantized { scale, zero, axis }, _) => {
                let mut values = values;
                each(&mut values, shape, *axis, scale.len(), |v, k| *v = (*v / scale[k]).round_ties_even() + zero[k]);
                Ok(Tensor::from_f32s(dtype, shape, values))
            }
        }
    }
}

/// Calls `f` with every element and its index on `axis`; always 0 where there is one entry for all.
fn each(values: &mut [f32], shape: &[usize], axis: usize, entries: usize, f: impl Fn(&mut f32, usize)) {
    let inner: usize = if entries == 1 { 1 } else { shape[axis + 1..].iter().product() };
    for (i, v) in values.iter_mut().enumerate() {
        f(v, i / inner.max(1) % entries);
    }
}

impl Masters {
    /// A trained tensor in the type of the file: `before` and `after` are its real numbers before and after training.
    ///
    /// Fails where a number does not fit into the type.
    pub fn write_back(&self, name: &str, before: &Tensor, after: &Arc<Tensor>) -> Result<Arc<Tensor>, String> {
        let Some((original, encoding)) = self.originals.get(name) else { return Ok(Arc::clone(after)) };
        encoding.encode(name, original, before, after).map(Arc::new)
    }

    /// The real numbers that a tensor of the file stands for.
    pub fn read(&self, name: &str, stored: &Tensor) -> Tensor {
        match self.originals.get(name) {
            Some((_, encoding)) => Tensor::f32(stored.shape(), encoding.decode(stored)),
            None => widened(stored),
        }
    }

    /// Element type of a tensor in the file, where it is not float32.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.originals.get(name).map(|(t, _)| t.dtype())
    }
}
