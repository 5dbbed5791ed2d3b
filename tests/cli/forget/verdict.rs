//! A whole run: what is said, what is written, and what the verdict does to both.

use crate::common::{
    data, model,
    program::{Forget, filtered},
};
use serde_json::Value;

#[test]
fn a_run_says_what_it_does_and_writes_model_and_report() {
    let forget = Forget::passing(model("fashion-mnist"));
    let ran = forget.run().exits(0);
    let paths = [(forget.folder.path(), "FOLDER"), (data::retain_file(), "RETAIN")];
    let stdout = filtered(&ran.stdout, &paths);
    assert!(stdout.starts_with("accuracy on held-out data"), "{stdout}");
    for line in [
        "class 5 (forget)                10   90.00 %",
        "all retained classes            90   90.00 %",
        "all forgotten classes           10   90.00 %",
        "gate forget  pass          accuracy on forgotten classes",
        "at most 10.00 %",
        "gate retain  pass          accuracy on retained classes 90.00 % -> ",
        "a fall of at most 20.00 points",
        "check        pass          tract-onnx 0.23.9 and ONNX Runtime on 4 samples",
        "4 of 4 predictions equal",
        "verdict      pass\nwritten      [FOLDER]/out/unlearn-report.html\nwritten      [FOLDER]/out/unlearn-report.json\nwritten      [FOLDER]/out/model.onnx\n",
    ] {
        assert!(stdout.contains(line), "{line:?} is missing in\n{stdout}");
    }
    let stderr = filtered(&ran.stderr, &paths);
    for line in [
        "device cpu, 1 threads\n",
        "warning: 9 retained class(es) have fewer than",
        "forgetting 5 of 10 classes of fixtures/models/fashion-mnist.onnx; the loss is computed on logits\n",
        "180 retain samples; 20 samples of the classes to forget stand there and were dropped by their label\n",
        "  noise: 10 steps\n",
        " impair: 24 steps\n",
        " repair: 6 steps\n",
        " impair: 24 steps in [TIME] s ([TIME] ms a step), loss ",
    ] {
        // The little data has exactly as many samples as are asked for, so one line must not be there.
        assert_eq!(stderr.contains(line), !line.starts_with("warning"), "{line:?} in\n{stderr}");
    }
    assert_eq!(forget.files(), ["model.onnx", "unlearn-report.html", "unlearn-report.json"]);
}

#[test]
fn json_is_all_that_stands_on_stdout_and_holds_the_report() {
    let forget = Forget::passing(model("fashion-mnist-bn")).flag("--json");
    let ran = forget.run().exits(0);
    let json = ran.json();
    assert_eq!((json["answer"].as_str(), json["verdict"].as_str()), (Some("yes"), Some("pass")), "{json}");
    assert_eq!(floats(&json["report"]), floats(&forget.report()), "what is printed is what is written");
    let written: Vec<&str> = json["written"].as_array().expect("a list").iter().filter_map(|p| p.as_str()).collect();
    assert_eq!(
        written,
        ["unlearn-report.html", "unlearn-report.json", "model.onnx"].map(|name| forget
            .out()
            .join(name)
            .display()
            .to_string())
    );
    assert!(ran.stderr.contains("noise: 10 steps"), "progress stays on stderr:\n{}", ran.stderr);

    let report = forget.report();
    let keys: Vec<&str> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "check",
            "classes",
            "data",
            "frozen",
            "head",
            "limitations",
            "measured",
            "noise",
            "noise_objective",
            "parameters",
            "phases",
            "result",
            "routing",
            "runtime",
            "schema_version",
            "source",
            "statement",
            "tool",
            "trained",
            "verdict",
            "warnings",
        ]
    );
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["measured"]["on"], "eval");
    assert_eq!(report["check"]["outcome"], "compared");
    assert_eq!(report["data"]["retain"]["dropped"], serde_json::json!([[5, 20]]));
    assert_eq!(report["parameters"]["recipe"]["forget"], serde_json::json!([5]));
    let frozen: Vec<&str> =
        report["frozen"].as_array().expect("a list").iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(frozen.iter().any(|name| name.ends_with("running_mean")), "frozen statistics are named: {frozen:?}");
    for tensor in report["trained"].as_array().expect("a list") {
        assert!(tensor["change"].as_f64() > Some(0.0), "{tensor}");
    }
    let text = report.to_string();
    let folder = forget.folder.path().display().to_string();
    assert!(!text.contains(&folder) && !text.contains("seconds"), "no path and no time: {text}");
}

/// The same with every number as a float: the report file writes 1.0 as 1.
fn floats(value: &Value) -> Value {
    match value {
        Value::Number(n) => n.as_f64().into(),
        Value::Array(list) => list.iter().map(floats).collect(),
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), floats(field))).collect(),
        other => other.clone(),
    }
}

#[test]
fn quiet_leaves_only_warnings_on_stderr() {
    let forget = Forget::passing(model("fashion-mnist")).flag("--quiet").set("--per-class", "30");
    let ran = forget.run().exits(0);
    assert_eq!(ran.stderr, "warning: 9 retained class(es) have fewer than 30 samples (the fewest: 20)\n");
    assert!(ran.stdout.contains("verdict      pass"), "{}", ran.stdout);
}

#[test]
fn a_failed_gate_is_a_no_that_writes_nothing() {
    let forget = Forget::new(model("fashion-mnist"));
    let ran = forget.run().exits(1);
    assert!(ran.stdout.contains("gate forget  fail"), "{}", ran.stdout);
    assert!(
        ran.stdout.ends_with(
            "verdict      fail\nwritten      nothing: a gate failed (--keep-failed writes the model all the same)\n"
        ),
        "{}",
        ran.stdout
    );
    assert!(!forget.out().exists(), "not even the folder stays");
}

#[test]
fn keep_failed_writes_the_model_and_still_answers_no() {
    let forget = Forget::new(model("fashion-mnist")).flag("--keep-failed").flag("--json");
    let json = forget.run().exits(1).json();
    assert_eq!((json["answer"].as_str(), json["verdict"].as_str()), (Some("no"), Some("fail")));
    assert_eq!(forget.files(), ["model.onnx", "unlearn-report.html", "unlearn-report.json"]);
    assert_eq!(forget.report()["verdict"]["outcome"], "fail");
}

#[test]
fn without_eval_forgetting_is_not_assessed() {
    let forget = Forget::new(model("fashion-mnist")).without("--eval").set("--max-retain-drop", "0.3");
    let ran = forget.run().exits(0).says(&["warning: no --eval data: forgetting is not assessed"]);
    for line in [
        "accuracy on the retain sample",
        "gate forget  not assessed  no held-out samples of every forgotten class (--eval)",
        "gate retain  not assessed",
        "verdict      not assessed",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    assert_eq!(forget.files(), ["model.onnx", "unlearn-report.html", "unlearn-report.json"]);
    assert_eq!(forget.report()["warnings"], serde_json::json!(["no --eval data: forgetting is not assessed"]));
}

#[test]
fn require_pass_makes_not_assessed_a_no() {
    let forget = Forget::new(model("fashion-mnist"))
        .without("--eval")
        .set("--max-retain-drop", "0.3")
        .flag("--require-pass")
        .flag("--json");
    let json = forget.run().exits(1).json();
    assert_eq!((json["answer"].as_str(), json["verdict"].as_str()), (Some("no"), Some("not_assessed")));
}

#[test]
fn held_out_data_without_the_forgotten_class_assesses_nothing() {
    let forget = Forget::new(model("fashion-mnist"));
    let eval = forget.folder.path().join("eval.npz");
    data::eval().without(5).write_npz(&eval);
    let ran = forget.set("--eval", &eval).set("--max-retain-drop", "0.3").run().exits(0);
    let ran = ran.says(&["warning: --eval has no samples of 5: forgetting is not assessed"]);
    assert!(ran.stdout.contains("verdict      not assessed"), "{}", ran.stdout);
}

#[test]
fn a_class_that_the_model_never_knew_is_pointed_out() {
    // Swapped labels in the held-out data: what it calls class 5 the model calls something else.
    let forget = Forget::new(model("fashion-mnist")).flag("--json");
    let eval = forget.folder.path().join("eval.npz");
    let mut images = data::eval().clone();
    images.y.iter_mut().for_each(|class| *class = (*class + 1) % 10);
    images.write_npz(&eval);
    let words = "the model predicted the classes to forget in 0.0 % of their samples before";
    let ran = forget.set("--eval", &eval).run().says(&["warning: ", words]);
    let warnings = ran.json()["report"]["warnings"].to_string();
    assert!(warnings.contains(words), "the report says so too: {warnings}");
}
