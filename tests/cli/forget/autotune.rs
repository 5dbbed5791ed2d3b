//! `--autotune`: forms of convolutions and pools that compete, what is kept of it, and what it does to the result.

use crate::common::{
    data, model,
    program::{Forget, Ran, names, program, run},
    temporary,
};
use serde_json::Value;
use std::{fs, path::Path};

/// Runs it with this cache folder.
fn with_cache(forget: &Forget, cache: &Path) -> Ran {
    let mut program = program();
    program.args(forget.args()).env("ONNX_UNLEARN_CACHE", cache);
    Ran::new(&program.output().expect("the program starts"))
}

fn tuned(effort: &str) -> Forget {
    Forget::new(model("fashion-mnist")).flag("--keep-failed").set("--autotune", effort)
}

/// The one file in the cache.
fn kept(cache: &Path) -> (std::path::PathBuf, Value) {
    let names = names(cache);
    assert!(names.len() == 1 && names[0].starts_with("autotune-"), "{names:?}");
    let path = cache.join(&names[0]);
    let value = serde_json::from_slice(&fs::read(&path).expect("readable")).expect("JSON");
    (path, value)
}

#[test]
fn what_was_found_is_kept_and_gives_equal_bytes() {
    // Noise and weights take as many at a time, so that all compete at once.
    let tuned = |effort| tuned(effort).set("--noise-images", "32");
    let cache = temporary();
    let folder = cache.path().join("new");
    let first = tuned("full");
    let ran = with_cache(&first, &folder).says(&["autotune: ", " 0 known"]);
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let (path, found) = kept(&folder);
    let tasks = found["tasks"].as_object().expect("winners by task");
    assert!(found["machine"].as_str().is_some_and(|m| m.contains("1 threads")), "{found}");
    for map in ["forward: ", "input: ", "weight: ", "maximum: "] {
        assert!(tasks.keys().any(|task| task.starts_with(map)), "{map} {tasks:?}");
    }
    let second = tuned("full");
    with_cache(&second, &folder).says(&[&format!("{} known, 0 timed", tasks.len())]);
    assert_eq!(fs::read(first.result()).expect("written"), fs::read(second.result()).expect("written"));
    assert_eq!(kept(&folder).1, found);
    // What took more rounds serves where fewer are asked for.
    with_cache(&tuned("fast"), &folder).says(&[", 0 timed"]);

    // What cannot be read, or is about another machine, is found again.
    let other = serde_json::json!({ "machine": "another one", "tasks": tasks });
    for spoilt in ["{", &other.to_string()] {
        fs::write(&path, spoilt).expect("written");
        with_cache(&tuned("full"), &folder).says(&[" 0 known"]);
        assert_eq!(kept(&folder).1["machine"], found["machine"]);
    }
}

#[test]
fn a_cache_that_cannot_be_written_stops_nothing() {
    let folder = temporary();
    let file = folder.path().join("a file");
    fs::write(&file, "").expect("written");
    let forget = tuned("full");
    with_cache(&forget, &file).says(&["the next run has to find its forms again"]);
    assert!(forget.result().exists());
}

/// Other forms than the usual ones compute the same, to what rounding leaves; the report names them, and by it the run is done
/// again to the last bit, whatever the cache has by then.
#[test]
fn other_forms_stand_in_the_report() {
    let cache = temporary();
    with_cache(&tuned("full"), cache.path());
    let (path, mut found) = kept(cache.path());
    for (task, winner) in found["tasks"].as_object_mut().expect("winners by task") {
        let direct = ["forward", "maximum"].iter().any(|map| task.starts_with(map));
        winner["form"] = if direct { "direct" } else { "columns" }.into();
    }
    fs::write(&path, found.to_string()).expect("written");
    // Adam would make as much of the rounding of a gradient that is all but zero as of any other.
    let [other, usual] = ["full", "off"].map(|effort| tuned(effort).set("--optimizer", "sgd"));
    with_cache(&other, cache.path()).says(&["0 timed"]);
    usual.run();
    let forms = other.report()["runtime"]["forms"].clone();
    assert_eq!(forms.as_object().map(serde_json::Map::len), found["tasks"].as_object().map(serde_json::Map::len));
    assert_eq!(usual.report()["runtime"].get("forms"), None);
    let difference = |a: &Forget, b: &Forget| {
        let ran = run(["diff".as_ref(), a.result().as_os_str(), b.result().as_os_str(), "--json".as_ref()]).json();
        let tensors = ran["difference"]["tensors"].as_array().unwrap_or_else(|| panic!("{ran:#}")).clone();
        tensors.iter().filter_map(|t| t["distance"]["max"].as_f64()).fold(0.0, f64::max)
    };
    let apart = difference(&usual, &other);
    assert!(apart > 0.0 && apart < 1e-6, "{apart}");

    let source = model("fashion-mnist");
    let mut again = program();
    again.args(["verify".as_ref(), other.result().as_os_str(), "--source".as_ref(), source.as_os_str()]);
    again.args(["--rederive".as_ref(), "--retain".as_ref(), data::retain_file().as_os_str()]);
    again.env("ONNX_UNLEARN_CACHE", temporary().path());
    Ran::new(&again.output().expect("the program starts")).exits(0);
}
