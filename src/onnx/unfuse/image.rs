//! Operators on images that the fusions for GPUs write, most of them with the channels in the last axis.

use super::Writer;
use crate::{graph::Attr, tensor::Tensor};

/// From [N, H, W, C] to [N, C, H, W], and back.
const CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];
const CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];

impl Writer<'_> {
    /// y = conv(x, w) + b with x [N, H, W, C], w [M, kH, kW, C / group] and y [N, H', W', M]
    pub(super) fn nhwc_conv(&mut self) -> Result<(), String> {
        let (x, w, y) = (self.input(0)?, self.input(1)?, self.output(0)?);
        let x = self.op("Transpose", "x", &[&x], &[("perm", CHANNELS_FIRST.into())]);
        let w = self.op("Transpose", "w", &[&w], &[("perm", CHANNELS_FIRST.into())]);
        let mut inputs = vec![x.as_str(), w.as_str()];
        inputs.extend(self.node.input(2));
        let conv = self.op("Conv", "conv", &inputs, &super::listed(&self.node.attrs));
        self.to("Transpose", &[&conv], &y, &[("perm", CHANNELS_LAST.into())]);
        Ok(())
    }

    /// y = activation(gamma * xhat + beta), xhat being x [N, H, W, C] or [N, C, H, W], normalised in groups of channels
    pub(super) fn group_norm(&mut self) -> Result<(), String> {
        let x = self.input(0)?;
        let last = self.int("channels_last")?.unwrap_or(1) != 0;
        self.normalised_groups(&x, last)
    }

    /// s = x + skip + bias, y as in [`Self::group_norm`]; s itself is output 1. Channels are last.
    pub(super) fn skip_group_norm(&mut self) -> Result<(), String> {
        if self.int("channels_last")? == Some(0) {
            return Err("attribute channels_last: expected 1, got 0".into());
        }
        let (x, skip) = (self.input(0)?, self.input(3)?);
        // The skip may be [N, C]: ones go between its axes until there are four.
        let (first, between, last) = (
            self.lengths(&skip, 0, 1, "first"),
            self.lengths(&skip, 1, -1, "between"),
            self.lengths(&skip, -1, 4, "last"),
        );
        let ones = self.constant("ones", Tensor::ints(&[1, 1]));
        let between = self.joined("filled", &[&ones, &between]);
        let bounds = [("from", -2), ("to", i64::MAX)].map(|(part, v)| self.constant(part, Tensor::ints(&[v])));
        let between = self.op("Slice", "two", &[&between, &bounds[0], &bounds[1]], &[]);
        let shape = self.joined("shape", &[&first, &between, &last]);
        let skip = self.op("Reshape", "four", &[&skip, &shape], &[]);
        let mut sum = self.op("Add", "skip", &[&x, &skip], &[]);
        if let Some(bias) = self.node.input(4) {
            sum = self.op("Add", "bias", &[&sum, bias], &[]);
        }
        if let Some(out) = self.node.output(1) {
            let name = self.pen.node_name(self.node, "sum");
            self.pen.push(&name, "", "Identity", &[&sum], &[out], &[]);
        }
        self.normalised_groups(&sum, true)
    }

    fn normalised_groups(&mut self, x: &str, last: bool) -> Result<(), String> {
        self.only(&["activation", "channels_last", "epsilon", "groups"])?;
        let groups = match self.int("groups")? {
            Some(groups) if groups > 0 => groups,
            _ => return Err("attribute groups: expected a positive integer".into()),
        };
        let silu = match self.int("activation")? {
            None | Some(0) => false,
            Some(1) => true,
            Some(other) => return Err(format!("attribute activation: expected 0 (none) or 1 (SiLU), got {other}")),
        };
        let (gamma, beta, output) = (self.input(1)?, self.input(2)?, self.output(0)?);
        let x = if last { self.op("Transpose", "x", &[x], &[("perm", CHANNELS_FIRST.into())]) } else { x.to_owned() };
        // As many channels as groups, each with the pixels of a group, and no parameters of their own.
        let shape = self.op("Shape", "shape", &[&x], &[]);
        let grouped = self.constant("grouped", Tensor::ints(&[0, groups, -1]));
        let wide = self.op("Reshape", "groups", &[&x, &grouped], &[]);
        let of = |v| Tensor::f32([groups as usize], vec![v; groups as usize]);
        let (one, zero) = (self.constant("one", of(1.0)), self.constant("zero", of(0.0)));
        let epsilon = self.float("epsilon")?.unwrap_or(1e-5);
        let xhat =
            self.op("InstanceNormalization", "norm", &[&wide, &one, &zero], &[("epsilon", Attr::Float(epsilon))]);
        let xhat = self.op("Reshape", "xhat", &[&xhat, &shape], &[]);
        let axes = self.constant("axes", Tensor::ints(&[1, 2]));
        let gamma = self.op("Unsqueeze", "gamma", &[&gamma, &axes], &[]);
        let beta = self.op("Unsqueeze", "beta", &[&beta, &axes], &[]);
        let scaled = self.op("Mul", "scaled", &[&xhat, &gamma], &[]);
        let mut y = self.op("Add", "shifted", &[&scaled, &beta], &[]);
        if silu {
            let gate = self.op("Sigmoid", "gate", &[&y], &[]);
            y = self.op("Mul", "silu", &[&y, &gate], &[]);
        }
        if last {
            self.to("Transpose", &[&y], &output, &[("perm", CHANNELS_LAST.into())]);
        } else {
            self.to("Identity", &[&y], &output, &[]);
        }
        Ok(())
    }
}
