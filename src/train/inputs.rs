//! What a model is fed: the input that holds the samples, further inputs, and the place where noise is learned.
//!
//! A sample is one flat row of float32. Where it holds several inputs, or integers, the step graph takes it apart and
//! changes the type, so that data, shuffling and prefetching know one kind of row only.

use super::{network::TrainError, steps::fed};
use crate::{
    graph::{Attr, Attrs, Builder, Graph, Node, Port},
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
    /// Names of the inputs that hold samples, the main one first.
    pub fn sampled(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.main).chain(&self.further).map(|port| port.name.as_str())
    }

    /// Element type of an input.
    pub fn dtype(&self, name: &str) -> DType {
        let constants = self.constants.iter().map(|(port, _)| port);
        let mut ports = std::iter::once(&self.main).chain(&self.further).chain(constants);
        ports.find(|port| port.name == name).and_then(|port| port.dtype).unwrap_or(DType::F32)
    }

    /// The batch size that the file fixes, `None` where it leaves it open.
    pub fn frozen_batch(&self) -> Option<usize> {
        self.main.dims.as_ref()?.first().copied().flatten()
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

/// Number of rows in the table that the node at `site` looks up.
pub fn table_rows(graph: &Graph, site: &Site) -> Option<usize> {
    let Site::Value { name, .. } = site else { return None };
    let node = graph.nodes.iter().find(|n| n.op == "Gather" && n.outputs.contains(name))?;
    let shape = graph.constants.get(node.input(0)?)?.shape();
    match node.attrs.get("axis") {
        None => shape.first().copied(),
        Some(Attr::Int(axis)) => shape.get(usize::try_from(*axis).ok()?).copied(),
        Some(_) => None,
    }
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
