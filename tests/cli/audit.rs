//! `audit`: figures against what the test works out by itself, what is not assessed and why, and what is refused.

use crate::{
    common::{
        data::{self, SIDE},
        engine, model,
        models::{self, dense},
        program::{Forget, Ran, run},
        temporary,
    },
    forget::heads::{behind_the_logits, per_step, series, step_class},
};
use onnx_unlearn::{
    graph::Attrs,
    onnx::{self, patch},
    runtime::Device,
    tensor::Tensor,
};
use serde_json::{Value as Json, json};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The class that is taken out.
const CLASS: usize = 5;

/// A model that class 5 was taken out of, made once.
fn after() -> PathBuf {
    static FORGET: LazyLock<Forget> = LazyLock::new(|| {
        let forget = Forget::passing(model("fashion-mnist"));
        forget.run().exits(0);
        forget
    });
    FORGET.result()
}

/// Runs on one thread, on the small held-out data.
fn audit(models: [&Path; 2], more: &[&str]) -> Ran {
    on(&format!("--data={}", data::eval_file().display()), models, more)
}

/// The same on other data, with the preprocessing of the fixtures.
fn on(data: &str, models: [&Path; 2], more: &[&str]) -> Ran {
    let flags = [data, "--mean=0.2860", "--std=0.3530", "--threads=1", "--device=cpu"];
    let models = models.iter().map(|path| path.as_os_str().to_owned());
    run([OsString::from("audit")].into_iter().chain(models).chain(flags.iter().chain(more).map(OsString::from)))
}

/// Class 5, with the small training data.
fn full(models: [&Path; 2], more: &[&str]) -> Ran {
    let train = data::retain_file().display().to_string();
    audit(models, &[&["--forget=5", "--train-data", &train], more].concat())
}

fn list(value: &Json) -> &[Json] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

#[track_caller]
fn measure<'a>(json: &'a Json, name: &str) -> &'a Json {
    list(&json["measures"]).iter().find(|m| m["name"] == name).unwrap_or_else(|| panic!("no {name} in {json}"))
}

#[track_caller]
fn figure<'a>(json: &'a Json, name: &str, figure: &str, of: &str) -> &'a Json {
    let figures = list(&measure(json, name)["figures"]);
    let found = figures.iter().find(|f| f["figure"] == figure && f["of"] == of);
    found.unwrap_or_else(|| panic!("no {figure} of {of} in {figures:?}"))
}

#[track_caller]
fn value(json: &Json, name: &str, what: &str, of: &str) -> f64 {
    let found = figure(json, name, what, of);
    found["value"].as_f64().unwrap_or_else(|| panic!("{found} has no value"))
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
}

/// The softmax outputs of a model for images, with their classes, straight from the runtime.
fn outputs(path: &Path, images: &data::Images) -> Vec<(usize, Vec<f64>)> {
    let x = images.x.iter().flatten().map(|&v| (f32::from(v) / 255.0 - 0.286) / 0.353).collect();
    let mut session = engine(Device::Cpu).session_from_file(path, false).expect("it opens");
    let name = session.inputs()[0].clone();
    let x = Tensor::f32([images.y.len(), 1, SIDE, SIDE], x);
    let all = session.run(&[(&name, &x)]).expect("it runs")[0].to_f32s();
    let softmax = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        row.iter().map(|&v| f64::from(v).exp() / sum).collect()
    };
    images.y.iter().map(|&y| y as usize).zip(all.chunks(10).map(softmax)).collect()
}

fn top(p: &[f64]) -> usize {
    (0..p.len()).fold(0, |best, c| if p[c] > p[best] { c } else { best })
}

/// Share of the samples of these classes that are predicted as what they are.
fn accuracy(rows: &[(usize, Vec<f64>)], pick: impl Fn(usize) -> bool) -> f64 {
    let picked: Vec<_> = rows.iter().filter(|(label, _)| pick(*label)).collect();
    picked.iter().filter(|(label, p)| top(p) == *label).count() as f64 / picked.len() as f64
}

#[test]
fn outputs_are_compared_as_the_definitions_say() {
    let (before, after) = (model("fashion-mnist"), after());
    let json = full([&before, &after], &["--only=membership,before,streisand", "--json", "--quiet"]).exits(0).json();
    let (held, trained) = (data::eval(), data::retain());
    let [p, q] = [&before, &after].map(|path| outputs(path, held));
    close(json["models"][0]["forgotten_accuracy"].as_f64().expect("a share"), accuracy(&p, |c| c == CLASS));
    close(json["models"][1]["retained_accuracy"].as_f64().expect("a share"), accuracy(&q, |c| c != CLASS));

    for (on, forgotten) in [("forgotten classes", true), ("retained classes", false)] {
        let pairs: Vec<_> = p.iter().zip(&q).filter(|((c, _), _)| (*c == CLASS) == forgotten).collect();
        let mean = |f: &dyn Fn(&[f64], &[f64]) -> f64| {
            pairs.iter().map(|((_, p), (_, q))| f(p, q)).sum::<f64>() / pairs.len() as f64
        };
        let found = |what: &str| value(&json, "before", &format!("{what}, {on}"), "after, before");
        close(found("equal predictions"), mean(&|p, q| f64::from(u8::from(top(p) == top(q)))));
        let length = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        close(found("activation distance"), mean(&length));
        let bits = |p: &[f64]| p.iter().map(|v| -v * v.log2()).sum::<f64>();
        // JS(p, q) = H(m) - (H(p) + H(q)) / 2.
        let js = |p: &[f64], q: &[f64]| {
            let m: Vec<f64> = p.iter().zip(q).map(|(a, b)| f64::midpoint(*a, *b)).collect();
            bits(&m) - f64::midpoint(bits(p), bits(q))
        };
        close(found("JS divergence (bits)"), mean(&js));
    }
    let share = |rows: &[(usize, Vec<f64>)], class: usize| {
        rows.iter().filter(|(label, p)| *label == CLASS && top(p) == class).count() as f64 / 10.0
    };
    let routing = (0..10).map(|c| (share(&p, c) - share(&q, c)).abs()).sum::<f64>() / 2.0;
    close(value(&json, "before", "routing distance, forgotten classes", "after, before"), routing);
    assert!(routing > 0.5, "the class goes elsewhere");

    let own: Vec<f64> = q.iter().filter(|(c, _)| *c == CLASS).map(|(_, p)| p[CLASS]).collect();
    let log10 = own.iter().map(|p| p.log10()).sum::<f64>() / 10.0;
    close(value(&json, "streisand", "class 5: log10 of its probability", "after"), log10);
    close(value(&json, "streisand", "class 5: loss (nats)", "after"), -log10 * 10f64.ln());
    let largest = (0..10).map(|c| share(&q, c)).fold(0.0, f64::max);
    close(value(&json, "streisand", "class 5: most frequent prediction, share", "after"), largest);

    // 20 members and 10 held-out samples: 10 of the members are drawn, so that the AUC is a multiple of 1/100.
    let losses = |images: &data::Images| -> Vec<f64> {
        let rows = outputs(&before, images);
        rows.iter().filter(|(c, _)| *c == CLASS).map(|(_, p)| -p[CLASS].ln()).collect()
    };
    let (inside, outside) = (losses(trained), losses(held));
    let beaten = |v: f64| outside.iter().filter(|w| **w > v).count();
    let mut wins: Vec<usize> = inside.iter().map(|&v| beaten(v)).collect();
    wins.sort_unstable();
    let bounds = [wins[..10].iter().sum::<usize>(), wins[10..].iter().sum()].map(|n| n as f64 / 100.0);
    let auc = figure(&json, "membership", "AUC", "before");
    let found = auc["value"].as_f64().expect("an area");
    assert!(
        (bounds[0]..=bounds[1]).contains(&found) && ((100.0 * found).round() - 100.0 * found).abs() < 1e-9,
        "{auc}"
    );
    let [low, high] = [0, 1].map(|i| auc["interval"][i].as_f64().expect("an end"));
    assert!(low < found && found < high && low >= 0.0 && high <= 1.0, "{auc}");
}

#[test]
fn the_attacks_find_what_is_still_there() {
    let (before, after) = (model("fashion-mnist"), after());
    let retrained = before.display().to_string();
    // The model before stands in for a retrained one: what it comes to is known.
    let flags =
        ["--only=probe,prototype,relearn", "--retrained", &retrained, "--relearn-steps=20", "--json", "--quiet"];
    let ran = full([&before, &after], &flags).exits(0);
    let json = ran.json();
    assert_eq!(ran.stdout, full([&before, &after], &flags).exits(0).stdout, "the seed decides everything");
    for name in ["probe", "prototype"] {
        for of in ["before", "after"] {
            let recall = value(&json, name, "recall of class 5", of);
            let others = value(&json, name, "accuracy on the others", of);
            assert!(recall >= 0.5 && others >= 0.6, "{name} of {of}: {recall}, {others}");
        }
        let same = |figure: &str| {
            close(value(&json, name, figure, "before"), value(&json, name, figure, "retrained"));
        };
        ["recall of class 5", "accuracy on the others"].into_iter().for_each(same);
    }
    assert!(figure(&json, "prototype", "recall of class 5", "after")["deviation"].is_number());
    let relearn = |of| value(&json, "relearn", "RT (mini-batches)", of);
    assert_eq!((relearn("before"), relearn("retrained")), (1.0, 1.0));
    assert!((2.0..=20.0).contains(&relearn("after")), "{}", relearn("after"));
    close(value(&json, "relearn", "AIN", "after, retrained"), relearn("after"));
    let last = format!("accuracy after mini-batch {}", relearn("after"));
    let reached = value(&json, "relearn", &last, "after");
    close(value(&json, "relearn", "accuracy then, forgotten classes", "after"), reached);
    assert!(reached >= 0.95 * json["models"][0]["forgotten_accuracy"].as_f64().expect("a share"));
}

#[test]
fn a_cap_leaves_a_bound() {
    let (before, after) = (model("fashion-mnist"), after());
    let retrained = after.display().to_string();
    let flags = ["--only=relearn", "--relearn-steps=2", "--relearn-lr=1e-9", "--retrained", &retrained];
    let json = full([&before, &after], &[&flags[..], &["--json"]].concat()).exits(0).json();
    let rt = figure(&json, "relearn", "RT (mini-batches)", "after");
    assert_eq!((&rt["value"], &rt["bound"]), (&json!(2.0), &json!("above")));
    let notes = list(&measure(&json, "relearn")["notes"]);
    assert!(notes.iter().any(|n| n.as_str().is_some_and(|n| n.starts_with("AIN is not known"))), "{notes:?}");
    let text = full([&before, &after], &flags).exits(0).stdout;
    let line = text.lines().find(|l| l.contains("RT (mini-batches)")).expect("a line");
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["RT", "(mini-batches)", "1", ">", "2", ">", "2"]);
}

/// A copy of the model with each row of each weight rounded to 15 steps, written by the test's own arithmetic.
fn rounded_to_int4(path: &Path) {
    let source = onnx::read(&model("fashion-mnist")).expect("a model");
    let rounded = |t: &Tensor| {
        let mut values = t.to_f32s();
        let channel = values.len() / t.shape()[0];
        for row in values.chunks_exact_mut(channel) {
            let scale = row.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 7.0;
            for v in row {
                *v = (*v / scale).round() * scale;
            }
        }
        Tensor::f32(t.shape(), values)
    };
    // Convolutions and the Gemm of this file (transB) have a row an output channel.
    let weights: BTreeMap<&str, Tensor> = source
        .graph
        .constants
        .iter()
        .filter(|(_, t)| t.shape().len() >= 2 && t.dtype().is_float())
        .map(|(name, t)| (name.as_str(), rounded(t)))
        .collect();
    assert!(weights.len() > 4);
    let tensors = weights.iter().map(|(name, t)| (*name, t)).collect();
    let patch = patch::Patch { tensors, metadata: Vec::new() };
    fs::write(path, &patch::patch_bytes(&source.bytes, &patch).expect("patched").model).expect("written");
}

#[test]
fn rounded_weights_are_those_of_a_rounded_file() {
    let folder = temporary();
    let (before, int4) = (model("fashion-mnist"), folder.path().join("int4.onnx"));
    rounded_to_int4(&int4);
    let flags = ["--forget=6", "--only=quantisation,weights", "--json"];
    let json = audit([&before, &int4], &flags).exits(0).json();
    let expected = outputs(&int4, data::eval());
    for (what, pick) in [("on the forgotten classes", true), ("on the others", false)] {
        let share = accuracy(&expected, |c| (c == 6) == pick);
        // What is rounded already stays as it is.
        for (form, of) in [("INT4", "before"), ("INT4", "after"), ("as it is", "after")] {
            close(value(&json, "quantisation", &format!("{form}: accuracy {what}"), of), share);
        }
    }
    let (original, coarse) = (onnx::read(&before).expect("a model"), onnx::read(&int4).expect("a model"));
    let (mut change, mut size) = (0.0, 0.0);
    for (name, t) in original.graph.constants.iter().filter(|(_, t)| t.dtype().is_float()) {
        for (a, b) in t.to_f32s().iter().zip(coarse.graph.constants[name].to_f32s()) {
            change += f64::from(a - b).powi(2);
            size += f64::from(*a).powi(2);
        }
    }
    close(value(&json, "weights", "all weights together", "after, before"), (change / size).sqrt());
}

#[test]
fn statistics_drift_apart_from_weights() {
    let source = model("fashion-mnist-bn");
    for (statistics, drifts) in [("frozen", false), ("batch", true)] {
        let forget =
            Forget::new(&source).set("--batch-norm", statistics).set("--impair-lr", "0.001").flag("--keep-failed");
        forget.run();
        let json = audit([&source, &forget.result()], &["--forget=5", "--only=weights", "--json"]).exits(0).json();
        let of = |what| value(&json, "weights", what, "after, before");
        assert!(of("all weights together") > 1e-4);
        assert_eq!(of("BatchNormalization statistics together") > 1e-4, drifts, "{statistics}");
    }
}

#[test]
fn what_lacks_its_input_is_not_assessed() {
    let (before, after) = (model("fashion-mnist"), after());
    let outcomes = |json: &Json| -> Vec<(String, String)> {
        let reason = |m: &Json| m["reason"].as_str().unwrap_or_default().to_owned();
        let not = list(&json["measures"]).iter().filter(|m| m["outcome"] == "not_assessed");
        not.map(|m| (m["name"].as_str().expect("a name").to_owned(), reason(m))).collect()
    };
    let only = "--only=membership,probe,prototype,relearn,retrained,before,streisand";
    let json = audit([&before, &after], &["--forget=5", only, "--json"]).exits(0).json();
    let found = outcomes(&json);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["membership", "probe", "prototype", "relearn", "retrained"]);
    assert!(found[..4].iter().all(|(_, reason)| reason.starts_with("needs --train-data")), "{found:?}");
    assert!(found[4].1.starts_with("needs --retrained"), "{found:?}");

    let folder = temporary();
    let without = folder.path().join("without.npz");
    data::retain().without(CLASS as i64).write_npz(&without);
    let train = without.display().to_string();
    let json = audit([&before, &after], &["--forget=5", "--train-data", &train, only, "--json"]).exits(0).json();
    let found = outcomes(&json);
    assert!(found[..4].iter().all(|(_, reason)| reason == "--train-data has no samples of class 5"), "{found:?}");
    // Held-out data without the class.
    let held = format!("--data={train}");
    let other = on(&held, [&before, &after], &["--forget=5", "--only=streisand,before", "--json"]).exits(0).json();
    assert_eq!(outcomes(&other), [("streisand".to_owned(), "--data has no samples of class 5".to_owned())]);
    assert!(figure(&other, "before", "routing distance, forgotten classes", "after, before")["value"].is_null());
}

#[test]
fn a_model_without_such_a_layer_is_not_assessed_by_name() {
    let folder = temporary();
    // Two layers side by side give the scores; and a layer behind which a rectifier stands.
    let (two, cut) = (folder.path().join("two.onnx"), folder.path().join("cut.onnx"));
    let build = |b: &mut onnx_unlearn::graph::Builder, x: onnx_unlearn::graph::Value| {
        let z = dense(b, &x, 10);
        let pooled = b.op("ReduceMean", &[&x], &[("axes", [2i64, 3].into()), ("keepdims", 0i64.into())], &[1, 1]);
        let w = b.named_constant("v", std::sync::Arc::new(Tensor::f32([1, 10], vec![0.1; 10])));
        let other = b.op("MatMul", &[&pooled, &w], &[], &[1, 10]);
        vec![b.op("Add", &[&z, &other], &[], &[1, 10])]
    };
    models::write(&two, build, |_| {});
    behind_the_logits(&cut, &[("Relu", Attrs::new(), &[])], &[]);
    let json = full([&two, &two], &["--only=probe,prototype", "--json"]).exits(0).json();
    for name in ["probe", "prototype"] {
        let reason = measure(&json, name)["reason"].as_str().expect("a reason");
        assert!(reason.contains("(Add), which puts several values together"), "{reason}");
    }
    let json = full([&cut, &cut], &["--only=probe,prototype", "--json"]).exits(0).json();
    assert_eq!(measure(&json, "probe")["outcome"], "assessed");
    let reason = measure(&json, "prototype")["reason"].as_str().expect("a reason");
    assert!(reason.contains("so that no row of them stands for a class"), "{reason}");
}

#[test]
fn the_layer_is_found_in_every_form_of_the_file() {
    // The same network in other spellings has the same features, so the probe comes to the same.
    let before = model("fashion-mnist");
    let probe = |path: &Path| {
        let json = full([&before, path], &["--only=probe,prototype", "--json"]).exits(0).json();
        for name in ["probe", "prototype"] {
            for what in ["recall of class 5", "accuracy on the others"] {
                let [a, b] = ["before", "after"].map(|of| value(&json, name, what, of));
                assert!((a - b).abs() < 0.021, "{}: {name}, {what}: {a} and {b}", path.display());
            }
        }
    };
    for name in ["softmax", "functions", "opset11", "constants", "external"] {
        probe(&model(&format!("fashion-mnist-{name}")));
    }
}

#[test]
fn text_and_csv_have_every_measure() {
    let (before, after) = (model("fashion-mnist"), after());
    let flags = ["--only=before,weights,retrained", "--labels=fixtures/data/classes.txt"];
    let ran = full([&before, &after], &[&flags[..], &["--quiet"]].concat()).exits(0);
    assert_eq!(ran.stderr, "");
    for line in [
        "forgotten  5 Sandal\n",
        "small-eval.npz: 100 samples, 10 of them of forgotten classes\n",
        "\nretrained\n  Of two models on the same samples of --data.",
        "  not assessed: needs --retrained: a model that was trained without the classes\n",
        "\nbefore\n  As before.\n  Good: ",
        "after, before\n",
        "\nweights\n",
        " more figures in --json and --csv\n",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    let csv = full([&before, &after], &[&flags[..], &["--csv"]].concat()).exits(0).stdout;
    let json = full([&before, &after], &[&flags[..], &["--json"]].concat()).exits(0).json();
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("measure,outcome,figure,of,value,unit,low,high,deviation,bound"));
    let figures: Vec<&Json> =
        list(&json["measures"]).iter().filter_map(|m| m["figures"].as_array()).flatten().collect();
    let rows: Vec<&str> = lines.collect();
    assert_eq!(rows.len(), figures.len() + 1);
    let reason = "\"needs --retrained: a model that was trained without the classes\"".replace('"', "");
    assert_eq!(rows[0], format!("retrained,not_assessed,{reason},,,,,,,"));
    let agreement = figures[0]["value"].as_f64().expect("a share");
    assert!(
        rows[1].starts_with("before,assessed,\"equal predictions, forgotten classes\",\"after, before\","),
        "{}",
        rows[1]
    );
    assert!(rows[1].contains(&format!(",{agreement},share,")), "{}", rows[1]);
}

#[test]
fn what_is_refused() {
    let (before, after) = (model("fashion-mnist"), after());
    let both = [&*before, &*after];
    audit(both, &["--forget=12"]).fails(&["--forget", "12"]);
    audit(both, &["--forget=0,1,2,3,4,5,6,7,8,9"]).fails(&["--forget", "all classes"]);
    audit(both, &["--forget=5", "--relearn-steps=0"]).fails(&["--relearn-steps 0"]);
    audit(both, &["--forget=5", "--relearn-lr=-1"]).exits(2);
    audit(both, &["--forget=5", "--relearn-lr=0"]).fails(&["--relearn-lr 0", "above 0"]);
    audit(both, &["--forget=5", "--only=privacy"]).exits(2).says(&["--only", "privacy", "membership"]);
    let same = data::eval_file().display().to_string();
    audit(both, &["--forget=5", "--train-data", &same]).fails(&["--train-data and --data are the same samples"]);
    let folder = temporary();
    let sigmoid = folder.path().join("sigmoid.onnx");
    behind_the_logits(&sigmoid, &[("Sigmoid", Attrs::new(), &[])], &[]);
    audit([&before, &sigmoid], &["--forget=5"]).fails(&["sigmoid.onnx", "independent of each other"]);
    let (steps, samples) = (folder.path().join("steps.onnx"), folder.path().join("series.npz"));
    per_step(&steps);
    series(&samples, step_class, true);
    let path = steps.display().to_string();
    run(["audit", &path, &path, "--forget=1", "--data", &samples.display().to_string(), "--device=cpu"])
        .fails(&["steps.onnx", "6 predictions a sample"]);
}

#[test]
fn training_that_disturbs_the_model_itself_is_said() {
    let disturbed = |name: &str, lr: &str| {
        let path = model(name);
        let flags = ["--only=relearn", "--relearn-steps=3", "--json", lr];
        let json = full([&path, &path], &flags).exits(0).json();
        let notes = list(&measure(&json, "relearn")["notes"]);
        notes.iter().any(|n| n.as_str().is_some_and(|n| n.starts_with("The model before needs more than one")))
    };
    assert!(disturbed("fashion-mnist", "--relearn-lr=0.05"));
    assert!(!disturbed("fashion-mnist", "--relearn-lr=0.001"));
    // BatchNormalization with the statistics of the mini-batch.
    assert!(!disturbed("fashion-mnist-bn", "--relearn-lr=0.001"));
}
