//! Writes fused operators out in the elementary ones they stand for, so that these operators' gradient rules serve.
//!
//! Optimisers put several nodes into one: a convolution and its activation, a sum and a normalisation, a whole attention.
//! The nodes here are in the spelling of opset 18; the shapes they need are computed by the graph itself, from where they
//! are folded once a batch is known.

mod attention;
mod bias;
mod embed;
mod image;

use super::pen::Pen;
use crate::{
    graph::{Attr, Attrs, Node},
    tensor::Tensor,
};
use std::collections::BTreeSet;

const MICROSOFT: &str = "com.microsoft";

/// True for the operators that [`unfuse`] writes out.
pub(super) fn is_fused(node: &Node) -> bool {
    match (node.domain.as_str(), node.op.as_str()) {
        (MICROSOFT, "FastGelu") => node.input(1).is_some(),
        (
            MICROSOFT,
            "FusedConv"
            | "FusedGemm"
            | "BiasAdd"
            | "BiasDropout"
            | "BiasGelu"
            | "BiasSoftmax"
            | "BiasSplitGelu"
            | "EmbedLayerNormalization"
            | "GroupNorm"
            | "NhwcConv"
            | "SkipGroupNorm"
            | "SkipLayerNormalization"
            | "SkipSimplifiedLayerNormalization"
            | "MultiHeadAttention"
            | "Attention",
        )
        | ("", "Attention") => true,
        _ => false,
    }
}

/// Writes the nodes that `node` stands for. `read` are the values that some node or output reads.
pub(super) fn unfuse(pen: &mut Pen, node: &Node, read: &BTreeSet<String>) -> Result<(), String> {
    let mut writer = Writer { pen, node, read };
    match (node.domain.as_str(), node.op.as_str()) {
        ("", "Attention") => writer.attention(),
        (_, "Attention") => writer.packed_attention(),
        (_, "MultiHeadAttention") => writer.multi_head_attention(),
        (_, "FusedConv") => writer.fused_conv(),
        (_, "FusedGemm") => writer.fused_gemm(),
        (_, "NhwcConv") => writer.nhwc_conv(),
        (_, "GroupNorm") => writer.group_norm(),
        (_, "SkipGroupNorm") => writer.skip_group_norm(),
        (_, "BiasAdd") => writer.bias_add(),
        (_, "BiasDropout") => writer.bias_dropout(),
        (_, "BiasGelu") => writer.biased("Gelu"),
        (_, "BiasSoftmax") => writer.bias_softmax(),
        (_, "BiasSplitGelu") => writer.bias_split_gelu(),
        (_, "EmbedLayerNormalization") => writer.embed_layer_norm(),
        (_, "FastGelu") => writer.biased("FastGelu"),
        (_, "SkipLayerNormalization") => writer.skip_norm("LayerNormalization", 4),
        (_, "SkipSimplifiedLayerNormalization") => writer.skip_norm("SimplifiedLayerNormalization", 3),
        (_, op) => Err(format!("{op} is no fused operator")),
    }
}

struct Writer<'a> {
    pen: &'a mut Pen,
    node: &'a Node,
    read: &'a BTreeSet<String>,
}

impl Writer<'_> {
    // --- products with an activation -------------------------------------------------------------------------------

    /// y = activation(conv(x, w) + b + z)
    fn fused_conv(&mut self) -> Result<(), String> {
        let (x, w) = (self.input(0)?, self.input(1)?);
        let mut attrs = self.node.attrs.clone();
        let activation = attrs.remove("activation");
        let params = match attrs.remove("activation_params") {
            None => Vec::new(),
            Some(Attr::Floats(v)) => v,
            Some(other) => return Err(format!("attribute activation_params: expected floats, got {other}")),
        };
        let mut inputs = vec![x.as_str(), w.as_str()];
        inputs.extend(self.node.input(2));
        let mut y = self.op("Conv", "conv", &inputs, &listed(&attrs));
        if let Some(z) = self.node.input(3) {
            y = self.op("Add", "sum", &[&y, z], &[]);
        }
        let names: &[&str] = match &activation {
            Some(Attr::Str(name)) if name == "LeakyRelu" => &["alpha"],
            Some(Attr::Str(name)) if name == "Clip" => &["min", "max"],
            Some(Attr::Str(name)) if name == "HardSigmoid" => &["alpha", "beta"],
            _ => &[],
        };
        let params = names.iter().zip(params).map(|(name, v)| ((*name).to_owned(), Attr::Float(v))).collect();
        self.activation(activation.as_ref(), &y, &params)
    }

    /// y = activation(gemm(a, b, c))
    fn fused_gemm(&mut self) -> Result<(), String> {
        let mut attrs = self.node.attrs.clone();
        let activation = attrs.remove("activation");
        let mut params = Attrs::new();
        for name in ["alpha", "beta", "gamma"] {
            params.extend(attrs.remove(&format!("activation_{name}")).map(|v| (name.to_owned(), v)));
        }
        let inputs: Vec<String> = self.node.inputs.clone();
        let y = self.op("Gemm", "gemm", &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &listed(&attrs));
        self.activation(activation.as_ref(), &y, &params)
    }

    /// The activation that is fused into a product, as the last node. Parameters an activation does not have are dropped:
    /// optimisers write them all the same.
    fn activation(&mut self, activation: Option<&Attr>, x: &str, params: &Attrs) -> Result<(), String> {
        let y = self.output(0)?;
        let name = match activation {
            None => "Identity",
            Some(Attr::Str(name)) if name.is_empty() => "Identity",
            Some(Attr::Str(name)) => name,
            Some(other) => return Err(format!("attribute activation: expected a string, got {other}")),
        };
        let own: &[&str] = match name {
            "Identity" | "Relu" | "Tanh" | "Sigmoid" | "Softplus" | "Softsign" | "HardSwish" => &[],
            "LeakyRelu" | "Elu" | "ThresholdedRelu" | "Celu" => &["alpha"],
            "HardSigmoid" => &["alpha", "beta"],
            "Clip" => &["min", "max"],
            other => return Err(format!("the fused activation {other} is not supported")),
        };
        let params: Vec<(&str, Attr)> =
            own.iter().filter_map(|name| params.get(*name).map(|v| (*name, v.clone()))).collect();
        if name != "Clip" {
            self.to(name, &[x], &y, &params);
            return Ok(());
        }
        let mut inputs = vec![x.to_owned()];
        for (part, value) in params {
            let Attr::Float(v) = value else { return Err(format!("attribute {part}: expected a float, got {value}")) };
            inputs.push(self.constant(part, Tensor::scalar(v)));
        }
        self.to("Clip", &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &y, &[]);
        Ok(())
    }

    // --- sums with a normalisation -----------------------------------------------------------------------------------

    /// s = x + skip + bias, y = norm(s) with the parameters from input 2 to before the bias; s itself is output 3
    fn skip_norm(&mut self, op: &str, at_bias: usize) -> Result<(), String> {
        self.only(&["epsilon"])?;
        self.unread(1..3, "mean and deviation")?;
        let (x, skip, y) = (self.input(0)?, self.input(1)?, self.output(0)?);
        let mut sum = self.op("Add", "skip", &[&x, &skip], &[]);
        if let Some(bias) = self.node.input(at_bias) {
            sum = self.op("Add", "bias", &[&sum, bias], &[]);
        }
        if let Some(out) = self.node.output(3) {
            let name = self.pen.node_name(self.node, "sum");
            self.pen.push(&name, "", "Identity", &[&sum], &[out], &[]);
        }
        let mut inputs = vec![sum.as_str()];
        inputs.extend((2..at_bias).map_while(|i| self.node.input(i)));
        let epsilon = self.float("epsilon")?.unwrap_or(1e-12);
        self.pen.push(&self.node.name, "", op, &inputs, &[&y], &[("epsilon", Attr::Float(epsilon))]);
        Ok(())
    }

    // --- small ones --------------------------------------------------------------------------------------------------

    fn op(&mut self, op: &str, part: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
        self.pen.op(self.node, op, part, inputs, attrs)
    }

    fn to(&mut self, op: &str, inputs: &[&str], output: &str, attrs: &[(&str, Attr)]) {
        self.pen.to(self.node, op, inputs, output, attrs);
    }

    fn constant(&mut self, part: &str, tensor: Tensor) -> String {
        self.pen.constant(self.node, part, tensor)
    }

    /// Lengths of the axes from `start` to before `end`, as a list.
    fn lengths(&mut self, x: &str, start: i64, end: i64, part: &str) -> String {
        self.op("Shape", part, &[x], &[("start", Attr::Int(start)), ("end", Attr::Int(end))])
    }

    fn joined(&mut self, part: &str, lists: &[&str]) -> String {
        self.op("Concat", part, lists, &[("axis", Attr::Int(0))])
    }

    fn input(&self, i: usize) -> Result<String, String> {
        self.node.input(i).map(str::to_owned).ok_or_else(|| format!("input {i} is missing"))
    }

    fn output(&self, i: usize) -> Result<String, String> {
        self.node.output(i).map(str::to_owned).ok_or_else(|| format!("output {i} is missing"))
    }

    fn float(&self, name: &str) -> Result<Option<f32>, String> {
        match self.node.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Float(v)) => Ok(Some(*v)),
            Some(other) => Err(format!("attribute {name}: expected a float, got {other}")),
        }
    }

    fn int(&self, name: &str) -> Result<Option<i64>, String> {
        match self.node.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Int(v)) => Ok(Some(*v)),
            Some(other) => Err(format!("attribute {name}: expected an integer, got {other}")),
        }
    }

    /// An error for every attribute that is not among `known`.
    fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.node.attrs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, value)) => Err(format!("attribute {name} is not understood (value {value})")),
        }
    }

    /// An error where a flag is on.
    fn off(&self, name: &str) -> Result<(), String> {
        match self.int(name)? {
            None | Some(0) => Ok(()),
            Some(v) => Err(format!("attribute {name}: expected 0, got {v}")),
        }
    }

    /// An error where an input is given that is not covered.
    fn without(&self, inputs: &[(usize, &str)]) -> Result<(), String> {
        match inputs.iter().find(|(i, _)| self.node.input(*i).is_some()) {
            None => Ok(()),
            Some((i, what)) => Err(format!("input {i} ({what}) is not supported; export the model without it")),
        }
    }

    /// An error where an output is used that is not covered.
    fn unread(&self, mut outputs: std::ops::Range<usize>, what: &str) -> Result<(), String> {
        match outputs.find(|&i| self.node.output(i).is_some_and(|name| self.read.contains(name))) {
            None => Ok(()),
            Some(i) => Err(format!("output {i} is used ({what}), which is not supported")),
        }
    }
}

fn listed(attrs: &Attrs) -> Vec<(&str, Attr)> {
    attrs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
}
