//! How deep to forget, and what the retain sample teaches.

use crate::common::{model, program::Forget};
use serde_json::Value;

fn forget() -> Forget {
    Forget::new(model("fashion-mnist"))
}

#[test]
fn a_depth_decides_what_flags_leave_open() {
    let recipe = |depth: &str| {
        let open = forget().without("--noise-samples").flag("--keep-failed").set("--depth", depth);
        open.run_for_report()["parameters"]["recipe"].clone()
    };
    let [shallow, standard, deep] = ["shallow", "standard", "deep"].map(recipe);
    let rate = |r: &Value, phase: &str| r[phase]["lr"].as_f64().expect("a rate");
    let of = |r: &Value| (r["noise"]["samples"].as_u64(), (rate(r, "impair") / rate(r, "repair")).round());
    assert_eq!(of(&shallow), (Some(256), 2.0), "{shallow:#}");
    assert_eq!(of(&standard), (Some(5120), 2.0), "{standard:#}");
    assert_eq!(of(&deep), (Some(5120), 10.0), "{deep:#}");
    assert_eq!(deep["depth"], "deep");

    let given = forget().flag("--keep-failed").set("--depth", "deep").set("--repair-lr", "0.0001");
    let given = given.run_for_report()["parameters"]["recipe"].clone();
    assert_eq!(given["noise"]["samples"], 32, "{given:#}");
    assert!((rate(&given, "repair") - 0.0001).abs() < 1e-12, "{given:#}");

    forget().set("--depth", "deep").set("--variant", "reference").run().fails(&["--depth", "--variant reference"]);
}

#[test]
fn the_retain_sample_teaches_what_the_source_answers_or_its_labels() {
    let answers = forget().flag("--keep-failed").run_for_report();
    let labels = forget().flag("--keep-failed").set("--targets", "labels").run_for_report();
    assert_eq!(answers["parameters"]["recipe"]["targets"], "source");
    assert_eq!(labels["parameters"]["recipe"]["targets"], "labels");
    assert_ne!(answers["result"]["weights"], labels["result"]["weights"]);
    // The share of labels that a step predicts is known only where labels are taught.
    let accuracy = |report: &Value| report["phases"][1]["accuracy"].is_number();
    assert_eq!((accuracy(&answers), accuracy(&labels)), (false, true));
    // Both are losses; that of answers stays above their entropy.
    let last = |report: &Value| report["phases"][2]["mean_loss"].as_f64().expect("a loss");
    assert!(last(&answers) > 0.0 && last(&labels) > 0.0);
    let reference = forget().flag("--keep-failed").set("--variant", "reference").set("--forget", "0").run_for_report();
    assert_eq!(reference["parameters"]["recipe"]["targets"], "labels");
}
