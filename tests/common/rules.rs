//! The gradients that the rules give for a graph, ready to run.

use onnx_unlearn::{
    autodiff,
    graph::{Builder, Graph, NATIVE},
    runtime::{Engine, Session},
    tensor::{DType, Data, Tensor},
    train,
};
use std::collections::{BTreeMap, BTreeSet};

/// Named values.
pub type Feeds = [(String, Tensor)];

/// A graph with the gradients of some of its inputs; what weights its outputs is fed.
pub struct Rules {
    session: Session,
    /// Element type of each output.
    outputs: Vec<Option<DType>>,
    written: String,
}

impl Rules {
    /// Writes the gradients of the inputs `wanted`. `graph` is in the spelling that training works on; all of `feeds`
    /// counts as varying from run to run.
    ///
    /// With `native`, in the tool's own operators where it has them, as training on the CPU does.
    pub fn new(
        engine: &Engine,
        graph: &Graph,
        feeds: &Feeds,
        wanted: &BTreeSet<String>,
        native: bool,
    ) -> Result<Self, String> {
        let live: BTreeSet<String> = feeds.iter().map(|(name, _)| name.clone()).collect();
        let traced = train::trace(engine, graph, feeds, &[], &live).map_err(|e| e.to_string())?;
        let mut b = Builder::new(graph.opset).with_native(native);
        for (name, t) in feeds {
            b.input(name, t.dtype(), t.shape());
        }
        traced.replay(&mut b, native);
        let mut outputs = Vec::new();
        let mut seeds = Vec::new();
        for (i, port) in graph.outputs.iter().enumerate() {
            // An output that no fed value changes has been folded away.
            let y = traced.values.get(&port.name).and_then(|(dtype, _)| Some((*dtype, b.value(&port.name)?.clone())));
            outputs.push(y.as_ref().map(|(dtype, _)| *dtype));
            if let Some((dtype, y)) = y {
                let dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                seeds.push((y.clone(), b.input(&seed(i), dtype, y.shape())));
            }
        }
        let found = autodiff::backward(&mut b, &traced.nodes, &traced.known, &seeds, wanted, DType::F32)
            .map_err(|e| e.to_string())?;
        for (name, value) in &found {
            b.output_as(value, &format!("d{name}"));
        }
        let step = b.finish();
        let written = step.to_string();
        let session = engine.session("the gradients", &step).map_err(|e| format!("{e}\n{written}"))?;
        Ok(Self { session, outputs, written })
    }

    /// True where the graph holds operators of the tool's own.
    pub fn is_native(&self) -> bool {
        self.written.contains(NATIVE)
    }

    /// How often something stands in the graph as it is printed.
    pub fn count(&self, text: &str) -> usize {
        self.written.matches(text).count()
    }

    /// The gradients of the sum of all outputs, each weighted with the seed of its number; those that the outputs do not
    /// depend on are absent.
    pub fn gradients(&mut self, feeds: &Feeds, seeds: &[Tensor]) -> Result<BTreeMap<String, Tensor>, String> {
        let mut all: Vec<(String, Tensor)> = feeds.to_vec();
        for (i, (dtype, t)) in self.outputs.iter().zip(seeds).enumerate() {
            all.extend(dtype.map(|dtype| (seed(i), in_type(t, dtype))));
        }
        let asked: BTreeSet<String> = self.session.inputs().into_iter().collect();
        let feeds: Vec<(&str, &Tensor)> =
            all.iter().filter(|(name, _)| asked.contains(name)).map(|(name, t)| (name.as_str(), t)).collect();
        let names = self.session.outputs();
        let values = self.session.run(&feeds).map_err(|e| format!("{e}\n{}", self.written))?;
        Ok(names.into_iter().map(|n| n[1..].to_owned()).zip(values).collect())
    }
}

fn seed(i: usize) -> String {
    format!("seed of output {i}")
}

/// A seed in the type of its output.
fn in_type(seed: &Tensor, dtype: DType) -> Tensor {
    match (dtype, seed.as_f32()) {
        (DType::F64, Some(v)) => Tensor::new(seed.shape().to_vec(), Data::F64(v.iter().map(|&x| x.into()).collect())),
        _ => seed.clone(),
    }
}

/// Runs a graph.
pub fn run(session: &mut Session, feeds: &Feeds) -> Result<Vec<Tensor>, String> {
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    session.run(&feeds).map_err(|e| e.to_string())
}
