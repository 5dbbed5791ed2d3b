//! What a model is fed: the input that holds the samples, further inputs, and the place where noise is learned.
//!
//! A sample is one flat row of float32. Where it holds several inputs, or integers, the step graph takes it apart and
//! changes the type, so that data, shuffling and prefetching know one kind of row only.

use super::{network::TrainError, steps::fed, trace::Traced};
use crate::{
    graph::{Attr, Attrs, Builder, Graph, Node, Port},
    ops,
    tensor::{DType, Tensor},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What the user says about a model.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The output that holds the class scores; needed where there are several.
    pub output: Option<String>,
    /// True where the scores are independent of each other although the file ends in no Sigmoid.
    pub multi_label: bool,
    /// Names of tensors to leave as they are, `*` and `?` standing for any text and any character.
    pub freeze: Vec<String>,
    /// Names of tensors to train although the rules take them for constants.
    pub train: Vec<String>,
    /// The input that holds the samples; needed where there are several.
    pub input: Option<String>,
    /// Values of inputs that are the same for every sample, by name.
    pub constants: BTreeMap<String, f32>,
}

/// The inputs of a model.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The input that holds the samples.
    pub main: Port,
    /// Inputs that every sample brings along.
    pub further: Vec<Port>,
    /// Inputs that are the same for every sample, with their value.
    pub constants: Vec<(Port, f32)>,
}

impl Inputs {
    /// The inputs that hold samples, the main one first.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        std::iter::once(&self.main).chain(&self.further)
    }

    /// Their names.
    pub fn sampled(&self) -> impl Iterator<Item = &str> {
        self.ports().map(|port| port.name.as_str())
    }

    /// Element type of an input.
    pub fn dtype(&self, name: &str) -> DType {
        let constants = self.constants.iter().map(|(port, _)| port);
        self.ports().chain(constants).find(|port| port.name == name).and_then(|port| port.dtype).unwrap_or(DType::F32)
    }

    /// The batch size that the file fixes, `None` where it leaves it open.
    pub fn frozen_batch(&self) -> Option<usize> {
        self.main.dims.as_ref()?.first().copied().flatten()
    }

    /// Inputs that are the same for every sample, at a batch size. `path` is the model, for messages.
    pub fn constants_at(&self, path: &Path, batch: usize) -> Result<Vec<(String, Tensor)>, TrainError> {
        let constant = |(port, value): &(Port, f32)| {
            let name = port.name.clone();
            let dims = port.dims.as_deref().unwrap_or_default();
            if dims.iter().skip(1).any(Option::is_none) {
                return Err(TrainError::OpenConstant { path: path.into(), name });
            }
            let shape: Vec<usize> =
                dims.iter().enumerate().map(|(i, d)| d.unwrap_or(if i == 0 { batch } else { 1 })).collect();
            let values = vec![*value; shape.iter().product()];
            Ok((name, Tensor::from_f32s(port.dtype.unwrap_or(DType::F32), shape, values)))
        };
        self.constants.iter().map(constant).collect()
    }
}

/// Where noise is learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub enum Site {
    /// The input itself.
    Input,
    /// The first value behind an integer input that a gradient reaches, such as the rows that an embedding looks up.
    Value {
        /// Its name.
        name: String,
        /// The node that computes it.
        node: String,
    },
}

/// Which part each input plays. `graph` computes the logits only.
pub fn choose(path: &Path, graph: &Graph, choice: &Choice) -> Result<Inputs, TrainError> {
    let read: BTreeSet<&str> = graph.nodes.iter().flat_map(Node::reads).collect();
    let inputs: Vec<&Port> = graph.inputs.iter().filter(|i| read.contains(i.name.as_str())).collect();
    let names = || inputs.iter().map(|i| i.name.clone()).collect::<Vec<_>>();
    for name in choice.input.iter().chain(choice.constants.keys()) {
        if !inputs.iter().any(|i| i.name == *name) {
            return Err(TrainError::UnknownInput { path: path.into(), wanted: name.clone(), names: names() });
        }
    }
    let open: Vec<&&Port> = inputs.iter().filter(|i| !choice.constants.contains_key(&i.name)).collect();
    let main = match (&choice.input, open.as_slice()) {
        (Some(name), _) => inputs.iter().find(|i| i.name == *name),
        (None, [only]) => Some(*only),
        (None, []) => None,
        (None, _) => return Err(TrainError::SeveralInputs { path: path.into(), names: names() }),
    };
    let Some(main) = main else { return Err(TrainError::NoInput { path: path.into() }) };
    for input in &inputs {
        if input.dtype.is_none() {
            return Err(TrainError::InputType { path: path.into(), name: input.name.clone(), dtype: "unknown".into() });
        }
    }
    let further = open.into_iter().filter(|i| i.name != main.name).map(|i| (*i).clone()).collect();
    let constant = |i: &&Port| choice.constants.get(&i.name).map(|&v| ((*i).clone(), v));
    Ok(Inputs { main: (*main).clone(), further, constants: inputs.iter().filter_map(constant).collect() })
}

/// Where noise for the input can be learned: the input itself, or behind an integer input the one float value computed
/// from it.
pub fn site(path: &Path, graph: &Graph, main: &Port) -> Result<Site, TrainError> {
    if main.dtype.is_some_and(DType::is_float) {
        return Ok(Site::Input);
    }
    let mut integers = BTreeSet::from([main.name.as_str()]);
    let mut first: Vec<&Node> = Vec::new();
    for node in &graph.nodes {
        if !node.reads().any(|i| integers.contains(i)) || matches!(node.op.as_str(), "Shape" | "Size") {
            continue;
        }
        if makes_floats(graph, node, &integers) {
            first.push(node);
        } else {
            integers.extend(node.outputs.iter().map(String::as_str));
        }
    }
    // An embedding says more about a sample than a mask that is made of the same integers.
    let looked_up: Vec<&Node> = first.iter().copied().filter(|n| n.op.starts_with("Gather")).collect();
    match (looked_up.as_slice(), first.as_slice()) {
        ([node], _) | ([], [node]) => Ok(Site::Value { name: node.outputs[0].clone(), node: node.label() }),
        _ => Err(TrainError::NoSite {
            path: path.into(),
            input: main.name.clone(),
            found: first.iter().map(|n| n.label()).collect(),
        }),
    }
}

/// True for a node that makes floats of integers: a look-up in a table, or a change of type.
fn makes_floats(graph: &Graph, node: &Node, integers: &BTreeSet<&str>) -> bool {
    let float = |name: &String| graph.constants.get(name).is_some_and(|t| t.dtype().is_float());
    match node.op.as_str() {
        "Cast" => matches!(node.attrs.get("to"), Some(Attr::Int(1 | 10 | 11 | 16))),
        "Gather" | "GatherND" | "GatherElements" => node.inputs.first().is_some_and(|table| {
            let computed = !graph.constants.contains_key(table) && !integers.contains(table.as_str());
            float(table) || computed
        }),
        "DequantizeLinear" => true,
        "OneHot" => node.inputs.get(2).is_some_and(float),
        _ => false,
    }
}

/// Number of rows that the integers of an input can look up, those of the smallest table; `None` where they are indices of
/// none. Integers that were computed from them count as well, not what was looked up or compared with them. Tables may be
/// computed too: the trace has their shapes.
pub fn rows(traced: &Traced, input: &str) -> Option<usize> {
    let mut indices = BTreeSet::from([input]);
    let mut fewest: Option<usize> = None;
    for node in &traced.nodes {
        let reads = |i: usize| node.input(i).is_some_and(|name| indices.contains(name));
        let looks_up = matches!(node.op.as_str(), "Gather" | "GatherElements" | "GatherND");
        if looks_up && reads(1) {
            fewest = [fewest, table_rows(traced, node)].into_iter().flatten().min();
        }
        let others = matches!(node.op.as_str(), "ArgMax" | "ArgMin" | "NonZero");
        let passed = if looks_up { reads(0) } else { !others && (0..node.inputs.len()).any(reads) };
        let integers = |name: &&String| {
            let dtype = traced.values.get(*name).map(|(dtype, _)| *dtype);
            dtype.is_some_and(|t| !t.is_float() && t != DType::Bool)
        };
        if passed {
            indices.extend(node.outputs.iter().filter(integers).map(String::as_str));
        }
    }
    fewest
}

/// Number of rows in the table that a node looks up; with several axes that of the shortest.
fn table_rows(traced: &Traced, node: &Node) -> Option<usize> {
    let shape = |i: usize| traced.shape(node.input(i)?);
    let table = shape(0)?;
    let attribute = |name: &str| match node.attrs.get(name) {
        Some(Attr::Int(value)) => *value,
        _ => 0,
    };
    let axes = if node.op == "GatherND" {
        let first = usize::try_from(attribute("batch_dims")).ok()?;
        first..first + shape(1)?.last()?
    } else {
        let axis = ops::resolve_axis(attribute("axis"), table.len())?;
        axis..axis + 1
    };
    table.get(axes)?.iter().min().copied()
}

/// Makes the value at `site` a choice: the noise where the flag of a sample says so, else what the graph computes.
/// `shape` is the value's, batch first.
pub fn open_site(graph: &mut Graph, site: &Site, shape: &[usize]) {
    let Site::Value { name, .. } = site else { return };
    let Some(at) = graph.nodes.iter().position(|n| n.outputs.contains(name)) else { return };
    let clean = format!("{name}{}", fed::CLEAN);
    for output in &mut graph.nodes[at].outputs {
        if output == name {
            output.clone_from(&clean);
        }
    }
    let mut flag = vec![1; shape.len()];
    flag[0] = shape[0];
    graph.inputs.push(Port::fixed(fed::NOISE, DType::F32, shape));
    graph.inputs.push(Port::fixed(fed::IS_NOISE, DType::Bool, &flag));
    let choice = Node {
        name: format!("{name}/noise"),
        op: "Where".into(),
        domain: String::new(),
        inputs: vec![fed::IS_NOISE.into(), fed::NOISE.into(), clean],
        outputs: vec![name.clone()],
        attrs: Attrs::new(),
    };
    graph.nodes.insert(at + 1, choice);
}

/// One value that a step graph takes out of the rows it is fed.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Name of the value.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape, batch first.
    pub shape: Vec<usize>,
}

impl Part {
    fn len(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

/// How a row of samples is made up: the data, and behind it the noise where that lives inside the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    parts: Vec<Part>,
    /// Elements of the data.
    pub data: usize,
    /// Where noise stands in a row.
    pub noise: std::ops::Range<usize>,
    /// Where the flag of a noise row stands, if there is one.
    pub flag: Option<usize>,
}

impl Row {
    /// `data` are the main input, the further ones, in their order; `site` is the shape of a noise value inside the
    /// graph.
    pub fn new(data: Vec<Part>, site: Option<&[usize]>) -> Self {
        let mut parts = data;
        let data: usize = parts.iter().map(Part::len).sum();
        let (mut noise, mut flag) = (0..parts[0].len(), None);
        if let Some(shape) = site {
            let mut flags = vec![1; shape.len()];
            flags[0] = shape[0];
            parts.push(Part { name: fed::NOISE.into(), dtype: DType::F32, shape: shape.to_vec() });
            parts.push(Part { name: fed::IS_NOISE.into(), dtype: DType::Bool, shape: flags });
            noise = data..data + shape[1..].iter().product::<usize>();
            flag = Some(noise.end);
        }
        Self { parts, data, noise, flag }
    }

    /// Elements of a row.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// True when a row holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one value that a row is, where it needs no taking apart.
    fn whole(&self) -> Option<&Part> {
        match self.parts.as_slice() {
            [part] if part.dtype == DType::F32 => Some(part),
            _ => None,
        }
    }

    /// Name and shape of the step graph's input.
    pub fn input(&self) -> (String, Vec<usize>) {
        match self.whole() {
            Some(part) => (part.name.clone(), part.shape.clone()),
            None => (fed::SAMPLES.into(), vec![self.parts[0].shape[0], self.len()]),
        }
    }

    /// Declares the input of a step graph and takes it apart.
    pub fn declare(&self, b: &mut Builder) {
        let (name, shape) = self.input();
        let rows = b.input(&name, DType::F32, &shape);
        if self.whole().is_some() {
            return;
        }
        b.set_scope(fed::SAMPLES);
        let mut at = 0;
        for part in &self.parts {
            let ints = |v: &[i64]| Tensor::ints(v);
            let [from, to, axis] = [at, at + part.len(), 1].map(|v| b.constant(ints(&[v as i64])));
            let columns = b.op("Slice", &[&rows, &from, &to, &axis], &[], &[shape[0], part.len()]);
            let target: Vec<i64> = part.shape.iter().map(|&d| d as i64).collect();
            let target = b.constant(ints(&target));
            let value = b.op("Reshape", &[&columns, &target], &[], &part.shape);
            let value = match part.dtype {
                DType::F32 => value,
                other => {
                    b.op("Cast", &[&value], &[("to", i64::from(crate::onnx::wire_type(other)).into())], &part.shape)
                }
            };
            b.alias(&part.name, &value);
            at += part.len();
        }
        b.set_scope("");
    }

    /// The values of flat rows, each in its type, as a model is fed them. Rows may end after the data.
    pub fn split(&self, rows: &[f32]) -> Vec<(String, Tensor)> {
        let batch = self.parts[0].shape[0];
        let width = rows.len() / batch;
        let mut at = 0;
        let mut values = Vec::new();
        for part in &self.parts {
            if at + part.len() > width {
                break;
            }
            let column = rows.chunks_exact(width).flat_map(|row| &row[at..at + part.len()]).copied().collect();
            values.push((part.name.clone(), Tensor::from_f32s(part.dtype, part.shape.as_slice(), column)));
            at += part.len();
        }
        values
    }
}
