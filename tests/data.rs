//! Data sources, preprocessing and batches, on files written on the fly.

// Values that must come through unchanged are compared exactly.
#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{Rgb, RgbImage};
use npyz::{AutoSerialize, WriterBuilder};
use onnx_unlearn::data::{
    ClassNames, DataError, Dataset, InputSpec, Layout, LoadPlan, LoadSummary, PixelKind, Prefetch, Preprocess, Seeded,
    SourceKind, folder_class_names, load, require_all_classes, shuffled,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

type Loaded = Result<(Dataset, LoadSummary), DataError>;

/// What the tests vary; everything else is the plainest case.
struct Case<'a> {
    classes: usize,
    names: Option<&'a ClassNames>,
    drop: &'a [usize],
    per_class: Option<usize>,
    dims: &'a [Option<usize>],
    integers: bool,
    further: &'a [InputSpec],
    predictions: usize,
    independent: bool,
    preprocess: Preprocess,
}

impl Default for Case<'_> {
    fn default() -> Self {
        let preprocess = Preprocess { scale: Some(1.0), ..Preprocess::default() };
        Self {
            classes: 3,
            names: None,
            drop: &[],
            per_class: None,
            dims: &[Some(3), Some(2), Some(2)],
            integers: false,
            further: &[],
            predictions: 1,
            independent: false,
            preprocess,
        }
    }
}

impl Case<'_> {
    fn load(&self, path: &Path) -> Loaded {
        load(&LoadPlan {
            path,
            classes: self.classes,
            names: self.names,
            drop: self.drop,
            per_class: self.per_class,
            input: InputSpec { name: "image".into(), dims: self.dims.to_vec(), batch: None, integers: self.integers },
            further: self.further,
            predictions: self.predictions,
            independent: self.independent,
            preprocess: &self.preprocess,
        })
    }

    fn message(&self, path: &Path) -> String {
        text(&self.load(path).err().expect("must fail"))
    }
}

/// An error with its causes, the temporary folder left out.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn all(data: &Dataset) -> Vec<f32> {
    let indices: Vec<usize> = (0..data.len()).collect();
    let mut out = vec![0.0; data.len() * data.sample_len()];
    data.batch(&indices, &mut out);
    out
}

fn npy<T: AutoSerialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
    bytes
}

fn npz(dir: &TempDir, arrays: &[(&str, Vec<u8>)]) -> PathBuf {
    let path = dir.path().join("data.npz");
    let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, bytes) in arrays {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file(format!("{name}.npy"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    path
}

/// Six images of 2 x 2 pixels and 3 channels, bytes 0 to 71, labels 0 1 2 0 1 2.
fn six(dir: &TempDir) -> PathBuf {
    let x: Vec<u8> = (0..72).collect();
    npz(dir, &[("x", npy(&[6, 2, 2, 3], &x)), ("y", npy(&[6], &[0i64, 1, 2, 0, 1, 2]))])
}

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn picture(dir: &TempDir, name: &str, size: [u32; 2], colour: [u8; 3]) {
    let path = write(dir, name, b"");
    RgbImage::from_pixel(size[1], size[0], Rgb(colour)).save(path).unwrap();
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn sha(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

// ---- .npz

#[test]
fn npz_images_reach_the_model_channels_first() {
    let dir = dir();
    let path = six(&dir);
    let (data, summary) = Case::default().load(&path).unwrap();
    assert_eq!(data.sample_shape(), [3, 2, 2]);
    assert_eq!(&all(&data)[..12], [0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]);
    assert_eq!(data.labels(), [0, 1, 2, 0, 1, 2]);
    assert_eq!(summary.digest, sha(&fs::read(&path).unwrap()));
    assert_eq!((summary.kind, summary.pixels), (SourceKind::Npz, PixelKind::Uint8));
    assert_eq!((summary.read, summary.per_class), (6, vec![2, 2, 2]));
}

#[test]
fn npz_layout_is_told_by_shape_and_the_flag_wins() {
    let dir = dir();
    let chw: Vec<u8> = vec![0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11];
    let path = npz(&dir, &[("x", npy(&[1, 3, 2, 2], &chw)), ("y", npy(&[1], &[0u8]))]);
    let dims = [Some(2), Some(2), Some(3)];
    let (data, _) = Case { dims: &dims, ..Case::default() }.load(&path).unwrap();
    assert_eq!(data.sample_shape(), [2, 2, 3]);
    assert_eq!(all(&data), (0..12).map(|v| v as f32).collect::<Vec<_>>(), "transposed to channels last");

    let open = [None, None, None];
    let (data, _) = Case { dims: &open, ..Case::default() }.load(&path).unwrap();
    assert_eq!(data.sample_shape(), [3, 2, 2], "channels first where the model leaves everything open");
    let preprocess = Preprocess { layout: Layout::Nhwc, ..Preprocess::default() };
    let (data, _) = Case { dims: &open, preprocess, ..Case::default() }.load(&path).unwrap();
    assert_eq!(data.sample_shape(), [2, 2, 3]);
}

#[test]
fn npz_one_channel_without_an_axis() {
    let dir = dir();
    let path =
        npz(&dir, &[("x", npy(&[2, 2, 3], &[0u8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])), ("y", npy(&[2], &[0i8, 1]))]);
    let forms: [(&[Option<usize>], &[usize]); 4] = [
        (&[Some(1), Some(2), Some(3)], &[1, 2, 3]),
        (&[Some(2), Some(3), Some(1)], &[2, 3, 1]),
        (&[Some(2), Some(3)], &[2, 3]),
        (&[Some(6)], &[6]),
    ];
    for (dims, shape) in forms {
        let (data, _) = Case { dims, ..Case::default() }.load(&path).unwrap();
        assert_eq!(data.sample_shape(), shape);
        assert_eq!(all(&data), (0..12).map(|v| v as f32).collect::<Vec<_>>());
    }
}

#[test]
fn pixels_are_scaled_and_normalised_per_channel() {
    let dir = dir();
    let path = six(&dir);
    let preprocess = Preprocess { mean: vec![0.5, 0.25, 0.1], std: vec![0.5, 2.0, 4.0], ..Preprocess::default() };
    let (data, _) = Case { preprocess, ..Case::default() }.load(&path).unwrap();
    let (mean, std) = ([0.5f32, 0.25, 0.1].map(f64::from), [0.5, 2.0, 4.0]);
    let mut row = [0.0; 12];
    data.batch(&[4], &mut row);
    for (c, plane) in row.chunks(4).enumerate() {
        for (p, value) in plane.iter().enumerate() {
            let byte = (48 + 3 * p + c) as f64;
            assert_eq!(*value, ((byte / 255.0 - mean[c]) / std[c]) as f32, "channel {c} pixel {p}");
        }
    }
    let preprocess = Preprocess { mean: vec![1.0], std: vec![2.0], scale: Some(1.0), ..Preprocess::default() };
    let (data, _) = Case { preprocess, ..Case::default() }.load(&path).unwrap();
    assert_eq!(all(&data)[1], 1.0, "(3 - 1) / 2");
}

#[test]
fn labels_are_dropped_and_limited_in_file_order() {
    let dir = dir();
    let path = six(&dir);
    let case = Case { drop: &[1], per_class: Some(1), ..Case::default() };
    let (data, summary) = case.load(&path).unwrap();
    assert_eq!(data.labels(), [0, 2]);
    assert_eq!(data.source_order(), [0, 2]);
    assert_eq!((summary.dropped, summary.beyond_limit), (vec![(1, 2)], 2));
    assert_eq!(all(&data)[12], 24.0, "the third row of the file");
    assert_eq!(data.of_classes(&[2]), [1]);
}

#[test]
fn every_integer_type_of_labels_is_read() {
    let dir = dir();
    let x = npy(&[3, 2, 2, 3], &[7u8; 36]);
    let forms = [
        npy(&[3], &[2i8, 0, 1]),
        npy(&[3], &[2u8, 0, 1]),
        npy(&[3], &[2i16, 0, 1]),
        npy(&[3], &[2u16, 0, 1]),
        npy(&[3], &[2i32, 0, 1]),
        npy(&[3], &[2u32, 0, 1]),
        npy(&[3, 1], &[2i64, 0, 1]),
        npy(&[3], &[2u64, 0, 1]),
        raw_npy("'>i4'", "(3,)", &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]),
    ];
    for y in forms {
        let (data, _) = Case::default().load(&npz(&dir, &[("y", y), ("x", x.clone())])).unwrap();
        assert_eq!(data.labels(), [2, 0, 1]);
    }
}

/// An array with a header written by hand, for what the writer cannot or will not write.
fn raw_npy(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(body);
    bytes
}

/// The same array, said to be stored column by column.
fn fortran(mut npy: Vec<u8>) -> Vec<u8> {
    let at = npy.windows(5).position(|w| w == b"False").unwrap();
    npy[at..at + 5].copy_from_slice(b"True ");
    npy
}

/// Classes of every sample, for each of its predictions.
fn label_sets(data: &Dataset) -> Vec<Vec<Vec<u32>>> {
    (0..data.len()).map(|i| data.labels_of(i).map(<[u32]>::to_vec).collect()).collect()
}

#[test]
fn multi_hot_labels_of_every_type_of_number() {
    let dir = dir();
    let x = npy(&[3, 2, 2, 3], &[7u8; 36]);
    let hot = [1u8, 0, 1, 0, 0, 0, 0, 1, 0];
    let halves: Vec<u8> = hot.iter().flat_map(|&v| if v == 1 { [0x00, 0x3c] } else { [0x00, 0x80] }).collect();
    let big: Vec<u8> = hot.iter().flat_map(|&v| [0, 0, 0, v]).collect();
    let forms = [
        npy(&[3, 3], &hot),
        npy(&[3, 3], &hot.map(|v| v as i8)),
        npy(&[3, 3], &hot.map(u16::from)),
        npy(&[3, 3], &hot.map(i64::from)),
        npy(&[3, 3], &hot.map(u64::from)),
        npy(&[3, 3], &hot.map(f32::from)),
        npy(&[3, 3], &hot.map(f64::from)),
        raw_npy("'|b1'", "(3, 3)", &hot),
        raw_npy("'>i4'", "(3, 3)", &big),
        // The halves 1 and -0.
        raw_npy("'<f2'", "(3, 3)", &halves),
    ];
    let case = Case { independent: true, ..Case::default() };
    for y in forms {
        let (data, summary) = case.load(&npz(&dir, &[("y", y), ("x", x.clone())])).unwrap();
        assert!(data.multi_hot() && summary.multi_hot);
        assert_eq!(label_sets(&data), [[vec![0, 2]], [vec![]], [vec![1]]]);
        assert_eq!((data.per_class(), summary.read), (vec![1, 1, 1], 3));
    }
    // One class a sample stays what it was.
    let (data, summary) = case.load(&npz(&dir, &[("y", npy(&[3], &[2i64, 0, 1])), ("x", x)])).unwrap();
    assert!(!data.multi_hot() && !summary.multi_hot);
    assert_eq!(label_sets(&data), [[[2]], [[0]], [[1]]]);
}

#[test]
fn one_class_to_forget_among_several_drops_a_sample() {
    let dir = dir();
    let x: Vec<u8> = (0..7).flat_map(|i| [i; 12]).collect();
    let y = [[1i64, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0; 4], [1, 0, 1, 0], [0; 4], [0, 0, 0, 1]];
    let path = npz(&dir, &[("x", npy(&[7, 2, 2, 3], &x)), ("y", npy(&[7, 4], y.as_flattened()))]);
    let case = |drop, per_class| Case { classes: 4, independent: true, drop, per_class, ..Case::default() };
    let (data, summary) = case(&[1], None).load(&path).unwrap();
    assert_eq!(data.source_order(), [1, 3, 4, 5, 6]);
    assert_eq!(all(&data).chunks(12).map(|row| row[0]).collect::<Vec<_>>(), [1.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(label_sets(&data), [[vec![0]], [vec![]], [vec![0, 2]], [vec![]], [vec![3]]]);
    assert_eq!((summary.dropped, summary.per_class), (vec![(1, 2)], vec![2, 0, 1, 1]));
    assert_eq!(data.of_classes(&[2, 3]), [2, 4]);
    // Counted once, for the first of the classes to forget.
    assert_eq!(case(&[1, 2], None).load(&path).unwrap().1.dropped, [(1, 2), (2, 1)]);

    // One of each: the fifth sample is read for its class 2 although class 0 has had enough, the second without a class is
    // not.
    let (data, summary) = case(&[1], Some(1)).load(&path).unwrap();
    assert_eq!(data.source_order(), [1, 3, 4, 6]);
    assert_eq!((summary.beyond_limit, summary.per_class), (1, vec![2, 0, 1, 1]));

    require_all_classes(&data, &[1]).unwrap();
    let (data, _) = case(&[0, 1], None).load(&path).unwrap();
    assert_eq!(
        require_all_classes(&data, &[0, 1]).unwrap_err().to_string(),
        "the data holds no samples of class 2, without a class to forget beside it; every class that is to be kept needs \
         some"
    );
}

#[test]
fn multi_hot_labels_for_every_step() {
    let dir = dir();
    let x = npy(&[2, 2, 2, 3], &[7u8; 24]);
    let y = [[[1u8, 1, 0], [0, 0, 0]], [[0, 0, 1], [0, 1, 1]]];
    let path = npz(&dir, &[("x", x.clone()), ("y", npy(&[2, 2, 3], y.as_flattened().as_flattened()))]);
    let case = Case { predictions: 2, independent: true, ..Case::default() };
    let (data, _) = case.load(&path).unwrap();
    assert_eq!(label_sets(&data), [[vec![0, 1], vec![]], [vec![2], vec![1, 2]]]);
    assert_eq!(data.per_class(), [1, 2, 2], "every step counts");

    // As many classes as steps: [N, steps] are indices, as for any model with steps.
    let path = npz(&dir, &[("x", x), ("y", npy(&[2, 2], &[1u8, 0, 0, 1]))]);
    let (data, _) = Case { classes: 2, ..case }.load(&path).unwrap();
    assert!(!data.multi_hot());
    assert_eq!(label_sets(&data), [[[1], [0]], [[0], [1]]]);
}

#[test]
fn multi_hot_labels_that_cannot_be_right() {
    let dir = dir();
    let x = || ("x", npy(&[2, 2, 2, 3], &[0u8; 24]));
    let says = |independent: bool, y: Vec<u8>, wanted: &str| {
        let message = Case { independent, ..Case::default() }.message(&npz(&dir, &[x(), ("y", y)]));
        assert!(message.contains(wanted), "{message}");
    };
    let column = "a column for each class holds 0 or 1";
    says(true, npy(&[2, 3], &[0i64, 1, 0, 1, 2, 0]), &format!("row 1 of `y` holds 2 for class 1; {column}"));
    says(true, npy(&[2, 3], &[0i64, 1, 0, 1, 0, -1]), "row 1 of `y` holds -1 for class 2");
    says(true, npy(&[2, 3], &[0.5f32, 1.0, 0.0, 1.0, 0.0, 0.0]), "row 0 of `y` holds 0.5 for class 0");
    says(true, npy(&[2, 3], &[0.0, 1.0 + f64::EPSILON, 0.0, 1.0, 0.0, 0.0]), "row 0 of `y` holds 1.0000000000000002");
    says(true, npy(&[2, 3], &[0f64, 1.0, f64::NAN, 1.0, 0.0, 0.0]), "row 0 of `y` holds NaN for class 2");
    says(
        true,
        npy(&[2, 4], &[0u8; 8]),
        "array `y` has shape [2, 4]; expected one class index per sample, [N], or 0 or 1 for each class, [N, 3]",
    );
    says(
        false,
        npy(&[2, 3], &[0u8, 1, 0, 1, 0, 0]),
        "array `y` has shape [2, 3]; expected one class index per sample, [N]; several classes in a sample (0 or 1 for each) \
         are for a model with independent scores: a final Sigmoid, or --multi-label",
    );
    says(true, npy(&[2], &[0f32, 1.0]), "array `y` has elements of type '<f4'; expected an integer (class indices)");
    says(true, raw_npy("'|b1'", "(2,)", &[0, 1]), "array `y` has elements of type '|b1'; expected an integer");
    says(true, raw_npy("'<f16'", "(2, 3)", &[0; 96]), "array `y` has elements of type '<f16'; expected a bool");
    says(true, npy(&[3, 3], &[0u8; 9]), "2 images but 3 labels");
    let y = fortran(raw_npy("'|u1'", "(2, 3)", &[0, 1, 0, 1, 0, 0]));
    says(true, y, "`y` is stored column by column (Fortran order); save np.ascontiguousarray(y)");
}

#[test]
fn floats_are_taken_as_they_are() {
    let dir = dir();
    let y = || ("y", npy(&[2], &[0i64, 1]));
    let values: Vec<f32> = (0..10).map(|v| v as f32 - 3.5).collect();
    let wide: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    // 1.5, -2, the smallest subnormal, 65504, 0 as IEEE halves.
    let halves: Vec<u8> = [0x3e00u16, 0xc000, 1, 0x7bff, 0].repeat(2).into_iter().flat_map(u16::to_le_bytes).collect();
    let preprocess = Preprocess { mean: vec![9.0; 7], std: vec![9.0], ..Preprocess::default() };
    let case = Case { dims: &[Some(5)], preprocess, ..Case::default() };
    for x in [npy(&[2, 5], &values), npy(&[2, 5], &wide)] {
        let (data, summary) = case.load(&npz(&dir, &[("x", x), y()])).unwrap();
        assert_eq!(all(&data), values);
        assert_eq!(summary.pixels, PixelKind::Float32);
    }
    let (data, _) = case.load(&npz(&dir, &[("x", raw_npy("'<f2'", "(2, 5)", &halves)), y()])).unwrap();
    assert_eq!(&all(&data)[5..], [1.5, -2.0, 2f32.powi(-24), 65504.0, 0.0]);

    let image: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let path = npz(&dir, &[("x", npy(&[1, 2, 2, 3], &image)), ("y", npy(&[1], &[0i64]))]);
    let (data, _) = Case::default().load(&path).unwrap();
    assert_eq!(all(&data), [0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]);
    let (data, _) = Case { dims: &[Some(2), None, Some(3)], ..Case::default() }.load(&path).unwrap();
    assert_eq!(all(&data), image);
}

#[test]
fn npz_errors_say_what_is_wrong() {
    let dir = dir();
    let case = Case::default();
    let x = || ("x", npy(&[2, 2, 2, 3], &[0u8; 24]));
    let y = |labels: &[i64]| ("y", npy(&[labels.len() as u64], labels));
    let says = |arrays: &[(&str, Vec<u8>)], wanted: &str| {
        let message = case.message(&npz(&dir, arrays));
        assert!(message.contains(wanted), "{message}");
    };
    says(&[("images", vec![]), ("labels", vec![])], "holds no array `x`, only `images`, `labels`");
    says(&[x(), ("labels", vec![])], "holds no array `y`, only `labels`, `x`");
    says(&[x(), y(&[0, 3])], "row 1 has label 3, but the model has 3 classes (0 to 2)");
    says(&[x(), y(&[-1, 0])], "row 0 has the negative label -1");
    says(&[x(), y(&[0, 1, 2])], "2 images but 3 labels");
    says(&[x(), ("y", npy(&[2], &[0f32, 1.0]))], "array `y` has elements of type '<f4'; expected an integer");
    says(&[x(), ("y", npy(&[2, 3], &[0i64; 6]))], "array `y` has shape [2, 3]; expected one class index per sample");
    says(&[("x", npy(&[2, 12], &[0i32; 24])), y(&[0, 1])], "array `x` has elements of type '<i4'; expected uint8");
    says(
        &[("x", npy(&[2, 3], &[0f32; 6])), y(&[0, 1])],
        "has shape [3], but the model's input `image` takes [3, 2, 2]",
    );
    says(
        &[("x", npy(&[2, 4, 4, 3], &[0u8; 96])), y(&[0, 1])],
        "each sample of `x` has shape [4, 4, 3], but the model's input `image` takes [3, 2, 2] (channels, height, width); \
         --resize 2x2 would scale it",
    );
    let mut floats = [0f32; 24];
    floats[13] = f32::NAN;
    says(&[("x", npy(&[2, 3, 2, 2], &floats)), y(&[0, 1])], "row 1 of `x` holds a value that is not a finite number");
    says(
        &[("x", raw_npy("'|u1'", "(2, 2, 2, 3)", &[0; 20])), y(&[0, 1])],
        "array `x` is truncated: its header promises 24 bytes, 20 are there",
    );
    says(&[("x", raw_npy("'|u1'", "(2, 2, 2, 3)", &[0; 25])), y(&[0, 1])], "array `x` is longer than the 24 bytes");
    says(&[x(), ("y", raw_npy("'<i8'", "(2,)", &[0; 15]))], "array `y` is truncated: its header promises 16 bytes");
    says(&[x(), ("y", b"nothing like it".to_vec())], "array `y` has an unreadable header");
    let lie = "(4294967296, 4294967296, 4294967296)";
    says(&[("x", raw_npy("'|u1'", lie, &[])), y(&[0, 1])], "its shape is missing or too large");
    says(&[x(), ("y", raw_npy("'<i8'", "(1000000000000000,)", &[0; 8]))], "array `y` is truncated");
    let fortran = fortran(raw_npy("'|u1'", "(2, 2, 2, 3)", &[0; 24]));
    says(&[("x", fortran), y(&[0, 1])], "`x` is stored column by column");
}

#[test]
fn a_truncated_or_damaged_archive_is_refused() {
    let dir = dir();
    let path = six(&dir);
    let whole = fs::read(&path).unwrap();
    for end in [0, 3, 10, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(Case::default().message(&path).contains("not a readable .npz (zip) archive"), "{end} bytes");
    }
    // The last compressed bytes of `x` lie just before the second local header, found by its signature.
    let second = whole.windows(4).skip(1).position(|w| w == b"PK\x03\x04").unwrap();
    let mut damaged = whole.clone();
    damaged[second - 30] ^= 0x10;
    fs::write(&path, &damaged).unwrap();
    let message = Case::default().message(&path);
    assert!(message.contains("array `x` is damaged"), "{message}");
}

#[test]
fn nothing_left_after_dropping() {
    let dir = dir();
    let message = Case { drop: &[0, 1, 2], ..Case::default() }.message(&six(&dir));
    assert!(
        message.contains("no samples left (npz): 6 found, 6 of them of classes that are not to be read"),
        "{message}"
    );
    let message = Case { drop: &[3], ..Case::default() }.message(&six(&dir));
    assert_eq!(message, "class 3 is out of range: the model has 3 classes (0 to 2)");
}

#[test]
fn missing_classes_are_named() {
    let dir = dir();
    let names = ClassNames::new(["ant", "bee", "cat", "dog"].map(String::from).to_vec());
    let path = six(&dir);
    let (data, _) = Case { classes: 4, names: Some(&names), drop: &[1], ..Case::default() }.load(&path).unwrap();
    assert_eq!(
        require_all_classes(&data, &[]).unwrap_err().to_string(),
        "the data holds no samples of bee (1), dog (3); every class that is to be kept needs some"
    );
    assert!(require_all_classes(&data, &[1]).unwrap_err().to_string().contains("of dog (3);"));
    require_all_classes(&data, &[1, 3]).unwrap();
    let (data, _) = Case { classes: 4, ..Case::default() }.load(&path).unwrap();
    assert!(require_all_classes(&data, &[]).unwrap_err().to_string().contains("of class 3;"));
}

#[test]
fn wrong_flags_are_refused() {
    let dir = dir();
    let path = six(&dir);
    let says = |preprocess: Preprocess, wanted: &str| {
        let message = Case { preprocess, ..Case::default() }.message(&path);
        assert!(message.contains(wanted), "{message}");
    };
    let plain = Preprocess::default;
    says(Preprocess { mean: vec![0.0; 2], ..plain() }, "--mean has 2 values; expected 1 or 3, one per channel");
    says(Preprocess { std: vec![1.0; 4], ..plain() }, "--std has 4 values; expected 1 or 3, one per channel");
    says(Preprocess { std: vec![1.0, 0.0, 1.0], ..plain() }, "--std 0: is divided by");
    says(Preprocess { std: vec![-1.0], ..plain() }, "--std -1: is divided by");
    says(Preprocess { mean: vec![f32::NAN], ..plain() }, "--mean NaN: must be a finite number");
    says(Preprocess { scale: Some(0.0), ..plain() }, "--scale 0: must be a finite number other than 0");
    says(Preprocess { resize: Some((0, 2)), ..plain() }, "--resize 0x2: height and width must be at least 1");
    says(Preprocess { resize: Some((4, 2)), ..plain() }, "--resize 4x2 should be 2x2");
}

// ---- what is it?

#[test]
fn sources_of_no_kind() {
    let dir = dir();
    let says = |path: &Path, wanted: &str| {
        let message = Case::default().message(path);
        assert!(message.contains(wanted), "{message}");
    };
    says(&dir.path().join("nowhere"), "nowhere: no such file or folder");
    says(&write(&dir, "notes.txt", b"hello, world"), "is of no known kind; expected a folder with one subfolder");
    says(&write(&dir, "empty", b""), "is empty; expected");
    says(&write(&dir, "x.npy", &npy(&[1], &[1u8])), "is a single array without labels");
    says(&write(&dir, "a-labels-idx1-ubyte", &idx(&[1], &[0])), "is a file of labels; name the file of images");
    says(&write(&dir, "b.npz", b"not a zip at all"), "not a readable .npz (zip) archive");
    says(
        &write(&dir, "c-images-idx3-ubyte", &idx(&[1, 2, 2], &[0; 4])),
        "looked for c-labels-idx1-ubyte and c-labels-idx1-ubyte.gz",
    );
    says(&write(&dir, "pictures", &idx(&[1, 2, 2], &[0; 4])), "its own name does not hold the word `images`");
}

// ---- IDX

fn idx_pair(dir: &TempDir) -> (PathBuf, Vec<u8>, Vec<u8>) {
    let images = idx(&[4, 2, 2], &(0..16).collect::<Vec<u8>>());
    let labels = idx(&[4], &[2, 0, 1, 0]);
    write(dir, "t-labels-idx1-ubyte", &labels);
    (write(dir, "t-images-idx3-ubyte", &images), images, labels)
}

#[test]
fn idx_files_find_their_labels() {
    let dir = dir();
    let (path, images, labels) = idx_pair(&dir);
    let case = Case { dims: &[Some(1), Some(2), Some(2)], drop: &[2], per_class: Some(1), ..Case::default() };
    let (data, summary) = case.load(&path).unwrap();
    assert_eq!((data.labels(), data.source_order()), (&[0, 1][..], &[1, 2][..]));
    assert_eq!(all(&data), (4..12).map(|v| v as f32).collect::<Vec<_>>());
    assert_eq!((summary.kind, summary.dropped, summary.beyond_limit), (SourceKind::Idx, vec![(2, 1)], 1));
    let lines = format!("{}  images\n{}  labels\n", sha(&images), sha(&labels));
    assert_eq!(summary.digest, sha(lines.as_bytes()));

    // Compressed images beside plain labels, both named, and channels as a fourth axis.
    let zipped = write(&dir, "t-images-idx3-ubyte.gz", &gz(&images));
    assert_eq!(all(&case.load(&zipped).unwrap().0), all(&data));
    let other = write(&dir, "l", &gz(&labels));
    let both = format!("{},{}", zipped.display(), other.display());
    assert_eq!(all(&case.load(Path::new(&both)).unwrap().0), all(&data));
    let deep = write(&dir, "deep", &idx(&[4, 2, 2, 1], &(0..16).collect::<Vec<u8>>()));
    let both = format!("{},{}", deep.display(), other.display());
    assert_eq!(all(&case.load(Path::new(&both)).unwrap().0), all(&data));
}

#[test]
fn idx_errors_say_what_is_wrong() {
    let dir = dir();
    let (path, images, labels) = idx_pair(&dir);
    let case = Case { dims: &[Some(1), Some(2), Some(2)], ..Case::default() };
    let labels_path = dir.path().join("t-labels-idx1-ubyte");
    let says = |images: &[u8], labels: &[u8], wanted: &str| {
        fs::write(&path, images).unwrap();
        fs::write(&labels_path, labels).unwrap();
        let message = case.message(&path);
        assert!(message.contains(wanted), "{message}");
    };
    says(&images[..30], &labels, "the images file is truncated: its header promises 16 bytes, 14 are there");
    says(
        &images[..9],
        &labels,
        "the header of the images file is truncated: its header promises 12 bytes, 5 are there",
    );
    says(&images, &labels[..10], "the labels file is truncated: its header promises 4 bytes, 2 are there");
    says(&[&images[..], b"!"].concat(), &labels, "the images file is longer than the 16 bytes");
    let zipped = gz(&images);
    says(&zipped[..zipped.len() - 10], &labels, "is truncated");
    let mut broken = zipped.clone();
    let at = broken.len() - 6;
    broken[at] ^= 1;
    says(&broken, &labels, "the images file is damaged");
    says(b"nothing like it", &labels, "begins with the bytes 6e 6f 74 68, an IDX images file begins with 00 00 08 03");
    says(&images, &images, "begins with the bytes 00 00 08 03, an IDX labels file begins with 00 00 08 01");
    says(&images, &idx(&[3], &[0, 1, 2]), "4 images but 3 labels");
    says(&images, &idx(&[4], &[0, 1, 2, 9]), "row 3 has label 9, but the model has 3 classes (0 to 2)");
    says(
        &idx(&[4, 3, 2], &[0; 24]),
        &labels,
        "each image has shape [3, 2], but the model's input `image` takes [1, 2, 2]",
    );
}

// ---- folders

#[test]
fn folders_are_read_sorted_and_dropped_ones_never_opened() {
    let dir = dir();
    picture(&dir, "bee/b.png", [2, 2], [10, 20, 30]);
    picture(&dir, "bee/a.PNG", [2, 2], [40, 50, 60]);
    picture(&dir, "bee/deep/c.bmp", [2, 2], [1, 2, 3]);
    picture(&dir, "ant/z.png", [2, 2], [70, 80, 90]);
    write(&dir, "ant/.hidden.png", b"not a picture");
    write(&dir, "ant/notes.txt", b"not a picture");
    write(&dir, "cat/1.png", b"never opened, or this would be an error");
    write(&dir, "cat/2.jpg", b"never opened, or this would be an error");
    fs::create_dir(dir.path().join(".git")).unwrap();
    let (data, summary) = Case { drop: &[2], ..Case::default() }.load(dir.path()).unwrap();
    assert_eq!(data.labels(), [0, 1, 1, 1]);
    let rows = all(&data);
    let firsts: Vec<f32> = rows.chunks(12).map(|row| row[0]).collect();
    assert_eq!(firsts, [70., 40., 10., 1.]);
    assert_eq!(&rows[..12], [70., 70., 70., 70., 80., 80., 80., 80., 90., 90., 90., 90.]);
    assert_eq!((summary.kind, summary.dropped.as_slice()), (SourceKind::Folder, &[(2, 2)][..]));
    assert_eq!(data.names().unwrap().all(), ["ant", "bee", "cat"]);
    let lines: String = ["ant/z.png", "bee/a.PNG", "bee/b.png", "bee/deep/c.bmp"]
        .map(|name| format!("{}  {name}\n", sha(&fs::read(dir.path().join(name)).unwrap())))
        .concat();
    assert_eq!(summary.digest, sha(lines.as_bytes()));

    let (data, summary) = Case { drop: &[2], per_class: Some(1), ..Case::default() }.load(dir.path()).unwrap();
    assert_eq!((data.labels(), summary.beyond_limit), (&[0, 1][..], 2));
    assert_eq!(all(&data)[12], 40.0, "the first by name");

    let message = Case::default().message(dir.path());
    assert!(message.contains("cat/1.png: not a readable image: "), "{message}");
}

#[test]
fn class_folders_get_their_classes() {
    let dir = dir();
    picture(&dir, "bee/a.png", [2, 2], [0; 3]);
    picture(&dir, "ant/a.png", [2, 2], [0; 3]);
    assert_eq!(folder_class_names(dir.path(), 2).unwrap().unwrap().all(), ["ant", "bee"]);
    let message = Case::default().message(dir.path());
    assert!(message.contains("2 class folders, but the model has 3 classes"), "{message}");
    assert!(message.contains("--labels FILE"), "{message}");

    let names = ClassNames::new(["cow", "bee", "ant"].map(String::from).to_vec());
    let case = Case { names: Some(&names), ..Case::default() };
    assert_eq!(case.load(dir.path()).unwrap().0.labels(), [2, 1], "folders in sorted order, classes as listed");
    picture(&dir, "beee/a.png", [2, 2], [0; 3]);
    let message = case.message(dir.path());
    assert!(message.contains("folder `beee`: unknown class `beee`; did you mean `bee`?"), "{message}");
    fs::rename(dir.path().join("beee"), dir.path().join("1")).unwrap();
    assert!(case.message(dir.path()).contains("the folders `1` and `bee` are both class 1"));
    let message = Case { classes: 4, ..case }.message(dir.path());
    assert_eq!(message, "3 class names (--labels), but the model has 4 classes");
}

#[test]
fn integer_folders_are_indices() {
    let dir = dir();
    picture(&dir, "10/a.png", [2, 2], [0; 3]);
    picture(&dir, "2/a.png", [2, 2], [0; 3]);
    let (data, _) = Case { classes: 11, ..Case::default() }.load(dir.path()).unwrap();
    assert_eq!(data.labels(), [10, 2]);
    assert_eq!(folder_class_names(dir.path(), 11).unwrap(), None);
    let message = Case { classes: 10, ..Case::default() }.message(dir.path());
    assert!(message.contains("folder `10`: class 10 is out of range: the model has 10 classes (0 to 9)"), "{message}");
    let empty = tempfile::tempdir().unwrap();
    assert!(Case::default().message(empty.path()).contains("has no subfolders"));
    fs::create_dir(empty.path().join("0")).unwrap();
    assert!(Case::default().message(empty.path()).contains("no samples left (folder): 0 found"));
}

#[test]
fn pictures_are_scaled_only_when_asked() {
    let dir = dir();
    let mut halves = RgbImage::from_pixel(4, 4, Rgb([0, 0, 0]));
    (0..4).for_each(|y| (2..4).for_each(|x| halves.put_pixel(x, y, Rgb([200, 100, 50]))));
    write(&dir, "0/a.png", b"");
    halves.save(dir.path().join("0/a.png")).unwrap();
    let message = Case::default().message(dir.path());
    assert!(message.contains("has shape [4, 4, 3], but the model's input `image` takes [3, 2, 2]"), "{message}");
    assert!(message.contains("--resize 2x2 would scale it"), "{message}");

    let preprocess = Preprocess { resize: Some((2, 2)), scale: Some(1.0), ..Preprocess::default() };
    let case = Case { preprocess, ..Case::default() };
    let scaled = all(&case.load(dir.path()).unwrap().0);
    // A triangle of radius 2 around 1 weighs the columns 3 3 1 0 (of 7, the edge cut off), around 3 mirrored.
    let wanted = [200.0 / 7.0, 600.0 / 7.0 * 2.0, 200.0 / 7.0, 600.0 / 7.0 * 2.0];
    for (got, want) in scaled[..4].iter().zip(wanted) {
        assert!((got - want).abs() <= 1.0, "{scaled:?} against {wanted:?}");
    }

    let open = Case { dims: &[Some(3), None, None], ..Case::default() };
    assert_eq!(open.load(dir.path()).unwrap().0.sample_shape(), [3, 4, 4], "an open size is the data's");
    picture(&dir, "0/b.png", [4, 5], [0; 3]);
    let message = open.message(dir.path());
    assert!(message.contains("b.png: the image (height, width, channels) has shape [4, 5, 3]"), "{message}");
    assert!(message.contains("images of one size, and 0/a.png has [4, 4, 3]"), "{message}");
}

#[test]
fn pictures_come_in_the_channels_of_the_model() {
    let dir = dir();
    picture(&dir, "0/a.png", [1, 1], [100, 200, 50]);
    let one = |dims: &[Option<usize>]| all(&Case { dims, ..Case::default() }.load(dir.path()).unwrap().0);
    assert_eq!(one(&[Some(1), Some(1), Some(1)]), [153.0], "0.299 R + 0.587 G + 0.114 B");
    assert_eq!(one(&[Some(4), Some(1), Some(1)]), [100.0, 200.0, 50.0, 255.0]);
    assert_eq!(one(&[None, None, None]), [100.0, 200.0, 50.0]);
    assert_eq!(one(&[Some(1)]), [153.0]);
}

#[test]
fn arrays_of_bytes_are_scaled_too() {
    let dir = dir();
    let x: Vec<u8> = [[10u8, 20, 30]; 16].concat();
    let path = npz(&dir, &[("x", npy(&[1, 4, 4, 3], &x)), ("y", npy(&[1], &[0i64]))]);
    let preprocess = Preprocess { resize: Some((2, 2)), scale: Some(1.0), ..Preprocess::default() };
    let (data, _) = Case { preprocess, ..Case::default() }.load(&path).unwrap();
    assert_eq!(all(&data), [10., 10., 10., 10., 20., 20., 20., 20., 30., 30., 30., 30.]);
}

// ---- class names

#[test]
fn class_names_are_parsed() {
    let dir = dir();
    let path = write(&dir, "names.txt", "\u{feff}airplane\r\ncar, old\ncat\ndog\n\n\n".as_bytes());
    let names = ClassNames::from_file(&path).unwrap();
    assert_eq!(names.all(), ["airplane", "car, old", "cat", "dog"]);
    assert_eq!(names.parse("cat,0, 3,airplane").unwrap(), [0, 2, 3]);
    assert_eq!(names.parse("car, old").unwrap(), [1]);
    let says = |list: &str, wanted: &str| assert_eq!(names.parse(list).unwrap_err().to_string(), wanted);
    says("Cat", "unknown class `Cat`; did you mean `cat`?");
    says("airplan", "unknown class `airplan`; did you mean `airplane`?");
    says("zebra", "unknown class `zebra`; the classes are airplane, car, old, cat, dog");
    says("4", "class 4 is out of range: the model has 4 classes (0 to 3)");
    says("", "`` names no class, or holds an empty entry; write names or indices with commas between them");
    says(
        "cat,,dog",
        "`cat,,dog` names no class, or holds an empty entry; write names or indices with commas between them",
    );
    let plain = ClassNames::indices(3).parse("cat").unwrap_err().to_string();
    assert_eq!(plain, "unknown class `cat`; give the names of the classes with --labels FILE, or use indices");
    assert_eq!(ClassNames::indices(12).parse("11,2").unwrap(), [2, 11]);
}

#[test]
fn a_name_of_several_classes_is_an_error_only_where_it_is_used() {
    let dir = dir();
    let names = ClassNames::from_file(&write(&dir, "n", b"crane\nbee\ncrane\n")).unwrap();
    assert_eq!(names.parse("bee,2").unwrap(), [1, 2]);
    for list in ["crane", "bee,crane"] {
        let message = names.parse(list).unwrap_err().to_string();
        assert_eq!(
            message,
            "the class name `crane` stands for classes 0 and 2; give the index of the one that is meant"
        );
    }
    picture(&dir, "crane/a.png", [1, 1], [1, 2, 3]);
    let message = Case { names: Some(&names), ..Case::default() }.message(dir.path());
    assert!(message.contains("crane") && message.contains("classes 0 and 2"), "{message}");
}

#[test]
fn lists_of_names_that_cannot_be_right() {
    let dir = dir();
    let says = |bytes: &[u8], wanted: &str| {
        let message = ClassNames::from_file(&write(&dir, "n", bytes)).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    };
    says(b"ant\n\nbee\n", "line 2 is blank");
    says(b"\n\n", "holds no names");
    says(b"ant\n\xff\n", "is not UTF-8 text");
    let missing = ClassNames::from_file(&dir.path().join("none")).unwrap_err().to_string();
    assert!(missing.contains("no such file"), "{missing}");
}

// ---- batches

#[test]
fn large_batches_equal_single_rows() {
    let dir = dir();
    let x: Vec<u8> = (0..20 * 64 * 64 * 3u32).map(|v| (v * 7 % 251) as u8).collect();
    let y: Vec<i64> = (0..20).map(|v| v % 3).collect();
    let path = npz(&dir, &[("x", npy(&[20, 64, 64, 3], &x)), ("y", npy(&[20], &y))]);
    for dims in [[Some(3), Some(64), Some(64)], [Some(64), Some(64), Some(3)]] {
        let (data, _) = Case { dims: &dims, ..Case::default() }.load(&path).unwrap();
        let indices: Vec<usize> = shuffled(20, 1).into_iter().map(|i| i as usize).collect();
        let mut batch = vec![7.0; 20 * data.sample_len()];
        data.batch(&indices, &mut batch);
        let mut row = vec![0.0; data.sample_len()];
        for (got, &i) in batch.chunks(row.len()).zip(&indices) {
            data.batch(&[i], &mut row);
            assert!(got == row, "sample {i}");
            assert_eq!(row[row.len() - 1], f32::from(x[(i + 1) * row.len() - 1]));
        }
    }
}

/// The expected numbers come from an implementation of `ChaCha` and of the arithmetic written separately in another language.
#[test]
fn shuffles_never_change() {
    assert_eq!(Seeded::new(7, "shuffle").bits(), 0xe74d_bcd4_9dbe_f6a8);
    assert_eq!(shuffled(12, 7), [4, 0, 11, 6, 7, 3, 9, 8, 2, 5, 1, 10]);
    let order = shuffled(300, 0);
    assert_eq!((&order[..5], &order[295..]), (&[22, 45, 55, 137, 8][..], &[103, 27, 40, 219, 170][..]));
    let mut noise = Seeded::new(7, "noise");
    let drawn: Vec<u64> = (0..40).map(|_| noise.below(1000)).collect();
    assert_eq!((&drawn[..4], &drawn[36..]), (&[508, 416, 668, 684][..], &[55, 9, 830, 318][..]));
    assert_eq!(noise.below(0), 0);
    let mut sorted = order;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..300).collect::<Vec<u32>>());
    assert_eq!(shuffled(0, 3), [0u32; 0]);
}

#[test]
fn prefetched_batches_come_in_order() {
    let mut seen: Vec<f32> = Vec::new();
    let mut places = std::collections::BTreeSet::new();
    std::thread::scope(|scope| {
        let mut batches = Prefetch::start(scope, 50, |batch| {
            batch.x.resize(1000, 0.0);
            batch.x.fill(batch.step as f32);
            batch.targets.clear();
            batch.targets.push(batch.step as f32);
        });
        while let Some(batch) = batches.next_batch() {
            assert!(batch.x.iter().all(|v| *v == batch.step as f32));
            places.insert(batch.x.as_ptr() as usize);
            seen.extend(&batch.targets);
        }
        assert!(batches.next_batch().is_none());
    });
    assert_eq!(seen, (0..50).map(|step| step as f32).collect::<Vec<_>>());
    assert!(places.len() <= 2, "two buffers are used again and again, not {}", places.len());
}

#[test]
fn prefetch_ends_when_the_caller_does_and_passes_panics_on() {
    std::thread::scope(|scope| {
        let mut batches = Prefetch::start(scope, usize::MAX, |batch| batch.weights = vec![batch.step as f32]);
        assert_eq!(batches.next_batch().unwrap().weights, [0.0]);
    });
    let panicked = std::panic::catch_unwind(|| {
        std::thread::scope(|scope| {
            let mut batches = Prefetch::start(scope, 3, |batch| assert_ne!(batch.step, 1, "at step one"));
            while batches.next_batch().is_some() {}
        });
    });
    assert!(panicked.is_err());
}

/// 2^24 + 1 is the first integer that float32 rounds.
#[test]
fn integers_that_float32_rounds_are_refused() {
    let dir = TempDir::new().unwrap();
    let rows = |at: usize, value: i64| {
        let mut ids = [1i64, -16_777_216, 16_777_216, 3, 4, 5];
        ids[at] = value;
        npy(&[3, 2], &ids)
    };
    let y = || ("y", npy(&[3], &[0i64, 1, 2]));
    let case = Case { integers: true, dims: &[Some(2)], drop: &[0], ..Case::default() };
    case.load(&npz(&dir, &[("x", rows(5, 7)), y()])).map(|_| ()).unwrap();
    for value in [16_777_217, -16_777_217, i64::MIN] {
        let said = case.message(&npz(&dir, &[("x", rows(5, value)), y()]));
        assert!(said.contains(&format!("array `x` holds {} in row 2; integers beyond", value as f64)), "{said}");
    }
    // Rows that are not read are not looked at.
    case.load(&npz(&dir, &[("x", rows(0, 16_777_217)), y()])).map(|_| ()).unwrap();
    let further = [InputSpec { name: "mask".into(), dims: vec![Some(2)], batch: None, integers: true }];
    let case = Case { dims: &[Some(2)], further: &further, ..Case::default() };
    let said = case.message(&npz(&dir, &[("x", npy(&[3, 2], &[0f32; 6])), ("mask", rows(2, 16_777_217)), y()]));
    assert!(
        said.contains("array `mask` holds 16777217 in row 1; integers beyond 16,777,216 are not supported"),
        "{said}"
    );
}
