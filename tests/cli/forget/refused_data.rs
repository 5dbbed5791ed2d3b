//! Data that cannot be trained on: the message names flag, file and what to do.

use crate::common::{data, fixture, model, program::Forget, temporary};
use std::fs;

fn plain() -> Forget {
    Forget::new(model("fashion-mnist"))
}

#[test]
fn a_path_that_leads_nowhere() {
    for flag in ["--retain", "--eval"] {
        let ran = plain().set(flag, "no/such/data.npz").run();
        ran.fails(&[flag, "no/such/data.npz: no such file or folder"]);
    }
}

#[test]
fn a_file_of_no_known_kind() {
    let ran = plain().set("--retain", fixture("README.md")).run();
    ran.fails(&["--retain", "README.md", "expected a folder with one subfolder per class, an .npz archive"]);
}

#[test]
fn a_cut_archive() {
    let folder = temporary();
    let path = folder.path().join("cut.npz");
    let whole = fs::read(data::retain_file()).expect("readable");
    fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    plain().set("--retain", &path).run().fails(&["--retain", "cut.npz", "it may be truncated"]);
}

#[test]
fn no_samples_left() {
    let folder = temporary();
    let path = folder.path().join("only5.npz");
    data::retain().only(5).write_npz(&path);
    let ran = plain().set("--retain", &path).run();
    ran.fails(&[
        "--retain",
        "only5.npz: no samples left (npz): 20 found, 20 of them of classes that are not to be read",
    ]);
}

#[test]
fn a_class_to_keep_is_missing() {
    let folder = temporary();
    let path = folder.path().join("without3.npz");
    data::retain().without(3).write_npz(&path);
    let ran = plain().set("--retain", &path).run();
    ran.fails(&["--retain", "without3.npz", "no samples of", "3", "every class that is to be kept needs some"]);
    let named = plain().set("--retain", &path).set("--labels", fixture("data/classes.txt")).run();
    named.fails(&["no samples of Dress"]);
    // The class to forget may well be missing: that is the point.
    data::retain().without(5).write_npz(&path);
    plain().set("--retain", &path).flag("--keep-failed").run().exits(1).says(&["0 samples of the classes to forget"]);
}

#[test]
fn a_label_that_the_model_does_not_have() {
    let folder = temporary();
    let path = folder.path().join("labels.npz");
    let mut images = data::retain().clone();
    images.y[17] = 10;
    images.write_npz(&path);
    plain()
        .set("--retain", &path)
        .run()
        .fails(&["labels.npz: row 17 has label 10, but the model has 10 classes (0 to 9)"]);
    images.y[17] = -1;
    images.write_npz(&path);
    plain().set("--retain", &path).run().fails(&["labels.npz: row 17 has the negative label -1"]);
}

#[test]
fn images_of_another_size_are_refused_with_both_shapes() {
    let folder = temporary();
    let path = folder.path().join("size.npz");
    let n = data::retain().y.len() as u64;
    data::retain().write_shaped(&path, &[n, 14, 56, 1]);
    for flag in ["--retain", "--eval"] {
        let ran = plain().set(flag, &path).run();
        ran.fails(&[flag, "size.npz", "[14, 56, 1]", "input `input`", "[1, 28, 28]", "--resize"]);
    }
    data::retain().write_shaped(&path, &[n, 14, 14, 4]);
    plain().set("--retain", &path).run().fails(&["[14, 14, 4]", "[1, 28, 28]"]);
}

#[test]
fn folders_whose_classes_are_not_known() {
    let folder = temporary();
    data::retain().first(1).without(9).write_folder(folder.path(), |class| format!("kind-{class}"));
    plain().set("--retain", folder.path()).run().fails(&["9 class folders, but the model has 10 classes", "--labels"]);
    let empty = temporary();
    plain().set("--retain", empty.path()).run().fails(&["has no subfolders; expected one subfolder per class"]);
}

#[test]
fn a_broken_picture_is_named() {
    let folder = temporary();
    data::retain().first(1).write_folder(folder.path(), |class| class.to_string());
    fs::write(folder.path().join("3").join("broken.png"), b"no picture").expect("written");
    plain().set("--retain", folder.path()).run().fails(&["--retain", "broken.png: not a readable image"]);
    // Pictures of the class to forget are never opened.
    fs::rename(folder.path().join("3/broken.png"), folder.path().join("5/broken.png")).expect("moved");
    plain().set("--retain", folder.path()).run().exits(1);
}
