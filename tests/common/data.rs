//! Small data sets cut from `fixtures/data`, and the same images in every format.

use super::{fixture, temporary};
use flate2::{Compression, write::GzEncoder};
use npyz::WriterBuilder;
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::LazyLock,
};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Height and width of the fixture images.
pub const SIDE: usize = 28;
const PIXELS: usize = SIDE * SIDE;

/// Images of 28 x 28 bytes and their classes.
#[derive(Clone, Debug)]
pub struct Images {
    pub x: Vec<Vec<u8>>,
    pub y: Vec<i64>,
}

impl Images {
    /// All images of a fixture file.
    pub fn read(path: &Path) -> Self {
        let mut archive = ZipArchive::new(File::open(path).expect("the fixture is there")).expect("a zip");
        let mut array = |name: &str| {
            let mut bytes = Vec::new();
            archive.by_name(name).expect("the array is there").read_to_end(&mut bytes).expect("readable");
            bytes
        };
        let pixels = npyz::NpyFile::new(&array("x.npy")[..]).expect("an array").into_vec::<u8>().expect("bytes");
        let y = npyz::NpyFile::new(&array("y.npy")[..]).expect("an array").into_vec::<i64>().expect("integers");
        Self { x: pixels.chunks_exact(PIXELS).map(<[u8]>::to_vec).collect(), y }
    }

    /// The first `n` images of each class, sorted by class.
    pub fn first(&self, n: usize) -> Self {
        let classes = 0..=self.y.iter().copied().max().unwrap_or(-1);
        self.pick(classes.flat_map(|class| (0..self.y.len()).filter(move |&i| self.y[i] == class).take(n)))
    }

    /// The images without those of `class`.
    pub fn without(&self, class: i64) -> Self {
        self.pick((0..self.y.len()).filter(|&i| self.y[i] != class))
    }

    /// Only the images of `class`.
    pub fn only(&self, class: i64) -> Self {
        self.pick((0..self.y.len()).filter(|&i| self.y[i] == class))
    }

    fn pick(&self, rows: impl Iterator<Item = usize>) -> Self {
        let rows: Vec<usize> = rows.collect();
        Self { x: rows.iter().map(|&i| self.x[i].clone()).collect(), y: rows.iter().map(|&i| self.y[i]).collect() }
    }

    /// An archive with `x` as [N, 28, 28, 1].
    pub fn write_npz(&self, path: &Path) {
        let n = self.y.len() as u64;
        self.write_shaped(path, &[n, SIDE as u64, SIDE as u64, 1]);
    }

    /// An archive with `x` of this shape.
    pub fn write_shaped(&self, path: &Path, shape: &[u64]) {
        let mut zip = ZipWriter::new(File::create(path).expect("created"));
        zip.start_file("x.npy", SimpleFileOptions::default()).expect("started");
        zip.write_all(&npy(shape, self.x.concat())).expect("written");
        zip.start_file("y.npy", SimpleFileOptions::default()).expect("started");
        zip.write_all(&npy(&[self.y.len() as u64], self.y.iter().copied())).expect("written");
        zip.finish().expect("finished");
    }

    /// IDX files; gives the path of the images.
    pub fn write_idx(&self, folder: &Path, gz: bool) -> PathBuf {
        let n = self.y.len() as u32;
        let mut images = vec![0, 0, 8, 3];
        images.extend([n, SIDE as u32, SIDE as u32].iter().flat_map(|d| d.to_be_bytes()));
        images.extend(self.x.concat());
        let mut labels = vec![0, 0, 8, 1];
        labels.extend(n.to_be_bytes());
        labels.extend(self.y.iter().map(|&class| class as u8));
        let ending = if gz { ".gz" } else { "" };
        for (name, bytes) in [("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)] {
            let mut file = File::create(folder.join(format!("{name}{ending}"))).expect("created");
            if gz {
                let mut encoder = GzEncoder::new(file, Compression::fast());
                encoder.write_all(&bytes).expect("written");
                encoder.finish().expect("finished");
            } else {
                file.write_all(&bytes).expect("written");
            }
        }
        folder.join(format!("images-idx3-ubyte{ending}"))
    }

    /// A folder of PNG pictures, one subfolder a class, called what `name` says.
    pub fn write_folder(&self, folder: &Path, name: impl Fn(i64) -> String) {
        for (i, (pixels, &class)) in self.x.iter().zip(&self.y).enumerate() {
            let below = folder.join(name(class));
            fs::create_dir_all(&below).expect("a folder");
            let picture = image::GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels.clone()).expect("the size fits");
            picture.save(below.join(format!("{i:05}.png"))).expect("saved");
        }
    }
}

/// An archive of arrays, each as [`npy`] writes it.
pub fn write_arrays(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut zip = ZipWriter::new(File::create(path).expect("created"));
    for (name, array) in arrays {
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).expect("started");
        zip.write_all(array).expect("written");
    }
    zip.finish().expect("finished");
}

/// One array as NumPy stores it.
pub fn npy<T: npyz::AutoSerialize>(shape: &[u64], values: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().expect("began");
    writer.extend(values).expect("written");
    writer.finish().expect("finished");
    bytes
}

/// The first 20 retain images of each class.
pub fn retain() -> &'static Images {
    static IMAGES: LazyLock<Images> =
        LazyLock::new(|| Images::read(&fixture("data/fashion-mnist-retain.npz")).first(20));
    &IMAGES
}

/// The first 10 held-out images of each class.
pub fn eval() -> &'static Images {
    static IMAGES: LazyLock<Images> = LazyLock::new(|| Images::read(&fixture("data/fashion-mnist-eval.npz")).first(10));
    &IMAGES
}

/// [`retain`] as a file.
pub fn retain_file() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| kept("small-retain.npz", retain()));
    &PATH
}

/// [`eval`] as a file.
pub fn eval_file() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| kept("small-eval.npz", eval()));
    &PATH
}

/// Puts images into the folder that cargo keeps for tests; several test programs may do so at once.
fn kept(name: &str, images: &Images) -> PathBuf {
    let folder = temporary();
    let unfinished = folder.path().join(name);
    images.write_npz(&unfinished);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let own = target.join(format!("{name}.{}", std::process::id()));
    fs::copy(&unfinished, &own).expect("copied");
    let path = target.join(name);
    fs::rename(own, &path).expect("renamed");
    path
}
