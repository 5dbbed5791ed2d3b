//! Attention: y = softmax(scale * Q K^T + mask) V for every head.

use super::Writer;
use crate::{
    graph::Attr,
    tensor::{DType, Tensor},
};

impl Writer<'_> {
    /// Query, key and value are [batch, length, heads * size each], with a bias for the three in one. Key and value, or all
    /// three, may also come as one input: [batch, length, heads, 2 or 3, size].
    pub(super) fn multi_head_attention(&mut self) -> Result<(), String> {
        self.only(&["num_heads", "scale", "mask_filter_value", "unidirectional"])?;
        self.off("unidirectional")?;
        self.without(&[(6, "past_key"), (7, "past_value"), (8, "past_sequence_length"), (9, "cache_indirection")])?;
        self.unread(1..4, "present keys and values")?;
        let heads = self.heads("num_heads")?;
        let mut parts = match [0, 1, 2].map(|i| self.node.input(i).map(str::to_owned)) {
            // Keys and values that are laid out by head already have a fourth axis. This says that there are three.
            [Some(q), Some(k), Some(v)] => [(q, "query"), (k, "key"), (v, "value")]
                .map(|(x, part)| self.op("Transpose", part, &[&x], &[("perm", [0, 1, 2].into())]))
                .to_vec(),
            [Some(q), Some(kv), None] => [vec![q], self.packed(&kv, &["key", "value"])].concat(),
            [Some(qkv), None, None] => self.packed(&qkv, &["query", "key", "value"]),
            _ => return Err("the query is missing".into()),
        };
        if let Some(bias) = self.node.input(3).map(str::to_owned) {
            let widths: Vec<String> = parts.iter().map(|p| self.lengths(p, 2, 3, "width")).collect();
            let widths = self.joined("widths", &widths.iter().map(String::as_str).collect::<Vec<_>>());
            let split = ["query_bias", "key_bias", "value_bias"].map(|part| self.pen.fresh(self.node, part));
            let outputs = split.each_ref().map(String::as_str);
            let name = self.pen.node_name(self.node, "split");
            self.pen.push(&name, "", "Split", &[&bias, &widths], &outputs, &[("axis", Attr::Int(0))]);
            for (part, bias) in parts.iter_mut().zip(&split) {
                *part = self.op("Add", "biased", &[part, bias], &[]);
            }
        }
        let masks = self.masks(4, 5, &parts[1])?;
        self.headed([&parts[0], &parts[1], &parts[2]], heads, &masks, false)
    }

    /// The parts of x [batch, length, heads, parts, size], each as [batch, length, heads * size].
    fn packed(&mut self, x: &str, names: &[&str]) -> Vec<String> {
        let split: Vec<String> = names.iter().map(|part| self.pen.fresh(self.node, part)).collect();
        let name = self.pen.node_name(self.node, "unpacked");
        let attrs = [("axis", Attr::Int(3)), ("num_outputs", Attr::Int(names.len() as i64))];
        let outputs: Vec<&str> = split.iter().map(String::as_str).collect();
        self.pen.push(&name, "", "Split", &[x], &outputs, &attrs);
        let shape = self.constant("in_a_row", Tensor::ints(&[0, 0, -1]));
        split.iter().zip(names).map(|(x, part)| self.op("Reshape", part, &[x, &shape], &[])).collect()
    }

    /// One product makes query, key and value from x [batch, length, width].
    pub(super) fn packed_attention(&mut self) -> Result<(), String> {
        self.only(&["num_heads", "scale", "mask_filter_value", "unidirectional", "qkv_hidden_sizes", "do_rotary"])?;
        self.off("do_rotary")?;
        self.without(&[(4, "past"), (6, "past_sequence_length")])?;
        self.unread(1..2, "present keys and values")?;
        let heads = self.heads("num_heads")?;
        let causal = self.int("unidirectional")?.unwrap_or(0) != 0;
        let (x, w) = (self.input(0)?, self.input(1)?);
        let mut product = self.op("MatMul", "product", &[&x, &w], &[]);
        if let Some(bias) = self.node.input(2) {
            product = self.op("Add", "biased", &[&product, bias], &[]);
        }
        let parts = ["query", "key", "value"].map(|part| self.pen.fresh(self.node, part));
        let outputs = parts.each_ref().map(String::as_str);
        let mut inputs = vec![product];
        let mut attrs = vec![("axis", Attr::Int(-1))];
        match self.node.attrs.get("qkv_hidden_sizes") {
            Some(Attr::Ints(v)) => inputs.push(self.constant("widths", Tensor::ints(v))),
            Some(other) => return Err(format!("attribute qkv_hidden_sizes: expected integers, got {other}")),
            None => attrs.push(("num_outputs", Attr::Int(3))),
        }
        let name = self.pen.node_name(self.node, "split");
        self.pen.push(&name, "", "Split", &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &outputs, &attrs);
        let masks = self.masks(3, 5, &x)?;
        self.headed(outputs, heads, &masks, causal)
    }

    /// Attention of [batch, length, heads * size] each, with as many heads of keys as of queries.
    fn headed(&mut self, parts: [&str; 3], heads: i64, masks: &[String], causal: bool) -> Result<(), String> {
        let [q, k, v] = parts.map(|x| self.split_heads(x, heads));
        let seen = causal.then(|| self.earlier(&q, &k));
        let y = self.heads_attention(&q, &k, &v, masks, seen.as_deref(), None)?;
        self.join_heads(&y)
    }

    /// What is added to the scores: for the keys that input `padding` leaves out, and input `bias`. The axis behind the
    /// batch in `keys` has the length of the sequence of keys.
    fn masks(&mut self, padding: usize, bias: usize, keys: &str) -> Result<Vec<String>, String> {
        let mut masks = Vec::new();
        if let Some(mask) = self.node.input(padding).map(str::to_owned) {
            masks.push(self.padding(&mask, keys)?);
        }
        masks.extend(self.node.input(bias).map(str::to_owned));
        Ok(masks)
    }

    /// 0 for the keys that a mask names, `mask_filter_value` for the others. The mask says how many keys of each sequence
    /// count [batch], or which ones: [batch, keys] or [batch, queries, keys].
    fn padding(&mut self, mask: &str, keys: &str) -> Result<String, String> {
        let zero = self.constant("none", Tensor::ints(&[0]));
        let (seen, at) = match self.pen.rank(mask) {
            Some(1) => {
                // One number a sequence: the runtime has forms with more, for which this reshape fails.
                let batch = self.lengths(keys, 0, 1, "batch");
                let ends = self.op("Cast", "long_ends", &[mask], &[("to", Attr::Int(7))]);
                let ends = self.op("Reshape", "ends", &[&ends, &batch], &[]);
                let last = self.constant("last", Tensor::ints(&[1]));
                let ends = self.op("Unsqueeze", "end", &[&ends, &last], &[]);
                let places = self.places(keys, 1, "places");
                (self.op("Less", "seen", &[&places, &ends], &[]), &[1, 2][..])
            }
            Some(rank @ (2 | 3)) => {
                let marks = self.op("Cast", "marks", &[mask], &[("to", Attr::Int(7))]);
                (self.op("Greater", "seen", &[&marks, &zero], &[]), if rank == 2 { &[1, 2] } else { &[1][..] })
            }
            Some(rank) => {
                return Err(format!("the mask {mask:?} has {rank} axes; ONNX Runtime has that on CUDA only"));
            }
            None => {
                return Err(format!(
                    "the rank of the mask {mask:?} is not known, and with it its meaning; let it be a graph input of known \
                     rank"
                ));
            }
        };
        let at = self.constant("mask_axes", Tensor::ints(at));
        let seen = self.op("Unsqueeze", "seen_by_head", &[&seen, &at], &[]);
        let filter = self.float("mask_filter_value")?.unwrap_or(-10000.0);
        let (nothing, filter) =
            (self.constant("nothing", Tensor::scalar(0.0)), self.constant("filter", Tensor::scalar(filter)));
        Ok(self.op("Where", "padding", &[&seen, &nothing, &filter], &[]))
    }

    /// 0, 1, 2 ... along an axis of x.
    fn places(&mut self, x: &str, axis: i64, part: &str) -> String {
        let scalar = |v| Tensor::i64([], vec![v]);
        let length = self.lengths(x, axis, axis + 1, "length");
        let none = self.constant("first_axis", Tensor::ints(&[0]));
        let length = self.op("Squeeze", "limit", &[&length, &none], &[]);
        let (start, step) = (self.constant("start", scalar(0)), self.constant("step", scalar(1)));
        self.op("Range", part, &[&start, &length, &step], &[])
    }

    /// True where a key of k stands no later than the query of q, [queries, keys].
    fn earlier(&mut self, q: &str, k: &str) -> String {
        let (rows, columns) = (self.lengths(q, 2, 3, "rows"), self.lengths(k, 2, 3, "columns"));
        let shape = self.joined("square", &[&rows, &columns]);
        let ones = self.op("ConstantOfShape", "ones", &[&shape], &[("value", Tensor::f32([1], vec![1.0]).into())]);
        let lower = self.op("Trilu", "lower", &[&ones], &[("upper", Attr::Int(0))]);
        self.op("Cast", "earlier", &[&lower], &[("to", Attr::Int(9))])
    }

    /// True for the keys that count, of which `counts` [batch] says how many come first: [batch, 1, 1, keys]. Where a
    /// query sees no later ones, the last query stands with the last key that counts: [batch, 1, queries, keys].
    fn counted(&mut self, counts: &str, q: &str, k: &str, causal: bool) -> String {
        let axes = self.constant("count_axes", Tensor::ints(&[1, 2, 3]));
        let ends = self.op("Unsqueeze", "ends", &[counts, &axes], &[]);
        let keys = self.places(k, 2, "keys");
        if !causal {
            return self.op("Less", "counted", &[&keys, &ends], &[]);
        }
        let rows = self.lengths(q, 2, 3, "rows");
        let ahead = self.op("Sub", "ahead", &[&ends, &rows], &[]);
        let last = self.constant("last", Tensor::ints(&[1]));
        let queries = self.places(q, 2, "queries");
        let queries = self.op("Unsqueeze", "query", &[&queries, &last], &[]);
        let reach = self.op("Add", "reach", &[&queries, &ahead], &[]);
        self.op("LessOrEqual", "counted", &[&keys, &reach], &[])
    }

    /// The standard's operator. With `q_num_heads` its inputs are as above, otherwise [batch, heads, length, size].
    pub(super) fn attention(&mut self) -> Result<(), String> {
        self.only(&[
            "is_causal",
            "kv_num_heads",
            "q_num_heads",
            "qk_matmul_output_mode",
            "scale",
            "softcap",
            "softmax_precision",
        ])?;
        self.without(&[(4, "past_key"), (5, "past_value")])?;
        self.unread(1..4, "present keys and values, and scores")?;
        let causal = self.int("is_causal")?.unwrap_or(0) != 0;
        let softcap = self.float("softcap")?.filter(|&v| v > 0.0);
        let masks: Vec<String> = self.node.input(3).map(str::to_owned).into_iter().collect();
        let (mut q, mut k, mut v) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let flat = self.int("q_num_heads")?.is_some();
        if flat {
            let (queries, keys) = (self.heads("q_num_heads")?, self.heads("kv_num_heads")?);
            q = self.split_heads(&q, queries);
            k = self.split_heads(&k, keys);
            v = self.split_heads(&v, keys);
            if queries != keys {
                (k, v) = (self.repeated_heads(&q, &k), self.repeated_heads(&q, &v));
            }
        } else {
            // How many heads there are is not written in the file; for equally many this changes nothing.
            (k, v) = (self.repeated_heads(&q, &k), self.repeated_heads(&q, &v));
        }
        let counts = self.node.input(6).is_some();
        let seen = match self.node.input(6).map(str::to_owned) {
            Some(counts) => Some(self.counted(&counts, &q, &k, causal)),
            None => causal.then(|| self.earlier(&q, &k)),
        };
        let mut y = self.heads_attention(&q, &k, &v, &masks, seen.as_deref(), softcap)?;
        let mut sights: Vec<String> = masks.into_iter().filter(|m| self.pen.dtype(m) == Some(DType::Bool)).collect();
        // In order alone every query sees the first key.
        if !sights.is_empty() || counts {
            sights.extend(seen);
            y = self.where_any_seen(&y, &sights);
        }
        if flat {
            return self.join_heads(&y);
        }
        let output = self.output(0)?;
        self.to("Identity", &[&y], &output, &[]);
        Ok(())
    }

    /// [batch, length, heads * size] as [batch, heads, length, size].
    fn split_heads(&mut self, x: &str, heads: i64) -> String {
        let shape = self.constant("heads", Tensor::ints(&[0, 0, heads, -1]));
        let split = self.op("Reshape", "split", &[x, &shape], &[]);
        self.op("Transpose", "by_head", &[&split], &[("perm", [0, 2, 1, 3].into())])
    }

    /// [batch, heads, length, size] as [batch, length, heads * size], the output of the node.
    fn join_heads(&mut self, y: &str) -> Result<(), String> {
        let output = self.output(0)?;
        let by_place = self.op("Transpose", "by_place", &[y], &[("perm", [0, 2, 1, 3].into())]);
        let shape = self.constant("joined", Tensor::ints(&[0, 0, -1]));
        self.to("Reshape", &[&by_place, &shape], &output, &[]);
        Ok(())
    }

    /// y [batch, heads, queries, size] where a query sees a key, else 0: softmax alone would give the mean of all values.
    fn where_any_seen(&mut self, y: &str, sights: &[String]) -> String {
        let both = |all: String, sight: &String| self.op("And", "seen_by_both", &[&all, sight], &[]);
        let seen = sights[1..].iter().fold(sights[0].clone(), both);
        let seen = self.op("Cast", "seen_or_not", &[&seen], &[("to", Attr::Int(1))]);
        let last = self.constant("last", Tensor::ints(&[-1]));
        let any = self.op("ReduceMax", "any_seen", &[&seen, &last], &[]);
        self.op("Mul", "or_nothing", &[y, &any], &[])
    }

    /// x [batch, heads, length, size] with every head as often in a row as needed to have one for each head of q.
    fn repeated_heads(&mut self, q: &str, x: &str) -> String {
        let (wanted, given, rest) =
            (self.lengths(q, 1, 2, "q_heads"), self.lengths(x, 1, 2, "heads"), self.lengths(x, 2, 4, "rest"));
        let times = self.op("Div", "times", &[&wanted, &given], &[]);
        let one = self.constant("one", Tensor::ints(&[1]));
        let same = self.constant("same", Tensor::ints(&[0]));
        let axis = self.constant("axis", Tensor::ints(&[2]));
        let copies = self.joined("copies", &[&one, &one, &times, &one, &one]);
        let shape = self.joined("shape", &[&same, &wanted, &rest]);
        let wide = self.op("Unsqueeze", "wide", &[x, &axis], &[]);
        let wide = self.op("Expand", "copied", &[&wide, &copies], &[]);
        self.op("Reshape", "repeated", &[&wide, &shape], &[])
    }

    /// y = softmax(cap(scale * q k^T) + masks) v on [batch, heads, length, size], over the keys that are `seen`; the name
    /// of y.
    fn heads_attention(
        &mut self,
        q: &str,
        k: &str,
        v: &str,
        masks: &[String],
        seen: Option<&str>,
        softcap: Option<f32>,
    ) -> Result<String, String> {
        let scale = if let Some(scale) = self.float("scale")?.filter(|&s| s != 0.0) {
            self.constant("scale", Tensor::scalar(scale))
        } else {
            let size = self.lengths(q, 3, 4, "size");
            let size = self.op("Cast", "float_size", &[&size], &[("to", Attr::Int(1))]);
            let root = self.op("Sqrt", "root", &[&size], &[]);
            self.op("Reciprocal", "scale", &[&root], &[])
        };
        let q = self.op("Mul", "scaled", &[q, &scale], &[]);
        let k = self.op("Transpose", "across", &[k], &[("perm", [0, 1, 3, 2].into())]);
        let mut scores = self.op("MatMul", "scores", &[&q, &k], &[]);
        if let Some(cap) = softcap {
            let cap = self.constant("cap", Tensor::scalar(cap));
            let share = self.op("Div", "share", &[&scores, &cap], &[]);
            let bent = self.op("Tanh", "bent", &[&share], &[]);
            scores = self.op("Mul", "capped", &[&bent, &cap], &[]);
        }
        for mask in masks {
            scores = match self.pen.dtype(mask) {
                Some(DType::Bool) => self.hidden(&scores, mask),
                Some(t) if t.is_float() => self.op("Add", "masked", &[&scores, mask], &[]),
                _ => return Err(format!("the element type of the mask {mask:?} is not known")),
            };
        }
        if let Some(seen) = seen {
            scores = self.hidden(&scores, seen);
        }
        let p = self.op("Softmax", "p", &[&scores], &[("axis", Attr::Int(-1))]);
        Ok(self.op("MatMul", "heads_out", &[&p, v], &[]))
    }

    /// Scores where `seen`, elsewhere a number so low that softmax makes it 0.
    fn hidden(&mut self, scores: &str, seen: &str) -> String {
        let low = self.constant("low", Tensor::scalar(f32::MIN));
        self.op("Where", "masked", &[seen, scores, &low], &[])
    }

    fn heads(&self, name: &str) -> Result<i64, String> {
        match self.int(name)? {
            Some(heads) if heads > 0 => Ok(heads),
            _ => Err(format!("attribute {name}: expected a positive integer")),
        }
    }
}
