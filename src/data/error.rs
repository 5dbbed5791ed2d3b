//! Every way a data set, a list of class names or a preprocessing flag can be wrong.

use std::path::PathBuf;

use super::SourceKind;

/// What is wrong with the data, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The path leads nowhere.
    #[error("{}: no such file or folder", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system would not let it be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither a folder nor an archive of arrays nor IDX.
    #[error(
        "{}: {found}; expected a folder with one subfolder per class, an .npz archive with `x` and `y`, or an IDX images file",
        path.display()
    )]
    UnknownKind {
        /// The file.
        path: PathBuf,
        /// What it looks like instead.
        found: String,
    },
    /// An IDX file that does not begin like one.
    #[error("{}: begins with the bytes {found}, an IDX {what} file begins with {wanted}", path.display())]
    WrongMagic {
        /// The file.
        path: PathBuf,
        /// `images` or `labels`.
        what: String,
        /// Its first bytes, in hexadecimal.
        found: String,
        /// The bytes it should begin with.
        wanted: &'static str,
    },
    /// The zip container is damaged, cut short, or no zip at all.
    #[error("{}: not a readable .npz (zip) archive; it may be truncated", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What the zip reader said.
        source: zip::result::ZipError,
    },
    /// An archive without one of its two arrays.
    #[error("{}: holds no array `{wanted}`, only {held}; save it with np.savez(file, {wanted}=...)", path.display())]
    NoArray {
        /// The archive.
        path: PathBuf,
        /// The array that is asked for.
        wanted: String,
        /// The names it holds.
        held: String,
    },
    /// Integers that float32, in which samples are held, cannot tell apart.
    #[error("{}: {what} holds {value} in row {row}; integers beyond 16,777,216 are not supported", path.display())]
    LargeInteger {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// Row, from 0.
        row: usize,
        /// The number.
        value: f64,
    },
    /// A source that holds one array, for a model with several inputs.
    #[error(
        "{}: a {kind} holds the data of one input, but the model also wants {names}; give them as arrays of that name in an \
         .npz, or as --constant NAME=VALUE", path.display()
    )]
    OneInput {
        /// The source.
        path: PathBuf,
        /// Its kind.
        kind: super::SourceKind,
        /// The other inputs.
        names: String,
    },
    /// The array header inside an archive makes no sense.
    #[error("{}: array `{array}` has an unreadable header", path.display())]
    ArrayHeader {
        /// The archive.
        path: PathBuf,
        /// The array.
        array: String,
        /// What the array reader said.
        source: std::io::Error,
    },
    /// The file ends before its header says it does.
    #[error("{}: {what} is truncated: its header promises {wanted} bytes, {got} are there", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// Bytes the header promises.
        wanted: u64,
        /// Bytes found.
        got: u64,
    },
    /// The file goes on after its header says it ends.
    #[error("{}: {what} is longer than the {wanted} bytes its header promises", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// Bytes the header promises.
        wanted: u64,
    },
    /// Decompression failed or a checksum does not fit.
    #[error("{}: {what} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// What the reader said.
        source: std::io::Error,
    },
    /// Images that are more than memory should hold have nowhere to go.
    #[error(
        "{}: the pixels of the images cannot be kept there while the program runs; give another folder, with room, in \
         TMPDIR", folder.display()
    )]
    NoRoom {
        /// The folder for temporary files.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An array of a type that means nothing here.
    #[error("{}: {what} has elements of type {found}; expected {wanted}", path.display())]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// The type found.
        found: String,
        /// The types that would do.
        wanted: &'static str,
    },
    /// Column-major storage, which cannot be read sample by sample.
    #[error(
        "{}: `{array}` is stored column by column (Fortran order); save np.ascontiguousarray({array})", path.display()
    )]
    FortranOrder {
        /// The archive.
        path: PathBuf,
        /// The array.
        array: String,
    },
    /// Labels of a shape that means nothing for this model.
    #[error("{}: {what} has shape {found}; expected {wanted}", path.display())]
    LabelsShape {
        /// The file.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// The shape found.
        found: String,
        /// What would do.
        wanted: String,
    },
    /// Multi-hot labels with another value than 0 and 1.
    #[error("{}: row {row} of `y` holds {value} for class {class}; a column for each class holds 0 or 1", path.display())]
    LabelColumn {
        /// The archive.
        path: PathBuf,
        /// Row, from 0.
        row: usize,
        /// The class of the column.
        class: usize,
        /// The value.
        value: f64,
    },
    /// No labels file lies beside the images.
    #[error("{}: no labels beside it (looked for {looked}); name both files as IMAGES,LABELS", path.display())]
    NoLabelsFile {
        /// The images file.
        path: PathBuf,
        /// The names tried.
        looked: String,
    },
    /// Images and labels do not pair up.
    #[error("{}: {images} images but {labels} labels", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// Number of images.
        images: u64,
        /// Number of labels.
        labels: u64,
    },
    /// A label beyond the model's outputs.
    #[error(
        "{}: row {row} has label {label}, but the model has {classes} classes (0 to {})",
        path.display(), classes.saturating_sub(1)
    )]
    LabelRange {
        /// The file.
        path: PathBuf,
        /// Row, from 0.
        row: usize,
        /// The label.
        label: u64,
        /// Number of outputs of the model.
        classes: usize,
    },
    /// A label below zero.
    #[error("{}: row {row} has the negative label {label}; labels are class indices from 0", path.display())]
    NegativeLabel {
        /// The file.
        path: PathBuf,
        /// Row, from 0.
        row: usize,
        /// The label.
        label: i64,
    },
    /// Nothing is left to work with.
    #[error("{}: no samples left ({kind}): {found} found, {dropped} of them of classes that are not to be read", path.display())]
    NoSamples {
        /// The source.
        path: PathBuf,
        /// Its kind.
        kind: SourceKind,
        /// Samples found.
        found: usize,
        /// Samples dropped by label.
        dropped: usize,
    },
    /// Classes without a single sample.
    #[error("the data holds no samples of {classes}{hint}; every class that is to be kept needs some")]
    MissingClasses {
        /// Their names and indices.
        classes: String,
        /// What is special about the samples that are meant.
        hint: &'static str,
    },
    /// Data and model disagree about the shape of a sample.
    #[error("{}: {item} has shape {found}, but the model's input {wanted}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The array, or the image.
        item: String,
        /// The shape found.
        found: String,
        /// The model's input and its shape, and what to try.
        wanted: String,
    },
    /// A picture that cannot be decoded.
    #[error("{}: not a readable image", path.display())]
    Image {
        /// The picture.
        path: PathBuf,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// A float array with a value that no training survives.
    #[error("{}: row {row} of `x` holds a value that is not a finite number", path.display())]
    NotFinite {
        /// The archive.
        path: PathBuf,
        /// Row, from 0.
        row: usize,
    },
    /// The number of values given for a flag fits neither one nor the number of channels.
    #[error("{flag} has {given} values; expected 1 or {channels}, one per channel")]
    ChannelValues {
        /// `--mean` or `--std`.
        flag: &'static str,
        /// Values given.
        given: usize,
        /// Channels of the images.
        channels: usize,
    },
    /// A value that cannot be used for its flag.
    #[error("{flag} {value}: {problem}")]
    FlagValue {
        /// The flag.
        flag: &'static str,
        /// The value given.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A list of class names that is empty or not text.
    #[error("{}: {problem}; expected one class name a line in UTF-8, the first line being class 0", path.display())]
    Names {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// A blank line inside a list of class names.
    #[error("{}: line {line} is blank; it would shift the classes after it", path.display())]
    BlankName {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A name that several classes have.
    #[error("the class name `{name}` stands for classes {classes}; give the index of the one that is meant")]
    AmbiguousName {
        /// The name.
        name: String,
        /// Their indices.
        classes: String,
    },
    /// A list of names of another length than the model's outputs.
    #[error("{names} class names (--labels), but the model has {classes} classes")]
    NamesCount {
        /// Number of names.
        names: usize,
        /// Number of outputs of the model.
        classes: usize,
    },
    /// A class nobody has heard of.
    #[error("unknown class `{name}`{near}")]
    UnknownClass {
        /// The name as given.
        name: String,
        /// Names that look like it, or what to do.
        near: String,
    },
    /// A class index beyond the model's outputs.
    #[error("class {index} is out of range: the model has {classes} classes (0 to {})", classes.saturating_sub(1))]
    ClassRange {
        /// The index as given.
        index: u64,
        /// Number of outputs of the model.
        classes: usize,
    },
    /// A list of classes without a class.
    #[error("`{list}` names no class, or holds an empty entry; write names or indices with commas between them")]
    NoClasses {
        /// The list as given.
        list: String,
    },
    /// A folder without subfolders.
    #[error("{}: has no subfolders; expected one subfolder per class", path.display())]
    NoClassFolders {
        /// The folder.
        path: PathBuf,
    },
    /// Named subfolders whose indices cannot be known.
    #[error(
        "{}: {folders} class folders, but the model has {classes} classes, so which folder is which class is not known; \
         say it with --labels FILE, or name the folders by class index",
        path.display()
    )]
    FolderCount {
        /// The folder.
        path: PathBuf,
        /// Subfolders found.
        folders: usize,
        /// Number of outputs of the model.
        classes: usize,
    },
    /// Two subfolders for one class.
    #[error("{}: the folders `{first}` and `{second}` are both class {class}", path.display())]
    FolderTwice {
        /// The folder.
        path: PathBuf,
        /// A subfolder.
        first: String,
        /// Another.
        second: String,
        /// The class index.
        class: usize,
    },
    /// A subfolder whose class is not known.
    #[error("{}: folder `{folder}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The subfolder.
        folder: String,
        /// Why its class is not known.
        source: Box<DataError>,
    },
}
