#!/usr/bin/env python3
"""Measure the program on CIFAR-10 models and write docs/results.md.

    python3 benches/results.py run --program target/release/onnx-unlearn --work DIR \\
        --train cifar10-train.npz --test cifar10-test.npz --model folded=resnet18.onnx --model bn=resnet18-bn.onnx
    python3 benches/results.py write --work DIR --out docs/results.md

`run` starts the program once for every figure and keeps what it printed as DIR/NAME.json; what is there is not run again,
so that a run which was cut off goes on. `--suite` names parts of the work, `--jobs` how many processes run at once, and
what follows `--` is given to every command (`-- --device cuda`). `write` reads that folder and nothing else: every figure
of the page is in it. The Python standard library is enough.
"""

import argparse
import concurrent.futures
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PREPROCESS = ["--mean", "0.4914,0.4822,0.4465", "--std", "0.2023,0.1994,0.2010"]
SETS = [[0], [1, 2], [3, 4, 5, 6], [3, 4, 5, 6, 7, 8, 9]]
SEEDS = [0, 1, 2]
DEPTHS = ["shallow", "standard", "deep"]
# What is changed, one at a time, beside the defaults; the rates are found by trials each time.
SETTINGS = {
    "defaults": [],
    "statistics of the batch": ["--batch-norm", "batch"],
    "no noise": ["--noise-samples", "0"],
    "256 noise samples": ["--noise-samples", "256"],
    "1024 noise samples": ["--noise-samples", "1024"],
    "10240 noise samples": ["--noise-samples", "10240"],
    "noise of 10 steps": ["--noise-steps", "10"],
    "32 noise images": ["--noise-images", "32"],
    "100 samples a class": ["--per-class", "100"],
    "300 samples a class": ["--per-class", "300"],
    "2 impair epochs": ["--impair-epochs", "2"],
    "2 repair epochs": ["--repair-epochs", "2"],
    "4 repair epochs": ["--repair-epochs", "4"],
    "sgd": ["--optimizer", "sgd"],
    "clipped at norm 1": ["--clip-norm", "1"],
}
SETTING_CLASSES = [0, 3]


class Work:
    """The commands of one model. Each suite yields (name, command, whether it runs without held-out data)."""

    def __init__(self, args, name):
        self.args, self.name, self.model = args, name, args.models[name]
        self.data = ["--retain", args.train, *PREPROCESS]

    def forget(self, key, classes, flags=(), seed=0, blind=False):
        held_out = [] if blind else ["--eval", self.args.test]
        listed = ",".join(map(str, classes))
        command = [self.args.program, "forget", self.model, "--forget", listed, *self.data, *held_out]
        return f"{self.name}.{key}", [*command, "--seed", str(seed), "--json", *flags, *self.args.rest], blind

    def singles(self):
        """Each class alone, with the default command."""
        return [self.forget(f"single.{c}.seed0", [c]) for c in range(10)]

    def seeds(self):
        """The same with further seeds."""
        return [self.forget(f"single.{c}.seed{seed}", [c], seed=seed) for seed in SEEDS[1:] for c in range(10)]

    def blind(self):
        """Each class alone without any sample of it; measured afterwards."""
        return [self.forget(f"blind.{c}", [c], blind=True) for c in range(10)]

    def sets(self):
        """The class sets of the paper."""
        return [self.forget(f"set.{'-'.join(map(str, classes))}", classes) for classes in SETS]

    def reference(self):
        """The published notebook's procedure, on the paper's class sets and on the notebook's own."""
        flags = ["--variant", "reference"]
        return [self.forget(f"reference.{'-'.join(map(str, classes))}", classes, flags) for classes in [*SETS, [0, 2]]]

    def fixed(self):
        """The learning rate of other toolkits."""
        return [self.forget("fixed.0.1e-4", [0], ["--impair-lr", "1e-4", "--repair-lr", "1e-4"])]

    def settings(self):
        """One setting changed at a time."""
        listed = [(c, name, flags) for c in SETTING_CLASSES for name, flags in SETTINGS.items()]
        return [self.forget(f"setting.{c}.{name}", [c], flags) for c, name, flags in listed]

    def compare(self):
        """The method beside controls and rivals."""
        def command(c):
            kind = [self.args.program, "compare", self.model, "--forget", str(c), *self.data, "--eval", self.args.test]
            return [*kind, "--forget-data", self.args.train, "--json", *self.args.rest]
        return [(f"{self.name}.compare.{c}", command(c), False) for c in SETTING_CLASSES]

    def depth(self):
        """The three depths of forgetting, audited where there is a retrained model."""
        listed = [(depth, seed) for seed in SEEDS for depth in DEPTHS]
        return [self.forget(f"depth.{depth}.seed{seed}", [0], ["--depth", depth], seed) for depth, seed in listed]


SUITES = ["singles", "blind", "sets", "reference", "fixed", "depth", "settings", "compare", "seeds"]


def jobs(args):
    """All that was asked for, the suites in their order."""
    works = [Work(args, name) for name in args.models]
    return [job for suite in args.suites for work in works for job in getattr(work, suite)()]


def run_one(args, name, command, blind):
    target = args.work / f"{name}.json"
    if target.exists():
        return f"{name}: there already"
    with tempfile.TemporaryDirectory(dir=args.work) as out:
        out = pathlib.Path(out) / "out"
        started = time.monotonic()
        writes = command[1] == "forget"
        command = command + (["--out", str(out), "--keep-failed", "--allow-unchecked"] if writes else [])
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - started
        try:
            printed = json.loads(done.stdout)
        except json.JSONDecodeError:
            (args.work / f"{name}.error").write_text(done.stdout + done.stderr)
            return f"{name}: exit {done.returncode}, see {name}.error"
        kept = {"seconds": seconds, "exit": done.returncode, "printed": printed, "notes": done.stderr}
        kept["command"] = [c for c in command if c not in (str(out), "--out")]
        model = out / "model.onnx"
        if blind:
            measure = [args.program, "evaluate", str(model), "--data", args.test, *PREPROCESS, "--json", *args.rest]
            kept["afterwards"] = json.loads(subprocess.run(measure, capture_output=True, text=True).stdout)
        retrained = args.retrained.get(name.split(".")[0])
        if ".depth." in name and retrained:
            before = args.models[name.split(".")[0]]
            audit = [args.program, "audit", before, str(model), "--retrained", retrained, "--forget", "0"]
            audit += ["--train-data", args.train, "--data", args.test, *PREPROCESS, "--json", *args.rest]
            done = subprocess.run(audit, capture_output=True, text=True)
            kept["audit"] = json.loads(done.stdout) if done.stdout else done.stderr
        target.write_text(json.dumps(kept))
        return f"{name}: {seconds:.1f} s, exit {kept['exit']}"


def run(args):
    args.work.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        listed = [job for job in jobs(args) if not args.only or job[0] in args.only]
        for line in pool.map(lambda job: run_one(args, *job), listed):
            print(line, flush=True)


def named(text):
    name, _, file = text.partition("=")
    return name, file


def main():
    arguments, rest = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--program", required=True)
    measure.add_argument("--work", type=pathlib.Path, required=True)
    measure.add_argument("--train", required=True)
    measure.add_argument("--test", required=True)
    measure.add_argument("--model", type=named, action="append", required=True, metavar="NAME=FILE")
    measure.add_argument("--retrained", type=named, action="append", default=[], metavar="NAME=FILE")
    measure.add_argument("--suite", default=",".join(SUITES))
    measure.add_argument("--only", default="", help="names of figures, separated by commas")
    measure.add_argument("--jobs", type=int, default=1)
    write = commands.add_parser("write")
    write.add_argument("--work", type=pathlib.Path, required=True)
    write.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args(arguments)
    if args.what == "write":
        sys.exit("not yet")
    args.rest, args.models, args.retrained = rest, dict(args.model), dict(args.retrained)
    args.suites = args.suite.split(",")
    args.only = [name for name in args.only.split(",") if name]
    run(args)


if __name__ == "__main__":
    main()
