//! The output folder: nothing stands under a final name that is not complete, and nothing is left behind.

use crate::common::{
    model,
    program::{Forget, Ran, names, program},
    temporary,
};
use std::fs;

#[test]
fn an_earlier_result_is_refused_before_any_work() {
    for name in ["model.onnx", "unlearn-report.html", "unlearn-report.json"] {
        // The model does not exist: had any work been done, that would be the error.
        let forget = Forget::new(model("no-such-model"));
        fs::create_dir(forget.out()).expect("a folder");
        fs::write(forget.out().join(name), b"earlier").expect("written");
        let ran = forget.run().fails(&[name, "exists; choose another --out folder, or pass --force to replace it"]);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert_eq!(fs::read(forget.out().join(name)).expect("there"), b"earlier");
        assert_eq!(forget.files(), [name]);
    }
}

#[test]
fn force_replaces_the_result_and_nothing_else() {
    let forget = Forget::passing(model("fashion-mnist")).flag("--force");
    fs::create_dir(forget.out()).expect("a folder");
    for name in ["model.onnx", "unlearn-report.html", "unlearn-report.json", "mine.txt"] {
        fs::write(forget.out().join(name), b"earlier").expect("written");
    }
    forget.run().exits(0);
    assert_eq!(forget.files(), ["mine.txt", "model.onnx", "unlearn-report.html", "unlearn-report.json"]);
    assert_eq!(fs::read(forget.out().join("mine.txt")).expect("there"), b"earlier");
    assert!(fs::read(forget.result()).expect("there").len() > 100_000);
    forget.report();
    assert!(fs::read(forget.out().join("unlearn-report.html")).expect("there").starts_with(b"<!DOCTYPE html>"));
}

#[test]
fn a_failed_run_with_force_keeps_the_earlier_result() {
    let forget = Forget::new(model("fashion-mnist")).flag("--force");
    fs::create_dir(forget.out()).expect("a folder");
    fs::write(forget.result(), b"earlier").expect("written");
    forget.run().exits(1);
    assert_eq!(fs::read(forget.result()).expect("there"), b"earlier");
    assert_eq!(forget.files(), ["model.onnx"]);
}

#[test]
fn a_folder_that_cannot_be_made() {
    let folder = temporary();
    let file = folder.path().join("file");
    fs::write(&file, b"in the way").expect("written");
    let below = file.join("out");
    let forget = Forget::new(model("no-such-model")).set("--out", &below);
    forget.run().fails(&["--out", "file/out: cannot be created", "Not a directory"]);
    let itself = Forget::new(model("no-such-model")).set("--out", &file);
    itself.run().fails(&["--out", "file: cannot be"]);
    assert_eq!(fs::read(&file).expect("there"), b"in the way");
}

/// Nobody may write to `/proc`, not even root, under whom tests run in containers.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_to() {
    let forget = Forget::new(model("no-such-model")).set("--out", "/proc");
    forget.run().fails(&["--out /proc: cannot be written to"]);
    let forget = Forget::new(model("no-such-model")).set("--out", "/proc/out");
    forget.run().fails(&["--out /proc/out: cannot be created"]);
}

/// A limit on the size of files makes writes fail the way a full disk does.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_earlier_result_and_no_rest() {
    let forget = Forget::passing(model("fashion-mnist"));
    forget.run().exits(0);
    let earlier = fs::read(forget.result()).expect("there");
    let (report, page) = (forget.report(), fs::read(forget.out().join("unlearn-report.html")).expect("there"));
    let forget = forget.flag("--force").set("--seed", "1");
    let mut shell = std::process::Command::new("sh");
    // Shells count in blocks of 512 or 1024 bytes; the model has 145,771.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 60; exec \"$@\"", "sh"]);
    let program = program();
    shell.arg(program.get_program()).args(forget.args());
    shell.envs(program.get_envs().filter_map(|(k, v)| v.map(|v| (k, v))));
    let ran = Ran::new(&shell.output().expect("the shell starts"));
    ran.fails(&["cannot write", "model.onnx", "File too large"]);
    assert!(fs::read(forget.result()).expect("there") == earlier, "the earlier model is untouched");
    assert_eq!(forget.report(), report);
    assert!(fs::read(forget.out().join("unlearn-report.html")).expect("there") == page);
    assert_eq!(forget.files(), ["model.onnx", "unlearn-report.html", "unlearn-report.json"]);
}

#[cfg(unix)]
mod interrupted {
    use super::*;
    use std::{
        io::{BufRead, BufReader, Read},
        process::{Command, Stdio},
    };

    /// Presses Ctrl-C once stderr says `moment`.
    fn interrupt_at(forget: &Forget, moment: &str) -> Ran {
        let mut child = program()
            .args(forget.args())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.lines().any(|line| line.trim_start().starts_with(moment)) {
            assert!(stderr.read_line(&mut said).expect("readable") > 0, "ended before {moment:?}:\n{said}");
        }
        let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
        assert!(status.success());
        stderr.read_to_string(&mut said).expect("readable");
        let output = child.wait_with_output().expect("it ends");
        Ran { stderr: said, ..Ran::new(&output) }
    }

    fn long(phase: &str) -> Forget {
        let forget = Forget::new(model("fashion-mnist"));
        match phase {
            "noise" => forget.set("--noise-steps", "100000"),
            "impair" => forget.set("--noise-samples", "1000000"),
            _ => forget.set("--repair-epochs", "10000"),
        }
    }

    #[test]
    fn in_every_phase_without_a_trace() {
        for phase in ["noise", "impair", "repair"] {
            let forget = long(phase);
            let ran = interrupt_at(&forget, &format!("{phase}:"));
            ran.fails(&["interrupted at step", &format!("of the {phase} phase; nothing was written")]);
            assert!(!forget.out().exists(), "the folder that the run made is gone");
            assert_eq!(names(forget.folder.path()), Vec::<String>::new());
        }
    }

    #[test]
    fn an_earlier_result_stays() {
        let forget = long("impair").flag("--force");
        fs::create_dir(forget.out()).expect("a folder");
        for name in ["model.onnx", "unlearn-report.html", "unlearn-report.json"] {
            fs::write(forget.out().join(name), b"earlier").expect("written");
        }
        interrupt_at(&forget, "impair:").fails(&["interrupted"]);
        assert_eq!(
            forget.files(),
            ["model.onnx", "unlearn-report.html", "unlearn-report.json"],
            "no rest of the unfinished"
        );
        assert_eq!(fs::read(forget.result()).expect("there"), b"earlier");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_and_names_step_and_knob() {
    for (flag, phase) in [("--impair-lr", "impair"), ("--repair-lr", "repair")] {
        let forget = Forget::new(model("fashion-mnist")).set("--optimizer", "sgd").set(flag, "1e30");
        let ran = forget.run().fails(&["the loss became", &format!("of the {phase} phase"), &format!("lower {flag}")]);
        assert!(ran.error().contains("--clip-norm"), "{}", ran.error());
        assert!(ran.error().contains("at step 2 of"), "{}", ran.error());
        assert!(!forget.out().exists());
    }
    let noise = Forget::new(model("fashion-mnist")).set("--noise-lr", "1e30");
    noise.run().fails(&["the loss became", "of the noise phase", "lower --noise-lr"]);
}
