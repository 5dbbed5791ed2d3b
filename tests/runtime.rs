//! Finding, probing and installing ONNX Runtime, with libraries and wheels that the tests build themselves.
//!
//! The libraries are compiled by the `rustc` that compiled the tests, so nothing has to be installed for them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, LazyLock, Mutex};

use onnx_unlearn::runtime::find::{FindError, Library, Origin, Surroundings, VARIABLE};
use onnx_unlearn::runtime::install::{self, InstallError, Kind, Wheel, download, install_from};
use onnx_unlearn::runtime::probe::{ProbeError, probe};
use sha2::Digest;
use tempfile::TempDir;

/// A library with the one symbol of ONNX Runtime; `VERSION` is what it answers, `null` for no answer at all.
const RUNTIME: &str = r#"
#[repr(C)]
pub struct Base { api: extern "C" fn(u32) -> *const u8, version: extern "C" fn() -> *const u8 }
extern "C" fn api(_: u32) -> *const u8 { std::ptr::null() }
extern "C" fn version() -> *const u8 {
    if env!("VERSION") == "null" { std::ptr::null() } else { concat!(env!("VERSION"), "\0").as_ptr() }
}
static BASE: Base = Base { api, version };
#[unsafe(no_mangle)]
pub extern "C" fn OrtGetApiBase() -> *const Base { &BASE }
"#;

/// A library without it, which ends the process of whoever loads it where the format is ELF.
const OTHER: &str = r#"
extern "C" fn at_load() { std::process::abort() }
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;
#[unsafe(no_mangle)]
pub extern "C" fn something_else() { at_load() }
"#;

/// A program that answers like Python, from files beside itself: `package` (where onnxruntime lies), `wheel` (what pip
/// delivers). Without `wheel` it has no pip; with an empty one pip fails.
const PYTHON: &str = r#"
fn main() {
    let beside = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let fail = |words: &str| -> ! { eprintln!("{words}"); std::process::exit(1) };
    if arguments[0] == "-c" {
        print!("{}", std::fs::read_to_string(beside.join("package")).unwrap_or_default());
        return;
    }
    let Ok(wheel) = std::fs::read(beside.join("wheel")) else { fail("No module named pip") };
    if arguments[2] == "download" {
        if wheel.is_empty() { fail("noise\nERROR: No matching distribution\n") }
        let folder = &arguments[arguments.iter().position(|a| a == "-d").unwrap() + 1];
        std::fs::write(std::path::Path::new(folder).join("some.whl"), wheel).unwrap();
        std::fs::write(beside.join("arguments"), arguments.join(" ")).unwrap();
    }
}
"#;

fn compile(source: &str, kind: &str, version: &str, out: &Path) {
    let beside_cargo = std::env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    let rustc = std::env::var_os("RUSTC").map(PathBuf::from).or(beside_cargo.filter(|path| path.exists()));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fake.rs");
    fs::write(&file, source).expect("written");
    let done = Command::new(rustc.unwrap_or_else(|| "rustc".into()))
        // Stripped, since debug information at the end can be cut off without any harm to a library.
        .args(["--edition", "2024", "-C", "strip=symbols", "--crate-type", kind, "-o"])
        .arg(out)
        .arg(&file)
        .env("VERSION", version)
        .output()
        .expect("rustc starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The bytes of a library that says it is ONNX Runtime `version`, or of one that is something else (`other`).
fn library(version: &'static str) -> Vec<u8> {
    static BUILT: LazyLock<Mutex<HashMap<&str, Vec<u8>>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().expect("no test failed while compiling");
    let build = || {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join(LIBRARY);
        compile(if version == "other" { OTHER } else { RUNTIME }, "cdylib", version, &out);
        fs::read(out).expect("compiled")
    };
    built.entry(version).or_insert_with(build).clone()
}

const LIBRARY: &str = if cfg!(windows) {
    "onnxruntime.dll"
} else if cfg!(target_vendor = "apple") {
    "libonnxruntime.1.31.1.dylib"
} else {
    "libonnxruntime.so.1.31.1"
};

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder");
    let path = folder.join(name);
    fs::write(&path, bytes).expect("written");
    path
}

fn put_cuda(folder: &Path) {
    let name = format!("{}onnxruntime_providers_cuda{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    put(folder, &name, b"never opened by the search");
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

// ---- probe ----

#[test]
fn what_is_no_library_is_said_to_be_none() {
    let folder = temporary();
    let missing = folder.path().join("none.so");
    assert!(matches!(probe(&missing), Err(ProbeError::Missing { path }) if path == missing));
    let refused = |path: &Path, word: &str| match probe(path) {
        Err(ProbeError::NotALibrary { reason, .. }) => assert!(reason.contains(word), "{reason}"),
        other => panic!("{}: {other:?}", path.display()),
    };
    refused(folder.path(), "directory");
    refused(&put(folder.path(), "text.so", b"this is a text, not a library\n"), "no library format");
    refused(&put(folder.path(), "empty.so", b""), "empty");
    let mut bytes = library("1.31.1");
    bytes.truncate(bytes.len() / 2);
    if cfg!(target_os = "linux") {
        refused(&put(folder.path(), "half.so", &bytes), "truncated");
        bytes.truncate(20);
        refused(&put(folder.path(), "head.so", &bytes), "truncated");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_or_device_does_not_hang_the_probe() {
    let folder = temporary();
    let pipe = folder.path().join("pipe.so");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    for path in [&pipe, Path::new("/dev/zero")] {
        assert!(matches!(probe(path), Err(ProbeError::NotALibrary { .. })), "{}", path.display());
    }
}

#[test]
fn a_library_is_asked_for_its_version() {
    let folder = temporary();
    let good = put(folder.path(), LIBRARY, &library("1.31.1"));
    let probed = probe(&good).expect("serves");
    assert_eq!((probed.path, probed.version.as_str()), (good, "1.31.1"));

    let old = put(folder.path(), "old", &library("1.18.0"));
    let error = probe(&old).expect_err("too old");
    assert!(matches!(&error, ProbeError::TooOld { path, found, .. } if *path == old && found == "1.18.0"));
    assert!(error.to_string().contains("1.31.1 or newer is needed"), "{error}");

    let silent = put(folder.path(), "silent", &library("null"));
    assert!(matches!(probe(&silent), Err(ProbeError::NoVersion { .. })));
}

/// On Linux the library aborts the process that loads it, so passing shows that it was refused unloaded.
#[cfg(target_os = "linux")]
#[test]
fn a_library_without_the_symbol_is_never_loaded() {
    let folder = temporary();
    let other = put(folder.path(), "other.so", &library("other"));
    let error = probe(&other).expect_err("not ONNX Runtime");
    assert!(matches!(&error, ProbeError::NotOnnxRuntime { path } if *path == other), "{error}");
}

/// A file that only looks like a library to the checks before loading gets the loader's own words.
#[cfg(target_os = "linux")]
#[test]
fn what_the_loader_refuses_is_an_error() {
    let folder = temporary();
    let program = folder.path().join("program");
    compile("fn main() { println!(\"OrtGetApiBase\\0\") }", "bin", "", &program);
    assert!(probe(&program).is_err());
    let mut bytes = library("1.31.1");
    // The ABI version byte: no loader knows this one.
    bytes[7] = 0xee;
    let error = probe(&put(folder.path(), "abi.so", &bytes)).expect_err("refused");
    assert!(matches!(&error, ProbeError::NotLoadable { reason, .. } if reason.contains("ABI")), "{error}");
}

// ---- find ----

/// Every place of the search, each with a library.
struct Everywhere {
    folder: TempDir,
    surroundings: Surroundings,
}

impl Everywhere {
    fn new() -> Self {
        let folder = temporary();
        let at = |name: &str| folder.path().join(name);
        for name in
            ["cache/onnxruntime-1.31.1-cpu", "program", "venv/lib/python3.12/site-packages/onnxruntime/capi", "system"]
        {
            put(&at(name), LIBRARY, &library("1.31.1"));
        }
        let surroundings = Surroundings {
            variable: Some(put(&at("named"), LIBRARY, &library("1.31.1"))),
            cache: Some(at("cache")),
            program: Some(at("program")),
            environments: vec![at("venv")],
            pythons: Vec::new(),
            system: vec![at("system")],
        };
        Self { folder, surroundings }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn find(&self) -> Library {
        self.surroundings.find(None, false).expect("found")
    }
}

#[test]
fn the_search_has_an_order() {
    let mut all = Everywhere::new();
    let flag = put(&all.at("flag"), LIBRARY, &library("1.31.1"));
    let found = all.surroundings.find(Some(&flag), false).expect("found");
    assert_eq!((found.origin, found.path), (Origin::Flag, flag));

    assert_eq!(all.find().origin, Origin::Environment);
    all.surroundings.variable = None;
    assert_eq!(all.find().origin, Origin::Cache);
    fs::remove_dir_all(all.at("cache")).expect("removed");
    assert_eq!(all.find().origin, Origin::BesideExecutable);
    fs::rename(all.at("program").join(LIBRARY), put(&all.at("lib"), LIBRARY, b"")).expect("moved");
    assert_eq!(all.find().origin, Origin::BesideExecutable);
    fs::remove_dir_all(all.at("lib")).expect("removed");
    assert_eq!(all.find().origin, Origin::Python);
    fs::remove_dir_all(all.at("venv")).expect("removed");
    assert_eq!(all.find().origin, Origin::System);
    assert_eq!(all.find().path, all.at("system").join(LIBRARY));
}

#[test]
fn a_named_library_is_never_replaced_by_another() {
    let mut all = Everywhere::new();
    let wrong = all.at("nowhere.so");
    let flag = all.surroundings.find(Some(&wrong), false).expect_err("an error, not the next place");
    assert!(matches!(flag, FindError::Named { origin: Origin::Flag, source: ProbeError::Missing { .. } }), "{flag}");
    assert!(flag.to_string().contains("--ort-lib") && flag.to_string().contains("nowhere.so"), "{flag}");

    all.surroundings.variable = Some(put(&all.at("named"), "text", b"text"));
    let variable = all.surroundings.find(None, false).expect_err("an error, not the next place");
    assert!(matches!(
        variable,
        FindError::Named { origin: Origin::Environment, source: ProbeError::NotALibrary { .. } }
    ));
    assert!(variable.to_string().contains(VARIABLE), "{variable}");
}

#[test]
fn a_relative_variable_is_taken_from_the_program_and_a_bare_name_from_the_system() {
    let mut all = Everywhere::new();
    all.surroundings.variable = Some(LIBRARY.into());
    assert_eq!(all.find().path, all.at("program").join(LIBRARY));
    fs::remove_file(all.at("program").join(LIBRARY)).expect("removed");
    assert_eq!(all.find().path, all.at("system").join(LIBRARY));
    all.surroundings.variable = Some(Path::new("..").join("system").join(LIBRARY));
    assert_eq!(all.find().path, all.at("program").join("..").join("system").join(LIBRARY));
    all.surroundings.variable = Some("no-such-library.so".into());
    assert!(matches!(all.surroundings.find(None, false), Err(FindError::Named { origin: Origin::Environment, .. })));
}

#[test]
fn cuda_is_taken_from_the_place_that_has_it() {
    let mut all = Everywhere::new();
    let named = all.surroundings.find(None, true).expect_err("no CUDA beside the named library");
    assert!(matches!(named, FindError::NamedWithoutCuda { origin: Origin::Environment, .. }));
    all.surroundings.variable = None;
    let none = all.surroundings.find(None, true).expect_err("no CUDA anywhere").to_string();
    assert!(none.contains("runtime install --cuda") && none.contains("without CUDA"), "{none}");

    put_cuda(&all.at("system"));
    let found = all.surroundings.find(None, true).expect("in the system");
    assert!(found.cuda && found.origin == Origin::System);
    assert!(!all.find().cuda);
    put(&all.at("cache/onnxruntime-1.31.1-cuda"), LIBRARY, &library("1.31.1"));
    put_cuda(&all.at("cache/onnxruntime-1.31.1-cuda"));
    assert_eq!(all.surroundings.find(None, true).expect("in the cache").origin, Origin::Cache);
}

#[test]
fn what_does_not_serve_is_passed_over_and_listed() {
    let mut all = Everywhere::new();
    all.surroundings.variable = None;
    put(&all.at("cache/onnxruntime-1.31.1-cpu"), LIBRARY, b"text");
    put(&all.at("program"), LIBRARY, &library("1.18.0"));
    assert_eq!(all.find().origin, Origin::Python);

    fs::remove_dir_all(all.at("venv")).expect("removed");
    fs::remove_dir_all(all.at("system")).expect("removed");
    let error = all.surroundings.find(None, false).expect_err("nothing serves").to_string();
    for words in [
        "`onnx-unlearn runtime install`",
        "--ort-lib",
        VARIABLE,
        "cache: ",
        "is not a library",
        "beside the program: ",
        "is ONNX Runtime 1.18.0, and 1.31.1 or newer is needed",
        "Python: no package onnxruntime in",
        "system: no library in",
    ] {
        assert!(error.contains(words), "{words:?} is missing in {error}");
    }
    let survey = all.surroundings.survey(Some(&all.at("nowhere")));
    let origins: Vec<Origin> = survey.iter().map(|candidate| candidate.origin).collect();
    assert_eq!(origins, [Origin::Flag, Origin::Cache, Origin::BesideExecutable, Origin::Python, Origin::System]);
    assert!(survey.iter().all(|candidate| candidate.outcome.is_err()));
}

#[test]
fn python_is_asked_where_its_package_lies() {
    let folder = temporary();
    let python = folder.path().join("python");
    compile(PYTHON, "bin", "", &python);
    let package = folder.path().join("packages").join("onnxruntime");
    let path = put(&package.join("capi"), LIBRARY, &library("1.31.1"));
    let surroundings =
        Surroundings { pythons: vec!["no-such-python".into(), python.into()], ..Surroundings::default() };
    assert!(matches!(surroundings.find(None, false), Err(FindError::NotFound { .. })));
    put(folder.path(), "package", format!("{}\n", package.display()).as_bytes());
    let found = surroundings.find(None, false).expect("through Python");
    assert_eq!((found.origin, found.path), (Origin::Python, path));
}

// ---- install ----

fn wheel_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, options).expect("an entry");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("a wheel").into_inner()
}

fn good_wheel() -> Vec<u8> {
    wheel_of(&[
        ("onnxruntime/__init__.py", b"import nothing"),
        (&format!("onnxruntime/capi/{LIBRARY}"), &library("1.31.1")),
        ("onnxruntime/capi/onnxruntime_pybind11_state.so", b"for Python only"),
        ("onnxruntime/LICENSE", b"the licence"),
        ("onnxruntime/ThirdPartyNotices.txt", b"the notices"),
    ])
}

fn pin(bytes: &[u8]) -> Wheel {
    Wheel { kind: Kind::Cpu, platform: "any", sha256: hex::encode(sha2::Sha256::digest(bytes)) }
}

fn try_install(cache: &Path, wheel: &Wheel, bytes: &[u8]) -> Result<Library, InstallError> {
    install_from(cache, wheel, &|_, folder| Ok(put(folder, "some.whl", bytes)), &mut |_| ())
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn installs_the_libraries_and_licences_and_nothing_else() {
    let cache = temporary();
    let bytes = good_wheel();
    let mut said = Vec::new();
    let fetch = |_: &Wheel, folder: &Path| Ok(put(folder, "some.whl", &bytes));
    let library =
        install_from(cache.path(), &pin(&bytes), &fetch, &mut |line| said.push(line.to_owned())).expect("done");
    let target = cache.path().join("onnxruntime-1.31.1-cpu");
    assert_eq!(library.path, target.join(LIBRARY));
    assert_eq!((library.version.as_str(), library.origin, library.cuda), ("1.31.1", Origin::Cache, false));
    assert_eq!(names_in(&target), ["LICENSE", "ThirdPartyNotices.txt", LIBRARY]);
    assert_eq!(names_in(cache.path()), ["install.lock", "onnxruntime-1.31.1-cpu"]);
    assert!(said[0].contains("onnxruntime==1.31.1") && said[1].contains("installed"), "{said:?}");

    let again = install_from(cache.path(), &pin(&bytes), &|_, _| panic!("fetched twice"), &mut |_| ()).expect("there");
    assert_eq!(again, library);
    let surroundings = Surroundings { cache: Some(cache.path().to_path_buf()), ..Surroundings::default() };
    assert_eq!(surroundings.find(None, false).expect("found"), library);
}

#[test]
fn an_altered_wheel_leaves_nothing_behind() {
    let cache = temporary();
    let good = good_wheel();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut altered = good.clone();
        altered[at] ^= 1;
        let error = try_install(cache.path(), &pin(&good), &altered).expect_err("refused").to_string();
        assert!(error.contains(&pin(&good).sha256) && error.contains(&pin(&altered).sha256), "{error}");
        assert_eq!(names_in(cache.path()), ["install.lock"]);
    }
}

#[test]
fn a_wheel_that_does_not_serve_leaves_nothing_behind() {
    let cache = temporary();
    let unpack = |bytes: &[u8], word: &str| match try_install(cache.path(), &pin(bytes), bytes) {
        Err(InstallError::Unpack { reason, .. }) => assert!(reason.contains(word), "{reason}"),
        other => panic!("{other:?}"),
    };
    unpack(b"no archive at all", "");
    unpack(&wheel_of(&[("onnxruntime/LICENSE", b"the licence")]), "no ONNX Runtime library");
    // Stored entries lie in the open: a flipped bit in one breaks its checksum, not the archive.
    let mut torn = good_wheel();
    let at = torn.windows(11).position(|w| w == b"the notices").expect("stored");
    torn[at] ^= 1;
    unpack(&torn, "ThirdPartyNotices.txt");

    let old = wheel_of(&[(&format!("onnxruntime/capi/{LIBRARY}"), &library("1.18.0"))]);
    let error = try_install(cache.path(), &pin(&old), &old).expect_err("too old");
    assert!(matches!(error, InstallError::Unusable { source: ProbeError::TooOld { .. }, .. }), "{error}");
    assert_eq!(names_in(cache.path()), ["install.lock"]);
}

#[test]
fn a_broken_installation_is_replaced_and_leftovers_are_swept() {
    let cache = temporary();
    let target = cache.path().join("onnxruntime-1.31.1-cpu");
    put(&target, LIBRARY, b"cut short");
    put(&target, "stray", b"");
    put(&cache.path().join(".unfinished-abc"), "half", b"");
    let bytes = good_wheel();
    try_install(cache.path(), &pin(&bytes), &bytes).expect("replaced");
    assert_eq!(names_in(&target), ["LICENSE", "ThirdPartyNotices.txt", LIBRARY]);
    assert_eq!(names_in(cache.path()), ["install.lock", "onnxruntime-1.31.1-cpu"]);
}

#[test]
fn several_at_once_fetch_once_and_all_succeed() {
    let cache = temporary();
    let bytes = good_wheel();
    let fetched = AtomicUsize::new(0);
    let start = Barrier::new(6);
    let fetch = |_: &Wheel, folder: &Path| {
        fetched.fetch_add(1, Ordering::SeqCst);
        // Long enough for the others to arrive.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(put(folder, "some.whl", &bytes))
    };
    let one = || {
        start.wait();
        install_from(cache.path(), &pin(&bytes), &fetch, &mut |_| ()).expect("installed").path
    };
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    assert!(paths.iter().all(|path| *path == cache.path().join("onnxruntime-1.31.1-cpu").join(LIBRARY)));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let folder = temporary();
    let cache = put(folder.path(), "file", b"").join("cache");
    let error = try_install(&cache, &pin(b""), b"").expect_err("a file is no folder").to_string();
    assert!(error.contains(install::VARIABLE) && error.contains(&cache.display().to_string()), "{error}");
}

#[test]
fn pip_is_asked_for_the_pinned_wheel() {
    let folder = temporary();
    let python = folder.path().join("python");
    compile(PYTHON, "bin", "", &python);
    let pythons = [OsString::from("no-such-python"), OsString::from(&python)];
    let wheel = Wheel::pinned(Kind::Cuda, "linux", "x86_64").expect("pinned");
    let into = temporary();

    let none = download(&pythons[..1], &wheel, into.path()).expect_err("no Python");
    assert!(matches!(none, InstallError::NoPython { .. }));
    assert!(none.to_string().contains("no-such-python") && none.to_string().contains("--ort-lib"), "{none}");
    let without = download(&pythons, &wheel, into.path()).expect_err("no pip");
    assert!(matches!(&without, InstallError::NoPip { detail, .. } if detail == "No module named pip"), "{without}");
    assert!(without.to_string().contains("python3-pip") && without.to_string().contains("--ort-lib"), "{without}");
    put(folder.path(), "wheel", b"");
    let failed = download(&pythons, &wheel, into.path()).expect_err("pip fails");
    assert!(
        matches!(&failed, InstallError::Download { detail, .. } if detail == "No matching distribution"),
        "{failed}"
    );

    put(folder.path(), "wheel", b"wheel");
    let path = download(&pythons, &wheel, into.path()).expect("delivered");
    assert_eq!(fs::read(path).expect("there"), b"wheel");
    let arguments = fs::read_to_string(folder.path().join("arguments")).expect("noted");
    for words in ["--no-deps", "--platform manylinux_2_28_x86_64", "--python-version 3.12", "onnxruntime-gpu==1.31.1"] {
        assert!(arguments.contains(words), "{words:?} is missing in {arguments}");
    }
}
