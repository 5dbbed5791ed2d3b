//! Which form a map over windows takes: by rules of shape, or as the graph was told.

use super::{
    Emit,
    conv::{self, Geometry, trimmed},
    pool,
};
use crate::{
    graph::{Attrs, Builder, Node, Value},
    kernel::{Axis, Convolution, Isa, Sizes},
    tensor::DType,
};
use std::{collections::HashMap, fmt};

/// How a convolution, forward or its gradients, or the gradient of a pool is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The tool's own operator ([`native`](crate::graph::native)), on devices that have it, in float32.
    Native,
    /// The same without minimal filtering.
    Sums,
    /// The runtime's own operator: `Conv` forward and for the weight, `ConvTranspose` for the input and for averages,
    /// `ScatterElements` for maxima.
    Direct,
    /// For the input, where all strides are 1: a `Conv` with the kernel turned round and its channels swapped.
    Flipped,
    /// For the weight: one product an image, over the columns of that image.
    Images,
    /// One product for the whole batch over columns that hold the batch in their last axis.
    Columns,
    /// One product for the whole batch with the weight spread out to a matrix of all positions against all windows.
    Dense,
    /// For averages over windows that share nothing: every number is repeated.
    Repeated,
}

impl Form {
    const ALL: [Self; 8] = [
        Self::Native,
        Self::Sums,
        Self::Direct,
        Self::Flipped,
        Self::Images,
        Self::Columns,
        Self::Dense,
        Self::Repeated,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Sums => "sums",
            Self::Direct => "direct",
            Self::Flipped => "flipped",
            Self::Images => "images",
            Self::Columns => "columns",
            Self::Dense => "dense",
            Self::Repeated => "repeated",
        }
    }

    /// The form that is called so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }
}

/// One of the three maps of a convolution, or of the two back through a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// From x and w to y.
    Forward,
    /// From dy and w to dx.
    Input,
    /// From x and dy to dw.
    Weight,
    /// From dy to dx, where every window has given the sum of what it read.
    Average,
    /// From x and dy to dx, where every window has given the largest x that it read.
    Maximum,
}

/// What is to be computed: a map between arrays of these sizes. A pool has a group for every channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The map.
    pub map: Map,
    /// What it reads where.
    pub geometry: Geometry,
}

/// `weight: 256 x 64 -> 64, groups 1, axes [8, 8, 3, 1, 1, 1, 1, ..]`: batch, channels, and the numbers of each axis.
impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = match self.map {
            Map::Forward => "forward",
            Map::Input => "input",
            Map::Weight => "weight",
            Map::Average => "average",
            Map::Maximum => "maximum",
        };
        let Geometry { n, c, m, g, axes } = &self.geometry;
        write!(f, "{map}: {n} x {c} -> {m}, groups {g}, axes {:?}", Axis::to_numbers(axes))
    }
}

impl Task {
    /// Products of numbers that the definition takes.
    pub fn products(&self) -> usize {
        let q = &self.geometry;
        q.pairs() * q.n * q.m * (q.c / q.g)
    }

    /// The form that the rules choose, where the graph may hold the tool's own operators or not.
    pub fn usual(&self, native: bool) -> Form {
        let q = &self.geometry;
        match self.map {
            Map::Average if pool::repeats(q) && (!native || q.axes.iter().any(|a| a.kernel > a.stride)) => {
                Form::Repeated
            }
            _ if native && q.is_native() => Form::Native,
            Map::Average | Map::Maximum => Form::Direct,
            Map::Forward => forward_form(q),
            Map::Input => input_form(q),
            Map::Weight => weight_form(q),
        }
    }

    /// The forms that may be the fastest, the usual one first: those that apply, without those that copy so much or spread a
    /// weight so far that they cannot win.
    pub fn candidates(&self, native: bool) -> Vec<Form> {
        /// Elements of what is made on the way.
        const COPIED: usize = 1 << 25;
        /// Entries of a weight that is spread out, for every pair of channels.
        const SPREAD: usize = 64;
        let q = &self.geometry;
        let columns = q.n * q.c * q.taps() * q.windows() <= COPIED;
        let pairs = q.windows() * q.positions();
        let products = q.n * q.m * q.c / q.g * q.taps() <= COPIED;
        let may = |form: &Form| match (self.map, form) {
            (_, Form::Native) => native && q.is_native(),
            (Map::Input | Map::Average, Form::Flipped) => q.is_unstrided(),
            (Map::Average, Form::Repeated) => pool::repeats(q),
            (Map::Average | Map::Maximum, form) => *form == Form::Direct,
            (_, Form::Sums) => native && q.g == 1 && self.has_tiles(),
            (map, Form::Direct) => map != Map::Weight || q.g == 1 && q.windows() <= SPREAD,
            (map, Form::Images) => map == Map::Weight && columns && products,
            (_, Form::Columns) => columns,
            (_, Form::Dense) => q.g == 1 && pairs <= SPREAD && q.c * q.m * pairs <= COPIED,
            (_, Form::Flipped | Form::Repeated) => false,
        };
        let usual = self.usual(native);
        let others = Form::ALL.into_iter().filter(|form| *form != usual && may(form));
        std::iter::once(usual).chain(others).collect()
    }

    fn has_tiles(&self) -> bool {
        let &Geometry { n, c, m, ref axes, .. } = &self.geometry;
        Convolution::new(axes, Isa::detect()).has_tiles(Sizes { n, c, m }, self.map == Map::Input)
    }

    /// Shapes of the arrays that the map reads.
    pub fn reads(&self) -> Vec<Vec<usize>> {
        let q = &self.geometry;
        let x = q.shape(&[q.n, q.c], |a| a.size);
        let w = q.shape(&[q.m, q.c / q.g], |a| a.kernel);
        let dy = q.shape(&[q.n, q.m], |a| a.out);
        match self.map {
            Map::Forward => vec![x, w],
            Map::Input => vec![dy, w],
            Map::Weight | Map::Maximum => vec![x, dy],
            Map::Average => vec![dy],
        }
    }

    /// Writes it into a graph in this form, from what it [reads](Self::reads).
    pub fn write(&self, graph: &mut Builder, form: Form, read: &[Value]) -> Value {
        // Rules are written for a node; none of these asks it for anything.
        let node = Node {
            name: "task".into(),
            op: "Conv".into(),
            domain: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            attrs: Attrs::new(),
        };
        let known = HashMap::new();
        let e = &mut Emit::new(graph, &node, &known, &[], 0, DType::F32);
        let (q, a, b) = (&self.geometry, &read[0], &read[read.len() - 1]);
        match self.map {
            Map::Forward => conv::forward(e, q, form, a, b),
            Map::Input => conv::input_gradient(e, q, form, a, b),
            Map::Weight => conv::weight_gradient(e, q, form, a, b),
            Map::Average => pool::average_gradient(e, q, form, a),
            Map::Maximum => pool::maximum_gradient(e, q, form, a, b),
        }
    }
}

/// The form of a map in the graph of `e`: the one that the graph was told, where there is one, else that of the rules.
pub(super) fn chosen(e: &Emit<'_>, map: Map, q: &Geometry) -> Form {
    let task = Task { map, geometry: q.clone() };
    let native = e.is_native();
    let told = e.graph.form(&task.to_string()).and_then(Form::named);
    // Whoever tells may be wrong, and some forms of large maps are larger than any memory.
    told.filter(|form| task.candidates(native).contains(form)).unwrap_or_else(|| task.usual(native))
}

/// The form of the gradient to the input.
///
/// This and the next two come from measurements on two CPU cores at batch 256; `cargo test --release --test gradients --
/// --ignored convolution_forms --nocapture` repeats them. On small maps the runtime's operators, which work image by
/// image, run products too small for the machine; above, turning the kernel round is cheap beside what `Conv` gains over
/// `ConvTranspose`.
fn input_form(q: &Geometry) -> Form {
    if covers(q) && q.windows() == 1 {
        Form::Dense
    } else if small(q) {
        Form::Columns
    } else if q.is_unstrided() {
        Form::Flipped
    } else {
        Form::Direct
    }
}

/// The form of the gradient to the weight.
fn weight_form(q: &Geometry) -> Form {
    let many = q.windows() >= 256 && q.c >= 16;
    if covers(q) {
        Form::Dense
    } else if q.g == 1 && (many || q.taps() == 1 && q.windows() >= 9) {
        Form::Images
    } else {
        Form::Columns
    }
}

/// The form of the convolution itself, where its weight changes from step to step.
fn forward_form(q: &Geometry) -> Form {
    if covers(q) && q.windows() == 1 {
        Form::Dense
    } else if small(q) {
        Form::Columns
    } else {
        Form::Direct
    }
}

/// Too few windows an image for a product of their own; with many channels the limit is higher, because the weight is
/// then what each small product has to read again.
fn small(q: &Geometry) -> bool {
    let limit = if q.c * q.m >= 1 << 16 && q.taps() > 1 { 16 } else { 8 };
    q.g == 1 && q.windows() <= limit
}

/// True when every window sees every position of a small map. Spread out, the weight has an entry for every window and
/// position; that is then no more work than the convolution, and windows on padding cost nothing.
fn covers(q: &Geometry) -> bool {
    let q = trimmed(q).geometry;
    let entries = q.windows() * q.positions();
    q.g == 1 && (q.windows() == 1 || entries <= 16) && entries == q.pairs()
}
