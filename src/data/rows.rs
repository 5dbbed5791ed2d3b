//! Reads arrays row by row from any reader, never holding a row that is not wanted.

use std::io::{self, Read};
use std::path::Path;

use rayon::prelude::*;

use super::DataError;
use super::batches::Samples;
use super::preprocess::{Table, resize};
use super::shape::{Axes, Fit, chw_to_hwc, hwc_to_chw};
use super::store::Store;

/// Rows are handed on in blocks of about this many bytes.
const BLOCK: usize = 4 << 20;

/// Bytes of one array, counted against what its header promises.
pub(super) struct Counted<'a, R> {
    reader: R,
    path: &'a Path,
    what: String,
    wanted: u64,
    got: u64,
}

impl<'a, R: Read> Counted<'a, R> {
    pub fn new(reader: R, path: &'a Path, what: impl Into<String>, wanted: u64) -> Self {
        Self { reader, path, what: what.into(), wanted, got: 0 }
    }

    fn failed(&self, source: io::Error) -> DataError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.truncated();
        }
        DataError::Damaged { path: self.path.to_path_buf(), what: self.what.clone(), source }
    }

    fn truncated(&self) -> DataError {
        let what = self.what.clone();
        DataError::Truncated { path: self.path.to_path_buf(), what, wanted: self.wanted, got: self.got }
    }

    /// Appends `n` bytes; memory grows with what is really there, whatever a header claims.
    pub fn append(&mut self, n: u64, out: &mut Vec<u8>) -> Result<(), DataError> {
        let before = out.len();
        let read = self.reader.by_ref().take(n).read_to_end(out);
        let got = (out.len() - before) as u64;
        self.got += got;
        read.map_err(|e| self.failed(e))?;
        if got == n { Ok(()) } else { Err(self.truncated()) }
    }

    /// Passes over `n` bytes.
    pub fn skip(&mut self, n: u64) -> Result<(), DataError> {
        let got = io::copy(&mut self.reader.by_ref().take(n), &mut io::sink()).map_err(|e| self.failed(e))?;
        self.got += got;
        if got == n { Ok(()) } else { Err(self.truncated()) }
    }

    /// Fails unless this is the end; reading up to it is also what makes the container compare its checksum.
    pub fn finish(mut self) -> Result<(), DataError> {
        let more = self.reader.by_ref().take(1).read_to_end(&mut Vec::new()).map_err(|e| self.failed(e))?;
        let (path, what, wanted) = (self.path.to_path_buf(), self.what, self.wanted);
        if more == 0 { Ok(()) } else { Err(DataError::TooLong { path, what, wanted }) }
    }

    /// Hands the rows marked in `keep` to `sink`, in blocks of whole rows.
    pub fn rows(
        mut self,
        keep: &[bool],
        row: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut block = Vec::new();
        for run in keep.chunk_by(|a, b| a == b) {
            if !run[0] {
                self.skip(row.saturating_mul(run.len() as u64))?;
                continue;
            }
            for _ in run {
                self.append(row, &mut block)?;
                if block.len() >= BLOCK {
                    sink(&block)?;
                    block.clear();
                }
            }
        }
        sink(&block)?;
        self.finish()
    }
}

/// Collects images as bytes in height, width, channels order, scaled where asked.
pub(super) struct Pixels {
    pub fit: Fit,
    pub data: Store,
}

impl Pixels {
    pub fn new(fit: Fit) -> Self {
        Self { fit, data: Store::new() }
    }

    /// The samples and their shape, with one lookup table per channel.
    pub fn finish(self, tables: Vec<Table>) -> (Samples, Vec<usize>) {
        let Fit { hwc, to, shape, .. } = self.fit;
        (Samples::Bytes { hwc, to, data: self.data, tables }, shape)
    }

    /// Takes whole images.
    pub fn push(&mut self, images: &[u8]) -> Result<(), DataError> {
        let Fit { from, source, hwc, .. } = self.fit;
        if from == Axes::Hwc && source == hwc {
            return self.data.push(images);
        }
        let (size, target) = (source.iter().product(), hwc.iter().product());
        let mut turned = vec![0; images.len() / size * target];
        turned.par_chunks_exact_mut(target).zip(images.par_chunks_exact(size)).for_each(|(out, image)| {
            let mut turned = Vec::new();
            let image = if from == Axes::Chw {
                turned.resize(size, 0);
                chw_to_hwc(image, source, &mut turned);
                &turned
            } else {
                image
            };
            if source == hwc {
                out.copy_from_slice(image);
            } else if let Some(scaled) = resize(image, source, [hwc[0], hwc[1]]) {
                out.copy_from_slice(&scaled);
            }
        });
        self.data.push(&turned)
    }
}

/// Collects rows of floats in the model's layout.
pub(super) struct Floats {
    fit: Fit,
    pub data: Vec<f32>,
}

impl Floats {
    pub fn new(fit: Fit) -> Self {
        Self { fit, data: Vec::new() }
    }

    /// Takes whole rows; answers with the first one that holds a value that is not finite, counted from the first ever.
    pub fn push(&mut self, values: impl Iterator<Item = f32>) -> Result<(), usize> {
        let row: usize = self.fit.source.iter().product();
        let start = self.data.len();
        self.data.extend(values);
        if let Some(at) = self.data[start..].iter().position(|v| !v.is_finite()) {
            return Err((start + at) / row);
        }
        if self.fit.from != self.fit.to {
            let hwc = self.fit.source;
            self.data[start..].par_chunks_exact_mut(row).for_each(|out| {
                let source = out.to_vec();
                match self.fit.from {
                    Axes::Chw => chw_to_hwc(&source, hwc, out),
                    Axes::Hwc => hwc_to_chw(&source, hwc, out),
                }
            });
        }
        Ok(())
    }
}

/// How one number of an array is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// `i`, `u` or `f`.
    pub kind: char,
    /// Bytes it takes.
    pub size: usize,
    /// True when the most significant byte comes first.
    pub big_endian: bool,
}

impl Number {
    /// The bits of one number, low bits first.
    fn bits(self, bytes: &[u8]) -> u64 {
        let push = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
    }

    /// An integer as its magnitude, or as a negative number.
    pub fn label(self, bytes: &[u8]) -> Result<u64, i64> {
        let bits = self.bits(bytes);
        let unused = 64 - 8 * self.size as u32;
        // Sign extension: the sign bit goes to the top and comes back as a copy in every bit above the number.
        let signed = (bits << unused) as i64 >> unused;
        if self.kind == 'i' && signed < 0 { Err(signed) } else { Ok(bits) }
    }

    /// A number as float32.
    pub fn float(self, bytes: &[u8]) -> f32 {
        if self.kind == 'f' {
            return self.value(bytes) as f32;
        }
        self.label(bytes).map_or_else(|negative| negative as f32, |n| n as f32)
    }

    /// A number as float64; exact but for integers beyond 2^53.
    pub fn value(self, bytes: &[u8]) -> f64 {
        let bits = self.bits(bytes);
        match (self.kind, self.size) {
            ('f', 2) => half(bits as u16).into(),
            ('f', 4) => f32::from_bits(bits as u32).into(),
            ('f', _) => f64::from_bits(bits),
            _ => self.label(bytes).map_or_else(|negative| negative as f64, |n| n as f64),
        }
    }
}

/// IEEE 754 binary16: a sign bit, 5 bits of exponent with bias 15, 10 of fraction.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}
