//! What holds for every command: help, version, bad usage.

use crate::common::program::run;

#[test]
fn help_and_version_go_to_stdout_and_succeed() {
    let version = run(["--version"]).exits(0);
    assert_eq!(version.stdout, concat!("onnx-unlearn ", env!("CARGO_PKG_VERSION"), "\n"));
    for command in ["forget", "verify", "inspect", "digest", "runtime", "demo"] {
        let help = run([command, "--help"]).exits(0);
        assert!(help.stdout.contains("Usage: onnx-unlearn") && help.stderr.is_empty(), "{command}: {}", help.stderr);
        assert!(run(["--help"]).stdout.contains(command), "{command} is not listed");
    }
    let help = run(["--help"]).exits(0);
    assert!(
        help.stdout.contains("Exit codes of every command: 0 yes, 1 it ran and the answer is no, 2 it could not tell")
    );
}

#[test]
fn bad_usage_is_exit_code_two_on_stderr() {
    for (args, word) in [
        (&["forgot"][..], "unrecognized subcommand 'forgot'"),
        (&["verify"], "<MODEL>"),
        (&["forget", "model.onnx", "--frget", "1"], "--frget"),
        (&["runtime"], "Usage"),
        (&[], "Usage"),
    ] {
        let ran = run(args).exits(2);
        assert!(ran.stdout.is_empty() && ran.stderr.contains(word), "{args:?}: {}{}", ran.stdout, ran.stderr);
    }
}
