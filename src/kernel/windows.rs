//! Which inputs a convolution connects with which outputs, as runs of equal work.

/// The windows along one spatial axis: output o reads inputs `o * stride + t * dilation - before` for t in 0..kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Length of the input.
    pub size: usize,
    /// Number of windows.
    pub out: usize,
    /// Taps of a window.
    pub kernel: usize,
    /// Distance between windows.
    pub stride: usize,
    /// Distance between the taps of a window.
    pub dilation: usize,
    /// Padding before the first input; negative where the first inputs are never read.
    pub before: i64,
    /// Padding after the last input, as the node has it (windows of `ceil_mode` may reach farther).
    pub after: i64,
}

impl Axis {
    /// Distance from the first tap to just behind the last.
    pub fn extent(&self) -> usize {
        self.dilation * (self.kernel - 1) + 1
    }

    /// Length from the first tap of the first window to just behind the last tap of the last.
    pub fn span(&self) -> usize {
        (self.out - 1) * self.stride + self.extent()
    }

    /// Padding after the last input that makes the windows end exactly with it; negative where inputs are left over.
    pub fn tail(&self) -> i64 {
        self.span() as i64 - self.before - self.size as i64
    }

    /// The input that tap `t` of window `o` reads, `None` in the padding.
    pub fn reads(&self, o: usize, t: usize) -> Option<usize> {
        let at = (o * self.stride + t * self.dilation) as i64 - self.before;
        (0..self.size as i64).contains(&at).then_some(at as usize)
    }

    /// True when no input is read by two windows.
    pub fn apart(&self) -> bool {
        self.out == 1 || self.stride >= self.extent()
    }

    /// Every number of every axis, in the order of the fields.
    pub fn to_numbers(axes: &[Self]) -> Vec<i64> {
        let axis = |a: &Self| {
            let counts = [a.size, a.out, a.kernel, a.stride, a.dilation].map(|v| v as i64);
            counts.into_iter().chain([a.before, a.after])
        };
        axes.iter().flat_map(axis).collect()
    }

    /// The axes that [`Axis::to_numbers`] has written down; `None` for a list that ends within an axis.
    pub fn from_numbers(list: &[i64]) -> Option<Vec<Self>> {
        let (axes, rest) = list.as_chunks::<7>();
        let axis = |&[size, out, kernel, stride, dilation, before, after]: &[i64; 7]| {
            let [size, out, kernel, stride, dilation] = [size, out, kernel, stride, dilation].map(|v| v as usize);
            Self { size, out, kernel, stride, dilation, before, after }
        };
        rest.is_empty().then(|| axes.iter().map(axis).collect())
    }

    /// The window that reads input `p` through tap `t`, `None` where there is none.
    fn reader(&self, p: usize, t: usize) -> Option<usize> {
        let at = p as i64 + self.before - (t * self.dilation) as i64;
        let o = at / self.stride as i64;
        (at >= 0 && at % self.stride as i64 == 0 && o < self.out as i64).then_some(o as usize)
    }
}

/// Neighbouring results along the last axis that the same taps contribute to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Position of the first result.
    pub first: usize,
    /// Distance of two results.
    pub step: usize,
    /// Number of results.
    pub len: usize,
    /// Taps, and the position that each connects the first result with.
    pub taps: Vec<(usize, usize)>,
    /// How far those positions move from one result to the next.
    pub source_step: usize,
}

fn outputs(axes: &[Axis]) -> Vec<Run> {
    let along = |a: &Axis, o: usize| (0..a.kernel).filter_map(|t| Some((t, a.reads(o, t)?))).collect();
    let last = |a: &Axis| runs(a.out, 1, a.stride, |o| along(a, o));
    expand(axes, |a| a.out, |a| a.size, along, last)
}

fn inputs(axes: &[Axis]) -> Vec<Run> {
    let along = |a: &Axis, p: usize| (0..a.kernel).filter_map(|t| Some((t, a.reader(p, t)?))).collect();
    let last = |a: &Axis| runs(a.size, a.stride, 1, |p| along(a, p));
    expand(axes, |a| a.size, |a| a.out, along, last)
}

/// The windows of a map, and all that follows from them alone.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Taps of a window.
    pub taps: usize,
    /// Positions of an image.
    pub positions: usize,
    /// Windows of an image.
    pub windows: usize,
    /// What every window reads.
    pub outputs: Vec<Run>,
    /// Which windows read every position.
    pub inputs: Vec<Run>,
    /// The taps that connect anything at all.
    pub used: Vec<usize>,
    /// The place of each tap among these.
    pub slots: Vec<usize>,
}

impl Plan {
    /// The windows along these axes.
    pub fn new(axes: &[Axis]) -> Self {
        let (outputs, taps) = (outputs(axes), axes.iter().map(|a| a.kernel).product());
        let mut seen = vec![false; taps];
        outputs.iter().flat_map(|r| &r.taps).for_each(|(t, _)| seen[*t] = true);
        let used: Vec<usize> = (0..taps).filter(|t| seen[*t]).collect();
        let mut slots = vec![usize::MAX; taps];
        used.iter().enumerate().for_each(|(slot, t)| slots[*t] = slot);
        Self {
            taps,
            positions: axes.iter().map(|a| a.size).product(),
            windows: axes.iter().map(|a| a.out).product(),
            outputs,
            inputs: inputs(axes),
            used,
            slots,
        }
    }
}

type Taps = Vec<(usize, usize)>;

/// Runs along one axis of `len` results that are `step` apart.
fn runs(len: usize, step: usize, source_step: usize, taps: impl Fn(usize) -> Taps) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    for start in 0..step.min(len) {
        let mut open: Option<Run> = None;
        for first in (start..len).step_by(step) {
            let taps = taps(first);
            match &mut open {
                Some(run) if run.taps.iter().map(|t| t.0).eq(taps.iter().map(|t| t.0)) => run.len += 1,
                _ => found.extend(open.replace(Run { first, step, len: 1, taps, source_step })),
            }
        }
        found.extend(open);
    }
    found
}

/// The runs of the last axis at every position of the others, with positions and taps counted over all axes.
fn expand(
    axes: &[Axis],
    results: impl Fn(&Axis) -> usize,
    sources: impl Fn(&Axis) -> usize,
    along: impl Fn(&Axis, usize) -> Taps,
    last: impl Fn(&Axis) -> Vec<Run>,
) -> Vec<Run> {
    let Some((inner, outer)) = axes.split_last() else {
        return vec![Run { first: 0, step: 1, len: 1, taps: vec![(0, 0)], source_step: 1 }];
    };
    // Position, and taps with what they connect it with, over the axes so far.
    let mut places: Vec<(usize, Taps)> = vec![(0, vec![(0, 0)])];
    for a in outer {
        let mut next = Vec::new();
        let (kernel, width) = (a.kernel, sources(a));
        for (at, taps) in &places {
            for i in 0..results(a) {
                let here = along(a, i);
                let both = taps
                    .iter()
                    .flat_map(|(t, s)| here.iter().map(move |(u, v)| (t * kernel + u, s * width + v)))
                    .collect();
                next.push((at * results(a) + i, both));
            }
        }
        places = next;
    }
    let inner_runs = last(inner);
    let (kernel, width) = (inner.kernel, sources(inner));
    let mut all = Vec::new();
    for (at, taps) in &places {
        for run in &inner_runs {
            let both = taps
                .iter()
                .flat_map(|(t, s)| run.taps.iter().map(move |(u, v)| (t * kernel + u, s * width + v)))
                .collect();
            all.push(Run { first: at * results(inner) + run.first, taps: both, ..run.clone() });
        }
    }
    all
}
