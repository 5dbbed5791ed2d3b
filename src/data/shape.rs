//! How a sample of the data fits into the model's input, told by shape.

use std::path::Path;

use ndarray::{ArrayView3, ArrayViewMut3};

use super::{DataError, InputSpec, Layout, Preprocess};

/// Order of the axes of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axes {
    /// Height, width, channels.
    Hwc,
    /// Channels, height, width.
    Chw,
}

/// How a sample becomes a row of the model's input.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fit {
    /// Axes of the source.
    pub from: Axes,
    /// Axes of the model.
    pub to: Axes,
    /// Height, width and channels of the source.
    pub source: [usize; 3],
    /// Height, width and channels of what the model gets (the source's, unless resized).
    pub hwc: [usize; 3],
    /// Shape of the row in the model's layout, without the batch axis.
    pub shape: Vec<usize>,
}

/// The model's input and what the user said about it.
pub(super) struct Target<'a> {
    input: &'a InputSpec,
    resize: Option<(usize, usize)>,
    axes: Axes,
}

impl<'a> Target<'a> {
    /// An explicit layout wins; otherwise the axis that looks like channels decides, and NCHW where that leaves a choice.
    pub fn new(input: &'a InputSpec, preprocess: &Preprocess) -> Result<Self, DataError> {
        let axes = match (preprocess.layout, input.dims.as_slice()) {
            (Layout::Nhwc, _) => Axes::Hwc,
            (Layout::Auto, [first, _, last]) if !channels(*first) && channels(*last) => Axes::Hwc,
            (Layout::Nchw | Layout::Auto, _) => Axes::Chw,
        };
        if let Some((h, w)) = preprocess.resize.filter(|(h, w)| *h == 0 || *w == 0) {
            let value = format!("{h}x{w}");
            return Err(DataError::FlagValue {
                flag: "--resize",
                value,
                problem: "height and width must be at least 1",
            });
        }
        Ok(Self { input, resize: preprocess.resize, axes })
    }

    /// Channels that pictures are decoded to: the model's, or 3 where the model leaves it open.
    pub fn channels(&self) -> usize {
        match (self.input.dims.as_slice(), self.axes) {
            ([c, _, _], Axes::Chw) | ([_, _, c], Axes::Hwc) => c.unwrap_or(3),
            _ => 1,
        }
    }

    /// Fits a picture of known height, width and channels.
    pub fn picture(&self, source: [usize; 3], from: Axes) -> Option<Fit> {
        let [h, w, c] = source;
        let (h, w) = self.resize.unwrap_or((h, w));
        let takes = |dim: Option<usize>, n: usize| dim.is_none_or(|d| d == n) && n > 0;
        let takes_channels = |dim: Option<usize>| if dim.is_none() { channels(Some(c)) } else { takes(dim, c) };
        let size = h.checked_mul(w)?;
        let shape = match (self.input.dims.as_slice(), self.axes) {
            (&[mc, mh, mw], Axes::Chw) if takes_channels(mc) && takes(mh, h) && takes(mw, w) => vec![c, h, w],
            (&[mh, mw, mc], Axes::Hwc) if takes_channels(mc) && takes(mh, h) && takes(mw, w) => vec![h, w, c],
            (&[mh, mw], _) if c == 1 && takes(mh, h) && takes(mw, w) => vec![h, w],
            (&[n], _) if c == 1 && takes(n, size) => vec![size],
            _ => return None,
        };
        Some(Fit { from, to: self.axes, source, hwc: [h, w, c], shape })
    }

    /// Fits a row of uint8 pixels; where both readings fit, the model's own layout is meant.
    pub fn pixels(&self, row: &[usize]) -> Option<Fit> {
        match *row {
            [a, b, c] => {
                let chw = || self.picture([b, c, a], Axes::Chw);
                let hwc = || self.picture([a, b, c], Axes::Hwc);
                if self.axes == Axes::Chw { chw().or_else(hwc) } else { hwc().or_else(chw) }
            }
            [h, w] => self.picture([h, w, 1], Axes::Hwc),
            _ if self.resize.is_none() => self.exact(row),
            _ => None,
        }
    }

    /// Fits a row of floats: of the model's own shape, or of the other image layout. They are never resized.
    pub fn floats(&self, row: &[usize]) -> Option<Fit> {
        let unsized_target = Self { input: self.input, resize: None, axes: self.axes };
        let as_image =
            (row.len() == 3 || (row.len() == 2 && self.input.dims.len() == 3)).then(|| unsized_target.pixels(row));
        as_image.flatten().or_else(|| self.exact(row))
    }

    /// A row of exactly the model's shape, of any rank.
    fn exact(&self, row: &[usize]) -> Option<Fit> {
        let dims = &self.input.dims;
        let equal = dims.len() == row.len() && dims.iter().zip(row).all(|(d, &n)| d.is_none_or(|d| d == n) && n > 0);
        let n = row.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        let flat = [1, n, 1];
        equal.then(|| Fit { from: Axes::Hwc, to: Axes::Hwc, source: flat, hwc: flat, shape: row.to_vec() })
    }

    /// The error for a picture of another size than the first one, where the model takes both.
    pub fn uneven(&self, path: &Path, found: &Fit, first: &Fit, first_name: &str) -> DataError {
        let print = |hwc: [usize; 3]| listing(hwc.iter().map(ToString::to_string));
        DataError::Shape {
            path: path.to_path_buf(),
            item: "the image (height, width, channels)".to_owned(),
            found: print(found.hwc),
            wanted: format!(
                "`{}` takes images of one size, and {first_name} has {}; --resize HxW would scale them all",
                self.input.name,
                print(first.hwc)
            ),
        }
    }

    /// The error that says both shapes.
    pub fn mismatch(&self, path: &Path, item: String, found: &[usize], is_image: bool) -> DataError {
        let dims = self.input.dims.as_slice();
        let layout = match (dims.len(), self.axes) {
            (3, Axes::Chw) => " (channels, height, width)",
            (3, Axes::Hwc) => " (height, width, channels)",
            (2, _) => " (height, width)",
            _ => "",
        };
        let size = match (dims, self.axes) {
            ([_, h, w], Axes::Chw) | ([h, w, _], Axes::Hwc) | ([h, w], _) => h.zip(*w),
            _ => None,
        };
        let hint = match (size, self.resize) {
            _ if !is_image => String::new(),
            (Some((h, w)), Some((rh, rw))) if (h, w) != (rh, rw) => format!("; --resize {rh}x{rw} should be {h}x{w}"),
            (Some((h, w)), None) => format!("; --resize {h}x{w} would scale it"),
            _ => String::new(),
        };
        let dims = listing(dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())));
        DataError::Shape {
            path: path.to_path_buf(),
            item,
            found: listing(found.iter().map(ToString::to_string)),
            wanted: format!("`{}` takes {dims}{layout}{hint}", self.input.name),
        }
    }
}

/// True for a length that an axis of channels has.
fn channels(dim: Option<usize>) -> bool {
    matches!(dim, Some(1 | 3 | 4))
}

/// A shape as it is printed: `[3, 32, 32]`.
pub(super) fn listing(dims: impl Iterator<Item = String>) -> String {
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}

/// Copies one image from channels-first to channels-last order.
pub(super) fn chw_to_hwc<T: Copy>(chw: &[T], [h, w, c]: [usize; 3], out: &mut [T]) {
    permute(chw, [c, h, w], [1, 2, 0], out);
}

/// Copies one image from channels-last to channels-first order.
pub(super) fn hwc_to_chw<T: Copy>(hwc: &[T], [h, w, c]: [usize; 3], out: &mut [T]) {
    permute(hwc, [h, w, c], [2, 0, 1], out);
}

/// Copies an array of `shape` with its axes in another order.
fn permute<T: Copy>(from: &[T], shape: [usize; 3], order: [usize; 3], out: &mut [T]) {
    let from = ArrayView3::from_shape(shape, from).expect("an image of that shape").permuted_axes(order);
    let shape = from.raw_dim();
    ArrayViewMut3::from_shape(shape, out).expect("room for that image").assign(&from);
}
