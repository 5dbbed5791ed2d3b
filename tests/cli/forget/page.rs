//! The two reports: the JSON against its schema, the page as people get it.

use crate::common::{
    model,
    program::{Forget, run},
    temporary,
};
use serde_json::Value;
use std::{fs, process::Command};

/// The published schema, or one in which every object is closed: what a report says has to be described.
fn schema(closed: bool) -> jsonschema::Validator {
    let text = fs::read("docs/unlearn-report.schema.json").expect("there is a schema");
    let mut schema: Value = serde_json::from_slice(&text).expect("JSON");
    if closed {
        close(&mut schema);
    }
    jsonschema::validator_for(&schema).expect("a schema")
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.entry("additionalProperties").or_insert(false.into());
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

/// The report says what the schema describes, and nothing else.
#[track_caller]
pub fn valid(report: &Value) {
    for closed in [false, true] {
        let errors: Vec<String> =
            schema(closed).iter_errors(report).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "closed: {closed}\n{}", errors.join("\n"));
    }
}

#[test]
fn reports_are_as_the_schema_says() {
    let classifier = Forget::passing(model("fashion-mnist-bn")).set("--batch-norm", "batch");
    classifier.run().exits(0);
    let report = classifier.report();
    valid(&report);
    // One loss a step, the first and the last of which were reported before.
    for phase in report["phases"].as_array().expect("a list") {
        let losses = phase["losses"].as_array().expect("a list");
        assert_eq!(losses.len() as u64, phase["steps"].as_u64().expect("a number"), "{phase}");
        assert_eq!((losses.first(), losses.last()), (Some(&phase["first_loss"]), Some(&phase["last_loss"])));
    }
    // 10 samples of the class, 9 of them predicted as it before.
    let route = &report["routing"][0];
    assert_eq!((route["class"].as_u64(), route["after"]["samples"].as_u64()), (Some(5), Some(10)));
    let known = |when: &str| {
        let shares = route[when]["predicted"].as_array().expect("a list");
        shares.iter().find(|s| s["class"] == 5).map_or(Some(0), |s| s["samples"].as_u64())
    };
    let correct = |when: &str| report["measured"][when]["classes"][5]["correct"].as_u64();
    assert_eq!((known("before"), known("after")), (correct("before"), correct("after_repair")));
    // Running statistics are told from weights.
    for tensor in report["trained"].as_array().expect("a list") {
        let name = tensor["name"].as_str().expect("text");
        assert_eq!(tensor["statistic"], name.contains("running_"), "{name}");
    }

    // A document that is wrong in one place is refused there.
    let mut wrong = report.clone();
    wrong["verdict"]["outcome"] = "perhaps".into();
    assert!(!schema(false).is_valid(&wrong));
    let mut more = report;
    more["later"] = 1.into();
    assert!(schema(false).is_valid(&more), "new keys may appear");
    assert!(!schema(true).is_valid(&more));
}

#[test]
fn reports_of_other_runs_are_as_the_schema_says() {
    let kept = || Forget::new(model("fashion-mnist")).flag("--keep-failed").flag("--quiet");
    for forget in [
        kept().set("--variant", "reference"),
        kept().without("--eval").set("--optimizer", "sgd").set("--noise-range", "0,1"),
    ] {
        let ran = forget.run();
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
        valid(&forget.report());
        let (page, held_out) = (page(&forget), forget.report()["measured"]["on"] == "eval");
        assert_eq!(page.contains("not assessed"), !held_out, "without held-out data nothing passes");
        assert_eq!(page.contains("there were no samples of them"), !held_out);
        assert_eq!(page.contains("Where their samples go"), held_out);
    }
}

#[test]
fn a_report_with_trials_is_as_the_schema_says_and_the_page_shows_them() {
    let forget = Forget::new(model("fashion-mnist")).flag("--keep-failed").flag("--quiet");
    let forget = forget.without("--impair-lr").without("--repair-lr");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let report = forget.report();
    let trials = report["calibration"]["trials"].as_array().expect("trials").len();
    valid(&report);
    let page = page(&forget);
    let at = page.find("How the learning rates were found").expect("the chapter of the trials");
    let table = &page[at..at + page[at..].find("</table>").expect("a table")];
    assert_eq!(table.matches("<tr").count(), 2 + trials, "head, source, and a row a trial:\n{table}");
    assert_eq!(table.matches("– chosen").count(), usize::from(!report["calibration"]["chosen"].is_null()));
}

fn page(forget: &Forget) -> String {
    fs::read_to_string(forget.out().join("unlearn-report.html")).expect("there is a page")
}

/// A run on a model and class names that try to break out of the page.
fn hostile(folder: &std::path::Path) -> Forget {
    let (path, labels) = (folder.join("hostile.onnx"), folder.join("classes.txt"));
    // As long as the name it replaces, so that the file stays in order.
    let original = fs::read(model("fashion-mnist")).expect("readable");
    let mut changed = original.clone();
    let at = original.windows(9).enumerate().filter(|(_, w)| w == b"head.bias").map(|(i, _)| i);
    at.for_each(|i| changed[i..i + 9].copy_from_slice(b"<i>b&\"'ad"));
    assert!(changed != original);
    fs::write(&path, changed).expect("written");
    let names = [
        "<script>alert(1)</script>",
        "a&b",
        "\"quoted\"",
        "'c'",
        "d",
        "<img src=x onerror=alert(2)>",
        "e",
        "f",
        "g",
        "h",
    ];
    fs::write(&labels, names.join("\n")).expect("written");
    Forget::passing(path).set("--labels", labels).set("--forget", "0,5").flag("--keep-failed")
}

#[test]
fn the_page_stands_alone_and_runs_nothing() {
    let folder = temporary();
    let forget = hostile(folder.path());
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let page = page(&forget);
    // Names are texts.
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; (0)"), "{page}");
    assert!(page.contains("&lt;i&gt;b&amp;&quot;'ad"), "the tensor is named, as text");
    let lower = page.to_lowercase();
    for word in ["<script", "<i>b", "<img src=x", "<link", "<iframe", "javascript:", "url(", "@import"] {
        assert!(!lower.contains(word), "{word}");
    }
    // Nothing is fetched: what is named http is the namespace of SVG alone, and pictures are in the page.
    assert_eq!(
        lower.matches("http").count(),
        lower.matches("http://www.w3.org/2000/svg").count() + lower.matches("http-equiv").count()
    );
    let sources: Vec<&str> = lower.split("src=\"").skip(1).collect();
    assert_eq!(sources.len(), 8, "four pictures of each class");
    assert!(sources.iter().all(|s| s.starts_with("data:image/png;base64,")));
    // Neither time nor path.
    assert!(
        !page.contains(&folder.path().display().to_string()) && !page.contains(&forget.out().display().to_string())
    );
    assert!(!page.contains("seconds"));
    for words in [
        "Verdict: ",
        "What this report does not show",
        "nothing is claimed about privacy",
        "How the losses went",
        "What was changed in the weights",
        "Provenance",
        forget.report()["source"]["file"].as_str().expect("a digest"),
        forget.report()["result"]["file"].as_str().expect("a digest"),
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("How the learning rates were found"), "they were given");
    for word in ["erased", "deleted", "forgotten for good", "gdpr"] {
        assert!(!lower.contains(word), "{word}");
    }
    // The model verifies with the page beside it.
    run([std::ffi::OsStr::new("verify"), forget.result().as_os_str()]).exits(0);
}

/// Needs a Chromium or Chrome, named by `ONNX_UNLEARN_BROWSER`.
#[test]
#[ignore = "needs a browser, named by ONNX_UNLEARN_BROWSER"]
fn a_browser_shows_the_page_light_dark_and_on_paper() {
    let browser = std::env::var_os("ONNX_UNLEARN_BROWSER").expect("ONNX_UNLEARN_BROWSER names a browser");
    let folder = temporary();
    let forget = hostile(folder.path());
    forget.run();
    let url = format!("file://{}", forget.out().join("unlearn-report.html").display());
    let browse = |flags: &[String]| {
        let mut command = Command::new(&browser);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]);
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
        let output = command.args(flags).arg(&url).output().expect("the browser starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        // What the policy of the page forbids, and what a script says, is written to the console.
        assert!(!said.contains("CONSOLE"), "{said}");
        output.stdout
    };

    let dom = String::from_utf8(browse(&["--dump-dom".into()])).expect("text");
    assert!(dom.contains("<th>&lt;script&gt;alert(1)&lt;/script&gt; (0)"), "the class is a text of a cell");
    assert!(dom.matches("<svg").count() >= 6 && !dom.contains("<script"), "{} charts", dom.matches("<svg").count());

    let mut papers = Vec::new();
    for (name, scheme) in [("light.png", 1), ("dark.png", 0)] {
        let path = folder.path().join(name);
        browse(&[
            "--window-size=1000,1600".into(),
            format!("--blink-settings=preferredColorScheme={scheme}"),
            format!("--screenshot={}", path.display()),
        ]);
        let shot = image::open(&path).expect("a screenshot").to_luma8();
        let paper = shot.get_pixel(2, 2)[0];
        // What stands out from the paper: text and charts.
        let ink = shot.pixels().filter(|p| p[0].abs_diff(paper) > 100).count();
        assert!(ink > 10_000, "{name}: {ink} pixels of ink");
        papers.push(paper);
    }
    assert!(papers[0] > 240 && papers[1] < 40, "light and dark paper: {papers:?}");

    let pdf = folder.path().join("page.pdf");
    browse(&[format!("--print-to-pdf={}", pdf.display())]);
    let printed = fs::read(&pdf).expect("printed");
    assert!(printed.starts_with(b"%PDF") && printed.len() > 50_000, "{} bytes", printed.len());
}
