//! Sums with a bias that something else is fused to.

use super::{MICROSOFT, Writer};
use crate::graph::Attr;

impl Writer<'_> {
    /// y = op(x + b)
    pub(super) fn biased(&mut self, op: &str) -> Result<(), String> {
        self.only(&[])?;
        let (x, b, y) = (self.input(0)?, self.input(1)?, self.output(0)?);
        let sum = self.op("Add", "sum", &[&x, &b], &[]);
        self.pen.push(&self.node.name, MICROSOFT, op, &[&sum], &[&y], &[]);
        Ok(())
    }

    /// y = x + b + skip
    pub(super) fn bias_add(&mut self) -> Result<(), String> {
        self.only(&[])?;
        let (x, b, skip, y) = (self.input(0)?, self.input(1)?, self.input(2)?, self.output(0)?);
        let sum = self.op("Add", "sum", &[&x, &b], &[]);
        self.to("Add", &[&sum, &skip], &y, &[]);
        Ok(())
    }

    /// y = u gelu(v), u and v being the halves of x + b along the last axis
    pub(super) fn bias_split_gelu(&mut self) -> Result<(), String> {
        self.only(&[])?;
        let (x, b, y) = (self.input(0)?, self.input(1)?, self.output(0)?);
        let sum = self.op("Add", "sum", &[&x, &b], &[]);
        let halves = ["value", "gate"].map(|part| self.pen.fresh(self.node, part));
        let outputs = halves.each_ref().map(String::as_str);
        let name = self.pen.node_name(self.node, "split");
        let attrs = [("axis", Attr::Int(-1)), ("num_outputs", Attr::Int(2))];
        self.pen.push(&name, "", "Split", &[&sum], &outputs, &attrs);
        let (gelu, name) = (self.pen.fresh(self.node, "gelu"), self.pen.node_name(self.node, "gelu"));
        self.pen.push(&name, MICROSOFT, "Gelu", &[&halves[1]], &[&gelu], &[]);
        self.to("Mul", &[&halves[0], &gelu], &y, &[]);
        Ok(())
    }

    /// y = softmax(x + b) over all axes from `axis` on. How b is broadcast shows in its shape; the attribute
    /// `is_inner_broadcast` tells it to a kernel.
    pub(super) fn bias_softmax(&mut self) -> Result<(), String> {
        self.only(&["axis", "is_inner_broadcast"])?;
        let (x, b, y) = (self.input(0)?, self.input(1)?, self.output(0)?);
        let axis = self.int("axis")?.unwrap_or(1);
        let sum = self.op("Add", "sum", &[&x, &b], &[]);
        let shape = self.op("Shape", "shape", &[&sum], &[]);
        let flat = self.op("Flatten", "flat", &[&sum], &[("axis", Attr::Int(axis))]);
        let soft = self.op("Softmax", "soft", &[&flat], &[("axis", Attr::Int(1))]);
        self.to("Reshape", &[&soft, &shape], &y, &[]);
        Ok(())
    }

    /// y = x + b + residual: outside training nothing is dropped
    pub(super) fn bias_dropout(&mut self) -> Result<(), String> {
        self.only(&["seed"])?;
        self.pen.no_training(self.node.input(4))?;
        self.unread(1..2, "the mask of what is dropped")?;
        let (x, b, y) = (self.input(0)?, self.input(1)?, self.output(0)?);
        let Some(residual) = self.node.input(2) else {
            self.to("Add", &[&x, &b], &y, &[]);
            return Ok(());
        };
        let sum = self.op("Add", "sum", &[&x, &b], &[]);
        self.to("Add", &[&sum, residual], &y, &[]);
        Ok(())
    }
}
