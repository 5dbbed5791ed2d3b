//! IDX files, the format of MNIST and its kin: one file of images, one of labels, each maybe gzipped.
//!
//! A file begins with two zero bytes, a byte for the element type, the number of axes, and the length of each axis as a
//! big-endian 32-bit integer; the elements follow, row-major.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::rows::{Counted, Number, Pixels};
use super::sampling::Chosen;
use super::shape::{Target, listing};
use super::source::{Loaded, unreadable};
use super::{DataError, LoadPlan, SourceKind};

/// Reads the labels, then the images that are wanted; the others are decompressed past, never kept.
pub(super) fn load(images: &Path, labels: &Path, plan: &LoadPlan<'_>) -> Result<Loaded, DataError> {
    let (dims, reader) = open(images, "images", &[3, 4])?;
    let chosen = read_labels(labels, plan)?;
    let count = u64::from(dims[0]);
    if count != chosen.keep.len() as u64 {
        return Err(DataError::Count { path: images.to_path_buf(), images: count, labels: chosen.keep.len() as u64 });
    }
    let row_shape: Vec<usize> = dims[1..].iter().map(|&d| d as usize).collect();
    let target = Target::new(&plan.input, plan.preprocess)?;
    let mismatch = || target.mismatch(images, "each image".to_owned(), &row_shape, true);
    let fit = target.pixels(&row_shape).ok_or_else(mismatch)?;
    let tables = plan.preprocess.tables(fit.hwc[2])?;
    // Cannot overflow: the shape has just been found to be the model's or at least an image's, and rows are counted anyway.
    let row = dims[1..].iter().fold(1u64, |n, &d| n.saturating_mul(u64::from(d)));
    let mut pixels = Pixels::new(fit);
    let counted = Counted::new(reader, images, "the images file", row.saturating_mul(count));
    counted.rows(&chosen.keep, row, |block| pixels.push(block))?;
    let (samples, shape) = pixels.finish(tables);
    Ok(Loaded::new(SourceKind::Idx, samples, shape, chosen))
}

fn read_labels(path: &Path, plan: &LoadPlan<'_>) -> Result<Chosen, DataError> {
    let (dims, reader) = open(path, "labels", &[1])?;
    let wanted = u64::from(dims[0]);
    let mut bytes = Vec::new();
    let mut counted = Counted::new(reader, path, "the labels file", wanted);
    counted.append(wanted, &mut bytes)?;
    counted.finish()?;
    let number = Number { kind: 'u', size: 1, big_endian: true };
    Chosen::by_index(&bytes, number, plan, path, SourceKind::Idx, 1)
}

/// The file's bytes, decompressed if they are gzip's.
pub(super) fn plain(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let failed = |source| unreadable(path, source);
    let mut start = Vec::new();
    File::open(path).map_err(failed)?.take(2).read_to_end(&mut start).map_err(failed)?;
    let reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
    Ok(if start == [0x1f, 0x8b] { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) })
}

/// Opens a file of bytes with one of the given numbers of axes; answers with their lengths and a reader at the elements.
fn open(path: &Path, what: &'static str, ranks: &[u8]) -> Result<(Vec<u32>, Box<dyn Read>), DataError> {
    let mut reader = plain(path)?;
    let header = if what == "images" { "the header of the images file" } else { "the header of the labels file" };
    let mut magic = Vec::new();
    Counted::new(&mut reader, path, header, 4).append(4, &mut magic)?;
    if magic[..3] != [0, 0, 8] || !ranks.contains(&magic[3]) {
        let wanted = if what == "images" { "00 00 08 03 or 00 00 08 04" } else { "00 00 08 01" };
        let found = magic.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        return Err(DataError::WrongMagic { path: path.to_path_buf(), what: what.into(), found, wanted });
    }
    let mut dims = Vec::new();
    let bytes = 4 * u64::from(magic[3]);
    Counted::new(&mut reader, path, header, bytes).append(bytes, &mut dims)?;
    let dims: Vec<u32> = dims.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
    // A row of 2^40 bytes and more is a lie in the header, not an image.
    if dims[1..].iter().try_fold(1u64, |n, &d| n.checked_mul(u64::from(d)).filter(|n| *n < 1 << 40)).is_none() {
        let found = listing(dims.iter().map(ToString::to_string));
        let wanted = "one class index per sample, [N]".to_owned();
        return Err(DataError::LabelsShape { path: path.to_path_buf(), what: what.into(), found, wanted });
    }
    Ok((dims, reader))
}

/// The labels file beside an images file: the same name with `images` replaced by `labels`, gzipped or not.
pub(super) fn labels_beside(images: &Path) -> Result<PathBuf, DataError> {
    let missing = |looked: String| DataError::NoLabelsFile { path: images.to_path_buf(), looked };
    let name = images.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((before, after)) = name.rsplit_once("images") else {
        return Err(missing("nothing, as its own name does not hold the word `images`".to_owned()));
    };
    let same = format!("{before}labels{after}").replace("idx3", "idx1").replace("idx4", "idx1");
    let other = same.strip_suffix(".gz").map_or_else(|| format!("{same}.gz"), str::to_owned);
    let found = [&same, &other].into_iter().map(|name| images.with_file_name(name)).find(|path| path.is_file());
    found.ok_or_else(|| missing(format!("{same} and {other}")))
}
