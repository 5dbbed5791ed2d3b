//! A graph of one node, with an input that moves along a direction.

use super::{
    slope::{Slope, slope},
    wide::{Arithmetic, Wide, direction, live},
};
use crate::{
    graph::{Graph, Node},
    runtime::{Engine, RuntimeError, Session},
    tensor::{DType, Data, Tensor},
    train::Traced,
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// A value of the network by name.
pub(super) type Values = HashMap<String, Arc<Tensor>>;

/// How far along its direction the input has moved.
pub(super) const STEP: &str = "onnx-unlearn:step";

/// A graph of one node with float64 outputs, whose input `moving` moves by [`STEP`] along a direction. `None` where the
/// node cannot be written in this arithmetic.
///
/// To every float output a float64 zero is added: the runtime refuses that where the operator gives another type than was
/// meant (a DequantizeLinear gives the type of its scale).
pub(super) fn graph(
    opset: i64,
    traced: &Traced,
    node: &Node,
    moving: Option<&str>,
    outputs: &[String],
    arithmetic: Arithmetic,
) -> Option<Graph> {
    let mut wide = Wide::new(opset, traced);
    let step = wide.b.input(STEP, DType::F64, &[]);
    for name in live(node, traced) {
        if moving == Some(name) { wide.moving(name, &step) } else { wide.fed(name) }
    }
    wide.node(node, arithmetic)?;
    for name in outputs {
        let value = if let Some(value) = wide.double(name) {
            let zero = wide.b.constant(Tensor::new(vec![], Data::F64(vec![0.0])));
            wide.b.op("Add", &[&value, &zero], &[], value.shape())
        } else {
            wide.b.value(name)?.clone()
        };
        wide.b.output_as(&value, &format!("onnx-unlearn:y/{name}"));
    }
    Some(wide.b.finish())
}

/// How ONNX Runtime can compute an operator: what it has no float64 kernel for it refuses to open, or to run.
pub(super) fn native(engine: &Engine, traced: &Traced, opset: i64, node: &Node, at: &Values) -> Arithmetic {
    let outputs: Vec<String> = node.outputs.iter().filter(|o| !o.is_empty()).cloned().collect();
    let runs = |arithmetic: &Arithmetic| {
        let Some(graph) = graph(opset, traced, node, None, &outputs, *arithmetic) else { return false };
        let Ok(session) = engine.plain_session("a node in float64", &graph) else { return false };
        let still = Tensor::zeros(Vec::new());
        Moving::new(session, at, "").run(&still, 0.0).is_ok()
    };
    [Arithmetic::Float64, Arithmetic::Float64Data].into_iter().find(runs).unwrap_or(Arithmetic::Float32)
}

/// A node with an input that moves.
pub(super) struct Moving<'v> {
    session: Session,
    asked: BTreeSet<String>,
    at: &'v Values,
    direction: String,
}

/// The slopes of a node along several directions.
pub(super) struct Slopes {
    /// Outputs where nothing has moved.
    pub base: Vec<Vec<f64>>,
    /// Per direction, per output.
    pub each: Vec<Vec<Slope>>,
    /// The step they were taken with.
    pub step: f64,
}

impl<'v> Moving<'v> {
    /// The session runs a [`graph`] whose `input` moves; `at` holds the values of all live inputs.
    pub fn new(session: Session, at: &'v Values, input: &str) -> Self {
        let asked = session.inputs().into_iter().collect();
        Self { session, asked, at, direction: direction(input) }
    }

    fn run(&mut self, direction: &Tensor, step: f64) -> Result<Vec<Vec<f64>>, RuntimeError> {
        let step = Tensor::new(vec![], Data::F64(vec![step]));
        let mut feeds: Vec<(&str, &Tensor)> = self.at.iter().map(|(n, t)| (n.as_str(), t.as_ref())).collect();
        feeds.extend([(STEP, &step), (self.direction.as_str(), direction)]);
        feeds.retain(|(name, _)| self.asked.contains(*name));
        let outputs = self.session.run(&feeds)?;
        Ok(outputs.into_iter().map(|t| if let Data::F64(v) = t.into_data() { v } else { Vec::new() }).collect())
    }

    /// Slopes at the first of `steps` at which nearly all of the output is smooth, else at the one with most of it.
    pub fn slopes(&mut self, directions: &[Tensor], steps: &[f64]) -> Result<Slopes, RuntimeError> {
        let base = self.run(&directions[0], 0.0)?;
        let mut best = Slopes { base: base.clone(), each: Vec::new(), step: f64::NAN };
        let mut most = None;
        for &h in steps {
            let mut each = Vec::new();
            for d in directions {
                let [ll, l, r, rr] = [self.run(d, -h)?, self.run(d, -h / 2.0)?, self.run(d, h / 2.0)?, self.run(d, h)?];
                let of = |o: usize| slope([&ll[o], &l[o], &base[o], &r[o], &rr[o]], h);
                each.push((0..base.len()).map(of).collect::<Vec<_>>());
            }
            let flags = || each.iter().flatten().flat_map(|s| &s.smooth);
            let (smooth, all) = (flags().filter(|&&s| s).count(), flags().count());
            if most.is_none_or(|m| smooth > m) {
                most = Some(smooth);
                best = Slopes { base: base.clone(), each, step: h };
            }
            if smooth * 20 >= all * 19 {
                break;
            }
        }
        Ok(best)
    }
}
