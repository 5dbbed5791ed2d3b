//! The cases of `fixtures/node-tests/node-tests.zip`, read as the program reads a model.

use crate::common;
use onnx_unlearn::{
    graph::{Graph, Node, Port},
    onnx::{
        self,
        schema::{ModelProto, TensorProto, ValueInfoProto},
    },
    ops::{self, Flow},
    tensor::Tensor,
};
use prost::Message;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    sync::LazyLock,
};
use zip::ZipArchive;

/// What `index.json` says.
#[derive(Deserialize)]
pub struct Index {
    /// Every operator looked for, with its versions in the opsets that the program reads.
    pub versions: BTreeMap<String, Vec<i64>>,
    pub cases: Vec<Case>,
}

/// One node with inputs and the outputs they must give.
#[derive(Deserialize)]
pub struct Case {
    /// Name of the test and operator version.
    pub name: String,
    pub operator: String,
    /// The operator version: the opset that brought it.
    pub since: i64,
    model: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

/// A case as a graph whose inputs are what varies from sample to sample in a model. Whatever is constant by nature (axes,
/// indices, bounds) is a constant of it, as in the files that exporters write.
pub struct Problem {
    /// In the spelling of the file.
    pub graph: Graph,
    /// The values of the graph's inputs.
    pub feeds: Vec<(String, Tensor)>,
    /// The outputs that the case expects, in the order of the graph's.
    pub expected: Vec<Tensor>,
}

const EXPECTED: &str = "expected ";

/// The archive's list of cases.
pub fn index() -> &'static Index {
    static INDEX: LazyLock<Index> = LazyLock::new(|| {
        let text = contents(&mut archive(), "index.json");
        serde_json::from_slice(&text).expect("the index of the node tests reads")
    });
    &INDEX
}

/// The archive, opened.
pub fn archive() -> ZipArchive<File> {
    let path = common::fixture("node-tests").join("node-tests.zip");
    let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    ZipArchive::new(file).expect("the archive of the node tests opens")
}

fn contents(archive: &mut ZipArchive<File>, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = archive.by_name(name).unwrap_or_else(|e| panic!("{name} in the archive: {e}"));
    file.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{name} in the archive: {e}"));
    bytes
}

impl Case {
    /// Reads the model through a file, with its inputs and expected outputs stored as initializers.
    pub fn read(&self, archive: &mut ZipArchive<File>) -> Result<Problem, String> {
        let mut model = ModelProto::decode(&*contents(archive, &self.model)).expect("a model");
        let graph = model.graph.as_mut().expect("a graph");
        let named = |ports: &[ValueInfoProto]| ports.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
        let (inputs, outputs) = (named(&graph.input), named(&graph.output));
        let mut store = |file: &String, name: String| {
            let tensor = TensorProto::decode(&*contents(archive, file)).expect("a tensor");
            graph.initializer.push(TensorProto { name: Some(name), ..tensor });
        };
        self.inputs.iter().zip(&inputs).for_each(|(file, name)| store(file, name.clone()));
        self.outputs.iter().zip(&outputs).for_each(|(file, name)| store(file, format!("{EXPECTED}{name}")));
        let folder = common::temporary();
        let path = folder.path().join("model.onnx");
        fs::write(&path, model.encode_to_vec()).expect("written");
        let mut graph = onnx::read(&path).map_err(|e| e.to_string())?.graph;

        let mut take = |name: &str| graph.constants.remove(name).map(|t| t.as_ref().clone());
        let expected = outputs.iter().filter_map(|o| take(&format!("{EXPECTED}{o}"))).collect();
        let node = graph.nodes[0].clone();
        let mut feeds = Vec::new();
        for name in inputs {
            let varies = (0..node.inputs.len())
                .any(|i| node.input(i) == Some(&name) && varies(&self.operator, i) && !steps(&node, i));
            if varies && let Some(t) = take(&name) {
                feeds.push((name, t));
            }
        }
        graph.inputs = feeds.iter().map(|(name, t)| Port::fixed(name, t.dtype(), t.shape())).collect();
        Ok(Problem { graph, feeds, expected })
    }
}

/// True for the inputs of an operator that are data or weights.
fn varies(operator: &str, i: usize) -> bool {
    let record = match operator {
        "Scatter" => "ScatterElements",
        "Upsample" => "Resize",
        other => other,
    };
    match (operator, ops::records().find(|op| op.name == record && op.domain.is_empty())) {
        ("Dropout", _) => i == 0,
        // Queries, keys, values, the mask that is added, earlier keys and values.
        ("Attention", _) => i < 6,
        (_, Some(op)) => !matches!(op.flow(i), Some(Flow::Constant)),
        (_, None) => true,
    }
}

/// True for the inputs that move an output in steps where others move it smoothly: they have no gradient to compare.
fn steps(node: &Node, i: usize) -> bool {
    let smooth = |op: &&ops::Op| op.inputs.iter().any(|flow| matches!(flow, Flow::Vjp(_)));
    matches!(ops::find(node).filter(smooth).and_then(|op| op.flow(i)), Some(Flow::Zero))
}
