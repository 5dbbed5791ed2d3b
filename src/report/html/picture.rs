//! Noise as small pictures.

use crate::tensor::Tensor;
use base64::{Engine, prelude::BASE64_STANDARD};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

/// Pictures shown of a class.
const SHOWN: usize = 4;
/// Longest side of a picture in pixels; of larger ones only every so many pixels are taken, which keeps noise noise.
const SIDE: usize = 112;
/// Deviations from the mean that black and white stand for.
pub(super) const DEVIATIONS: f64 = 3.0;

/// Pictures of the noise of a class.
pub(super) struct Pictures {
    /// PNG files as data URIs.
    pub uris: Vec<String>,
    /// Mean and standard deviation of the values shown.
    pub mean: f64,
    /// See `mean`.
    pub deviation: f64,
    /// One pixel in so many is shown, in both directions.
    pub every: usize,
}

/// Where the axes of an image are.
#[derive(Clone, Copy)]
struct Image {
    height: usize,
    width: usize,
    channels: usize,
    last: bool,
}

impl Image {
    /// `shape` is that of a sample; an image has 1 or 3 channels, first or last.
    fn of(shape: &[usize], layout: &str) -> Option<Self> {
        let colours = |n: usize| n == 1 || n == 3;
        match *shape {
            [channels, height, width] if colours(channels) && layout != "nhwc" => {
                Some(Self { height, width, channels, last: false })
            }
            [height, width, channels] if colours(channels) && layout != "nchw" => {
                Some(Self { height, width, channels, last: true })
            }
            _ => None,
        }
    }

    fn at(self, y: usize, x: usize, channel: usize) -> usize {
        if self.last {
            (y * self.width + x) * self.channels + channel
        } else {
            (channel * self.height + y) * self.width + x
        }
    }
}

impl Pictures {
    /// The first few images of `noise`, [images, ...]. The mean of all their values is the middle grey, [`DEVIATIONS`]
    /// standard deviations below it are 0 and as many above it 255. `None` where samples are no images of 1 or 3 channels.
    pub(super) fn of(noise: &Tensor, layout: &str) -> Option<Self> {
        let (n, sample) = noise.shape().split_first()?;
        let image = Image::of(sample, layout)?;
        let length: usize = sample.iter().product();
        let values = noise.as_f32()?.get(..length * (*n).min(SHOWN)).filter(|v| !v.is_empty())?;
        let count = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let deviation = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count).sqrt();
        let every = image.height.max(image.width).div_ceil(SIDE);
        let unit = if deviation > 0.0 { deviation } else { 1.0 };
        let level = |v: f32| (127.5 + 127.5 * (f64::from(v) - mean) / (DEVIATIONS * unit)).round() as u8;
        let uris = values.chunks_exact(length).filter_map(|one| uri(one, image, every, level)).collect();
        Some(Self { uris, mean, deviation, every })
    }
}

fn uri(values: &[f32], image: Image, every: usize, level: impl Fn(f32) -> u8) -> Option<String> {
    let (rows, columns) = (image.height.div_ceil(every), image.width.div_ceil(every));
    let pixel = |y: usize, x: usize| (0..image.channels).map(move |c| image.at(y * every, x * every, c));
    let pixels = (0..rows).flat_map(|y| (0..columns).flat_map(move |x| pixel(y, x)));
    let pixels: Vec<u8> = pixels.map(|i| level(values[i])).collect();
    let colour = if image.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&pixels, columns as u32, rows as u32, colour).ok()?;
    Some(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(uri: &str) -> image::DynamicImage {
        let data = uri.strip_prefix("data:image/png;base64,").expect("a data URI");
        image::load_from_memory(&BASE64_STANDARD.decode(data).expect("base64")).expect("a picture")
    }

    #[test]
    fn values_become_grey_around_their_mean() {
        // Mean 1, deviation 2: -1 and 3 are a third of the way to black and white.
        let noise = Tensor::f32([1, 1, 1, 2], vec![-1.0, 3.0]);
        let p = Pictures::of(&noise, "auto").expect("an image");
        assert_eq!((p.mean, p.deviation, p.every), (1.0, 2.0, 1));
        assert_eq!(pixels(&p.uris[0]).to_luma8().into_raw(), [85, 170]);
    }

    #[test]
    fn channels_stand_first_or_last() {
        let planes = Tensor::f32([5, 3, 1, 2], [1.0, -1.0, -1.0, 1.0, -1.0, 1.0].repeat(5));
        let p = Pictures::of(&planes, "auto").expect("an image");
        assert_eq!((p.uris.len(), pixels(&p.uris[3]).to_rgb8().into_raw()), (4, vec![170, 85, 85, 85, 170, 170]));
        let last = Tensor::f32([1, 1, 2, 3], vec![1.0, -1.0, -1.0, -1.0, 1.0, 1.0]);
        let p = Pictures::of(&last, "nhwc").expect("an image");
        assert_eq!(pixels(&p.uris[0]).to_rgb8().into_raw(), [170, 85, 85, 85, 170, 170]);
    }

    #[test]
    fn large_pictures_are_thinned_and_other_samples_are_no_pictures() {
        let p = Pictures::of(&Tensor::f32([1, 1, 224, 225], vec![0.0; 224 * 225]), "auto").expect("an image");
        let picture = pixels(&p.uris[0]);
        assert_eq!((p.every, picture.width(), picture.height()), (3, 75, 75));
        for shape in [&[1usize, 4, 8, 8][..], &[1, 8], &[1, 8, 8]] {
            assert!(
                Pictures::of(&Tensor::f32(shape, vec![0.0; shape.iter().product()]), "auto").is_none(),
                "{shape:?}"
            );
        }
    }
}
