//! Folders with one subfolder per class.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, ImageReader};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::batches::Samples;
use super::labels::Labels;
use super::names::{ClassNames, index};
use super::preprocess::resize;
use super::rows::Pixels;
use super::sampling::Tally;
use super::shape::{Axes, Fit, Target};
use super::source::{Loaded, manifest_digest, unreadable};
use super::store::Store;
use super::{DataError, LoadPlan, SourceKind};

/// Pictures decoded before they are put in order: bounds what is held twice.
const BLOCK: usize = 512;

/// One picture that is to be read.
struct Picture {
    /// Path below the data folder, with `/` between its parts.
    name: String,
    path: PathBuf,
    label: u32,
    order: u64,
}

/// Reads the pictures of the wanted classes, sorted by class folder and path. Folders of dropped classes are only counted.
pub(super) fn load(root: &Path, plan: &LoadPlan<'_>) -> Result<Loaded, DataError> {
    let folders = subfolders(root)?;
    let (classes, names) = classes_of(root, &folders, plan.names, plan.classes)?;
    let mut tally = Tally::new(plan)?;
    let mut pictures = Vec::new();
    let mut found = 0;
    for (folder, &class) in folders.iter().zip(&classes) {
        for (name, path) in files(&root.join(folder), folder)? {
            if tally.take(&[class as u32]) {
                pictures.push(Picture { name, path, label: class as u32, order: found });
            }
            found += 1;
        }
    }
    if pictures.is_empty() {
        let dropped = tally.dropped().iter().map(|(_, n)| n).sum();
        let found = found as usize;
        return Err(DataError::NoSamples { path: root.to_path_buf(), kind: SourceKind::Folder, found, dropped });
    }
    let (samples, shape, digest) = decode_all(&pictures, plan)?;
    let mut labels = Labels::default();
    for picture in &pictures {
        (0..plan.predictions).for_each(|_| labels.push([picture.label]));
    }
    Ok(Loaded {
        kind: SourceKind::Folder,
        samples,
        shape,
        further: Vec::new(),
        labels,
        order: pictures.iter().map(|p| p.order).collect(),
        tally,
        names,
        digest: Some(digest),
    })
}

/// The class names that the subfolders of a data folder stand for; `None` where they are indices.
pub(super) fn names(root: &Path, classes: usize) -> Result<Option<ClassNames>, DataError> {
    classes_of(root, &subfolders(root)?, None, classes).map(|(_, names)| names)
}

/// Names of the subfolders, sorted; hidden ones are passed over.
fn subfolders(root: &Path) -> Result<Vec<String>, DataError> {
    let failed = |source| unreadable(root, source);
    let mut folders = Vec::new();
    for entry in fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_dir() {
            folders.push(name);
        }
    }
    folders.sort();
    if folders.is_empty() { Err(DataError::NoClassFolders { path: root.to_path_buf() }) } else { Ok(folders) }
}

/// The class of every folder, and the names found where nobody gave any.
fn classes_of(
    root: &Path,
    folders: &[String],
    names: Option<&ClassNames>,
    classes: usize,
) -> Result<(Vec<usize>, Option<ClassNames>), DataError> {
    let integers = folders.iter().all(|name| index(name).is_some());
    let (found, own) = if names.is_none() && !integers {
        if folders.len() != classes {
            let path = root.to_path_buf();
            return Err(DataError::FolderCount { path, folders: folders.len(), classes });
        }
        ((0..classes).collect(), Some(ClassNames::new(folders.to_vec())))
    } else {
        let plain = ClassNames::indices(classes);
        let class = |folder: &String| {
            names.unwrap_or(&plain).find(folder).map_err(|source| DataError::Folder {
                path: root.to_path_buf(),
                folder: folder.clone(),
                source: Box::new(source),
            })
        };
        (folders.iter().map(class).collect::<Result<Vec<_>, _>>()?, None)
    };
    let mut taken = vec![None; classes];
    for (folder, &class) in folders.iter().zip(&found) {
        if let Some(first) = taken[class].replace(folder) {
            let (first, second) = (first.clone(), folder.clone());
            return Err(DataError::FolderTwice { path: root.to_path_buf(), first, second, class });
        }
    }
    Ok((found, own))
}

/// The pictures below a class folder, by the ending of their names: name below the data folder and path, sorted by name.
///
/// Links to pictures are followed, links to folders below the class folder are not, as they may lead in circles.
fn files(folder: &Path, name: &str) -> Result<Vec<(String, PathBuf)>, DataError> {
    let failed = |source| unreadable(folder, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let own = entry.file_name().to_string_lossy().into_owned();
        if own.starts_with('.') {
            continue;
        }
        let below = format!("{name}/{own}");
        if entry.file_type().map_err(failed)?.is_dir() {
            found.extend(files(&entry.path(), &below)?);
        } else if format_of(&own).is_some() && !entry.path().is_dir() {
            found.push((below, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The picture format that an ending stands for.
fn format_of(name: &str) -> Option<ImageFormat> {
    match Path::new(name).extension()?.to_str()?.to_lowercase().as_str() {
        "png" => Some(ImageFormat::Png),
        "jpg" | "jpeg" => Some(ImageFormat::Jpeg),
        "bmp" => Some(ImageFormat::Bmp),
        "gif" => Some(ImageFormat::Gif),
        "tif" | "tiff" => Some(ImageFormat::Tiff),
        "webp" => Some(ImageFormat::WebP),
        _ => None,
    }
}

/// Decodes all pictures to the model's channels and to one size, and hashes their bytes.
fn decode_all(pictures: &[Picture], plan: &LoadPlan<'_>) -> Result<(Samples, Vec<usize>, String), DataError> {
    let target = Target::new(&plan.input, plan.preprocess)?;
    let channels = match target.channels() {
        c @ (1 | 4) => c,
        _ => 3,
    };
    let mut first: Option<Fit> = None;
    let mut pixels = Store::new();
    let mut digests = Vec::with_capacity(pictures.len());
    for block in pictures.chunks(BLOCK) {
        let decoded: Vec<_> = block.par_iter().map(|picture| decode(picture, channels, &target)).collect();
        for (picture, decoded) in block.iter().zip(decoded) {
            let (digest, fit, bytes) = decoded?;
            digests.push((digest, picture.name.as_str()));
            pixels.push(&bytes)?;
            let first = first.get_or_insert_with(|| fit.clone());
            if first.hwc != fit.hwc {
                return Err(target.uneven(&picture.path, &fit, first, &pictures[0].name));
            }
        }
    }
    // Never empty: the caller has seen to it.
    let Some(Fit { to, hwc, shape, .. }) = first else {
        return Ok((Samples::Floats(Vec::new()), Vec::new(), String::new()));
    };
    let tables = plan.preprocess.tables(channels)?;
    // The lines of the digest are sorted by name over all folders.
    digests.sort_by_key(|(_, name)| *name);
    let fit = Fit { from: Axes::Hwc, to, source: hwc, hwc, shape };
    let (samples, shape) = Pixels { fit, data: pixels }.finish(tables);
    Ok((samples, shape, manifest_digest(digests)))
}

/// One picture's digest, how it fits, and its bytes in height, width, channels order at the model's size.
fn decode(picture: &Picture, channels: usize, target: &Target<'_>) -> Result<(String, Fit, Vec<u8>), DataError> {
    let path = &picture.path;
    let broken = |source| DataError::Image { path: path.clone(), source };
    let file = fs::read(path).map_err(|source| unreadable(path, source))?;
    let digest = hex::encode(Sha256::digest(&file));
    let mut reader = ImageReader::new(Cursor::new(&file));
    if let Some(format) = format_of(&picture.name) {
        reader.set_format(format);
    }
    // What the first bytes say goes before what the ending says.
    let reader = reader.with_guessed_format().map_err(|source| unreadable(path, source))?;
    let image = reader.decode().map_err(broken)?;
    let source = [image.height() as usize, image.width() as usize, channels];
    let mismatch = || target.mismatch(path, "the image (height, width, channels)".to_owned(), &source, true);
    let fit = target.picture(source, Axes::Hwc).ok_or_else(mismatch)?;
    let bytes = to_channels(image, channels);
    let bytes = match fit.hwc {
        [h, w, _] if [h, w] != source[..2] => resize(&bytes, source, [h, w]).ok_or_else(mismatch)?,
        _ => bytes,
    };
    Ok((digest, fit, bytes))
}

/// Brings a picture to 1 (luma), 3 (RGB) or 4 (RGBA) channels of 8 bits.
///
/// Luma is ITU-R BT.601's, 0.299 R + 0.587 G + 0.114 B: what the image libraries that models are trained with use.
fn to_channels(image: DynamicImage, channels: usize) -> Vec<u8> {
    match channels {
        3 => image.into_rgb8().into_raw(),
        4 => image.into_rgba8().into_raw(),
        _ if !image.color().has_color() => image.into_luma8().into_raw(),
        _ => {
            let luma = |p: &[u8]| (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000;
            image.into_rgb8().as_raw().chunks_exact(3).map(|p| luma(p) as u8).collect()
        }
    }
}
