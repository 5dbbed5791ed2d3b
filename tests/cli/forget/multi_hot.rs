//! Several classes in a sample: multi-hot labels for a model with independent scores.

use super::heads::{behind_the_logits, extended, passes, per_step};
use crate::common::{
    data::{self, SIDE, npy, write_arrays},
    engine, model,
    program::Forget,
    temporary,
};
use onnx_unlearn::{
    graph::{Attrs, Node, Port},
    onnx,
    runtime::Device,
    tensor::{DType, Tensor},
};
use std::{fs, path::Path, sync::Arc};

const CLASSES: usize = 10;

/// The fixture's network on both halves of an image, [batch, 1, 28, 56]. A class is there when a half shows it with a
/// probability p above 0.5: its score is sigmoid(4 log 2p), the larger one of the two halves.
///
/// Without `sigmoid` the file ends before it.
pub fn two_halves(path: &Path, sigmoid: bool) {
    let attrs = |list: &[(&str, i64)]| list.iter().map(|&(name, v)| (name.to_owned(), v.into())).collect::<Attrs>();
    let largest = Attrs::from([("axes".to_owned(), [0i64].into()), ("keepdims".to_owned(), 0i64.into())]);
    let tail: [(&str, Attrs, &[&str]); 6] = [
        ("LogSoftmax", attrs(&[("axis", 1)]), &[]),
        ("Reshape", Attrs::new(), &["halves"]),
        ("ReduceMax", largest, &[]),
        ("Mul", Attrs::new(), &["gain"]),
        ("Add", Attrs::new(), &["bias"]),
        ("Sigmoid", Attrs::new(), &[]),
    ];
    let constants = [
        ("halves", Tensor::ints(&[2, -1, CLASSES as i64])),
        ("gain", Tensor::scalar(4.0)),
        ("bias", Tensor::scalar(4.0 * 2f32.ln())),
    ];
    let mut graph = extended(&tail[..tail.len() - usize::from(!sigmoid)], &constants);
    let pair =
        Port { name: "pair".into(), dtype: Some(DType::F32), dims: Some(vec![None, Some(1), Some(28), Some(56)]) };
    let old = std::mem::replace(&mut graph.inputs[0], pair).name;
    let node = |op: &str, inputs: &[&str], output: &str, attrs: Attrs| Node {
        name: output.to_owned(),
        op: op.to_owned(),
        domain: String::new(),
        inputs: inputs.iter().map(ToString::to_string).collect(),
        outputs: vec![output.to_owned()],
        attrs,
    };
    let front = [
        node("Slice", &["pair", "zero", "middle", "width"], "left", Attrs::new()),
        node("Slice", &["pair", "middle", "end", "width"], "right", Attrs::new()),
        node("Concat", &["left", "right"], &old, attrs(&[("axis", 0)])),
    ];
    graph.nodes.splice(0..0, front);
    for (name, value) in [("zero", 0), ("middle", 28), ("end", 56), ("width", 3)] {
        graph.constants.insert(name.into(), Arc::new(Tensor::ints(&[value])));
    }
    fs::write(path, onnx::export(&graph)).expect("written");
}

/// Pairs of images side by side, standardized, and the classes that they show: one or two.
pub struct Pairs {
    pub x: Vec<f32>,
    pub y: Vec<[u8; CLASSES]>,
}

impl Pairs {
    /// Every image beside another one, the same for ever: i beside 7 i + 13.
    pub fn of(images: &data::Images) -> Self {
        let (n, mut x, mut y) = (images.y.len(), Vec::new(), Vec::new());
        for left in 0..n {
            let right = (7 * left + 13) % n;
            let lines = images.x[left].chunks(SIDE).zip(images.x[right].chunks(SIDE));
            x.extend(lines.flat_map(|(a, b)| a.iter().chain(b)).map(|&v| (f32::from(v) / 255.0 - 0.286) / 0.353));
            let mut hot = [0; CLASSES];
            (hot[images.y[left] as usize], hot[images.y[right] as usize]) = (1, 1);
            y.push(hot);
        }
        Self { x, y }
    }

    fn without(&self, class: usize) -> Self {
        let kept = |i: &usize| self.y[*i][class] == 0;
        let rows: Vec<usize> = (0..self.y.len()).filter(kept).collect();
        let size = 2 * SIDE * SIDE;
        let x = rows.iter().flat_map(|&i| &self.x[i * size..(i + 1) * size]).copied().collect();
        Self { x, y: rows.iter().map(|&i| self.y[i]).collect() }
    }

    pub fn write(&self, path: &Path) {
        let n = self.y.len() as u64;
        let x = npy(&[n, 1, SIDE as u64, 2 * SIDE as u64], self.x.iter().copied());
        let y = npy(&[n, CLASSES as u64], self.y.as_flattened().iter().copied());
        write_arrays(path, &[("x", x), ("y", y)]);
    }

    /// What the model says, by ONNX Runtime.
    pub fn scores(&self, model: &Path) -> Vec<f32> {
        let mut session = engine(Device::Cpu).session_from_file(model, false).expect("the model opens");
        let x = Tensor::f32([self.y.len(), 1, SIDE, 2 * SIDE], self.x.clone());
        session.run(&[("pair", &x)]).expect("it runs")[0].to_f32s()
    }

    /// Per class: samples that have it, those of them predicted as it, samples that lack it, those predicted as it.
    pub fn counts(&self, model: &Path) -> Vec<[u64; 4]> {
        let mut counts = vec![[0; 4]; CLASSES];
        for (scores, hot) in self.scores(model).chunks(CLASSES).zip(&self.y) {
            for (c, (&score, &hot)) in scores.iter().zip(hot).enumerate() {
                let at = if hot == 1 { 0 } else { 2 };
                counts[c][at] += 1;
                counts[c][at + 1] += u64::from(score > 0.5);
            }
        }
        counts
    }
}

/// The same counts as a report has them.
fn counted(measured: &serde_json::Value) -> Vec<[u64; 4]> {
    let classes = measured["classes"].as_array().expect("a list");
    let count = |v: &serde_json::Value| v.as_u64().expect("a number");
    let of = |c: &serde_json::Value| {
        let negatives = &c["negatives"];
        [&c["total"], &c["correct"], &negatives["total"], &negatives["false_positives"]].map(count)
    };
    classes.iter().map(of).collect()
}

/// A command on pairs of images.
fn forget(source: &Path, folder: &Path) -> Forget {
    let (retain, eval) = (folder.join("retain.npz"), folder.join("eval.npz"));
    Pairs::of(data::retain()).write(&retain);
    Pairs::of(data::eval()).write(&eval);
    let forget = Forget::passing(source).set("--retain", retain).set("--eval", eval).set("--per-class", "1000");
    forget.without("--mean").without("--std")
}

#[test]
fn one_class_is_forgotten_where_samples_have_two() {
    let folder = temporary();
    let source = folder.path().join("pairs.onnx");
    two_halves(&source, true);
    let forget = forget(&source, folder.path());
    let report = passes(&forget, &source);
    super::page::valid(&report);
    assert_eq!(report["routing"], serde_json::json!([]), "such a sample is not predicted as one class");

    let eval = Pairs::of(data::eval());
    let (before, after) = (eval.counts(&source), eval.counts(&forget.result()));
    let measured = &report["measured"];
    assert_eq!(counted(&measured["before"]), before);
    assert_eq!(counted(&measured["after_repair"]), after);
    // It really knew its labels, those of the class to forget too.
    let share = |part: u64, whole: u64| part as f64 / whole as f64;
    assert!(share(before[5][1], before[5][0]) > 0.8, "{before:?}");

    let micro_f1 = |counts: &[[u64; 4]]| {
        let sum = |at: usize| (0..CLASSES).filter(|&c| c != 5).map(|c| counts[c][at]).sum::<u64>();
        let (positives, hits, false_alarms) = (sum(0), sum(1), sum(3));
        share(2 * hits, hits + false_alarms + positives)
    };
    assert!(micro_f1(&before) > 0.8, "{before:?}");
    let gates = &report["verdict"]["gates"];
    let gate = |i: usize, measure: &str, value: f64| {
        assert_eq!(gates[i]["measure"], measure);
        let found = gates[i]["measured"].as_f64().expect("a number");
        assert!((found - value).abs() < 1e-12, "{found} and {value}");
    };
    gate(0, "recall", share(after[5][1], after[5][0]));
    gate(1, "micro-F1", micro_f1(&before) - micro_f1(&after));

    let all = Pairs::of(data::retain());
    let kept = all.without(5);
    let retain = &report["data"]["retain"];
    assert_eq!(retain["multi_hot"], true);
    assert_eq!(retain["dropped"], serde_json::json!([[5, all.y.len() - kept.y.len()]]));
    let having = |c: usize| kept.y.iter().filter(|hot| hot[c] == 1).count();
    assert_eq!(retain["per_class"], serde_json::json!((0..CLASSES).map(having).collect::<Vec<_>>()));
    assert_eq!(report["notebook"], serde_json::Value::Null);
}

#[test]
fn both_labels_of_a_sample_enter_the_loss() {
    let folder = temporary();
    let source = folder.path().join("pairs.onnx");
    two_halves(&source, true);
    // One batch of all retained samples and no noise: the first loss is that of the source.
    let forget = forget(&source, folder.path()).set("--noise-samples", "0").set("--batch-size", "200");
    let forget = forget.set("--impair-epochs", "1").set("--targets", "labels").flag("--keep-failed");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let impair = forget.report()["phases"][0].clone();
    assert_eq!((impair["phase"].as_str(), impair["steps"].as_u64()), (Some("impair"), Some(1)));

    let kept = Pairs::of(data::retain()).without(5);
    let n = kept.y.len() as f64;
    let (mut loss, mut first_is_right) = (0.0, 0.0);
    for (scores, hot) in kept.scores(&source).chunks(CLASSES).zip(&kept.y) {
        let there = |c: usize| if hot[c] == 1 { f64::from(scores[c]) } else { 1.0 - f64::from(scores[c]) };
        loss -= (0..CLASSES).map(|c| there(c).ln()).sum::<f64>();
        let best = (0..CLASSES).fold(0, |best, c| if scores[c] > scores[best] { c } else { best });
        first_is_right += f64::from(hot[best]);
    }
    let close = |key: &str, value: f64| {
        let found = impair[key].as_f64().expect("a number");
        assert!((found - value).abs() < 1e-4 * value, "{key}: {found} and {value}");
    };
    close("first_loss", loss / n);
    close("accuracy", first_is_right / n);
}

#[test]
fn a_file_that_ends_before_its_sigmoids_is_the_same_model() {
    let folder = temporary();
    let [whole, cut] = [true, false].map(|sigmoid| {
        let source = folder.path().join(format!("{sigmoid}.onnx"));
        two_halves(&source, sigmoid);
        let mut forget = forget(&source, folder.path()).set("--impair-epochs", "1").flag("--keep-failed");
        if !sigmoid {
            forget = forget.flag("--multi-label");
        }
        let ran = forget.run();
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
        assert!(ran.stdout.contains("check        pass "), "{}", ran.stdout);
        forget.report()
    });
    assert_eq!((&whole["head"]["behind"], &cut["head"]["behind"]), (&"Sigmoid".into(), &serde_json::Value::Null));
    assert_eq!(cut["parameters"]["multi_label"], true);
    for key in ["trained", "phases", "measured", "verdict"] {
        assert_eq!(whole[key], cut[key], "{key}");
    }
}

#[test]
fn several_classes_at_every_step() {
    let folder = temporary();
    let (source, data) = (folder.path().join("steps.onnx"), folder.path().join("series.npz"));
    per_step(&source);
    // 12 series of 6 steps with classes 0 or 1, and 3 at every other step; 12 with classes 0 and 2.
    let n = 24;
    let hot = |i: usize, t: usize| {
        if i < n / 2 {
            [i.is_multiple_of(2), i % 2 == 1, false, t.is_multiple_of(2)]
        } else {
            [true, false, true, false]
        }
    };
    let rows: Vec<bool> = (0..n).flat_map(|i| (0..6).flat_map(move |t| hot(i, t))).collect();
    let shape = [n as u64, 6, 4];
    let x = npy(&shape, rows.iter().map(|&there| f32::from(u8::from(there))));
    write_arrays(&data, &[("x", x), ("y", npy(&shape, rows.iter().map(|&there| u8::from(there))))]);
    let forget = Forget::new(&source).set("--retain", &data).set("--eval", &data).set("--forget", "2");
    let forget = forget.without("--mean").without("--std").flag("--keep-failed").flag("--multi-label");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let report = forget.report();
    assert_eq!(
        report["data"]["retain"]["dropped"],
        serde_json::json!([[2, n / 2]]),
        "a series is read as a whole or not"
    );
    let before = counted(&report["measured"]["before"]);
    assert_eq!(
        before,
        [[108, 108, 36, 0], [36, 36, 108, 0], [72, 72, 72, 0], [36, 36, 108, 0]],
        "every step is measured"
    );
}

#[test]
fn classes_that_exclude_each_other_are_no_labels_of_one_sample() {
    let folder = temporary();
    let softmax = folder.path().join("softmax.onnx");
    behind_the_logits(&softmax, &[("Softmax", Attrs::new(), &[])], &[]);
    let ran = Forget::new(&softmax).flag("--multi-label").run();
    ran.fails(&["softmax.onnx", "--multi-label: the model ends in Softmax, whose classes exclude each other"]);
    let two = folder.path().join("two.onnx");
    let weights = Tensor::f32([CLASSES, 1], vec![0.1; CLASSES]);
    behind_the_logits(&two, &[("MatMul", Attrs::new(), &["w"])], &[("w", weights)]);
    let ran = Forget::new(&two).flag("--multi-label").run();
    ran.fails(&["two.onnx", "--multi-label: the model has one score for two classes, which exclude each other"]);
}

#[test]
fn one_hot_columns_train_as_indices_do() {
    let folder = temporary();
    let (source, columns) = (folder.path().join("sigmoid.onnx"), folder.path().join("columns.npz"));
    behind_the_logits(&source, &[("Sigmoid", Attrs::new(), &[])], &[]);
    let images = data::retain();
    let n = images.y.len() as u64;
    let hot = images.y.iter().flat_map(|&class| (0..CLASSES as i64).map(move |c| i64::from(c == class)));
    let x = npy(&[n, SIDE as u64, SIDE as u64, 1], images.x.concat());
    write_arrays(&columns, &[("x", x), ("y", npy(&[n, CLASSES as u64], hot))]);
    let [by_index, by_column] = [data::retain_file(), &columns].map(|retain| {
        let forget = Forget::new(&source).set("--retain", retain).flag("--keep-failed");
        let ran = forget.run();
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
        let report = forget.report();
        assert_eq!(report["data"]["retain"]["multi_hot"], retain == columns);
        // The held-out data has indices both times, so the largest score is what counts.
        (fs::read(forget.result()).expect("written"), report["phases"].clone(), report["measured"].clone())
    });
    assert!(by_index == by_column);
}

#[test]
fn recall_and_precision_are_printed() {
    let folder = temporary();
    let source = folder.path().join("pairs.onnx");
    two_halves(&source, true);
    let ran = forget(&source, folder.path()).run().exits(0);
    for line in [
        "recall / precision on held-out data  samples               before               impair               repair\n",
        "class 3                                   18   72.22 % / 100.00 %  ",
        "class 5 (forget)                          20   90.00 % / 100.00 %    0.00 % /        -    0.00 % /        -\n",
        "all retained classes                     168   83.33 % /  94.59 %  ",
        "micro-F1, retained                                        88.61 %  ",
        "gate forget  pass          recall on forgotten classes 0.00 % (highest of any), at most 10.00 %\n",
        "gate retain  pass          micro-F1 on retained classes 88.61 % -> ",
        "4 of 4 predictions equal",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
}

#[test]
fn labels_that_the_model_cannot_have_are_refused() {
    let folder = temporary();
    let [sigmoid, softmax] = ["Sigmoid", "Softmax"].map(|op| {
        let path = folder.path().join(format!("{op}.onnx"));
        behind_the_logits(&path, &[(op, Attrs::new(), &[])], &[]);
        path
    });
    let retain = folder.path().join("retain.npz");
    let refused = |model: &Path, columns: usize, change: &dyn Fn(&mut Vec<f32>), words: &[&str]| {
        let n = 2 * columns;
        let mut y: Vec<f32> =
            (0..n * columns).map(|i| f32::from(u8::from(i / columns % columns == i % columns))).collect();
        change(&mut y);
        let x = npy(&[n as u64, SIDE as u64, SIDE as u64, 1], vec![0u8; n * SIDE * SIDE]);
        write_arrays(&retain, &[("x", x), ("y", npy(&[n as u64, columns as u64], y))]);
        let said = Forget::new(model).set("--retain", &retain).without("--eval");
        said.run().fails(&[&["--retain", "retain.npz"], words].concat());
    };
    let none = |_: &mut Vec<f32>| {};
    refused(&sigmoid, 9, &none, &["array `y` has shape [18, 9]", "or 0 or 1 for each class, [N, 10]"]);
    refused(
        &sigmoid,
        10,
        &|y| y[31] = 2.0,
        &["row 3 of `y` holds 2 for class 1; a column for each class holds 0 or 1"],
    );
    refused(&sigmoid, 10, &|y| y[31] = 0.5, &["row 3 of `y` holds 0.5 for class 1"]);
    let words =
        ["array `y` has shape [20, 10]", "are for a model with independent scores: a final Sigmoid, or --multi-label"];
    refused(&softmax, 10, &none, &words);
    refused(&model("fashion-mnist"), 10, &none, &words);
    // Class 3 is only ever seen beside the class to forget.
    let beside = |y: &mut Vec<f32>| y.chunks_mut(10).filter(|hot| hot[3] > 0.0).for_each(|hot| hot[5] = 1.0);
    refused(&sigmoid, 10, &beside, &["no samples of class 3, without a class to forget beside it"]);
}
