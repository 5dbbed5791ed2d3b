//! What happens to a pixel between the file and the model.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma};

use super::DataError;

/// Order of the axes of the model's image input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Told from the shape: the axis of length 1, 3 or 4 is the channels; channels first where that leaves a choice.
    #[default]
    Auto,
    /// Channels, height, width.
    Nchw,
    /// Height, width, channels.
    Nhwc,
}

/// What the user said about preprocessing.
///
/// A uint8 pixel `v` of channel `c` reaches the model as `(v * scale - mean[c]) / std[c]`, computed in float64 and rounded
/// once. Float arrays are taken as they are: none of this touches them, except that the layout is changed where needed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preprocess {
    /// Height and width that uint8 images are scaled to (triangle filter, antialiased); `None` leaves their size alone.
    pub resize: Option<(usize, usize)>,
    /// What is subtracted, after `scale`: no value for 0, one for all channels, or one per channel.
    pub mean: Vec<f32>,
    /// What it is then divided by: no value for 1, one for all channels, or one per channel.
    pub std: Vec<f32>,
    /// Factor on the raw value 0 to 255; `None` means 1/255.
    pub scale: Option<f32>,
    /// Layout of the model's input.
    pub layout: Layout,
}

/// The model's image input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Name of the input, for messages.
    pub name: String,
    /// Length of every axis but the batch's; `None` where the model leaves it open.
    pub dims: Vec<Option<usize>>,
    /// Number of samples in a batch, where the file fixes it.
    pub batch: Option<usize>,
    /// True when the model takes integers: class numbers, tokens or raw bytes, which are taken as they are.
    pub integers: bool,
}

impl InputSpec {
    /// From dimensions whose first is the batch.
    pub fn with_batch(name: impl Into<String>, dims: &[Option<usize>]) -> Self {
        let (dims, batch) = (dims.iter().skip(1).copied().collect(), dims.first().copied().flatten());
        Self { name: name.into(), dims, batch, integers: false }
    }
}

/// What a raw byte becomes, for each of its 256 values.
pub(super) type Table = [f32; 256];

impl Preprocess {
    /// Fails on values that no number of channels makes usable, so that this is known before any file is opened.
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |flag, value: f32, problem| Err(DataError::FlagValue { flag, value: value.to_string(), problem });
        if let Some(scale) = self.scale.filter(|s| !s.is_finite() || *s == 0.0) {
            return wrong("--scale", scale, "must be a finite number other than 0");
        }
        if let Some(&mean) = self.mean.iter().find(|m| !m.is_finite()) {
            return wrong("--mean", mean, "must be a finite number");
        }
        if let Some(&std) = self.std.iter().find(|s| !s.is_finite() || **s <= 0.0) {
            return wrong("--std", std, "is divided by, so it must be a finite number above 0");
        }
        Ok(())
    }

    /// One lookup table per channel.
    pub(super) fn tables(&self, channels: usize) -> Result<Vec<Table>, DataError> {
        self.check()?;
        let mean = per_channel("--mean", &self.mean, 0.0, channels)?;
        let std = per_channel("--std", &self.std, 1.0, channels)?;
        let scale = self.scale.map_or(1.0 / 255.0, f64::from);
        let table = |(mean, std): (f64, f64)| std::array::from_fn(|v| ((v as f64 * scale - mean) / std) as f32);
        Ok(mean.into_iter().zip(std).map(table).collect())
    }
}

/// Spreads no value, one value or one per channel over the channels.
fn per_channel(flag: &'static str, given: &[f32], absent: f64, channels: usize) -> Result<Vec<f64>, DataError> {
    match given {
        [] => Ok(vec![absent; channels]),
        [one] => Ok(vec![f64::from(*one); channels]),
        each if each.len() == channels => Ok(each.iter().map(|&v| f64::from(v)).collect()),
        _ => Err(DataError::ChannelValues { flag, given: given.len(), channels }),
    }
}

/// Scales one image in height, width, channels order; each channel on its own, so that alpha does not weigh on colour.
pub(super) fn resize(hwc: &[u8], [h, w, c]: [usize; 3], [th, tw]: [usize; 2]) -> Option<Vec<u8>> {
    let mut out = vec![0; th * tw * c];
    for channel in 0..c {
        let plane: Vec<u8> = hwc.iter().skip(channel).step_by(c).copied().collect();
        let plane: ImageBuffer<Luma<u8>, _> =
            ImageBuffer::from_raw(u32::try_from(w).ok()?, u32::try_from(h).ok()?, plane)?;
        let scaled = imageops::resize(&plane, u32::try_from(tw).ok()?, u32::try_from(th).ok()?, FilterType::Triangle);
        for (value, pixel) in out.iter_mut().skip(channel).step_by(c).zip(scaled.as_raw()) {
            *value = *pixel;
        }
    }
    Some(out)
}
