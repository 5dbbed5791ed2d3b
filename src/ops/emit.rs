//! What a gradient rule sees and writes with.

use super::OpError;
use crate::{
    graph::{Attr, Builder, NATIVE, Node, Value, native},
    tensor::{DType, Tensor},
};
use std::{collections::HashMap, sync::Arc};

/// The forward node a rule works on, and the pen it writes gradient nodes with.
///
/// Helpers compute shapes, so a rule that mixes up axes fails when the graph is written, not when it runs.
pub struct Emit<'a> {
    /// The graph under construction.
    pub graph: &'a mut Builder,
    node: &'a Node,
    known: &'a HashMap<String, Arc<Tensor>>,
    dys: &'a [Option<Value>],
    at: usize,
    float: DType,
}

impl<'a> Emit<'a> {
    /// `known` holds the values that are constant in the step graph (shapes, axes, bounds), `dys` the gradient of each
    /// output (`None` where nothing flows back), `at` is the input the rule is asked about.
    pub fn new(
        graph: &'a mut Builder,
        node: &'a Node,
        known: &'a HashMap<String, Arc<Tensor>>,
        dys: &'a [Option<Value>],
        at: usize,
        float: DType,
    ) -> Self {
        Self { graph, node, known, dys, at, float }
    }

    /// True where the tool's own operators ([`native`](crate::graph::native)) may be written: they compute in float32.
    pub fn is_native(&self) -> bool {
        self.graph.is_native() && self.float == DType::F32
    }

    /// Index of the input whose gradient is asked for.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The forward node.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// Gradient of output `i`, `None` where nothing flows back.
    pub fn dy(&self, i: usize) -> Option<&Value> {
        self.dys.get(i).and_then(Option::as_ref)
    }

    /// True when input `i` is given.
    pub fn has(&self, i: usize) -> bool {
        self.node.input(i).is_some()
    }

    /// Forward value of input `i`.
    pub fn x(&self, i: usize) -> Result<Value, OpError> {
        let name = self.node.input(i).ok_or_else(|| OpError::Unsupported(format!("input {i} is missing")))?;
        self.graph.value(name).cloned().ok_or_else(|| OpError::Unsupported(format!("the shape of {name:?} is unknown")))
    }

    /// Forward value of output `i`.
    pub fn y(&self, i: usize) -> Result<Value, OpError> {
        let name = self.node.output(i).ok_or_else(|| OpError::Unsupported(format!("output {i} is missing")))?;
        self.graph.value(name).cloned().ok_or_else(|| OpError::Unsupported(format!("the shape of {name:?} is unknown")))
    }

    /// Contents of input `i`, which has to be constant in the step graph; `None` where it is left out.
    pub fn known(&self, i: usize) -> Result<Option<Arc<Tensor>>, OpError> {
        match self.node.input(i) {
            None => Ok(None),
            Some(name) => self.known.get(name).cloned().map(Some).ok_or(OpError::NotConstant(i)),
        }
    }

    /// Integers of input `i`, which has to be constant; `None` where it is left out.
    pub fn known_ints(&self, i: usize) -> Result<Option<Vec<i64>>, OpError> {
        let Some(t) = self.known(i)? else { return Ok(None) };
        let ints =
            t.to_i64s().ok_or_else(|| OpError::Unsupported(format!("input {i} holds {}, not integers", t.dtype())))?;
        Ok(Some(ints))
    }

    /// An integer attribute.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, OpError> {
        match self.node.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Int(v)) => Ok(*v),
            Some(other) => Err(wrong(name, "an integer", other)),
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, OpError> {
        match self.node.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Float(v)) => Ok(*v),
            Some(other) => Err(wrong(name, "a float", other)),
        }
    }

    /// A list-of-integers attribute, `None` where it is left out.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, OpError> {
        match self.node.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Ints(v)) => Ok(Some(v.clone())),
            Some(other) => Err(wrong(name, "a list of integers", other)),
        }
    }

    /// A list-of-floats attribute, empty where it is left out.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, OpError> {
        match self.node.attrs.get(name) {
            None => Ok(Vec::new()),
            Some(Attr::Floats(v)) => Ok(v.clone()),
            Some(other) => Err(wrong(name, "a list of floats", other)),
        }
    }

    /// A list-of-strings attribute, empty where it is left out.
    pub fn strs(&self, name: &str) -> Result<Vec<String>, OpError> {
        match self.node.attrs.get(name) {
            None => Ok(Vec::new()),
            Some(Attr::Strs(v)) => Ok(v.clone()),
            Some(other) => Err(wrong(name, "a list of strings", other)),
        }
    }

    /// A string attribute.
    pub fn str(&self, name: &str, default: &str) -> Result<String, OpError> {
        match self.node.attrs.get(name) {
            None => Ok(default.to_owned()),
            Some(Attr::Str(v)) => Ok(v.clone()),
            Some(other) => Err(wrong(name, "a string", other)),
        }
    }

    /// An axis attribute as an index into `rank` axes (negative ones count from the end).
    pub fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, OpError> {
        let axis = self.int(name, default)?;
        resolve_axis(axis, rank).ok_or_else(|| OpError::Attribute {
            name: name.into(),
            expected: format!("an axis of {rank}"),
            got: axis.to_string(),
        })
    }

    /// The gradient of the first input of `node`, a node of this graph with a rule of its own, where `dy` arrives at its
    /// output: for operators that apply others inside.
    pub fn through(&mut self, node: &Node, dy: &Value) -> Result<Value, OpError> {
        let op = super::find(node).ok_or(OpError::NoRule)?;
        let Some(super::Flow::Vjp(rule)) = op.flow(0) else { return Err(OpError::NoFlow(0)) };
        rule(&mut Emit::new(self.graph, node, self.known, &[Some(dy.clone())], 0, self.float), dy)
    }

    // --- writing ---------------------------------------------------------------------------------------------------

    /// Any operator with one output of a known shape.
    pub fn op(&mut self, op: &str, inputs: &[&Value], attrs: &[(&str, Attr)], shape: &[usize]) -> Value {
        self.graph.op(op, inputs, attrs, shape)
    }

    /// A rank-0 constant of the step graph's float type.
    pub fn num(&mut self, v: f64) -> Value {
        let tensor = match self.float {
            DType::F64 => Tensor::new(vec![], crate::tensor::Data::F64(vec![v])),
            _ => Tensor::scalar(v as f32),
        };
        self.graph.constant(tensor)
    }

    /// A constant of the step graph's float type.
    pub fn nums(&mut self, shape: &[usize], v: &[f64]) -> Value {
        let tensor = match self.float {
            DType::F64 => Tensor::new(shape.to_vec(), crate::tensor::Data::F64(v.to_vec())),
            _ => Tensor::f32(shape, v.iter().map(|&x| x as f32).collect()),
        };
        self.graph.constant(tensor)
    }

    /// An int64 list.
    pub fn int_list(&mut self, v: &[i64]) -> Value {
        self.graph.constant(Tensor::ints(v))
    }

    /// Elementwise operator of one input.
    pub fn unary(&mut self, op: &str, a: &Value) -> Value {
        self.op(op, &[a], &[], a.shape())
    }

    /// Elementwise operator of two inputs that broadcast against each other.
    pub fn binary(&mut self, op: &str, a: &Value, b: &Value) -> Value {
        let shape = broadcast(a.shape(), b.shape());
        self.op(op, &[a, b], &[], &shape)
    }

    /// a + b
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Add", a, b)
    }

    /// a - b
    pub fn sub(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Sub", a, b)
    }

    /// a * b
    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Mul", a, b)
    }

    /// a / b
    pub fn div(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Div", a, b)
    }

    /// -a
    pub fn neg(&mut self, a: &Value) -> Value {
        self.unary("Neg", a)
    }

    /// a * v for a number v
    pub fn scale(&mut self, a: &Value, v: f64) -> Value {
        if (v - 1.0).abs() == 0.0 {
            return a.clone();
        }
        let v = self.num(v);
        self.mul(a, &v)
    }

    /// cond ? a : b, elementwise with broadcasting; `cond` is a bool value.
    pub fn select(&mut self, cond: &Value, a: &Value, b: &Value) -> Value {
        let shape = broadcast(&broadcast(cond.shape(), a.shape()), b.shape());
        self.op("Where", &[cond, a, b], &[], &shape)
    }

    /// Sum over `axes`; kept axes get length 1 when `keep`.
    pub fn reduce_sum(&mut self, a: &Value, axes: &[usize], keep: bool) -> Value {
        self.reduce("ReduceSum", a, axes, keep)
    }

    /// Sum over all axes but the second, by the tool's own operator; only where [`is_native`](Self::is_native).
    pub fn channel_sums(&mut self, a: &Value) -> Value {
        let shape = vec![a.shape()[1]];
        self.graph.raw(NATIVE, native::CHANNEL_SUMS, &[a.name()], &[], &[shape]).remove(0)
    }

    /// Gradients of x, scale and bias of a layer normalization over the axes of `scale`, by the tool's own operator; only
    /// where [`is_native`](Self::is_native).
    pub fn layer_norm_gradient(&mut self, x: &Value, scale: &Value, dy: &Value, epsilon: f32) -> Vec<Value> {
        let shapes = [x, scale, scale].map(|v| v.shape().to_vec());
        let inputs = [x, scale, dy].map(Value::name);
        let attrs = [(native::EPSILON, Attr::Float(epsilon))];
        self.graph.raw(NATIVE, native::LAYER_NORM_GRADIENT, &inputs, &attrs, &shapes)
    }

    /// Mean over `axes`; kept axes get length 1 when `keep`.
    pub fn reduce_mean(&mut self, a: &Value, axes: &[usize], keep: bool) -> Value {
        self.reduce("ReduceMean", a, axes, keep)
    }

    /// `ReduceSum`, `ReduceMean`, `ReduceMax` ... over `axes`; no axes means nothing is reduced.
    pub fn reduce(&mut self, op: &str, a: &Value, axes: &[usize], keep: bool) -> Value {
        if axes.is_empty() {
            return a.clone();
        }
        let mut shape = Vec::new();
        for (i, &d) in a.shape().iter().enumerate() {
            match (axes.contains(&i), keep) {
                (false, _) => shape.push(d),
                (true, true) => shape.push(1),
                (true, false) => {}
            }
        }
        let axes = self.int_list(&axes.iter().map(|&i| i as i64).collect::<Vec<_>>());
        self.op(op, &[a, &axes], &[("keepdims", Attr::Int(i64::from(keep)))], &shape)
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// When the shapes hold different numbers of elements: a mistake in a rule.
    pub fn reshape(&mut self, a: &Value, shape: &[usize]) -> Value {
        assert_eq!(a.len(), shape.iter().product::<usize>(), "reshape {:?} to {shape:?}", a.shape());
        if a.shape() == shape {
            return a.clone();
        }
        let target = self.int_list(&shape.iter().map(|&d| d as i64).collect::<Vec<_>>());
        // allowzero: an axis of length 0 means 0, not "as in the input".
        self.op("Reshape", &[a, &target], &[("allowzero", Attr::Int(1))], shape)
    }

    /// Axis `i` of the result is axis `perm[i]` of the input.
    pub fn transpose(&mut self, a: &Value, perm: &[usize]) -> Value {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return a.clone();
        }
        let shape: Vec<usize> = perm.iter().map(|&p| a.shape()[p]).collect();
        let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
        self.op("Transpose", &[a], &[("perm", perm.into())], &shape)
    }

    /// Repeats axes of length 1 up to `shape`.
    pub fn expand(&mut self, a: &Value, shape: &[usize]) -> Value {
        if a.shape() == shape {
            return a.clone();
        }
        let target = self.int_list(&shape.iter().map(|&d| d as i64).collect::<Vec<_>>());
        self.op("Expand", &[a, &target], &[], shape)
    }

    /// Batched matrix product with ONNX (numpy) broadcasting of the leading axes.
    ///
    /// # Panics
    /// When the inner axes differ or an operand is no matrix: a mistake in a rule.
    pub fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        let (ra, rb) = (a.rank(), b.rank());
        assert!(ra >= 2 && rb >= 2 && a.shape()[ra - 1] == b.shape()[rb - 2], "{:?} x {:?}", a.shape(), b.shape());
        let mut shape = broadcast(&a.shape()[..ra - 2], &b.shape()[..rb - 2]);
        shape.extend([a.shape()[ra - 2], b.shape()[rb - 1]]);
        self.op("MatMul", &[a, b], &[], &shape)
    }

    /// Rank-2 product with either side transposed: `op(a) x op(b)`.
    pub fn gemm(&mut self, a: &Value, b: &Value, trans_a: bool, trans_b: bool) -> Value {
        self.scaled_gemm(a, b, trans_a, trans_b, 1.0)
    }

    /// The same times `alpha`.
    pub fn scaled_gemm(&mut self, a: &Value, b: &Value, trans_a: bool, trans_b: bool, alpha: f32) -> Value {
        if let Some(y) = self.native_product(a, b, [trans_a, trans_b], alpha, None) {
            return y;
        }
        let shape = [a.shape()[usize::from(trans_a)], b.shape()[usize::from(!trans_b)]];
        let mut attrs = vec![("transA", Attr::Int(trans_a.into())), ("transB", Attr::Int(trans_b.into()))];
        if alpha.to_bits() != 1f32.to_bits() {
            attrs.push(("alpha", Attr::Float(alpha)));
        }
        self.op("Gemm", &[a, b], &attrs, &shape)
    }

    /// The same by the tool's own operator, plus a bias for each column, where that is faster than the runtime's: in long
    /// products, whose other factor is laid out once for many rows.
    pub fn native_product(
        &mut self,
        a: &Value,
        b: &Value,
        [trans_a, trans_b]: [bool; 2],
        alpha: f32,
        bias: Option<&Value>,
    ) -> Option<Value> {
        const LONG: usize = 2048;
        const WIDE: usize = 16;
        let (m, k) = (a.shape()[usize::from(trans_a)], a.shape()[usize::from(!trans_a)]);
        let n = b.shape()[usize::from(!trans_b)];
        let long = if trans_a { k } else { m };
        if !self.is_native() || long < LONG || m.min(k).min(n) < WIDE {
            return None;
        }
        let inputs: Vec<&str> = [a, b].into_iter().chain(bias).map(Value::name).collect();
        let attrs = [
            (native::TRANS_A, Attr::Int(trans_a.into())),
            (native::TRANS_B, Attr::Int(trans_b.into())),
            (native::ALPHA, Attr::Float(alpha)),
        ];
        Some(self.graph.raw(NATIVE, native::PRODUCT, &inputs, &attrs, &[vec![m, n]]).remove(0))
    }

    /// Swaps the last two axes.
    pub fn swap_last(&mut self, a: &Value) -> Value {
        let mut perm: Vec<usize> = (0..a.rank()).collect();
        perm.swap(a.rank() - 1, a.rank() - 2);
        self.transpose(a, &perm)
    }

    /// `Slice` with constant bounds, one entry per axis named.
    ///
    /// # Panics
    /// On negative or empty bounds: a mistake in a rule.
    pub fn slice(&mut self, a: &Value, axes: &[usize], starts: &[i64], ends: &[i64], steps: &[i64]) -> Value {
        let mut shape = a.shape().to_vec();
        for (k, &axis) in axes.iter().enumerate() {
            assert!(steps[k] > 0 && starts[k] >= 0 && ends[k] >= starts[k], "slice bounds");
            shape[axis] = ((ends[k].min(a.shape()[axis] as i64) - starts[k] + steps[k] - 1) / steps[k]).max(0) as usize;
        }
        if shape == a.shape() {
            return a.clone();
        }
        let starts = self.int_list(starts);
        let ends = self.int_list(ends);
        let axes = self.int_list(&axes.iter().map(|&x| x as i64).collect::<Vec<_>>());
        let steps = self.int_list(steps);
        self.op("Slice", &[a, &starts, &ends, &axes, &steps], &[], &shape)
    }

    /// Pads with zeros: `before[i]` and `after[i]` elements on axis i; negative numbers crop.
    pub fn pad(&mut self, a: &Value, before: &[i64], after: &[i64]) -> Value {
        if before.iter().chain(after).all(|&p| p == 0) {
            return a.clone();
        }
        let shape: Vec<usize> =
            a.shape().iter().zip(before.iter().zip(after)).map(|(&d, (b, e))| (d as i64 + b + e) as usize).collect();
        let pads: Vec<i64> = before.iter().chain(after).copied().collect();
        let pads = self.int_list(&pads);
        self.op("Pad", &[a, &pads], &[], &shape)
    }

    /// `n` parts of equal length along `axis`.
    ///
    /// # Panics
    /// When `n` does not divide the axis: a mistake in a rule.
    pub fn split(&mut self, a: &Value, axis: usize, n: usize) -> Vec<Value> {
        if n == 1 {
            return vec![a.clone()];
        }
        let mut shape = a.shape().to_vec();
        assert_eq!(shape[axis] % n, 0, "{n} parts of {shape:?} along axis {axis}");
        shape[axis] /= n;
        let attrs = [("axis", Attr::Int(axis as i64)), ("num_outputs", Attr::Int(n as i64))];
        self.graph.raw("", "Split", &[a.name()], &attrs, &vec![shape; n])
    }

    /// Joins values along `axis`.
    pub fn concat(&mut self, parts: &[&Value], axis: usize) -> Value {
        if let [one] = parts {
            return (*one).clone();
        }
        let mut shape = parts[0].shape().to_vec();
        shape[axis] = parts.iter().map(|p| p.shape()[axis]).sum();
        self.op("Concat", parts, &[("axis", Attr::Int(axis as i64))], &shape)
    }

    /// Undoes broadcasting: sums `a` over every axis that `target` lacks or has with length 1.
    pub fn unbroadcast(&mut self, a: &Value, target: &[usize]) -> Value {
        let added = a.rank() - target.len();
        let axes: Vec<usize> =
            (0..a.rank()).filter(|&i| i < added || (target[i - added] == 1 && a.shape()[i] != 1)).collect();
        // Sums over all rows of a matrix: the gradient of a bias.
        let columns: usize = target.iter().product();
        if self.is_native() && added > 0 && columns >= 16 && axes.iter().copied().eq(0..added) {
            let rows = self.reshape(a, &[a.len() / columns, columns]);
            let sums = self.channel_sums(&rows);
            return self.reshape(&sums, target);
        }
        let summed = self.reduce_sum(a, &axes, false);
        self.reshape(&summed, target)
    }

    /// [`Self::unbroadcast`] to the shape of the input that is asked about.
    pub fn to_input(&mut self, a: &Value) -> Result<Value, OpError> {
        let target = self.x(self.at)?;
        // A product with a smaller gradient may not have reached the full shape yet.
        let full = broadcast(a.shape(), target.shape());
        let a = self.expand(a, &full);
        Ok(self.unbroadcast(&a, target.shape()))
    }

    /// Zeros in the shape of `like`.
    pub fn zeros(&mut self, shape: &[usize]) -> Value {
        let zero = self.num(0.0);
        self.expand(&zero, shape)
    }

    /// The elements in reverse order along `axes`.
    pub fn reversed(&mut self, a: &Value, axes: &[usize]) -> Value {
        if axes.is_empty() {
            return a.clone();
        }
        let starts = self.int_list(&vec![-1; axes.len()]);
        let ends = self.int_list(&vec![i64::MIN; axes.len()]);
        let axes_list = self.int_list(&axes.iter().map(|&x| x as i64).collect::<Vec<_>>());
        self.op("Slice", &[a, &starts, &ends, &axes_list, &starts], &[], a.shape())
    }
}

/// numpy broadcasting of two shapes.
///
/// # Panics
/// When the shapes do not go together; forward values have been computed by the runtime, so rules can only meet this
/// by mistake.
pub fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() >= rank { s[i + s.len() - rank] } else { 1 };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            (x, y) => panic!("shapes {a:?} and {b:?} do not broadcast: {x} against {y}"),
        })
        .collect()
}

/// `axis` as an index into `rank` axes, `None` outside `-rank..rank`.
pub fn resolve_axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = rank as i64;
    (-rank..rank).contains(&axis).then(|| (if axis < 0 { axis + rank } else { axis }) as usize)
}

fn wrong(name: &str, expected: &str, got: &Attr) -> OpError {
    OpError::Attribute { name: name.into(), expected: expected.into(), got: got.to_string() }
}
