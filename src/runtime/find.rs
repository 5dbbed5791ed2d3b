//! Finds an ONNX Runtime library: which places are searched, in which order, and what is said when none serves.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::install;
use super::probe::{ProbeError, Version, probe};

/// The environment variable that names the library; `ort` reads the same one.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";
/// Starting Python and asking it for one package takes a fraction of this.
const PYTHON_PATIENCE: Duration = Duration::from_secs(5);

/// Where a library was found, in the order of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `--ort-lib`.
    Flag,
    /// The variable `ORT_DYLIB_PATH`.
    Environment,
    /// What `onnx-unlearn runtime install` unpacked.
    Cache,
    /// The folder of the program, or `../lib` beside it.
    BesideExecutable,
    /// The `onnxruntime` package of the active Python environment.
    Python,
    /// The loader's search path and the usual library folders.
    System,
}

impl Origin {
    /// The places searched when neither flag nor variable names a library.
    const SEARCHED: [Self; 4] = [Self::Cache, Self::BesideExecutable, Self::Python, Self::System];
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "--ort-lib",
            Self::Environment => VARIABLE,
            Self::Cache => "cache",
            Self::BesideExecutable => "beside the program",
            Self::Python => "Python",
            Self::System => "system",
        })
    }
}

/// A library that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Absolute path, to be given to `ort`.
    pub path: PathBuf,
    /// Its version, such as `1.31.1`.
    pub version: String,
    /// Where it was found.
    pub origin: Origin,
    /// Whether the CUDA provider lies next to it. CUDA and cuDNN themselves are not looked for.
    pub cuda: bool,
}

impl Library {
    /// Probes the file at `path`.
    pub fn open(origin: Origin, path: &Path) -> Result<Self, ProbeError> {
        let probed = probe(path)?;
        let provider =
            format!("{}onnxruntime_providers_cuda{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let cuda = probed.path.with_file_name(provider).is_file();
        Ok(Self { path: probed.path, version: probed.version, origin, cuda })
    }
}

/// One thing the search looked at.
#[derive(Debug)]
pub struct Candidate {
    /// The place of the search.
    pub origin: Origin,
    /// The file, or `None` when the place holds none.
    pub path: Option<PathBuf>,
    /// The library, or what is wrong with it; every error names its file or folder.
    pub outcome: Result<Library, ProbeError>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(found) => {
                let cuda = if found.cuda { "with" } else { "without" };
                write!(f, "{}: {} is ONNX Runtime {}, {cuda} CUDA", self.origin, found.path.display(), found.version)
            }
            Err(error) => write!(f, "{}: {error}", self.origin),
        }
    }
}

/// Why there is no library to work with.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The user named a library and it does not serve; no other is tried.
    #[error("{origin}: {source}. Name another library, or leave {origin} away and run `onnx-unlearn runtime install`")]
    Named {
        /// The flag or the variable.
        origin: Origin,
        /// What is wrong.
        source: ProbeError,
    },
    /// The user named a library without the CUDA provider and asked for CUDA.
    #[error(
        "{origin}: {} has no CUDA provider beside it. Name the library of the onnxruntime-gpu package, or leave {origin} \
         away and run `onnx-unlearn runtime install --cuda`",
        path.display()
    )]
    NamedWithoutCuda {
        /// The flag or the variable.
        origin: Origin,
        /// The library.
        path: PathBuf,
    },
    /// Nothing found serves.
    #[error(
        "no ONNX Runtime {}{} was found. Run `onnx-unlearn runtime install{}`, or name a library with --ort-lib or \
         {VARIABLE}. Looked at:{}",
        Version::NEEDED, if *cuda { " or newer with CUDA" } else { " or newer" }, if *cuda { " --cuda" } else { "" },
        listed(looked)
    )]
    NotFound {
        /// Everything looked at, in order.
        looked: Vec<Candidate>,
        /// Whether CUDA was wanted.
        cuda: bool,
    },
}

fn listed(looked: &[Candidate]) -> String {
    looked.iter().flat_map(|candidate| ["\n  ".to_owned(), candidate.to_string()]).collect()
}

/// The library to use: the one `explicit` (`--ort-lib`) or `ORT_DYLIB_PATH` names, else the first that serves.
///
/// With `want_cuda` only a library with the CUDA provider beside it serves; a caller that can do without asks again.
pub fn find(explicit: Option<&Path>, want_cuda: bool) -> Result<Library, FindError> {
    Surroundings::of_this_process().find(explicit, want_cuda)
}

/// Everything the search can see, the unusable included, for `runtime show`.
pub fn survey(explicit: Option<&Path>) -> Vec<Candidate> {
    Surroundings::of_this_process().survey(explicit)
}

/// Where to search: what the process environment says, as values.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The value of `ORT_DYLIB_PATH`.
    pub variable: Option<PathBuf>,
    /// The tool's cache.
    pub cache: Option<PathBuf>,
    /// The folder of the running program.
    pub program: Option<PathBuf>,
    /// Roots of active Python environments.
    pub environments: Vec<PathBuf>,
    /// Python commands to ask when the environments hold nothing.
    pub pythons: Vec<OsString>,
    /// Folders of the system.
    pub system: Vec<PathBuf>,
}

impl Surroundings {
    /// What this process sees.
    pub fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            variable: variable(VARIABLE).map(PathBuf::from),
            cache: install::cache_dir().ok(),
            program: std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf)),
            environments: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).map(PathBuf::from).collect(),
            pythons: install::pythons(),
            system: system_folders(&variable),
        }
    }

    /// [`find`] in these surroundings.
    pub fn find(&self, explicit: Option<&Path>, want_cuda: bool) -> Result<Library, FindError> {
        if let Some((origin, path)) = self.named(explicit) {
            let library = Library::open(origin, &path).map_err(|source| FindError::Named { origin, source })?;
            if want_cuda && !library.cuda {
                return Err(FindError::NamedWithoutCuda { origin, path: library.path });
            }
            return Ok(library);
        }
        let mut looked = Vec::new();
        for candidate in Origin::SEARCHED.into_iter().flat_map(|origin| self.candidates(origin)) {
            match candidate.outcome {
                Ok(library) if library.cuda || !want_cuda => return Ok(library),
                _ => looked.push(candidate),
            }
        }
        Err(FindError::NotFound { looked, cuda: want_cuda })
    }

    /// [`survey`] in these surroundings.
    pub fn survey(&self, explicit: Option<&Path>) -> Vec<Candidate> {
        let flag = explicit.and_then(|path| self.named(Some(path)));
        let named = flag.into_iter().chain(self.named(None)).map(|(origin, path)| judged(origin, path));
        named.chain(Origin::SEARCHED.into_iter().flat_map(|origin| self.candidates(origin))).collect()
    }

    /// The library the user names; the flag wins over the variable.
    fn named(&self, explicit: Option<&Path>) -> Option<(Origin, PathBuf)> {
        match (explicit, &self.variable) {
            (Some(path), _) => Some((Origin::Flag, path.to_path_buf())),
            // `ort` takes a relative value from the program's folder, and a bare file name from the system.
            (None, Some(path)) if path.is_relative() && !path.exists() => {
                let bare = path.parent().is_none_or(|parent| parent.as_os_str().is_empty());
                let system = self.system.iter().filter(|_| bare);
                let found = self.program.iter().chain(system).map(|folder| folder.join(path)).find(|p| p.exists());
                Some((Origin::Environment, found.unwrap_or_else(|| path.clone())))
            }
            (None, Some(path)) => Some((Origin::Environment, path.clone())),
            (None, None) => None,
        }
    }

    /// Lazily, so that a library found early leaves Python asleep and other libraries unloaded.
    fn candidates(&self, origin: Origin) -> impl Iterator<Item = Candidate> {
        let folders = self.folders(origin);
        let mut seen = HashSet::new();
        let files: Vec<PathBuf> = folders
            .iter()
            .flat_map(|folder| libraries_in(folder))
            .filter(|file| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())))
            .collect();
        let nothing = files.is_empty().then(|| Candidate {
            origin,
            path: None,
            outcome: Err(ProbeError::Nothing { reason: self.nothing(origin, &folders) }),
        });
        files.into_iter().map(move |file| judged(origin, file)).chain(nothing)
    }

    fn folders(&self, origin: Origin) -> Vec<PathBuf> {
        match origin {
            Origin::Flag | Origin::Environment => Vec::new(),
            Origin::Cache => self.cache.iter().flat_map(|cache| install::folders(cache)).collect(),
            Origin::BesideExecutable => {
                self.program.iter().flat_map(|folder| [folder.clone(), folder.join("..").join("lib")]).collect()
            }
            Origin::Python => {
                let active: Vec<PathBuf> = self.environments.iter().flat_map(|root| packages_of(root)).collect();
                if active.iter().any(|folder| !libraries_in(folder).is_empty()) {
                    return active;
                }
                self.pythons.iter().find_map(|python| ask_python(python, PYTHON_PATIENCE)).map_or(active, |f| vec![f])
            }
            Origin::System => self.system.clone(),
        }
    }

    fn nothing(&self, origin: Origin, folders: &[PathBuf]) -> String {
        let list = |folders: &[PathBuf]| {
            folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        match origin {
            Origin::Python if self.environments.is_empty() => {
                "no environment is active, and no python3 on the PATH has the package onnxruntime".to_owned()
            }
            Origin::Python => format!("no package onnxruntime in {}", list(&self.environments)),
            _ if folders.is_empty() => "no place to look at".to_owned(),
            _ => format!("no library in {}", list(folders)),
        }
    }
}

fn judged(origin: Origin, path: PathBuf) -> Candidate {
    let outcome = Library::open(origin, &path);
    Candidate { origin, path: Some(path), outcome }
}

/// Files named like ONNX Runtime in a folder, the highest version first. None when the folder does not exist.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((version_in_name(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The version in a library's file name (empty when it has none), or `None` when it is not ONNX Runtime's name:
/// `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib`, `onnxruntime.dll`.
pub(super) fn version_in_name(name: &str) -> Option<Vec<u32>> {
    let rest = name.strip_prefix(std::env::consts::DLL_PREFIX)?.strip_prefix("onnxruntime")?;
    let suffix = std::env::consts::DLL_SUFFIX;
    let version = rest.strip_prefix(suffix).or_else(|| rest.strip_suffix(suffix))?;
    version.split('.').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// Where the `onnxruntime` package lies in a Python environment, without starting Python.
fn packages_of(root: &Path) -> Vec<PathBuf> {
    let mut libraries = vec![root.join("Lib")];
    for lib in ["lib", "lib64"] {
        let entries = std::fs::read_dir(root.join(lib)).into_iter().flatten().filter_map(Result::ok);
        libraries.extend(
            entries.filter(|e| e.file_name().to_string_lossy().starts_with("python3")).map(|entry| entry.path()),
        );
    }
    libraries
        .into_iter()
        .map(|library| library.join("site-packages").join("onnxruntime").join("capi"))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// Asks a Python where its `onnxruntime` package lies, without importing it; `None` when it has none or takes too long.
fn ask_python(python: &OsString, patience: Duration) -> Option<PathBuf> {
    // The empty entry of sys.path is the current folder: a folder named onnxruntime there is not the package.
    let script = "import sys; sys.path = [p for p in sys.path if p]; import importlib.util as u; \
                  s = u.find_spec('onnxruntime'); print(s.submodule_search_locations[0] if s else '')";
    let mut command = Command::new(python);
    command.args(["-c", script]);
    let folder = Path::new(answer_of(command, patience)?.trim()).join("capi");
    folder.is_absolute().then_some(folder)
}

/// What a command prints, when it succeeds in time.
fn answer_of(mut command: Command, patience: Duration) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let end = Instant::now() + patience;
    // One path fits any pipe, so the child never waits for its output to be read.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= end {
            // Killed already or gone: nothing further can be done about either.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}

/// The loader's search path, then its configured and usual folders.
fn system_folders(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let (lists, usual): (&[&str], &[&str]) = if cfg!(windows) {
        (&["PATH"], &[])
    } else if cfg!(target_vendor = "apple") {
        (
            &["DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"],
            &["/opt/homebrew/lib", "/opt/homebrew/opt/onnxruntime/lib", "/usr/local/lib", "/opt/local/lib", "/usr/lib"],
        )
    } else {
        let usual =
            &["/usr/local/lib", "/usr/local/lib64", "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/opt/onnxruntime/lib"];
        (&["LD_LIBRARY_PATH"], usual)
    };
    let mut folders: Vec<PathBuf> = lists
        .iter()
        .filter_map(|name| variable(name))
        .flat_map(|list| std::env::split_paths(&list).collect::<Vec<_>>())
        .collect();
    if cfg!(target_os = "linux") {
        folders.extend(configured(Path::new("/etc")));
        folders.push(Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH)));
    }
    folders.extend(usual.iter().map(PathBuf::from));
    let mut seen = HashSet::new();
    folders.retain(|folder| folder.is_dir() && seen.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone())));
    folders
}

/// The folders listed in `ld.so.conf` and `ld.so.conf.d/*.conf`.
fn configured(etc: &Path) -> Vec<PathBuf> {
    let parts = std::fs::read_dir(etc.join("ld.so.conf.d")).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<PathBuf> =
        parts.map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
    files.sort();
    files.insert(0, etc.join("ld.so.conf"));
    files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>())
        .filter(|line| line.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_command_that_hangs_fails_or_is_missing_is_given_up() {
        let run = |program: &str, argument: &str| {
            let mut command = Command::new(program);
            command.arg(argument);
            answer_of(command, Duration::from_millis(500))
        };
        let start = Instant::now();
        assert_eq!(run("sleep", "60"), None);
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(run("false", ""), None);
        assert_eq!(run("no-such-program-anywhere", ""), None);
        assert_eq!(run("echo", "word").as_deref(), Some("word\n"));
    }

    #[test]
    fn loader_configuration_is_read() {
        let etc = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(etc.path().join("ld.so.conf.d")).expect("a folder");
        std::fs::write(etc.path().join("ld.so.conf"), "include ld.so.conf.d/*.conf\n").expect("written");
        std::fs::write(etc.path().join("ld.so.conf.d/b.conf"), "# more\n /opt/b/lib \n").expect("written");
        std::fs::write(etc.path().join("ld.so.conf.d/a.conf"), "/opt/a/lib\n").expect("written");
        std::fs::write(etc.path().join("ld.so.conf.d/c.txt"), "/opt/c/lib\n").expect("written");
        assert_eq!(configured(etc.path()), [PathBuf::from("/opt/a/lib"), PathBuf::from("/opt/b/lib")]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_of_the_library() {
        assert_eq!(version_in_name("libonnxruntime.so.1.31.1"), Some(vec![1, 31, 1]));
        assert_eq!(version_in_name("libonnxruntime.so"), Some(vec![]));
        for other in
            ["libonnxruntime_providers_shared.so", "onnxruntime.dll", "libonnxruntime.so.1.31.1.bak", "libonnx.so"]
        {
            assert_eq!(version_in_name(other), None, "{other}");
        }
    }
}
