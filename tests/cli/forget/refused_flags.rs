//! Values that no flag takes: refused before any file is opened.

use crate::common::{model, program::Forget};

#[test]
fn values_out_of_range_name_flag_value_and_what_is_expected() {
    for (flag, value, words) in [
        ("--device", "gpu", &["--device gpu: expected auto, cpu, cuda or cuda:N"][..]),
        ("--device", "cuda:x", &["--device cuda:x: expected auto, cpu, cuda or cuda:N"]),
        ("--threads", "0", &["--threads 0: expected at least 1"]),
        ("--per-class", "0", &["--per-class 0: at least one sample of each class is needed"]),
        ("--batch-size", "0", &["--batch-size 0: expected at least 1"]),
        ("--noise-images", "0", &["--noise-images 0: expected at least 1"]),
        ("--noise-steps", "0", &["--noise-steps 0: expected at least 1"]),
        ("--impair-epochs", "0", &["--impair-epochs 0: expected at least 1"]),
        ("--repair-epochs", "0", &["--repair-epochs 0: expected at least 1"]),
        ("--noise-lr", "0", &["--noise-lr 0: expected a number above 0"]),
        ("--impair-lr", "-1", &["--impair-lr -1: expected a number above 0"]),
        ("--repair-lr", "NaN", &["--repair-lr NaN: expected a number above 0"]),
        ("--noise-penalty", "-0.1", &["--noise-penalty -0.1: expected a number of at least 0"]),
        ("--beta1", "1", &["--beta1 1: expected a number from 0 to below 1"]),
        ("--beta2", "-0.5", &["--beta2 -0.5: expected a number from 0 to below 1"]),
        ("--epsilon", "0", &["--epsilon 0: expected a number above 0"]),
        ("--clip-norm", "0", &["--clip-norm 0: expected a number above 0"]),
        ("--max-forget-accuracy", "1.5", &["--max-forget-accuracy 1.5: expected a share from 0 to 1"]),
        ("--max-retain-drop", "-0.1", &["--max-retain-drop -0.1: expected a share from 0 to 1"]),
        ("--check-samples", "0", &["--check-samples 0: at least one sample is needed"]),
        ("--check-atol", "-1", &["--check-atol -1: expected a number of at least 0"]),
        ("--check-rtol", "inf", &["--check-rtol inf: expected a number of at least 0"]),
        ("--resize", "28x", &["--resize 28x: expected N or HxW, such as 224 or 240x320"]),
        ("--resize", "0", &["--resize 0: expected N or HxW"]),
        ("--std", "0", &["--std 0"]),
        ("--mean", "NaN", &["--mean NaN"]),
        ("--scale", "0", &["--scale 0"]),
    ] {
        let forget = Forget::new(model("no-such-model")).set(flag, value);
        forget.run().fails(words);
        assert!(!forget.out().exists(), "{flag}: nothing is left behind");
    }
    let sgd = Forget::new(model("no-such-model")).set("--optimizer", "sgd").set("--momentum", "1");
    sgd.run().fails(&["--momentum 1: expected a number from 0 to below 1"]);
}

#[test]
fn words_that_are_no_number_or_choice_are_bad_usage() {
    for (flag, value) in [
        ("--impair-lr", "fast"),
        ("--seed", "-1"),
        ("--batch-size", "1.5"),
        ("--variant", "best"),
        ("--optimizer", "adamw"),
        ("--batch-norm", "none"),
        ("--layout", "nhcw"),
        ("--noise-penalty-form", "max"),
        ("--mean", "a"),
    ] {
        let ran = Forget::new(model("fashion-mnist")).set(flag, value).run().fails(&[flag, value]);
        assert!(ran.stderr.contains("--help"), "{}", ran.stderr);
    }
}

#[test]
fn what_is_needed_must_be_given() {
    for flag in ["--forget", "--retain"] {
        Forget::new(model("fashion-mnist")).without(flag).run().fails(&[flag, "required"]);
    }
}

#[test]
fn channel_values_must_fit_the_channels() {
    for flag in ["--mean", "--std"] {
        let forget = Forget::new(model("fashion-mnist")).set(flag, "0.1,0.2,0.3");
        forget.run().fails(&["--retain", flag, "has 3 values; expected 1 or 1, one per channel"]);
    }
}
