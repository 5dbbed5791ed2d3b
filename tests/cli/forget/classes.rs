//! Which classes: indices, names from a file or from folders, one or several.

use crate::common::{data, fixture, model, program::Forget};
use std::fs;

/// The model bytes and the forgotten classes of a run.
fn result(forget: &Forget) -> (Vec<u8>, serde_json::Value) {
    let forget_flag = forget.run();
    assert!(matches!(forget_flag.code, Some(0 | 1)), "{}", forget_flag.stderr);
    (fs::read(forget.result()).expect("written"), forget.report()["parameters"]["recipe"]["forget"].clone())
}

#[test]
fn a_name_means_what_its_index_means() {
    let run = || Forget::new(model("fashion-mnist")).flag("--keep-failed");
    let by_index = result(&run());
    let labels = fixture("data/classes.txt");
    let by_name = result(&run().set("--labels", &labels).set("--forget", "Sandal"));
    assert!(by_index == by_name, "the same model whichever way the class is named");
    let said = run().set("--labels", &labels).run();
    said.says(&["forgetting Sandal of 10 classes"]);
}

#[test]
fn several_classes_in_any_order_and_spelling() {
    let run = || Forget::new(model("fashion-mnist")).flag("--keep-failed");
    let labels = fixture("data/classes.txt");
    let (numbers, classes) = result(&run().set("--forget", "7,5"));
    assert_eq!(classes, serde_json::json!([5, 7]));
    let (mixed, classes) = result(&run().set("--labels", labels).set("--forget", "Sandal, 7"));
    assert_eq!(classes, serde_json::json!([5, 7]));
    assert!(numbers == mixed);

    let several = run().set("--forget", "5,7");
    let ran = several.run();
    ran.says(&["forgetting 5, 7 of 10 classes", "160 retain samples; 40 samples of the classes to forget"]);
    assert_eq!(several.report()["noise_objective"].as_array().map(Vec::len), Some(2), "noise for each class");
}

#[test]
fn two_classes_are_both_forgotten() {
    let forget = Forget::passing(model("fashion-mnist")).set("--forget", "5,6").flag("--json").flag("--keep-failed");
    let json = forget.run().json();
    let measured = &json["report"]["measured"];
    for class in [5, 6] {
        let correct = |when: &str| measured[when]["classes"][class]["correct"].as_u64();
        assert!(correct("before") >= Some(8) && correct("after_repair") <= Some(1), "class {class}: {measured}");
    }
}

#[test]
fn folder_names_are_class_names() {
    let forget = Forget::new(model("fashion-mnist")).flag("--keep-failed");
    let retain = forget.folder.path().join("retain");
    data::retain().write_folder(&retain, |class| format!("kind-{class}"));
    let forget = forget.set("--retain", &retain).set("--forget", "kind-5");
    let (named, classes) = result(&forget);
    assert_eq!(classes, serde_json::json!([5]));
    assert_eq!(forget.report()["classes"][9], "kind-9");
    let (numbered, _) = result(&Forget::new(model("fashion-mnist")).flag("--keep-failed"));
    assert!(named == numbered);
}

#[test]
fn wrong_classes_are_refused_before_any_training() {
    let labels = fixture("data/classes.txt");
    for (classes, named, words) in [
        ("10", false, &["--forget", "class 10 is out of range: the model has 10 classes (0 to 9)"][..]),
        ("99999999999999999999", false, &["--forget", "out of range"]),
        ("Sandal", false, &["--forget", "unknown class `Sandal`", "--labels FILE"]),
        ("Sandle", true, &["--forget", "unknown class `Sandle`; did you mean `Sandal`?"]),
        ("Rocket", true, &["--forget", "unknown class `Rocket`; the classes are T-shirt/top, Trouser"]),
        ("5,,7", false, &["--forget", "`5,,7` names no class, or holds an empty entry"]),
        ("", false, &["--forget", "names no class"]),
        ("-1", false, &["--forget", "unknown class `-1`"]),
        ("0,1,2,3,4,5,6,7,8,9", false, &["--forget 0,1,2,3,4,5,6,7,8,9: names all 10 classes"]),
    ] {
        let mut forget = Forget::new(model("fashion-mnist")).set("--forget", classes);
        if named {
            forget = forget.set("--labels", &labels);
        }
        let ran = forget.run().fails(words);
        assert!(!ran.stderr.contains("steps"), "{}", ran.stderr);
        assert!(!forget.out().exists(), "{classes}: nothing is left behind");
    }
}

#[test]
fn wrong_lists_of_names_are_refused() {
    let folder = crate::common::temporary();
    let path = folder.path().join("names.txt");
    for (text, words) in [
        ("a\nb\nc\n", &["names.txt", "3 class names (--labels), but the model has 10 classes"][..]),
        ("a\n\nc\n", &["names.txt: line 2 is blank; it would shift the classes after it"]),
        (
            "a\nb\nx\nd\ne\nf\ng\nh\nx\nj\n",
            &["the class name `x` stands for classes 2 and 8; give the index of the one that is meant"],
        ),
        ("", &["names.txt", "expected one class name a line"]),
    ] {
        fs::write(&path, text).expect("written");
        Forget::new(model("fashion-mnist")).set("--labels", &path).set("--forget", "x").run().fails(words);
    }
    let nowhere = folder.path().join("nowhere.txt");
    Forget::new(model("fashion-mnist")).set("--labels", &nowhere).run().fails(&["nowhere.txt"]);
}
