//! The first layer of a transformer: what a token is, where it stands and which segment it belongs to, normalised.

use super::Writer;
use crate::{graph::Attr, tensor::Tensor};

impl Writer<'_> {
    /// s = word[ids] + position[places] + segment[segments], y = layer norm of s. Output 1 counts the tokens that a mask
    /// leaves of every sequence, output 2 is s.
    pub(super) fn embed_layer_norm(&mut self) -> Result<(), String> {
        self.only(&["epsilon", "mask_index_type"])?;
        let (ids, word, position) = (self.input(0)?, self.input(2)?, self.input(3)?);
        let (gamma, beta, y) = (self.input(5)?, self.input(6)?, self.output(0)?);
        let rows = [("axis", Attr::Int(0))];
        let mut sum = self.op("Gather", "words", &[&word, &ids], &rows);
        let place = if let Some(places) = self.node.input(8) {
            self.op("Gather", "places", &[&position, places], &rows)
        } else {
            let (start, length) = (self.constant("start", Tensor::ints(&[0])), self.lengths(&ids, 1, 2, "length"));
            self.op("Slice", "places", &[&position, &start, &length], &[])
        };
        sum = self.op("Add", "placed", &[&sum, &place], &[]);
        if let (Some(segments), Some(table)) = (self.node.input(1), self.node.input(4)) {
            let segment = self.op("Gather", "segments", &[table, segments], &rows);
            sum = self.op("Add", "sum", &[&sum, &segment], &[]);
        }
        if let Some(out) = self.node.output(1) {
            self.tokens(&ids, out);
        }
        if let Some(out) = self.node.output(2) {
            let name = self.pen.node_name(self.node, "embedding_sum");
            self.pen.push(&name, "", "Identity", &[&sum], &[out], &[]);
        }
        let epsilon = self.float("epsilon")?.unwrap_or(1e-12);
        self.to("LayerNormalization", &[&sum, &gamma, &beta], &y, &[("epsilon", Attr::Float(epsilon))]);
        Ok(())
    }

    /// Number of ones of the mask for every sequence, and zeros where there is no mask.
    fn tokens(&mut self, ids: &str, out: &str) {
        let name = self.pen.node_name(self.node, "tokens");
        let (int32, axis) = ([("to", Attr::Int(6))], self.constant("places_axis", Tensor::ints(&[1])));
        let marks = if let Some(mask) = self.node.input(7) {
            let one = self.constant("one", Tensor::ints(&[1]));
            let one = self.op("Cast", "int_one", &[&one], &int32);
            let counted = self.op("Equal", "counted", &[mask, &one], &[]);
            self.op("Cast", "marks", &[&counted], &int32)
        } else {
            self.op("Sub", "marks", &[ids, ids], &[])
        };
        self.pen.push(&name, "", "ReduceSum", &[&marks, &axis], &[out], &[("keepdims", Attr::Int(0))]);
    }
}
