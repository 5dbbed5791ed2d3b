//! Runs `inspect`, `gradcheck`, `forget` and `verify` on a fixture and compares with what is expected of it.

use crate::common::{
    bytes::only_weights_differ,
    data, fixture,
    program::{Forget, run},
    temporary,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Samples in the data of a test, and the classes they are dealt out to.
const SAMPLES: usize = 24;
const CLASSES: usize = 4;

/// Reasons as `inspect` gives them.
pub const NUMBER: &str = "a single number in arithmetic";
pub const SCALES: &str = "scales the input";
pub const MASK: &str = "a mask";
pub const REGIONS: &str = "whole numbers that a mask is made of by comparing them";
pub const NEUTRAL: &str = "factors of one or offsets of zero that a normalisation without weights is given";
pub const NOT_USED: &str = "not used for the logits";
pub const NO_GRADIENT: &str = "no gradient reaches it (statistics, a bound, or not used for the logits)";
pub const ROUNDED: &str = "lies before rounding operators, whose derivative is zero";

/// What tract says of a Gemm with bias in float16.
pub const HALF_GEMM: &str = "Output mismatch after rewiring expansion for output #0: expected 4,4,F16 got 4,4,F32";

/// The weights of most fixtures: one Conv, one dense layer.
pub const USUAL: &[&str] = &["conv.bias", "conv.weight", "fc.bias", "fc.weight"];

/// What a fixture is fed; the same random samples for all of a kind.
#[derive(Clone, Copy)]
pub enum Data {
    /// Standardised numbers, [batch, channels, 8, 8].
    Images(u64),
    /// Numbers from 0 to 255, [batch, channels, 8, 8].
    Wide(u64),
    /// Standardised numbers, [batch, 8, 8, 3].
    ChannelsLast,
    /// Bytes, [batch, 8, 8, 1]: images as they are stored.
    Bytes,
    /// Six tokens below 16.
    Tokens,
}

impl Data {
    fn write(self, path: &Path) {
        let shape: &[u64] = match self {
            Self::Images(c) | Self::Wide(c) => &[c, 8, 8],
            Self::ChannelsLast => &[8, 8, 3],
            Self::Bytes => &[8, 8, 1],
            Self::Tokens => &[6],
        };
        let n = SAMPLES as u64;
        let shape: Vec<u64> = std::iter::once(n).chain(shape.iter().copied()).collect();
        let mut state = 1u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let length = shape.iter().product::<u64>();
        let mut floats = |low: f32, high: f32| {
            let value = |_| low + (high - low) * random(1 << 16) as f32 / 65536.0;
            data::npy(&shape, (0..length).map(value).collect::<Vec<f32>>())
        };
        let x = match self {
            // The deviation of equally likely numbers is the width over the root of 12.
            Self::Images(_) | Self::ChannelsLast => floats(-1.732, 1.732),
            Self::Wide(_) => floats(0.0, 255.0),
            Self::Bytes => data::npy(&shape, (0..length).map(|_| random(256) as u8)),
            Self::Tokens => data::npy(&shape, (0..length).map(|_| i64::from(random(16)))),
        };
        let y = data::npy(&[n], (0..SAMPLES).map(|i| (i % CLASSES) as i64));
        data::write_arrays(path, &[("x", x), ("y", y)]);
    }
}

/// A fixture that trains, and what is expected of it.
pub struct Trap {
    path: PathBuf,
    data: Data,
    settings: Vec<(&'static str, &'static str)>,
    output: Option<&'static str>,
    frozen: BTreeSet<(String, String)>,
    unchecked: Option<&'static str>,
    estimated: bool,
}

/// Where a fixture lies.
pub fn path(name: &str) -> PathBuf {
    fixture("traps").join(name).with_extension("onnx")
}

/// A fixture that takes images of one channel.
pub fn trap(name: &str) -> Trap {
    let frozen = BTreeSet::new();
    let (data, settings) = (Data::Images(1), Vec::new());
    Trap { path: path(name), data, settings, output: None, frozen, unchecked: None, estimated: false }
}

impl Trap {
    pub fn fed(self, data: Data) -> Self {
        Self { data, ..self }
    }

    /// The output that holds the scores, where there are several.
    pub fn output(self, name: &'static str) -> Self {
        Self { output: Some(name), ..self }
    }

    /// A flag of `forget`.
    pub fn set(mut self, flag: &'static str, value: &'static str) -> Self {
        self.settings.push((flag, value));
        self
    }

    /// Float tensors that stay as they are, for this reason.
    pub fn frozen(mut self, reason: &str, names: &[&str]) -> Self {
        self.frozen.extend(names.iter().map(|name| ((*name).to_owned(), reason.to_owned())));
        self
    }

    /// tract cannot run the file, and says so with these words.
    pub fn unchecked(self, reason: &'static str) -> Self {
        Self { unchecked: Some(reason), ..self }
    }

    /// Trained through a quantizer, by a rule that is no derivative.
    pub fn estimated(self) -> Self {
        Self { estimated: true, ..self }
    }

    fn flags(&self) -> Vec<String> {
        self.output.iter().map(|name| format!("--output={name}")).collect()
    }

    fn runs(&self, command: &str, more: &[&str]) -> crate::common::program::Ran {
        let own = [command.to_owned(), self.path.display().to_string()];
        run(own.into_iter().chain(self.flags()).chain(more.iter().map(ToString::to_string)))
    }

    /// `inspect` says: trainable, with these weights.
    #[track_caller]
    fn shows(&self, weights: &[&str]) -> Value {
        let json = self.runs("inspect", &["--json"]).exits(0).json();
        assert_eq!(json["trainable"], true, "{json:#}");
        assert_eq!(names(&json["trained"]), set(weights), "{}", self.path.display());
        assert_eq!(reasons(&json["frozen"], "reason"), self.frozen, "{}", self.path.display());
        json
    }

    /// These weights are trained and no others: `inspect` says so, the gradients are right, a short run writes a result
    /// that differs from the source in them alone, and `verify` finds what the report declares. Gives the report.
    #[track_caller]
    pub fn trains(&self, weights: &[&str]) -> Value {
        self.shows(weights);
        let gradients = self.runs("gradcheck", &["--json", "--quiet", "--threads=1"]);
        let (code, answer) = if self.estimated { (2, "undecided") } else { (0, "yes") };
        assert_eq!(gradients.exits(code).json()["answer"], answer);

        let folder = temporary();
        let samples = folder.path().join("samples.npz");
        self.data.write(&samples);
        let mut forget = Forget::new(&self.path).without("--mean").without("--std").set("--forget", "2");
        for (flag, value) in [("--batch-size", "8"), ("--noise-images", "8"), ("--noise-samples", "8")] {
            forget = forget.set(flag, value);
        }
        // Gates that let everything pass: there is nothing to learn in random samples.
        forget = forget.set("--max-forget-accuracy", "1").set("--max-retain-drop", "1");
        forget = forget.set("--retain", &samples).set("--eval", &samples);
        for (flag, value) in self.settings.iter().copied().chain(self.output.map(|name| ("--output", name))) {
            forget = forget.set(flag, value);
        }
        if self.unchecked.is_some() {
            forget = forget.flag("--allow-unchecked");
        }
        let ran = forget.run().exits(0);
        let report = forget.report();
        match self.unchecked {
            None => assert_eq!(report["check"]["within"], true, "{}", report["check"]),
            Some(words) => {
                let reason = report["check"]["reason"].as_str().expect("a reason");
                assert!(reason.contains(words), "{reason}");
            }
        }
        assert_eq!(names(&report["trained"]), set(weights), "every weight moved\n{}", ran.stdout);
        assert_eq!(reasons(&report["frozen"], "frozen"), self.frozen);
        let result = forget.result();
        run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), self.path.as_os_str()]).exits(0);
        only_weights_differ(&self.path, &result, &set(weights));
        report
    }
}

/// The file is refused by `forget` before any work, with these words, and `inspect` gives them as well.
#[track_caller]
pub fn refused(name: &str, words: &[&str]) {
    let path = path(name);
    let forget = Forget::new(&path);
    forget.run().fails(&[&[path.to_str().expect("UTF-8")], words].concat());
    assert!(!forget.out().exists(), "nothing is left behind");
    let shown = run(["inspect".as_ref(), path.as_os_str()]);
    // A file that cannot be read is an error, one that cannot be trained an answer.
    assert!(matches!(shown.code, Some(1 | 2)), "{}", shown.stdout);
    for word in words {
        assert!(shown.stdout.contains(word) || shown.stderr.contains(word), "{word:?} in\n{}", shown.stdout);
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn names(tensors: &Value) -> BTreeSet<String> {
    list(tensors).iter().map(|t| text(&t["name"])).collect()
}

fn reasons(tensors: &Value, field: &str) -> BTreeSet<(String, String)> {
    list(tensors).iter().map(|t| (text(&t["name"]), text(&t[field]))).collect()
}
