//! What the data may be: the same images give the same model in every format.

use crate::common::{data, model, program::Forget};
use std::{fs, path::Path};

fn forget(retain: &Path, eval: &Path) -> Forget {
    let forget = Forget::new(model("fashion-mnist")).flag("--keep-failed").flag("--quiet");
    forget.set("--retain", retain).set("--eval", eval)
}

/// Model bytes and measurements.
fn result(forget: &Forget) -> (Vec<u8>, serde_json::Value) {
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    (fs::read(forget.result()).expect("written"), forget.report()["measured"].clone())
}

#[test]
fn every_format_gives_the_same_model() {
    let expected = result(&forget(data::retain_file(), data::eval_file()));
    for kind in ["folder", "idx", "idx.gz", "channels first", "no channel axis"] {
        let folder = crate::common::temporary();
        let write = |name: &str, images: &data::Images| {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a folder");
            let n = images.y.len() as u64;
            let npz = path.join("data.npz");
            match kind {
                "folder" => images.write_folder(&path, |class| class.to_string()),
                "idx" => return images.write_idx(&path, false),
                "idx.gz" => return images.write_idx(&path, true),
                "channels first" => images.write_shaped(&npz, &[n, 1, 28, 28]),
                _ => images.write_shaped(&npz, &[n, 28, 28]),
            }
            if npz.exists() { npz } else { path }
        };
        let run = forget(&write("retain", data::retain()), &write("eval", data::eval()));
        assert!(result(&run) == expected, "{kind} gives another model");
        let stored = run.report()["data"]["retain"].clone();
        let name = kind.split('.').next().filter(|k| ["folder", "idx"].contains(k)).unwrap_or("npz");
        assert_eq!((stored["kind"].as_str(), stored["read"].as_u64()), (Some(name), Some(180)), "{stored}");
    }
}

#[test]
fn images_and_labels_can_be_named_one_by_one() {
    let folder = crate::common::temporary();
    let images = data::retain().write_idx(folder.path(), false);
    let (moved, labels) = (folder.path().join("pixels"), folder.path().join("classes"));
    fs::rename(&images, &moved).expect("moved");
    fs::rename(folder.path().join("labels-idx1-ubyte"), &labels).expect("moved");
    let both = format!("{},{}", moved.display(), labels.display());
    let named = result(&forget(Path::new(&both), data::eval_file()));
    assert!(named == result(&forget(data::retain_file(), data::eval_file())));
    let alone = forget(&moved, data::eval_file()).run();
    alone.fails(&["--retain", "pixels: no labels beside it", "IMAGES,LABELS"]);
}

#[test]
fn per_class_takes_the_first_samples_of_each_class() {
    let run = forget(data::retain_file(), data::eval_file()).set("--per-class", "7");
    result(&run);
    let retain = run.report()["data"]["retain"].clone();
    assert_eq!(retain["per_class"], serde_json::json!([7, 7, 7, 7, 7, 0, 7, 7, 7, 7]));
    assert_eq!((retain["beyond_limit"].as_u64(), retain["read"].as_u64()), (Some(9 * 13), Some(63)));
}

#[test]
fn pictures_of_another_size_are_scaled_when_asked() {
    let folder = crate::common::temporary();
    for (i, pixels) in data::eval().first(3).x.iter().enumerate() {
        let picture = image::GrayImage::from_raw(28, 28, pixels.clone()).expect("the size fits");
        let large = image::imageops::resize(&picture, 40, 56, image::imageops::FilterType::Triangle);
        let class = folder.path().join((i / 3).to_string());
        fs::create_dir_all(&class).expect("a folder");
        large.save(class.join(format!("{i}.png"))).expect("saved");
    }
    let refused = forget(folder.path(), data::eval_file()).run();
    refused.fails(&["--retain", "[56, 40, 1]", "[1, 28, 28]", "--resize"]);
    let run = forget(folder.path(), data::eval_file()).set("--resize", "28");
    result(&run);
    assert_eq!(run.report()["parameters"]["preprocess"]["resize"], serde_json::json!([28, 28]));
}
