//! Puts the pinned ONNX Runtime into the tool's cache: the official Python wheel, fetched by pip, checked by its digest.
//!
//! Only the C library inside the wheel is used, so the user's own Python version does not matter.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::find::{Library, Origin, version_in_name};
use super::probe::ProbeError;

/// The version that is installed, the one everything is tested on.
pub const PINNED: &str = "1.31.1";
/// Names a folder to be used instead of the user's cache.
pub const VARIABLE: &str = "ONNX_UNLEARN_CACHE";
/// Unfinished installations carry this prefix, so that the next one can sweep up what a crash left.
const UNFINISHED: &str = ".unfinished-";

/// Which build of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs on the CPU.
    Cpu,
    /// Runs on NVIDIA GPUs as well; needs CUDA 13 and cuDNN 9 from elsewhere.
    Cuda,
}

impl Kind {
    fn package(self) -> &'static str {
        match self {
            Self::Cpu => "onnxruntime",
            Self::Cuda => "onnxruntime-gpu",
        }
    }

    /// Size of the largest of its wheels.
    fn megabytes(self) -> u32 {
        match self {
            Self::Cpu => 24,
            Self::Cuda => 256,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// A wheel this program trusts.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// Which build it is.
    pub kind: Kind,
    /// Platform tag, as pip's `--platform` takes it.
    pub platform: &'static str,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: String,
}

/// Operating system, processor, build, platform tag and digest; the names are those of `std::env::consts`.
#[rustfmt::skip]
const WHEELS: [(&str, &str, Kind, &str, &str); 6] = [
    ("linux", "x86_64", Kind::Cpu, "manylinux_2_28_x86_64", "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536"),
    ("linux", "aarch64", Kind::Cpu, "manylinux_2_28_aarch64", "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc"),
    ("macos", "aarch64", Kind::Cpu, "macosx_14_0_arm64", "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c"),
    ("windows", "x86_64", Kind::Cpu, "win_amd64", "ae8a9a351efda685cc59a66226cdefaa37a126c1d66872ca23a2de9425326130"),
    ("linux", "x86_64", Kind::Cuda, "manylinux_2_28_x86_64", "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7"),
    ("windows", "x86_64", Kind::Cuda, "win_amd64", "2bb1e9373baba88f6415257f5b6a589d23e23c16004f7d89adf4344eada5749e"),
];

impl Wheel {
    /// The wheel of this build for an operating system and processor.
    pub fn pinned(kind: Kind, system: &str, processor: &str) -> Result<Self, InstallError> {
        WHEELS
            .iter()
            .find(|&&(s, p, k, ..)| (s, p, k) == (system, processor, kind))
            .map(|&(.., platform, sha256)| Self { kind, platform, sha256: sha256.to_owned() })
            .ok_or_else(|| InstallError::NoWheel { package: kind.package(), host: format!("{system} on {processor}") })
    }

    /// The requirement, as pip takes it.
    fn requirement(&self) -> String {
        format!("{}=={PINNED}", self.kind.package())
    }
}

/// Why nothing was installed. The cache is as it was before.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InstallError {
    /// Nothing says where the cache of this user is.
    #[error("no cache folder: neither {VARIABLE} nor the home folder is set. Set {VARIABLE} to a folder")]
    NoCacheFolder,
    /// No wheel of this build exists for this machine.
    #[error("there is no {package} {PINNED} for {host}. Build ONNX Runtime and name its library with --ort-lib")]
    NoWheel { package: &'static str, host: String },
    /// None of the Python commands could be started.
    #[error(
        "ONNX Runtime is fetched through Python, and none was found (tried {tried}). Install Python 3 with pip, or name an \
         ONNX Runtime library with --ort-lib"
    )]
    NoPython { tried: String },
    /// There is a Python, but no pip.
    #[error(
        "ONNX Runtime is fetched through pip, and {python} has none ({detail}). Install pip (Debian and Ubuntu: the package \
         python3-pip; elsewhere: `{python} -m ensurepip`), or name an ONNX Runtime library with --ort-lib"
    )]
    NoPip { python: String, detail: String },
    /// pip did not deliver.
    #[error("pip could not download {requirement}: {detail}. Check the network, or name a library with --ort-lib")]
    Download { requirement: String, detail: String },
    /// The bytes are not those that were pinned.
    #[error(
        "{file} is refused: its SHA-256 is {found}, and the pinned one is {pinned}. Nothing was installed; try again, and \
         if it stays so the file was altered on the way"
    )]
    Digest { file: String, found: String, pinned: String },
    /// The wheel cannot be unpacked.
    #[error("{file} cannot be unpacked: {reason}")]
    Unpack { file: String, reason: String },
    /// The unpacked library does not serve on this machine.
    #[error("the library of {requirement} does not serve on this machine: {source}")]
    Unusable { requirement: String, source: ProbeError },
    /// The cache cannot be written.
    #[error("{}: {source}. Make room there, or set {VARIABLE} to another folder", path.display())]
    Cache { path: PathBuf, source: io::Error },
}

/// The tool's cache folder; it may not exist yet.
///
/// `ONNX_UNLEARN_CACHE`, else `onnx-unlearn` in the user's cache folder: `XDG_CACHE_HOME` or `~/.cache`,
/// `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.
pub fn cache_dir() -> Result<PathBuf, InstallError> {
    cache_dir_from(&|name| std::env::var_os(name))
}

fn cache_dir_from(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, InstallError> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = folder(VARIABLE) {
        return std::path::absolute(&path).map_err(|source| InstallError::Cache { path, source });
    }
    let parent = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_vendor = "apple") {
        folder("HOME").map(|home| home.join("Library").join("Caches"))
    } else {
        // The XDG specification says that a relative value is to be ignored.
        folder("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    parent.map(|path| path.join("onnx-unlearn")).ok_or(InstallError::NoCacheFolder)
}

/// The folders of a cache that hold libraries once installed, the CPU build first.
pub(super) fn folders(cache: &Path) -> [PathBuf; 2] {
    [Kind::Cpu, Kind::Cuda].map(|kind| folder(cache, kind))
}

fn folder(cache: &Path, kind: Kind) -> PathBuf {
    cache.join(format!("onnxruntime-{PINNED}-{}", kind.name()))
}

/// Commands that may be a Python 3, the likeliest first.
pub(super) fn pythons() -> Vec<OsString> {
    ["python3", "python"].map(OsString::from).to_vec()
}

/// Installs the pinned build into the cache, unless it is there already.
///
/// `say` is told each step in one line. Processes that install at the same time wait for each other.
pub fn install(kind: Kind, say: &mut dyn FnMut(&str)) -> Result<Library, InstallError> {
    let wheel = Wheel::pinned(kind, std::env::consts::OS, std::env::consts::ARCH)?;
    install_from(&cache_dir()?, &wheel, &|wheel, folder| download(&pythons(), wheel, folder), say)
}

/// [`install`] into the cache folder `cache`; `fetch` puts the wheel into the folder it is given and returns its path.
pub fn install_from(
    cache: &Path,
    wheel: &Wheel,
    fetch: &dyn Fn(&Wheel, &Path) -> Result<PathBuf, InstallError>,
    say: &mut dyn FnMut(&str),
) -> Result<Library, InstallError> {
    let target = folder(cache, wheel.kind);
    if let Some(library) = installed(&target) {
        return Ok(library);
    }
    let at = |path: &Path| in_cache(path.to_path_buf());
    fs::create_dir_all(cache).map_err(at(cache))?;
    let lock_path = cache.join("install.lock");
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    if lock.try_lock().is_err() {
        say("another process is installing ONNX Runtime; waiting for it");
        lock.lock().map_err(at(&lock_path))?;
    }
    // Somebody else may have been faster; and under the lock every unfinished folder is one that a crash left.
    if let Some(library) = installed(&target) {
        return Ok(library);
    }
    sweep(cache);

    let work = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(cache).map_err(at(cache))?;
    say(&format!("fetching {} with pip (up to {} MB)", wheel.requirement(), wheel.kind.megabytes()));
    let file = fetch(wheel, work.path())?;
    let staged = work.path().join("unpacked");
    fs::create_dir(&staged).map_err(at(&staged))?;
    unpack(&file, wheel, &staged)?;
    let found = library_in(&staged).ok_or_else(|| InstallError::Unpack {
        file: name_of(&file),
        reason: "it holds no ONNX Runtime library".to_owned(),
    })?;
    let library = Library::open(Origin::Cache, &found)
        .map_err(|source| InstallError::Unusable { requirement: wheel.requirement(), source })?;

    if target.exists() {
        // It was looked at above and does not serve: moved away, it goes when `work` goes.
        fs::rename(&target, work.path().join("replaced")).map_err(at(&target))?;
    }
    sync_folder(&staged).map_err(at(&staged))?;
    fs::rename(&staged, &target).map_err(at(&target))?;
    sync_folder(cache).map_err(at(cache))?;
    let path = target.join(library.path.file_name().unwrap_or_default());
    say(&format!("installed ONNX Runtime {} in {}", library.version, target.display()));
    Ok(Library { path, ..library })
}

fn in_cache(path: PathBuf) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError::Cache { path, source }
}

/// The library of a finished installation that serves.
fn installed(target: &Path) -> Option<Library> {
    Library::open(Origin::Cache, &library_in(target)?).ok()
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let is_library = |name: OsString| name.to_str().and_then(version_in_name).is_some();
    entries.filter(|entry| is_library(entry.file_name())).map(|entry| entry.path()).max()
}

/// Removes what it can: a pip that outlived its installer may still be writing there, and the next sweep comes.
fn sweep(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A rename survives a power cut only when the folder itself is on the disk. Windows has no such call.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Runs `pip download` for a wheel into `folder` with the first of the commands that has pip.
pub fn download(pythons: &[OsString], wheel: &Wheel, folder: &Path) -> Result<PathBuf, InstallError> {
    let python = python_with_pip(pythons)?;
    let requirement = wheel.requirement();
    let failed = |detail: String| InstallError::Download { requirement: requirement.clone(), detail };
    let output = Command::new(&python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--implementation", "cp"])
        .args(["--python-version", "3.12", "--platform", wheel.platform])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off"])
        .arg("-d")
        .arg(folder)
        .arg(&requirement)
        // The user's wish to install only inside an environment is kept: nothing is installed.
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(last_words(&output.stderr)));
    }
    let entries = fs::read_dir(folder).map_err(in_cache(folder.to_path_buf()))?;
    let mut files = entries.filter_map(Result::ok).map(|entry| entry.path());
    files.find(|file| file.extension().is_some_and(|e| e == "whl")).ok_or_else(|| failed("it left no wheel".to_owned()))
}

fn python_with_pip(pythons: &[OsString]) -> Result<OsString, InstallError> {
    let mut without = None;
    for python in pythons {
        let asked = Command::new(python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output();
        match asked {
            Ok(output) if output.status.success() => return Ok(python.clone()),
            Ok(output) => without = without.or_else(|| Some((python, last_words(&output.stderr)))),
            Err(_) => {}
        }
    }
    let shown = |python: &OsString| python.to_string_lossy().into_owned();
    Err(match without {
        Some((python, detail)) => InstallError::NoPip { python: shown(python), detail },
        None => InstallError::NoPython { tried: pythons.iter().map(shown).collect::<Vec<_>>().join(", ") },
    })
}

/// The lines of an error output that say what went wrong: pip marks them, Python puts them last.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("ERROR: ")).collect();
    match lines.last() {
        _ if !errors.is_empty() => errors.join("; "),
        Some(last) => (*last).to_owned(),
        None => "it gave no reason".to_owned(),
    }
}

/// Checks the digest, then writes the libraries and licence texts of a wheel into `folder`.
fn unpack(path: &Path, wheel: &Wheel, folder: &Path) -> Result<(), InstallError> {
    let unreadable = |reason: String| InstallError::Unpack { file: name_of(path), reason };
    let mut file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let found = digest(&mut file).map_err(|error| unreadable(error.to_string()))?;
    if found != wheel.sha256 {
        return Err(InstallError::Digest { file: name_of(path), found, pinned: wheel.sha256.clone() });
    }
    // The same open file is read again, so what is unpacked is what was checked.
    file.rewind().map_err(|error| unreadable(error.to_string()))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| unreadable(error.to_string()))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| unreadable(error.to_string()))?;
        let name = entry.name().map_err(|error| unreadable(error.to_string()))?.into_owned();
        let Some(name) = wanted(&name) else { continue };
        let path = folder.join(name);
        let mut out = File::create(&path).map_err(in_cache(path.clone()))?;
        copy(&mut entry, &mut out, |error| unreadable(format!("{name}: {error}")), in_cache(path.clone()))?;
        out.sync_all().map_err(in_cache(path.clone()))?;
    }
    Ok(())
}

/// Copies and tells a bad archive from a full disk.
fn copy(
    from: &mut dyn Read,
    to: &mut dyn io::Write,
    bad_source: impl FnOnce(io::Error) -> InstallError,
    bad_target: impl FnOnce(io::Error) -> InstallError,
) -> Result<(), InstallError> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) => return Err(bad_source(error)),
        };
        if let Err(error) = to.write_all(&buffer[..count]) {
            return Err(bad_target(error));
        }
    }
}

/// The file name under which an entry of the wheel is kept: the runtime, its providers and the licences.
///
/// The Python extension module, half of the wheel, is of no use here.
fn wanted(entry: &str) -> Option<&str> {
    let inside = entry.strip_prefix("onnxruntime/")?;
    let name = inside.strip_prefix("capi/").unwrap_or(inside);
    let plain = !name.contains(['/', '\\', ':']);
    let dll = name.starts_with("onnxruntime") && Path::new(name).extension().is_some_and(|e| e == "dll");
    let library = dll || name.starts_with("libonnxruntime");
    let licence = inside == "LICENSE" || inside == "ThirdPartyNotices.txt";
    (plain && (licence || (library && inside.len() > name.len()))).then_some(name)
}

fn digest(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_has_a_digest_of_its_own() {
        let mut digests: Vec<_> = WHEELS.iter().map(|wheel| wheel.4).collect();
        assert!(
            digests.iter().all(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()))
        );
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), WHEELS.len());
        let wheel = Wheel::pinned(Kind::Cuda, "linux", "x86_64").expect("pinned");
        assert_eq!(
            (wheel.platform, wheel.requirement().as_str()),
            ("manylinux_2_28_x86_64", "onnxruntime-gpu==1.31.1")
        );
        let error = Wheel::pinned(Kind::Cuda, "macos", "aarch64").expect_err("no such wheel").to_string();
        assert!(error.contains("onnxruntime-gpu") && error.contains("macos") && error.contains("--ort-lib"), "{error}");
    }

    #[test]
    fn entries_that_are_kept() {
        for (entry, name) in [
            ("onnxruntime/capi/libonnxruntime.so.1.31.1", "libonnxruntime.so.1.31.1"),
            ("onnxruntime/capi/libonnxruntime_providers_cuda.so", "libonnxruntime_providers_cuda.so"),
            ("onnxruntime/capi/libonnxruntime.1.31.1.dylib", "libonnxruntime.1.31.1.dylib"),
            ("onnxruntime/capi/onnxruntime_providers_shared.dll", "onnxruntime_providers_shared.dll"),
            ("onnxruntime/LICENSE", "LICENSE"),
            ("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.txt"),
        ] {
            assert_eq!(wanted(entry), Some(name));
        }
        for entry in [
            "onnxruntime/capi/onnxruntime_pybind11_state.cpython-312-x86_64-linux-gnu.so",
            "onnxruntime/capi/onnxruntime_pybind11_state.pyd",
            "onnxruntime/capi/libonnxruntime/../../../evil",
            "onnxruntime/capi/libonnxruntime\\..\\evil.dll",
            "onnxruntime/libonnxruntime.so",
            "onnxruntime/tools/LICENSE",
            "LICENSE",
            "onnxruntime/capi/__init__.py",
        ] {
            assert_eq!(wanted(entry), None, "{entry}");
        }
    }

    #[test]
    fn the_cache_folder_follows_the_environment() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(v))).collect();
            cache_dir_from(&|name| set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
        };
        assert!(matches!(with(&[]), Err(InstallError::NoCacheFolder)));
        let own = std::path::absolute("own").expect("absolute");
        assert_eq!(with(&[(VARIABLE, "own"), ("HOME", "/home/a"), ("XDG_CACHE_HOME", "/x")]).expect("set"), own);
        if cfg!(all(unix, not(target_vendor = "apple"))) {
            assert_eq!(
                with(&[("HOME", "/home/a"), (VARIABLE, "")]).expect("home"),
                Path::new("/home/a/.cache/onnx-unlearn")
            );
            let xdg = with(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/x")]).expect("xdg");
            assert_eq!(xdg, Path::new("/x/onnx-unlearn"));
            let relative = with(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "x")]).expect("home");
            assert_eq!(relative, Path::new("/home/a/.cache/onnx-unlearn"));
        }
    }

    #[test]
    fn the_words_of_pip_are_kept() {
        let output = b"WARNING: slow\nERROR: Could not find a version\nERROR: No matching distribution\nnotice\n";
        assert_eq!(last_words(output), "Could not find a version; No matching distribution");
        assert_eq!(last_words(b"/usr/bin/python3: No module named pip\n"), "/usr/bin/python3: No module named pip");
        assert_eq!(last_words(b""), "it gave no reason");
    }
}
