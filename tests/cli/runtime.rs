//! `runtime show` and `doctor`; `runtime install` needs a network and is tested where its fetching can be replaced.

use crate::common::{
    library,
    program::{Ran, program, run},
};

#[test]
fn show_says_where_it_looked_and_what_it_would_use() {
    let ran = run(["runtime", "show"]).exits(0);
    assert_eq!(ran.stderr, "");
    let used = ran.stdout.lines().last().expect("a line");
    let expected = format!("used: ONNX Runtime {} ", library().version);
    assert!(used.starts_with(&expected) && used.ends_with(&library().path.display().to_string()), "{used}");
    assert!(ran.stdout.contains("ORT_DYLIB_PATH: "), "{}", ran.stdout);

    let json = run(["runtime", "show", "--json"]).exits(0).json();
    assert_eq!(json["used"]["version"].as_str(), Some(library().version.as_str()));
    assert!(json["looked_at"].as_array().is_some_and(|places| places.len() > 1), "{json}");
}

#[test]
fn a_library_that_does_not_serve_is_a_no() {
    let ran = run(["runtime", "show", "--ort-lib", "fixtures/README.md"]).exits(1);
    assert!(ran.stdout.contains("fixtures/README.md is not a library"), "{}", ran.stdout);
    assert!(ran.stdout.lines().last().is_some_and(|line| line.starts_with("used: none.")), "{}", ran.stdout);
    let json = run(["runtime", "show", "--json", "--ort-lib", "fixtures/README.md"]).exits(1).json();
    assert!(json["used"].is_null(), "{json}");
}

#[test]
fn without_any_runtime_other_commands_say_which_command_to_run() {
    // A Python without the package, an empty cache, no variable; system folders may still hold one.
    let empty = crate::common::temporary();
    let mut command = program();
    command.env_remove("ORT_DYLIB_PATH").env("ONNX_UNLEARN_CACHE", empty.path()).env("PATH", empty.path());
    command.env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX");
    let forget = crate::common::program::Forget::new(crate::common::model("fashion-mnist"));
    let ran = Ran::new(&command.args(forget.args()).output().expect("the program starts"));
    if ran.code != Some(2) {
        assert!(ran.stderr.contains("(system: "), "only a system library may have been found:\n{}", ran.stderr);
        return;
    }
    ran.fails(&["no ONNX Runtime", "Run `onnx-unlearn runtime install`", "--ort-lib"]);
    assert!(!forget.out().exists());
}

#[test]
fn an_installation_that_cannot_be_done_is_an_error() {
    let empty = crate::common::temporary();
    let mut command = program();
    command
        .args(["runtime", "install"])
        .env("ONNX_UNLEARN_CACHE", empty.path().join("cache"))
        .env("PATH", empty.path());
    command.env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX").env_remove("PYTHON");
    let ran = Ran::new(&command.output().expect("the program starts"));
    ran.fails(&["ONNX Runtime is fetched through Python, and none was found", "--ort-lib"]);
}

#[test]
fn doctor_says_what_can_be_trained_on() {
    let ran = run(["doctor", "--device", "cpu"]).exits(0);
    assert!(ran.stdout.contains("yes training on cpu"), "{}", ran.stdout);
    assert!(
        ran.stdout.lines().last().is_some_and(|line| line.starts_with("--device cpu runs on cpu")),
        "{}",
        ran.stdout
    );
    let json = run(["doctor", "--device", "cpu", "--json"]).exits(0).json();
    assert!(json["ready"] == true && json["device"] == "cpu", "{json}");
    let libraries = json["findings"].as_array().expect("a list").iter().filter(|f| f["found"].as_str().is_some());
    assert!(libraries.count() > 8, "{json}");

    let ran = run(["doctor", "--device", "cpu", "--ort-lib", "fixtures/README.md"]).exits(1);
    assert!(ran.stdout.contains("no  ONNX Runtime") && ran.stdout.contains("is not a library"), "{}", ran.stdout);
    assert!(ran.stdout.contains("not ready; run `onnx-unlearn runtime install`"), "{}", ran.stdout);
    run(["doctor", "--device", "gpu"]).exits(2);
}
