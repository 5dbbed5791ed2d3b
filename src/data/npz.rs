//! Archives of arrays as `numpy.savez` writes them: samples in `x`, class indices or multi-hot labels in `y`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use zip::ZipArchive;

use super::batches::{Further, Samples};
use super::rows::{Counted, Floats, Number, Pixels};
use super::sampling::Chosen;
use super::shape::{Target, listing};
use super::source::{Loaded, unreadable};
use super::{DataError, InputSpec, LoadPlan, SourceKind};

/// An array header longer than this is no header.
const HEADER_LIMIT: usize = 1 << 16;

type Archive = ZipArchive<BufReader<File>>;

/// Reads the labels, then the rows of `x` that are wanted; the other rows are decompressed past, never kept.
pub(super) fn load(path: &Path, plan: &LoadPlan<'_>) -> Result<Loaded, DataError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let mut archive = ZipArchive::new(BufReader::with_capacity(1 << 18, file))
        .map_err(|source| DataError::Archive { path: path.to_path_buf(), source })?;
    let at = place(&mut archive, path, "x")?;
    let chosen = labels(&mut archive, path, plan)?;

    let (head, reader) = open(&mut archive, path, at, "x")?;
    let (&images, row_shape) = head.shape.split_first().unwrap_or((&0, &[]));
    if images != chosen.keep.len() as u64 {
        return Err(DataError::Count { path: path.to_path_buf(), images, labels: chosen.keep.len() as u64 });
    }
    head.row_major(path, "x")?;
    let row_shape: Vec<usize> = row_shape.iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
    let row_bytes = head.bytes / images.max(1);
    let rows = Counted::new(reader, path, "array `x`", head.bytes);
    let target = Target::new(&plan.input, plan.preprocess)?;
    let mismatch = |image| target.mismatch(path, "each sample of `x`".to_owned(), &row_shape, image);

    let wanted = if plan.input.integers { "integers" } else { "uint8 (images) or float16, float32, float64" };
    let (samples, shape) = match head.number(path, "array `x`", wanted)? {
        Number { kind: 'u', size: 1, .. } => {
            let fit = target.pixels(&row_shape).ok_or_else(|| mismatch(true))?;
            let tables = plan.preprocess.tables(fit.hwc[2])?;
            let mut pixels = Pixels::new(fit);
            rows.rows(&chosen.keep, row_bytes, |block| pixels.push(block))?;
            pixels.finish(tables)
        }
        number if plan.input.integers != (number.kind == 'f') => {
            let fit = target.floats(&row_shape).ok_or_else(|| mismatch(false))?;
            let shape = fit.shape.clone();
            let mut floats = Floats::new(fit);
            let mut exact = Exact { path, what: "array `x`", number, row_bytes, rows: 0, chosen: &chosen };
            rows.rows(&chosen.keep, row_bytes, |block| {
                exact.check(block)?;
                let values = block.chunks_exact(number.size).map(|b| number.float(b));
                floats
                    .push(values)
                    .map_err(|kept| DataError::NotFinite { path: path.to_path_buf(), row: chosen.order[kept] as usize })
            })?;
            (Samples::Floats(floats.data), shape)
        }
        _ => return Err(head.wrong_type(path, "array `x`", wanted)),
    };
    let further = plan.further.iter().map(|input| further(&mut archive, path, input, &chosen));
    let further = further.collect::<Result<Vec<_>, _>>()?;
    Ok(Loaded { further, ..Loaded::new(SourceKind::Npz, samples, shape, chosen) })
}

/// Integers beyond this are not all float32 numbers.
const EXACT: f64 = 16_777_216.0;

/// Looks for integers that are too large to be held, before they are rounded.
struct Exact<'a> {
    path: &'a Path,
    what: &'a str,
    number: Number,
    row_bytes: u64,
    /// Rows seen so far.
    rows: usize,
    chosen: &'a Chosen,
}

impl Exact<'_> {
    /// Fails where an integer in these whole rows is too large.
    fn check(&mut self, block: &[u8]) -> Result<(), DataError> {
        if self.number.kind == 'f' {
            return Ok(());
        }
        let row_bytes = (self.row_bytes as usize).max(1);
        let values = block.chunks_exact(self.number.size).map(|b| self.number.value(b));
        if let Some((at, value)) = values.enumerate().find(|(_, v)| v.abs() > EXACT) {
            let row = self.chosen.order[self.rows + at * self.number.size / row_bytes] as usize;
            return Err(DataError::LargeInteger { path: self.path.to_path_buf(), what: self.what.into(), row, value });
        }
        self.rows += block.len() / row_bytes;
        Ok(())
    }
}

/// The rows of a further input: an array of the input's name and shape, of any type of number.
fn further(archive: &mut Archive, path: &Path, input: &InputSpec, chosen: &Chosen) -> Result<Further, DataError> {
    let at = place(archive, path, &input.name)?;
    let what = format!("array `{}`", input.name);
    let (head, reader) = open(archive, path, at, &input.name)?;
    let number = head.number(path, &what, "numbers")?;
    let (&images, row_shape) = head.shape.split_first().unwrap_or((&0, &[]));
    if images != chosen.keep.len() as u64 {
        return Err(DataError::Count { path: path.to_path_buf(), images, labels: chosen.keep.len() as u64 });
    }
    head.row_major(path, &input.name)?;
    let shape: Vec<usize> = row_shape.iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
    if shape.len() != input.dims.len() || shape.iter().zip(&input.dims).any(|(&n, d)| d.is_some_and(|d| d != n)) {
        return Err(DataError::Shape {
            path: path.to_path_buf(),
            item: format!("each sample of `{}`", input.name),
            found: listing(shape.iter().map(ToString::to_string)),
            wanted: format!(
                "`{}` takes {}",
                input.name,
                listing(input.dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())))
            ),
        });
    }
    let mut data = Vec::new();
    let row_bytes = head.bytes / images.max(1);
    let mut exact = Exact { path, what: &what, number, row_bytes, rows: 0, chosen };
    Counted::new(reader, path, what.as_str(), head.bytes).rows(&chosen.keep, row_bytes, |block| {
        exact.check(block)?;
        data.extend(block.chunks_exact(number.size).map(|b| number.float(b)));
        Ok(())
    })?;
    let row = shape.iter().product::<usize>().max(1);
    if let Some(at) = data.iter().position(|v| !v.is_finite()) {
        return Err(DataError::NotFinite { path: path.to_path_buf(), row: chosen.order[at / row] as usize });
    }
    Ok(Further { name: input.name.clone(), shape, data })
}

/// Reads `y` and decides which rows are wanted.
fn labels(archive: &mut Archive, path: &Path, plan: &LoadPlan<'_>) -> Result<Chosen, DataError> {
    let at = place(archive, path, "y")?;
    let (head, reader) = open(archive, path, at, "y")?;
    let what = "array `y`";
    let (classes, steps) = (plan.classes as u64, plan.predictions as u64);
    // `None` where there is a column for each class.
    let indices = match *head.shape.as_slice() {
        [_] | [_, 1] => Some(1),
        [_, n] if n == steps => Some(plan.predictions),
        [_, n] if plan.independent && steps == 1 && n == classes => None,
        [_, s, n] if plan.independent && s == steps && n == classes => None,
        _ => {
            let found = listing(head.shape.iter().map(ToString::to_string));
            return Err(DataError::LabelsShape {
                path: path.to_path_buf(),
                what: what.into(),
                found,
                wanted: wanted_labels(plan),
            });
        }
    };
    head.row_major(path, "y")?;
    let wanted = match indices {
        Some(_) => "an integer (class indices)",
        None => "a bool, an integer or a float (0 or 1 for each class)",
    };
    let number = match indices {
        None if head.is_bool() => Number { kind: 'u', size: 1, big_endian: false },
        _ => head.number(path, what, wanted)?,
    };
    if indices.is_some() && number.kind == 'f' {
        return Err(head.wrong_type(path, what, wanted));
    }
    let mut bytes = Vec::new();
    let mut counted = Counted::new(reader, path, what, head.bytes);
    counted.append(head.bytes, &mut bytes)?;
    counted.finish()?;
    match indices {
        Some(per_sample) => Chosen::by_index(&bytes, number, plan, path, SourceKind::Npz, per_sample),
        None => Chosen::by_columns(&bytes, number, plan, path, SourceKind::Npz),
    }
}

/// The shapes of `y` that would do for a model.
fn wanted_labels(plan: &LoadPlan<'_>) -> String {
    let LoadPlan { classes, predictions, independent, .. } = *plan;
    let (each, columns) = match predictions {
        1 => (String::new(), format!("[N, {classes}]")),
        n => (format!(", or one per step, [N, {n}]"), format!("[N, {n}, {classes}]")),
    };
    let multi_hot = if independent {
        format!(", or 0 or 1 for each class, {columns}")
    } else {
        "; several classes in a sample (0 or 1 for each) are for a model with independent scores: a final Sigmoid, or \
         --multi-label"
            .to_owned()
    };
    format!("one class index per sample, [N]{each}{multi_hot}")
}

/// Where an array lies in the archive.
fn place(archive: &mut Archive, path: &Path, wanted: &str) -> Result<usize, DataError> {
    let file = format!("{wanted}.npy");
    if let Some(at) = archive.index_for_name(&file).or_else(|| archive.index_for_name(wanted)) {
        return Ok(at);
    }
    let mut held: Vec<String> = archive
        .file_names_raw()
        .map(String::from_utf8_lossy)
        .map(|name| format!("`{}`", name.strip_suffix(".npy").unwrap_or(&name)))
        .collect();
    held.sort();
    let held = if held.is_empty() { "nothing at all".to_owned() } else { held.join(", ") };
    Err(DataError::NoArray { path: path.to_path_buf(), wanted: wanted.into(), held })
}

/// What an array header says.
struct Head {
    dtype: DType,
    shape: Vec<u64>,
    fortran: bool,
    /// Bytes that follow the header.
    bytes: u64,
}

/// Reads an array's header and leaves the reader at its first element.
fn open<'a>(
    archive: &'a mut Archive,
    path: &Path,
    at: usize,
    array: &str,
) -> Result<(Head, impl Read + use<'a>), DataError> {
    let mut entry = archive.by_index(at).map_err(|source| DataError::Archive { path: path.to_path_buf(), source })?;
    let head = header(&mut entry).map_err(|source| DataError::ArrayHeader {
        path: path.to_path_buf(),
        array: array.into(),
        source,
    })?;
    Ok((head, entry))
}

/// Bounds the header's length and the product of its shape before the array reader, which trusts both, sees it.
fn header(reader: &mut impl Read) -> std::io::Result<Head> {
    let bad = |problem: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, problem);
    let mut bytes = vec![0; 10];
    reader.read_exact(&mut bytes)?;
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err(bad("it does not begin with the bytes of a NumPy array"));
    }
    let length = if bytes[6] == 1 {
        usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))
    } else {
        bytes.resize(12, 0);
        reader.read_exact(&mut bytes[10..])?;
        u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize
    };
    if length > HEADER_LIMIT {
        return Err(bad("it is too long"));
    }
    let start = bytes.len();
    bytes.resize(start + length, 0);
    reader.read_exact(&mut bytes[start..])?;
    if !shape_is_sane(&String::from_utf8_lossy(&bytes[start..])) {
        return Err(bad("its shape is missing or too large"));
    }
    let header = NpyHeader::from_reader(bytes.as_slice())?;
    let size = header.dtype().num_bytes().unwrap_or(1) as u64;
    let count = header.shape().iter().product::<u64>();
    let bytes = count.checked_mul(size).ok_or_else(|| bad("its shape is too large"))?;
    let fortran = header.order() == Order::Fortran && header.shape().len() > 1;
    Ok(Head { dtype: header.dtype(), shape: header.shape().to_vec(), fortran, bytes })
}

/// True when every number in the tuple after `shape`, and their product without zeros, fits into 64 bits.
fn shape_is_sane(header: &str) -> bool {
    let tuple =
        header.split_once("'shape'").and_then(|(_, rest)| rest.split_once('(')).and_then(|(_, t)| t.split_once(')'));
    let Some((tuple, _)) = tuple else { return false };
    tuple
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .try_fold(1i64, |n, d| d.parse::<i64>().ok().filter(|d| *d >= 0).and_then(|d| n.checked_mul(d.max(1))))
        .is_some()
}

impl Head {
    /// Fails where rows do not lie behind each other.
    fn row_major(&self, path: &Path, array: &str) -> Result<(), DataError> {
        if self.fortran {
            return Err(DataError::FortranOrder { path: path.to_path_buf(), array: array.into() });
        }
        Ok(())
    }

    fn is_bool(&self) -> bool {
        matches!(&self.dtype, DType::Plain(plain) if plain.type_char() == TypeChar::Bool)
    }

    /// How one element is stored.
    fn number(&self, path: &Path, what: &str, wanted: &'static str) -> Result<Number, DataError> {
        let DType::Plain(plain) = &self.dtype else { return Err(self.wrong_type(path, what, wanted)) };
        let kind = match (plain.type_char(), plain.size_field()) {
            (TypeChar::Int, 1 | 2 | 4 | 8) => 'i',
            (TypeChar::Uint, 1 | 2 | 4 | 8) => 'u',
            (TypeChar::Float, 2 | 4 | 8) => 'f',
            _ => return Err(self.wrong_type(path, what, wanted)),
        };
        let big_endian = plain.endianness() == Endianness::Big;
        Ok(Number { kind, size: plain.size_field() as usize, big_endian })
    }

    fn wrong_type(&self, path: &Path, what: &str, wanted: &'static str) -> DataError {
        DataError::ElementType { path: path.to_path_buf(), what: what.into(), found: self.dtype.descr(), wanted }
    }
}
