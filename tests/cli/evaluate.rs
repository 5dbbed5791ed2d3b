//! `evaluate`: figures per class, models side by side, where samples go, and what is refused.

use crate::{
    common::{
        data::{self, SIDE, npy, write_arrays},
        engine, fixture, model,
        models::{self, dense, product},
        program::{Forget, Ran, run},
        temporary,
    },
    forget::{
        heads::{behind_the_logits, per_step, relabelled, series, step_class, two_classes},
        multi_hot::{Pairs, two_halves},
    },
};
use onnx_unlearn::{
    evaluate::wilson,
    graph::{Attrs, Builder, Value},
    runtime::Device,
    tensor::Tensor,
};
use serde_json::{Value as Json, json};
use std::{ffi::OsString, fs, path::Path};

/// The preprocessing of the fixtures.
const NORMALISED: &[&str] = &["--mean=0.2860", "--std=0.3530"];

/// Runs on one thread.
fn evaluate(models: &[&Path], data: &Path, more: &[&str]) -> Ran {
    let models = models.iter().map(|path| path.as_os_str().to_owned());
    let flags = ["--data".into(), data.as_os_str().to_owned(), "--threads=1".into(), "--device=cpu".into()];
    let more = more.iter().map(OsString::from);
    run([OsString::from("evaluate")].into_iter().chain(models).chain(flags).chain(more))
}

/// The same on the small held-out data.
fn on_eval(models: &[&Path], more: &[&str]) -> Ran {
    evaluate(models, data::eval_file(), &[NORMALISED, more].concat())
}

#[track_caller]
fn number(value: &Json) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn close(found: &Json, expected: f64) {
    let found = number(found);
    assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
}

fn list(value: &Json) -> &[Json] {
    value.as_array().expect("a list")
}

/// Samples and right ones of each class.
fn counts(classes: &Json, samples: &str) -> Vec<[u64; 2]> {
    let count = |c: &Json, key: &str| c[key].as_u64().expect("a count");
    list(classes).iter().map(|c| [count(c, samples), count(c, "correct")]).collect()
}

#[test]
fn the_figures_are_those_that_forget_reports() {
    let source = model("fashion-mnist");
    let forget = Forget::passing(&source);
    forget.run().exits(0);
    let report = forget.report();
    let result = forget.result();
    let json = on_eval(&[&source, &result], &["--json"]).exits(0).json();
    for (i, measured) in ["before", "after_repair"].into_iter().enumerate() {
        let found = counts(&json["models"][i]["classes"], "samples");
        assert_eq!(found, counts(&report["measured"][measured]["classes"], "total"), "{measured}");
    }
    assert_eq!(json["classes"], report["classes"]);
    assert_eq!(json["data"]["digest"], report["data"]["eval"]["digest"]);
    assert_eq!(json["preprocess"], report["parameters"]["preprocess"]);
    // The stamp says which class was forgotten.
    assert_eq!((&json["route"], &json["models"][1]["forgotten"]), (&json!([5]), &json!([5])));
    assert_eq!(json["models"][0]["forgotten"], json!([]));
    close(&json["models"][1]["routed"]["accuracy"], number(&report["verdict"]["gates"][0]["measured"]));
    let fall = number(&report["verdict"]["gates"][1]["measured"]);
    close(&json["models"][1]["versus_first"]["others"]["difference"], -fall);
    let others = evaluate(&[&result], data::eval_file(), &[NORMALISED, &["--json", "--route=0,1"]].concat());
    assert_eq!(others.exits(0).json()["route"], json!([0, 1]));
}

/// Scores of the fixture model, straight from the runtime, with the classes of the labels.
fn scores() -> Vec<(usize, Vec<f64>)> {
    let images = data::eval();
    let x = images.x.iter().flatten().map(|&v| (f32::from(v) / 255.0 - 0.286) / 0.353).collect();
    let mut session = engine(Device::Cpu).session_from_file(&model("fashion-mnist"), false).expect("it opens");
    let name = session.inputs()[0].clone();
    let x = Tensor::f32([images.y.len(), 1, SIDE, SIDE], x);
    let all = session.run(&[(&name, &x)]).expect("it runs")[0].to_f32s();
    let rows = all.chunks(10).map(|row| row.iter().map(|&v| f64::from(v)).collect());
    images.y.iter().map(|&y| y as usize).zip(rows).collect()
}

#[test]
fn the_figures_follow_from_the_scores() {
    let json = on_eval(&[&model("fashion-mnist")], &["--json", "--route=6,0"]).exits(0).json();
    let m = &json["models"][0];
    let mut confusion = vec![[0u64; 10]; 10];
    let mut loss = [0.0; 10];
    let mut bins = [(0.0, 0.0); 15];
    let rows = scores();
    for (label, row) in &rows {
        let top = (0..10).fold(0, |best, c| if row[c] > row[best] { c } else { best });
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        confusion[*label][top] += 1;
        loss[*label] += sum.ln() - row[*label];
        let confidence = row[top].exp() / sum;
        let bin = &mut bins[(confidence * 15.0).ceil() as usize - 1];
        *bin = (bin.0 + f64::from(u8::from(top == *label)), bin.1 + confidence);
    }
    assert_eq!(m["confusion"], json!(confusion));
    for c in 0..10 {
        let (class, row) = (&m["classes"][c], &confusion[c]);
        let (n, predicted) = (row.iter().sum::<u64>() as f64, confusion.iter().map(|row| row[c]).sum::<u64>() as f64);
        close(&class["loss"], loss[c] / n);
        close(&class["accuracy"], row[c] as f64 / n);
        close(&class["precision"], row[c] as f64 / predicted);
        let [low, high] = wilson(row[c] as usize, n as usize).expect("samples");
        close(&class["interval"][0], low);
        close(&class["interval"][1], high);
    }
    let n = rows.len() as f64;
    close(&m["overall"]["loss"], loss.iter().sum::<f64>() / n);
    close(&m["calibration_error"], bins.iter().map(|(hits, sum)| (hits - sum).abs()).sum::<f64>() / n);
    assert_eq!(json["route"], json!([0, 6]));
    let routing = list(&m["routing"]);
    for (route, class) in routing.iter().zip([0, 6]) {
        let shares: Vec<f64> = list(&route["predicted"]).iter().map(|p| number(&p["share"])).collect();
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9 && shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
        assert_eq!((&route["class"], &route["not_finite"]), (&json!(class), &json!(0)));
        let bits = shares.iter().map(|p| -p * p.log2()).sum::<f64>();
        close(&route["entropy"], bits);
        close(&route["normalised_entropy"], bits / 10f64.log2());
        close(&route["top1_share"], shares[0]);
        let first = list(&route["predicted"])[0]["class"].as_u64().expect("a class") as usize;
        assert_eq!(confusion[class][first], *confusion[class].iter().max().expect("classes"));
    }
}

#[test]
fn models_side_by_side() {
    let (a, b) = (model("fashion-mnist"), model("fashion-mnist-softmax"));
    let folder = temporary();
    // Swaps classes 0 and 1, so that their samples are all wrong, and no others are.
    let swapped = folder.path().join("swapped.onnx");
    let order = Tensor::ints(&[1, 0, 2, 3, 4, 5, 6, 7, 8, 9]);
    let axis = [("axis".to_owned(), 1i64.into())].into();
    behind_the_logits(&swapped, &[("Gather", axis, &["order"])], &[("order", order)]);
    let json = on_eval(&[&a, &b, &swapped], &["--json"]).exits(0).json();
    assert!(json["models"][0]["versus_first"].is_null());
    assert_eq!(
        (&json["models"][0]["scores"], &json["models"][1]["scores"]),
        (&json!("logits"), &json!("probabilities"))
    );
    let same = &json["models"][1]["versus_first"];
    assert_eq!((number(&same["agreement"]), number(&same["overall"]["p_value"])), (1.0, 1.0));
    assert!(number(&same["js_divergence"]) < 1e-6, "{same}");

    let rows = scores();
    let other = &json["models"][2]["versus_first"];
    let top = |row: &[f64]| (0..10).fold(0, |best, c| if row[c] > row[best] { c } else { best });
    let moved = rows.iter().filter(|(_, row)| top(row) < 2).count() as f64;
    close(&other["agreement"], 1.0 - moved / rows.len() as f64);
    // Per sample: (a log2 (a / m) + b log2 (b / m)) for the two that are swapped, m being their mean.
    let divergence = |row: &[f64]| {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        let [a, b] = [row[0].exp() / sum, row[1].exp() / sum];
        let m = f64::midpoint(a, b);
        a * (a / m).log2() + b * (b / m).log2()
    };
    close(&other["js_divergence"], rows.iter().map(|(_, row)| divergence(row)).sum::<f64>() / rows.len() as f64);
    let right = rows.iter().filter(|(label, row)| *label == 0 && top(row) == 0).count() as i32;
    let class = &other["classes"][0];
    let lost = rows.iter().filter(|(label, row)| *label == 0 && top(row) == 1).count() as u64;
    assert_eq!((&class["only_first"], &class["only_second"]), (&json!(right), &json!(lost)));
    assert!(right > 5 && lost == 0);
    // All pairs point the same way: 2 / 2^n.
    close(&class["p_value"], 2.0 * 0.5f64.powi(right));
    close(&other["classes"][7]["difference"], 0.0);
}

#[test]
fn csv_has_a_row_for_each_model_and_class() {
    let folder = temporary();
    let labels = folder.path().join("names.txt");
    let names: Vec<String> =
        (0..10).map(|c| if c == 3 { "a dress, long".into() } else { format!("class {c}") }).collect();
    fs::write(&labels, names.join("\n")).expect("written");
    let flag = format!("--labels={}", labels.display());
    let paths = [&*model("fashion-mnist"), &*model("fashion-mnist-qdq")];
    let ran = on_eval(&paths, &["--csv", &flag]).exits(0);
    let json = on_eval(&paths, &["--json", &flag]).exits(0).json();
    let mut lines = ran.stdout.lines();
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    assert_eq!(header[..4], ["model", "class", "name", "samples"]);
    assert_eq!(header[16..], (0..10).map(|c| format!("predicted_as_{c}")).collect::<Vec<_>>());
    let rows: Vec<Vec<String>> =
        lines.map(|line| line.replace("\"a dress, long\"", "dress").split(',').map(str::to_owned).collect()).collect();
    assert_eq!(rows.len(), 20);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row.len(), header.len(), "{row:?}");
        let m = &json["models"][i / 10];
        let cell = |name: &str| row[header.iter().position(|h| *h == name).expect("a column")].as_str();
        assert_eq!(
            (cell("model"), cell("class")),
            (m["model"].as_str().expect("a path"), (i % 10).to_string().as_str())
        );
        assert_eq!(cell("name"), if i % 10 == 3 { "dress".into() } else { format!("class {}", i % 10) });
        let class = &m["classes"][i % 10];
        for key in ["samples", "correct", "predicted", "accuracy", "precision", "f1", "loss"] {
            close(&class[key], cell(key).parse().expect("a number"));
        }
        close(&class["interval"][0], cell("accuracy_low").parse().expect("a number"));
        close(&class["interval"][1], cell("accuracy_high").parse().expect("a number"));
        close(&m["confusion"][i % 10][4], cell("predicted_as_4").parse().expect("a number"));
        if i < 10 {
            assert_eq!(row[12..16], ["", "", "", ""]);
        } else {
            close(&m["versus_first"]["classes"][i % 10]["p_value"], cell("p_value").parse().expect("a number"));
        }
    }
}

#[test]
fn json_has_these_keys() {
    let path = model("fashion-mnist");
    let json = on_eval(&[&path, &path], &["--json", "--quiet", "--route=3"]).exits(0).json();
    let keys = |value: &Json| -> Vec<String> { value.as_object().expect("an object").keys().cloned().collect() };
    assert_eq!(keys(&json), ["classes", "data", "models", "preprocess", "route", "runtime"]);
    let m = &json["models"][1];
    let expected = [
        "calibration_error",
        "classes",
        "confusion",
        "forgotten",
        "model",
        "not_finite",
        "not_finite_share",
        "others",
        "output",
        "overall",
        "routed",
        "routing",
        "scores",
        "versus_first",
    ];
    assert_eq!(keys(m), expected);
    let group = ["accuracy", "correct", "f1", "interval", "loss", "precision", "predicted", "samples"];
    assert_eq!((keys(&m["overall"]), keys(&m["classes"][0])), (group.map(str::to_owned).to_vec(), keys(&m["others"])));
    let route = ["class", "entropy", "normalised_entropy", "not_finite", "predicted", "samples", "top1_share"]
        .map(str::to_owned);
    assert_eq!(keys(&m["routing"][0]), route);
    let versus = ["agreement", "classes", "js_divergence", "others", "overall", "routed"].map(str::to_owned);
    assert_eq!(keys(&m["versus_first"]), versus);
    let pair = ["difference", "only_first", "only_second", "p_value"].map(str::to_owned);
    assert_eq!(keys(&m["versus_first"]["classes"][0]), pair);
}

#[test]
fn the_text_has_classes_figures_routing_and_matrix() {
    let classes = fixture("data/classes.txt");
    let labels = format!("--labels={}", classes.display());
    let ran = on_eval(&[&model("fashion-mnist")], &[&labels, "--route=Shirt", "--confusion"]).exits(0);
    for line in [
        "model      fixtures/models/fashion-mnist.onnx\n",
        "small-eval.npz: 100 samples of 10 classes\n",
        "95 % interval  precision    loss\n",
        "6 Shirt              10 ",
        "all classes         100 ",
        "routed classes       10 ",
        "calibration error ",
        "samples of 6 Shirt go to ",
        "entropy (bits) ",
        "\npredicted as    0 ",
        "\n3 Dress         0   0   0  7  2  0  1   0   0  0\n",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    assert!(ran.stderr.contains("ONNX Runtime ") && ran.stderr.contains("measure: step 1/1"), "{}", ran.stderr);
    let path = model("fashion-mnist");
    let ran = on_eval(&[&path, &path], &["--quiet"]).exits(0);
    assert_eq!(ran.stderr, "");
    for line in [
        "accuracy     samples   model 1   model 2  difference       p\n",
        "predictions equal to model 1                    -          100.00 %\n",
        "JS divergence to model 1 (bits)                 -            0.0000",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("go to"), "nothing is followed unless it is asked for:\n{}", ran.stdout);
}

#[test]
fn several_classes_in_a_sample() {
    let folder = temporary();
    let (source, eval) = (folder.path().join("pairs.onnx"), folder.path().join("eval.npz"));
    two_halves(&source, true);
    let pairs = Pairs::of(data::eval());
    pairs.write(&eval);
    let json = evaluate(&[&source, &source], &eval, &["--json", "--route=5"]).exits(0).json();
    let m = &json["models"][1];
    assert_eq!((&m["scores"], &json["data"]["multi_hot"]), (&json!("independent_probabilities"), &json!(true)));
    let expected = pairs.counts(&source);
    for (class, [positives, hits, _, false_alarms]) in list(&m["classes"]).iter().zip(&expected) {
        let found = [&class["samples"], &class["correct"], &class["predicted"]].map(|v| v.as_u64().expect("a count"));
        assert_eq!(found, [*positives, *hits, hits + false_alarms]);
    }
    let sum = |at: usize| expected.iter().map(|c| c[at]).sum::<u64>() as f64;
    close(&m["overall"]["f1"], 2.0 * sum(1) / (sum(0) + sum(1) + sum(3)));
    assert_eq!((&m["confusion"], &m["routing"], &m["calibration_error"]), (&Json::Null, &json!([]), &Json::Null));
    assert_eq!((&m["versus_first"]["agreement"], &m["versus_first"]["js_divergence"]), (&json!(1.0), &Json::Null));
    assert_eq!(m["routed"]["samples"], json!(expected[5][0]));
    let text = evaluate(&[&source], &eval, &["--route=5"]).exits(0).stdout;
    for word in ["samples    recall ", "micro-F1", "routing    is not measured"] {
        assert!(text.contains(word), "{word:?} is missing in\n{text}");
    }
    let csv = evaluate(&[&source], &eval, &["--csv"]).exits(0).stdout;
    assert!(csv.lines().count() == 11 && !csv.contains("predicted_as"), "{csv}");
    evaluate(&[&source], &eval, &["--confusion"]).fails(&["--confusion: with several classes in a sample"]);
    // The same before its sigmoids.
    let cut = folder.path().join("cut.onnx");
    two_halves(&cut, false);
    let before = evaluate(&[&cut], &eval, &["--json", "--multi-label"]).exits(0).json();
    close(&before["models"][0]["overall"]["loss"], number(&m["overall"]["loss"]));
}

#[test]
fn one_score_for_two_classes_is_a_softmax_over_both() {
    let folder = temporary();
    let eval = folder.path().join("eval.npz");
    relabelled(data::eval(), &eval);
    let [logit, sigmoid] = [false, true].map(|sigmoid| {
        let path = folder.path().join(format!("two-{sigmoid}.onnx"));
        two_classes(&path, sigmoid);
        path
    });
    let json = evaluate(&[&logit, &sigmoid], &eval, &[NORMALISED, &["--json"]].concat()).exits(0).json();
    let [a, b] = [&json["models"][0], &json["models"][1]];
    assert_eq!(counts(&a["classes"], "samples"), counts(&b["classes"], "samples"));
    close(&b["overall"]["loss"], number(&a["overall"]["loss"]));
    close(&b["calibration_error"], number(&a["calibration_error"]));
    assert!(number(&b["versus_first"]["js_divergence"]) < 1e-6);
    // The cross-entropy of two classes, once: the right answer at one half costs log 2.
    assert!(number(&a["overall"]["loss"]) < 2f64.ln(), "{a}");
}

#[test]
fn every_step_of_a_series_is_measured() {
    let folder = temporary();
    let (path, data) = (folder.path().join("steps.onnx"), folder.path().join("series.npz"));
    per_step(&path);
    series(&data, step_class, true);
    let json = evaluate(&[&path], &data, &["--json"]).exits(0).json();
    assert_eq!((&json["data"]["predictions"], &json["data"]["read"]), (&json!(6), &json!(24)));
    let m = &json["models"][0];
    assert_eq!((&m["overall"]["samples"], &m["overall"]["correct"]), (&json!(144), &json!(144)));
    // Scores are 6 for the right class and 0 for three others.
    close(&m["overall"]["loss"], (3.0 * (-6f64).exp()).ln_1p());
    let confidence = 1.0 / (1.0 + 3.0 * (-6f64).exp());
    close(&m["calibration_error"], 1.0 - confidence);
}

#[test]
fn models_that_cannot_be_trained_are_measured() {
    let folder = temporary();
    let built = |name: &str, build: &dyn Fn(&mut Builder, Value) -> Value| {
        let path = folder.path().join(name);
        models::write(&path, |b, x| vec![build(b, x)], |_| {});
        path
    };
    let no_rule = built("no-rule.onnx", &|b, x| {
        let determinant = b.op("Det", &[&x], &[], &[1, 1]);
        product(b, &determinant, 10)
    });
    let rounded = built("rounded.onnx", &|b, x| {
        let whole = b.op("Round", &[&x], &[], &[1, 1, 28, 28]);
        let flat = b.op("Flatten", &[&whole], &[], &[1, 784]);
        product(b, &flat, 10)
    });
    for path in [&no_rule, &rounded] {
        run(["inspect".as_ref(), path.as_os_str()]).exits(1);
        let json = on_eval(&[path], &["--json"]).exits(0).json();
        assert_eq!(json["models"][0]["overall"]["samples"], json!(100));
    }
    // Weights in integers (QOperator).
    let quantised = fixture("traps/qoperator.onnx");
    run(["inspect".as_ref(), quantised.as_os_str()]).exits(1);
    let images = folder.path().join("images.npz");
    let x = (0..6 * 64).map(|i| (i % 17) as f32 / 8.0 - 1.0);
    write_arrays(&images, &[("x", npy(&[6, 1, 8, 8], x)), ("y", npy(&[6], [0i64, 1, 2, 3, 0, 1]))]);
    let json = evaluate(&[&quantised], &images, &["--json"]).exits(0).json();
    let rows = list(&json["models"][0]["confusion"]);
    assert_eq!(rows.iter().flat_map(list).filter_map(Json::as_u64).sum::<u64>(), 6);
}

#[test]
fn scores_that_are_not_finite_are_counted() {
    let folder = temporary();
    let path = folder.path().join("log.onnx");
    // Logarithms of the scores less 5: of a negative number there is none.
    let tail: &[(&str, Attrs, &[&str])] = &[("Sub", Attrs::new(), &["five"]), ("Log", Attrs::new(), &[])];
    behind_the_logits(&path, tail, &[("five", Tensor::f32([1], vec![5.0]))]);
    let json = on_eval(&[&path, &path], &["--json", "--route=0"]).exits(0).json();
    let m = &json["models"][1];
    assert_eq!((&m["not_finite"], number(&m["not_finite_share"])), (&json!(100), 1.0));
    assert_eq!((&m["overall"]["correct"], &m["overall"]["loss"]), (&json!(0), &Json::Null));
    assert_eq!((&m["routing"][0]["not_finite"], &m["routing"][0]["entropy"]), (&json!(10), &Json::Null));
    assert_eq!((&m["versus_first"]["agreement"], &m["calibration_error"]), (&json!(0.0), &Json::Null));
}

#[test]
fn probabilities_without_a_final_softmax_are_pointed_out() {
    let folder = temporary();
    let path = folder.path().join("hidden.onnx");
    let tail: &[(&str, Attrs, &[&str])] =
        &[("Softmax", [("axis".to_owned(), 1i64.into())].into(), &[]), ("Mul", Attrs::new(), &["one"])];
    behind_the_logits(&path, tail, &[("one", Tensor::f32([1], vec![1.0]))]);
    on_eval(&[&path], &[]).exits(0).says(&["warning: ", "hidden.onnx: the scores of output \"tail1\" sum to 1"]);
    assert!(!on_eval(&[&model("fashion-mnist")], &[]).exits(0).stderr.contains("warning"));
}

#[test]
fn what_is_wrong_is_named() {
    let folder = temporary();
    let path = model("fashion-mnist");
    let halves = folder.path().join("halves.onnx");
    let tail: [(&str, Attrs, &[&str]); 3] = [
        ("Reshape", Attrs::new(), &["shape"]),
        ("Softmax", [("axis".to_owned(), 2i64.into())].into(), &[]),
        ("Flatten", Attrs::new(), &[]),
    ];
    behind_the_logits(&halves, &tail, &[("shape", Tensor::ints(&[-1, 2, 5]))]);
    let words =
        ["halves.onnx: no classifier head", "node \"tail1\" (Softmax) makes of its scores sums to 2", "single softmax"];
    on_eval(&[&halves], &[]).fails(&words);
    on_eval(&[Path::new("no/such.onnx")], &[]).fails(&["cannot read no/such.onnx"]);
    evaluate(&[&path], Path::new("no/data.npz"), &[]).fails(&["--data no/data.npz", "no such file"]);
    on_eval(&[&path], &["--route=11"]).fails(&["--route: class 11 is out of range"]);
    on_eval(&[&path], &["--batch-size=0"]).fails(&["--batch-size 0"]);
    on_eval(&[&path], &["--threads=0"]).exits(2);
    on_eval(&[&path], &["--output=none"]).fails(&["fashion-mnist.onnx: --output none"]);
    on_eval(&[&path], &["--csv", "--json"]).fails(&["--csv", "--json"]);
    run(["evaluate", "--data", "x.npz"]).fails(&["<MODEL>"]);
    let short = folder.path().join("short.txt");
    fs::write(&short, "a\nb\n").expect("written");
    on_eval(&[&path], &[&format!("--labels={}", short.display())]).fails(&["--labels", "short.txt", "2 class names"]);
    let many = folder.path().join("many.onnx");
    models::write(&many, |b, x| vec![dense(b, &x, 21)], |_| {});
    on_eval(&[&many], &["--confusion"]).fails(&["--confusion: the matrix is printed for at most 20 classes", "21"]);
    let words =
        ["many.onnx has 21 classes and 1 prediction(s) a sample, but fixtures/models/fashion-mnist.onnx has 10"];
    on_eval(&[&path, &many], &[]).fails(&words);
    let small = folder.path().join("small.npz");
    let images = data::eval();
    let corner = images.x.iter().flat_map(|v| v.iter().take(16).copied());
    let n = images.y.len() as u64;
    write_arrays(&small, &[("x", npy(&[n, 4, 4, 1], corner)), ("y", npy(&[n], images.y.iter().copied()))]);
    evaluate(&[&path], &small, NORMALISED).fails(&["fashion-mnist.onnx: --data", "small.npz", "[4, 4, 1]"]);
}
