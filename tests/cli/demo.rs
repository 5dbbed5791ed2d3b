//! `demo`: the main job at full size on what comes with the program.

use crate::common::{
    program::{names, run},
    temporary,
};

#[test]
fn one_class_goes_to_zero_and_the_others_stay() {
    let folder = temporary();
    let out = folder.path().to_str().expect("UTF-8");
    let ran = run(["demo", "--out", out, "--device", "cpu", "--json"]).exits(0);
    let json = ran.json();
    assert_eq!((json["answer"].as_str(), json["verdict"].as_str()), (Some("yes"), Some("pass")));
    let report = &json["report"];
    assert_eq!(report["parameters"]["recipe"]["forget"], serde_json::json!([1]), "Trouser");
    let accuracy = |when: &str, forgotten: bool| {
        let classes = report["measured"][when]["classes"].as_array().expect("a list");
        let chosen = classes.iter().enumerate().filter(|(class, _)| (*class == 1) == forgotten);
        let (correct, total) = chosen.fold((0, 0), |(correct, total), (_, c)| {
            (correct + c["correct"].as_u64().expect("a number"), total + c["total"].as_u64().expect("a number"))
        });
        correct as f64 / total as f64
    };
    assert!(accuracy("before", true) > 0.9, "the model knew the class");
    assert!(accuracy("after_repair", true) <= 0.01, "{}", accuracy("after_repair", true));
    assert!(accuracy("after_repair", false) >= accuracy("before", false) - 0.02);
    assert_eq!(
        names(folder.path()),
        ["LICENSE-fashion-mnist", "classes.txt", "eval.npz", "fashion-mnist.onnx", "out", "retain.npz"]
    );
    assert!(ran.stderr.contains("$ onnx-unlearn forget "), "the command is shown:\n{}", ran.stderr);
    let at = |name: &str| folder.path().join(name).display().to_string();
    run(["verify", &at("out/model.onnx"), "--source", &at("fashion-mnist.onnx")]).exits(0);
}

#[test]
fn a_class_that_is_none_is_refused() {
    let folder = temporary();
    let out = folder.path().to_str().expect("UTF-8");
    run(["demo", "--out", out, "--forget", "Sandals"]).fails(&["unknown class `Sandals`; did you mean `Sandal`?"]);
}
