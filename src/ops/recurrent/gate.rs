//! The activation functions of recurrent layers.

use super::super::{Emit, OpError, activation};
use crate::graph::{Attr, Attrs, Node, Value};

/// y = offset + outer * f(inner * a), where f is an operator and a is cut to -clip..clip before
pub(super) struct Gate {
    operator: &'static str,
    attrs: Attrs,
    inner: f64,
    outer: f64,
    offset: f64,
    clip: Option<f64>,
}

/// Name in lower case, operator, and the numbers it takes. Where the node gives none, those of the operator hold;
/// functions that are no operator, and `ThresholdedRelu`, for which runtimes disagree, have to have theirs.
const FUNCTIONS: &[(&str, &str, &[&str])] = &[
    ("relu", "Relu", &[]),
    ("tanh", "Tanh", &[]),
    ("sigmoid", "Sigmoid", &[]),
    ("affine", "Identity", &["alpha", "beta"]),
    ("leakyrelu", "LeakyRelu", &["alpha"]),
    ("thresholdedrelu", "ThresholdedRelu", &["alpha"]),
    ("scaledtanh", "Tanh", &["alpha", "beta"]),
    ("hardsigmoid", "HardSigmoid", &["alpha", "beta"]),
    ("elu", "Elu", &["alpha"]),
    ("softsign", "Softsign", &[]),
    ("softplus", "Softplus", &[]),
];

/// The functions of all directions, one direction after the other; `defaults` are those of one.
pub(super) fn read(e: &Emit<'_>, defaults: &[&str], directions: usize) -> Result<Vec<Gate>, OpError> {
    let needed = defaults.len() * directions;
    let mut names = e.strs("activations")?;
    if names.is_empty() {
        names = defaults.repeat(directions).into_iter().map(str::to_owned).collect();
    }
    // The default of RNN, written out, names a function too many.
    if defaults.len() == 1 && names.len() == 2 {
        names.truncate(needed);
    }
    if names.len() != needed {
        return Err(OpError::Attribute {
            name: "activations".into(),
            expected: format!("{needed} functions"),
            got: format!("{names:?}"),
        });
    }
    let clip = Some(f64::from(e.float("clip", -1.0)?)).filter(|&clip| clip >= 0.0);
    // Each function takes the next number of a list, if it takes one at all.
    let (mut alphas, mut betas) = (e.floats("activation_alpha")?.into_iter(), e.floats("activation_beta")?.into_iter());
    let mut gates = Vec::new();
    for (i, name) in names.iter().enumerate() {
        // ONNX Runtime cuts the sums of the gates and nothing else: the third function reads the cell state whole.
        let clip = clip.filter(|_| i % defaults.len() < 2);
        gates.push(Gate::new(name, clip, &mut alphas, &mut betas)?);
    }
    Ok(gates)
}

impl Gate {
    fn new(
        name: &str,
        clip: Option<f64>,
        alphas: &mut impl Iterator<Item = f32>,
        betas: &mut impl Iterator<Item = f32>,
    ) -> Result<Self, OpError> {
        let lower = name.to_lowercase();
        let (function, operator, takes) =
            *FUNCTIONS.iter().find(|(known, ..)| *known == lower).ok_or_else(|| OpError::Attribute {
                name: "activations".into(),
                expected: "functions that the operator's definition lists".into(),
                got: format!("{name:?}"),
            })?;
        let next = |list: &str, numbers: &mut dyn Iterator<Item = f32>| {
            takes.contains(&list).then(|| numbers.next()).flatten()
        };
        let (alpha, beta) = (next("alpha", alphas), next("beta", betas));
        let given = |list: &str, number: Option<f32>| {
            number.map(f64::from).ok_or_else(|| OpError::Attribute {
                name: format!("activation_{list}"),
                expected: format!("a number for {name}"),
                got: "none".into(),
            })
        };
        let mut gate = Self { operator, attrs: Attrs::new(), inner: 1.0, outer: 1.0, offset: 0.0, clip };
        match function {
            "affine" => (gate.outer, gate.offset) = (given("alpha", alpha)?, given("beta", beta)?),
            "scaledtanh" => (gate.outer, gate.inner) = (given("alpha", alpha)?, given("beta", beta)?),
            _ => {
                if function == "thresholdedrelu" {
                    given("alpha", alpha)?;
                }
                let numbers = [("alpha", alpha), ("beta", beta)];
                gate.attrs.extend(numbers.into_iter().filter_map(|(k, v)| Some((k.to_owned(), Attr::Float(v?)))));
            }
        }
        Ok(gate)
    }

    /// y
    pub fn value(&self, e: &mut Emit<'_>, a: &Value) -> Value {
        let (_, y) = self.inner(e, a);
        let y = e.scale(&y, self.outer);
        if self.offset.abs() == 0.0 {
            return y;
        }
        let offset = e.num(self.offset);
        e.add(&y, &offset)
    }

    /// dy * dy/da
    pub fn back(&self, e: &mut Emit<'_>, a: &Value, dy: &Value) -> Result<Value, OpError> {
        let (x, y) = self.inner(e, a);
        let node = Node {
            name: self.operator.into(),
            op: self.operator.into(),
            domain: String::new(),
            inputs: vec![x.name().into()],
            outputs: vec![y.name().into()],
            attrs: self.attrs.clone(),
        };
        let dy = e.scale(dy, self.outer);
        let dx = e.through(&node, &dy)?;
        let da = e.scale(&dx, self.inner);
        let kept = self.clip.and_then(|clip| activation::inside(e, a, Some(-clip), Some(clip)));
        Ok(kept.map_or_else(|| da.clone(), |kept| e.mul(&da, &kept)))
    }

    /// What the operator reads and what it gives.
    fn inner(&self, e: &mut Emit<'_>, a: &Value) -> (Value, Value) {
        let a = match self.clip {
            Some(clip) => {
                let (low, high) = (e.num(-clip), e.num(clip));
                e.op("Clip", &[a, &low, &high], &[], a.shape())
            }
            None => a.clone(),
        };
        let x = e.scale(&a, self.inner);
        let attrs: Vec<(&str, Attr)> = self.attrs.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        let y = e.op(self.operator, &[&x], &attrs, x.shape());
        (x, y)
    }
}
