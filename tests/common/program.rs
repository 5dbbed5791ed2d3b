//! Runs the built program and looks at what it says.

use super::{data, library, temporary};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// What a run came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the program prints UTF-8");
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Checks the exit code; a mismatch shows everything that was printed.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Checks that stderr says each of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in\n{}", self.stderr);
        }
        self
    }

    /// Checks for a clean error: exit code 2, nothing on stdout, one line `error: ` that says each of these.
    #[track_caller]
    pub fn fails(self, words: &[&str]) -> Self {
        let ran = self.exits(2);
        assert_eq!(ran.stdout, "", "an error leaves stdout alone");
        let error = ran.error();
        for word in words {
            assert!(error.contains(word), "{word:?} is missing in\n{error}");
        }
        for word in ["panicked", "RUST_BACKTRACE"] {
            assert!(!ran.stderr.contains(word), "{}", ran.stderr);
        }
        ran
    }

    /// The error message, from `error: ` on.
    #[track_caller]
    pub fn error(&self) -> &str {
        let at = self.stderr.find("error: ").unwrap_or_else(|| panic!("no error in\n{}", self.stderr));
        &self.stderr[at..]
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}; stdout is not JSON:\n{}", self.stdout))
    }
}

/// The program, with the runtime of the tests.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-unlearn"));
    command.env("ORT_DYLIB_PATH", &library().path).stdin(Stdio::null());
    command
}

/// Runs the program.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    Ran::new(&program().args(args).output().expect("the program starts"))
}

/// Puts `[NAME]` in the place of paths, and `[TIME]` in the place of times, so that the rest can be compared.
pub fn filtered(text: &str, paths: &[(&Path, &str)]) -> String {
    let mut text = text.to_owned();
    for (path, name) in paths {
        text = text.replace(&path.display().to_string(), &format!("[{name}]"));
    }
    let words: Vec<&str> = text.split(' ').collect();
    let number = |word: &str| word.trim_start_matches('(').parse::<f64>().is_ok();
    let unit = |word: &str| matches!(word.trim_end_matches([',', '\n']), "s" | "ms");
    let time = |i: usize| number(words[i]) && words.get(i + 1).is_some_and(|next| unit(next));
    let shown = |i: usize| match (time(i), words[i].starts_with('(')) {
        (false, _) => words[i],
        (true, false) => "[TIME]",
        (true, true) => "([TIME]",
    };
    (0..words.len()).map(shown).collect::<Vec<_>>().join(" ")
}

/// A `forget` command that takes about a second. Its flags can be replaced, added and taken away.
pub struct Forget {
    model: PathBuf,
    flags: Vec<(String, Option<String>)>,
    /// Holds the output folder.
    pub folder: TempDir,
}

impl Forget {
    /// Forgets class 5 of `model`, with few images and little of everything; measured on the small held-out data.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        let folder = temporary();
        let mut this = Self { model: model.into(), flags: Vec::new(), folder };
        for (flag, value) in [
            ("--forget", "5"),
            ("--mean", "0.2860"),
            ("--std", "0.3530"),
            ("--per-class", "20"),
            ("--batch-size", "32"),
            ("--noise-images", "8"),
            ("--noise-steps", "2"),
            ("--noise-samples", "32"),
            // Without trials.
            ("--impair-lr", "0.0005"),
            ("--check-samples", "4"),
            ("--device", "cpu"),
            ("--threads", "1"),
        ] {
            this = this.set(flag, value);
        }
        let retain = data::retain_file();
        let eval = data::eval_file();
        this.set("--retain", retain).set("--eval", eval)
    }

    /// The same with enough of everything to forget: the verdict is pass, by gates as wide as the little data needs.
    pub fn passing(model: impl Into<PathBuf>) -> Self {
        Self::new(model)
            .set("--noise-steps", "10")
            .set("--noise-samples", "200")
            .set("--impair-lr", "0.001")
            .set("--impair-epochs", "2")
            .set("--max-forget-accuracy", "0.1")
            .set("--max-retain-drop", "0.2")
    }

    /// Gives a flag this value, replacing an earlier one.
    pub fn set(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        let value = Some(value.as_ref().to_str().expect("UTF-8").to_owned());
        match self.flags.iter_mut().find(|(name, _)| name == flag) {
            Some(found) => found.1 = value,
            None => self.flags.push((flag.to_owned(), value)),
        }
        self
    }

    /// Adds a flag without a value.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push((flag.to_owned(), None));
        self
    }

    /// Takes a flag away.
    pub fn without(mut self, flag: &str) -> Self {
        self.flags.retain(|(name, _)| name != flag);
        self
    }

    /// Where the result goes.
    pub fn out(&self) -> PathBuf {
        match self.flags.iter().find(|(name, _)| name == "--out") {
            Some((_, Some(path))) => path.into(),
            _ => self.folder.path().join("out"),
        }
    }

    pub fn result(&self) -> PathBuf {
        self.out().join("model.onnx")
    }

    /// The report file.
    pub fn report(&self) -> serde_json::Value {
        let text = std::fs::read(self.out().join("unlearn-report.json")).expect("there is a report");
        serde_json::from_slice(&text).expect("the report is JSON")
    }

    /// Runs it and gives the report, whatever the verdict is.
    #[track_caller]
    pub fn run_for_report(&self) -> serde_json::Value {
        let ran = self.run();
        assert!(matches!(ran.code, Some(0 | 1)), "{}{}", ran.stdout, ran.stderr);
        self.report()
    }

    /// The arguments.
    pub fn args(&self) -> Vec<String> {
        let mut args = vec!["forget".to_owned(), self.model.display().to_string()];
        for (flag, value) in &self.flags {
            // One word, so that a value that begins with a dash is no flag.
            args.push(value.as_ref().map_or(flag.clone(), |value| format!("{flag}={value}")));
        }
        if !self.flags.iter().any(|(name, _)| name == "--out") {
            args.push(format!("--out={}", self.out().display()));
        }
        args
    }

    pub fn run(&self) -> Ran {
        run(self.args())
    }

    /// Names in the output folder, sorted; hidden ones included.
    pub fn files(&self) -> Vec<String> {
        names(&self.out())
    }
}

/// Names in a folder, sorted; none where there is no folder.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
