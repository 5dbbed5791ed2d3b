#!/usr/bin/env python3
"""Measure the program on CIFAR-10 models.

    python3 benches/results/run.py --program target/release/onnx-unlearn \\
        --train cifar10-train.npz --test cifar10-test.npz --model folded=resnet18.onnx --model bn=resnet18-bn.onnx

Starts the program for every figure and appends what it measured to `figures.jsonl` beside this file (`--figures`), a line a
figure; what is there is not run again, so that a run which was cut off goes on. `--suite` names parts of the work,
`--only` single figures, `--jobs` how many processes run at once, and what follows `--` is given to every command
(`-- --device cuda`). `write.py` makes the page from that file and nothing else. The Python standard library is enough.
"""

import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
PREPROCESS = ["--mean", "0.4914,0.4822,0.4465", "--std", "0.2023,0.1994,0.2010"]
SETS = [[0], [1, 2], [3, 4, 5, 6], [3, 4, 5, 6, 7, 8, 9]]
SUCCESSIVE = [0, 1, 9]
SEEDS = [0, 1, 2]
DEPTHS = ["shallow", "standard", "deep"]
# Flags of `audit` for the suites that audit what they made.
AUDITED = {"depth": ["--only", "probe,relearn"], "audit": []}
# Adam's first step of 0.001 throws a network without BatchNormalization off; see docs/method.md on relearn time.
RELEARN_RATES = {"folded": "0.0001"}
# The impair rate that the trials of a model find for airplane, where it is not 4e-4.
RATES = {"vit": 3.2e-3}
REPAIR_AT_A_TENTH = "repair at a tenth of the rate"
# What is changed, one at a time, at that rate; only SGD, whose rates are of another size, has trials.
SETTINGS = {
    "repair at half the rate, and the defaults": [],
    "statistics of the batch": ["--batch-norm", "batch"],
    "no noise": ["--noise-samples", "0"],
    "256 noise samples": ["--noise-samples", "256"],
    "1024 noise samples": ["--noise-samples", "1024"],
    "10240 noise samples": ["--noise-samples", "10240"],
    "noise of 10 steps": ["--noise-steps", "10"],
    "32 noise images": ["--noise-images", "32"],
    "100 samples a class": ["--per-class", "100"],
    "300 samples a class": ["--per-class", "300"],
    REPAIR_AT_A_TENTH: [],
    "2 impair epochs": ["--impair-epochs", "2"],
    "2 repair epochs": ["--repair-epochs", "2"],
    "4 repair epochs": ["--repair-epochs", "4"],
    "sgd at a rate found by trials": ["--optimizer", "sgd"],
    "clipped at norm 1": ["--clip-norm", "1"],
}
COMPARED = 0
TARGETS = ["labels", "source"]
# What the retain sample teaches at the rate of other toolkits, and their other settings (bad-teaching-unlearning).
FIXED = {
    "labels as others have it": ["--targets", "labels", "--per-class", "500", "--noise-steps", "250", "--noise-samples", "240"],
    "labels": ["--targets", "labels"],
    "source": ["--targets", "source"],
}
TAUGHT = [(c, targets) for c in (0, 3, 8) for targets in TARGETS]


def key(classes):
    return "-".join(map(str, classes))


class Work:
    """The commands of one model. Each suite yields (name of the figure, its commands, each on what the one before wrote)."""

    def __init__(self, args, name):
        self.args, self.name, self.model = args, name, args.models[name]

    def request(self, classes, flags=(), seed=0, blind=False):
        held_out = [] if blind else ["--eval", self.args.test]
        command = [self.args.program, "forget", self.model, "--forget", ",".join(map(str, classes))]
        return [*command, "--retain", self.args.train, *PREPROCESS, *held_out, "--seed", str(seed), *flags]

    def forget(self, suffix, *settings, **more):
        return f"{self.name}.{suffix}", [self.request(*settings, **more)]

    def rate(self, repair=0.5):
        """The rate of impair, and of repair as a part of it."""
        rate = RATES.get(self.name, 4e-4)
        return ["--impair-lr", f"{rate:g}", "--repair-lr", f"{repair * rate:g}"]

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
        return [self.forget(f"set.{key(classes)}", classes) for classes in SETS[1:]]

    def successive(self):
        """One class after the other, each on the model that the request before left."""
        return [(f"{self.name}.successive", [self.request([c]) for c in SUCCESSIVE])]

    def reference(self):
        """The published notebook's procedure, on the paper's class sets and on the notebook's own."""
        flags = ["--variant", "reference"]
        return [self.forget(f"reference.{key(classes)}", classes, flags) for classes in [*SETS, [0, 2]]]

    def fixed(self):
        """The learning rate of other toolkits, with their other settings, with labels alone and with the default."""
        rates = ["--impair-lr", "1e-4", "--repair-lr", "1e-4"]
        return [self.forget(f"fixed.0.1e-4.{name}", [0], [*rates, *flags]) for name, flags in FIXED.items()]

    def depth(self):
        """The three depths of forgetting, audited where there is a retrained model."""
        listed = [(depth, seed) for seed in SEEDS for depth in DEPTHS]
        return [self.forget(f"depth.{depth}.seed{seed}", [0], ["--depth", depth], seed) for depth, seed in listed]

    def audit(self):
        """Every measure of the audit at a rate set by hand, with labels taught, where there is a retrained model."""
        flags = ["--impair-lr", "5e-4", "--repair-lr", "2.5e-4", "--targets", "labels"]
        return [self.forget("audit.0", [0], flags)] if self.name in self.args.retrained else []

    def targets(self):
        """Labels beside the source model's answers, at the same rate."""
        return [self.forget(f"targets.{c}.{t}", [c], [*self.rate(), "--targets", t]) for c, t in TAUGHT]

    def settings(self):
        """One setting changed at a time."""
        figures = []
        for name, flags in SETTINGS.items():
            rates = [] if "--optimizer" in flags else self.rate(0.1 if name == REPAIR_AT_A_TENTH else 0.5)
            figures.append(self.forget(f"setting.{COMPARED}.{name}", [COMPARED], [*rates, *flags]))
        return figures

    def compare(self):
        """The method beside controls and rivals."""
        data = ["--retain", self.args.train, *PREPROCESS, "--eval", self.args.test, "--forget-data", self.args.train]
        command = [self.args.program, "compare", self.model, "--forget", str(COMPARED), *data]
        return [(f"{self.name}.compare.{COMPARED}", [command])]


SUITES = ["singles", "blind", "sets", "successive", "reference", "fixed", "depth", "audit", "targets", "settings", "compare", "seeds"]


def printed_by(command):
    """Exit code, JSON and notes of a command; the JSON is None where it prints none."""
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return done.returncode, json.loads(done.stdout), done.stderr
    except json.JSONDecodeError:
        return done.returncode, None, done.stderr


def of_trial(trial):
    """(Rates of impair and repair, highest share of turned and of real samples still known, retained, outcome)."""
    highest = lambda signs: max((sign["known"] for sign in signs), default=None)
    rates = [trial["impair_lr"], trial["repair_lr"]]
    return [*rates, highest(trial["turned"]), highest(trial["forget"]), trial["retain"], trial["outcome"]]


def of_report(report):
    """What the page shows of a run. `classes` are (correct before, correct after, samples)."""
    recipe, measured = report["parameters"]["recipe"], report["measured"]
    sides = zip(measured["before"]["classes"], measured["after_repair"]["classes"])
    trials = (report.get("calibration") or {"trials": []})["trials"]
    return {
        "runtime": [report["runtime"][k] for k in ("backend", "device", "threads")],
        "forget": sorted([*recipe["forget"], *recipe.get("forgotten_before", [])]),
        "seed": recipe["seed"],
        "rates": [recipe[phase]["lr"] for phase in ("impair", "repair")],
        "steps": {phase["phase"]: phase["steps"] for phase in report["phases"]},
        "trials": [of_trial(t) for t in trials],
        "verdict": report["verdict"]["outcome"].replace("_", " "),
        "classes": [[b["correct"], a["correct"], b["total"]] for b, a in sides],
    }


def of_reports(reports):
    """Of requests one after the other: the last one, beside the model before the first, with the trials of all."""
    runs = [of_report(report) for report in reports]
    classes = [[first[0], *last[1:]] for first, last in zip(runs[0]["classes"], runs[-1]["classes"])]
    return runs[-1] | {"classes": classes, "trials": [trial for run in runs for trial in run["trials"]]}


def of_comparison(printed):
    """What the page shows of `compare`: the accuracies (forgotten, retained) of every seed."""
    runs = lambda method: [[run["forget"], run["retain"]] for run in method["runs"] if run]
    return {"methods": [{"method": m["method"], "steps": m["steps"], "runs": runs(m)} for m in printed["methods"]]}


def of_routing(routed):
    """Where the samples of a class go: (class, share), the most frequent five."""
    return [[to["class"], to["share"]] for to in routed["predicted"][:5]]


def of_audit(printed):
    """The figures of an audit: (measure, figure, of whom, value, unit, bound); not those of each mini-batch or each tensor."""
    told = lambda m, f: [m["name"], f["figure"], f["of"], f["value"], f["unit"], f.get("bound")]
    figures = [told(m, f) for m in printed["measures"] for f in m.get("figures") or []]
    single = lambda m, figure: figure.startswith("accuracy after mini-batch") or (m == "weights" and "together" not in figure)
    return [figure for figure in figures if not single(*figure[:2])]


def measure(args, name, commands, folder):
    """The figure, or None and what the program said."""
    of, suite, *_ = name.split(".")
    rest = [*args.rest, "--json"]
    source = model = args.models[of]
    reports = []
    started = time.monotonic()
    for i, (program, what, _, *flags) in enumerate(commands):
        out = folder / str(i)
        writes = ["--out", str(out), "--keep-failed", "--allow-unchecked"] if what == "forget" else []
        code, printed, notes = printed_by([program, what, model, *flags, *writes, *rest])
        if printed is None:
            return None, notes
        model = str(out / "model.onnx")
        reports.append(printed.get("report"))
    figure = {"name": name, "seconds": round(time.monotonic() - started, 1), "at_once": args.jobs, "exit": code}
    figure["program"] = args.digest
    if what == "compare":
        return figure | of_comparison(printed), notes
    figure |= of_reports(reports)
    if suite == "blind":
        command = [args.program, "evaluate", source, model, "--data", args.test, *PREPROCESS, *rest]
        _, measured, notes = printed_by(command)
        if measured is None:
            return None, notes
        before, after = (m["classes"] for m in measured["models"])
        figure["classes"] = [[b["correct"], a["correct"], b["samples"]] for b, a in zip(before, after)]
    if suite in AUDITED and of in args.retrained:
        command = [args.program, "audit", source, model, "--retrained", args.retrained[of], "--forget", "0"]
        command += ["--train-data", args.train, "--data", args.test, *PREPROCESS, *AUDITED[suite]]
        _, audited, notes = printed_by([*command, "--relearn-lr", RELEARN_RATES.get(of, "0.001"), *rest])
        if audited is None:
            return None, notes
        figure["audit"] = of_audit(audited)
    if suite == "audit":
        three = [source, model, args.retrained[of]]
        command = [args.program, "evaluate", *three, "--data", args.test, *PREPROCESS, "--route", "0", *rest]
        _, measured, notes = printed_by(command)
        if measured is None:
            return None, notes
        figure["routing"] = [of_routing(m["routing"][0]) for m in measured["models"]]
    return figure, notes


def measured_already(file):
    """Names of the figures in the file. A line that was cut off is an error that names it."""
    names = set()
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else (), 1):
        try:
            names.add(json.loads(line)["name"])
        except (json.JSONDecodeError, KeyError) as error:
            sys.exit(f"{file}:{number}: not a figure ({error}); remove the line to measure it again")
    return names


def run(args):
    """Runs what is not in the file yet."""
    works = [Work(args, name) for name in args.models]
    jobs = [job for suite in args.suites for work in works for job in getattr(work, suite)()]
    there = measured_already(args.figures)
    unknown = set(args.only) - {name for name, _ in jobs}
    if unknown:
        sys.exit(f"--only {', '.join(sorted(unknown))}: no such figure in --suite {','.join(args.suites)}")
    jobs = [job for job in jobs if job[0] not in there and (not args.only or job[0] in args.only)]
    writing = threading.Lock()

    def one(job):
        name, commands = job
        with tempfile.TemporaryDirectory() as folder:
            figure, notes = measure(args, name, commands, pathlib.Path(folder))
        if figure is None:
            print(f"{name}: nothing measured\n{notes}", file=sys.stderr, flush=True)
            return False
        with writing, args.figures.open("a") as file:
            file.write(json.dumps(figure) + "\n")
        print(f"{name}: {figure['seconds']} s, exit {figure['exit']}", flush=True)
        return True

    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        return all(list(pool.map(one, jobs)))


def named(text):
    name, _, file = text.partition("=")
    return name, file


def main():
    arguments, rest = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--model", type=named, action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--retrained", type=named, action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--figures", type=pathlib.Path, default=HERE / "figures.jsonl")
    parser.add_argument("--suite", default=",".join(SUITES))
    parser.add_argument("--only", default="", help="names of figures, separated by commas")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args(arguments)
    args.rest, args.models, args.retrained = rest, dict(args.model), dict(args.retrained)
    args.suites = args.suite.split(",")
    args.digest = "sha256:" + hashlib.sha256(pathlib.Path(args.program).read_bytes()).hexdigest()
    args.only = [name for name in args.only.split(",") if name]
    sys.exit(0 if run(args) else 1)


if __name__ == "__main__":
    main()
