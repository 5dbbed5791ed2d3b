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
MODELS = ["folded", "bn", "vit"]  # the order of the page; others follow
SEEDS = [0, 1, 2]
DEPTHS = ["shallow", "standard", "deep"]
# Adam's first step of 0.001 throws a network without BatchNormalization off; see docs/method.md on relearn time.
RELEARN_RATES = {"folded": "0.0001"}
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
TAUGHT = [(c, targets) for c in (0, 3, 8, 9) for targets in ("labels", "source")]


def key(classes):
    return "-".join(map(str, classes))


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
        return [self.forget(f"set.{key(classes)}", classes) for classes in SETS]

    def reference(self):
        """The published notebook's procedure, on the paper's class sets and on the notebook's own."""
        flags = ["--variant", "reference"]
        return [self.forget(f"reference.{key(classes)}", classes, flags) for classes in [*SETS, [0, 2]]]

    def fixed(self):
        """The learning rate of other toolkits."""
        return [self.forget("fixed.0.1e-4", [0], ["--impair-lr", "1e-4", "--repair-lr", "1e-4"])]

    def targets(self):
        """Labels beside the source model's answers, at the same rate."""
        return [self.forget(f"targets.{c}.{t}", [c], ["--impair-lr", "3e-4", "--targets", t]) for c, t in TAUGHT]

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


SUITES = ["singles", "blind", "sets", "reference", "fixed", "depth", "targets", "settings", "compare", "seeds"]


def jobs(args):
    """All that was asked for, the suites in their order."""
    works = [Work(args, name) for name in args.models]
    return [job for suite in args.suites for work in works for job in getattr(work, suite)()]


def printed_by(command):
    """The JSON that a command prints; None where it prints none."""
    try:
        return json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    except json.JSONDecodeError:
        return None


def run_one(args, name, command, blind):
    target, of = args.work / f"{name}.json", name.split(".")[0]
    source, retrained = args.models[of], args.retrained.get(of)
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
        kept = {"seconds": seconds, "at_once": args.jobs, "exit": done.returncode, "printed": printed, "notes": done.stderr}
        kept["command"] = [c for c in command if c not in (str(out), "--out")]
        model = out / "model.onnx"
        if blind:
            measure = [args.program, "evaluate", source, str(model), "--data", args.test, *PREPROCESS, "--json", *args.rest]
            measured = printed_by(measure)
            if measured is None:
                return f"{name}: exit {done.returncode}, and nothing could be measured afterwards"
            kept["afterwards"] = measured
        if ".depth." in name and retrained:
            audit = [args.program, "audit", source, str(model), "--retrained", retrained, "--forget", "0"]
            audit += ["--relearn-lr", RELEARN_RATES.get(of, "0.001")]
            audit += ["--train-data", args.train, "--data", args.test, *PREPROCESS, "--json", *args.rest]
            audit += ["--only", "probe,relearn"]
            audited = printed_by(audit)
            if audited is not None:
                kept["audit"] = audited
        target.write_text(json.dumps(kept))
        return f"{name}: {seconds:.1f} s, exit {kept['exit']}"


def run(args):
    args.work.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        listed = [job for job in jobs(args) if not args.only or job[0] in args.only]
        for line in pool.map(lambda job: run_one(args, *job), listed):
            print(line, flush=True)


class Figures:
    """What `run` has kept of one figure, as the page shows it."""

    def __init__(self, path):
        self.kept = json.loads(path.read_text())
        printed = self.kept["printed"]
        self.seconds, self.report = self.kept["seconds"], printed.get("report")
        if self.report is None:
            return
        recipe = self.report["parameters"]["recipe"]
        self.forget, self.rate = recipe["forget"], recipe["impair"]["lr"]
        self.trials = len((self.report.get("calibration") or {"trials": []})["trials"])
        self.steps = sum(p["steps"] for p in self.report["phases"] if p["phase"] != "noise")
        self.noise_steps = sum(p["steps"] for p in self.report["phases"] if p["phase"] == "noise")
        self.verdict = self.report["verdict"]["outcome"].replace("_", " ")
        measured = self.report["measured"]
        sides = [measured["before"]["classes"], measured["after_repair"]["classes"]]
        if "afterwards" in self.kept:
            rows = [m["classes"] for m in self.kept["afterwards"]["models"]]
            sides = [[{"total": c["samples"], "correct": c["correct"]} for c in side] for side in rows]
        self.before, self.after = (self.accuracies(side) for side in sides)
        self.drop = self.before[1] - self.after[1]

    def accuracies(self, classes):
        """In percent: the highest of a forgotten class, and that of all retained ones together."""
        of = [(c["correct"], c["total"]) for i, c in enumerate(classes) if i not in self.forget]
        highest = max(100 * classes[i]["correct"] / classes[i]["total"] for i in self.forget)
        return highest, 100 * sum(c for c, _ in of) / sum(t for _, t in of)

    def cells(self):
        (f0, r0), (f1, r1) = self.before, self.after
        return f"{f0:.2f} to {f1:.2f} | {r0:.2f} to {r1:.2f} | {self.drop:+.2f} | {self.rate:.1e} | {self.trials}"


COLUMNS = "forgotten, % | retained, % | fall, points | impair rate | trials"


def page(args):
    """Writes the page; a table whose figures were not measured says so."""
    found = {path.stem: Figures(path) for path in sorted(args.work.glob("*.json"))}
    models = sorted({name.split(".")[0] for name in found}, key=lambda m: (MODELS.index(m) if m in MODELS else len(MODELS), m))
    text = [HEAD, conditions(found)]

    def table(title, note, rows):
        """`rows` are (label, suffix); a line for each model that has it."""
        wanted = [(m, label, f"{m}.{suffix}") for m in models for label, suffix in rows]
        lines = [(m, label, found[name]) for m, label, name in wanted if name in found]
        text.append(f"## {title}\n\n{note}\n")
        if not lines:
            text.append("Not measured.\n")
            return []
        text.append(f"| model | {COLUMNS.replace('forgotten', 'classes | forgotten', 1)} | verdict |")
        text.append("|---|---|---|---|---|---|---|---|")
        text.extend(f"| {m} | {label} | {f.cells()} | {f.verdict} |" for m, label, f in lines)
        for m in models:
            of = [f for n, _, f in lines if n == m]
            if len(of) > 1:
                mean = [statistics.mean(v) for v in ([f.after[0] for f in of], [f.drop for f in of])]
                worst = [max(v) for v in ([f.after[0] for f in of], [f.drop for f in of])]
                passed = sum(f.verdict == "pass" for f in of)
                text.append(
                    f"\n{m}, {len(of)} runs: forgotten {mean[0]:.2f} % on average, at most {worst[0]:.2f} %; fall "
                    f"{mean[1]:.2f} points on average, at most {worst[1]:.2f}; {passed} pass."
                )
        text.append("")
        return lines

    table("Each class alone", NOTES["singles"], [(CLASSES[c], f"single.{c}.seed0") for c in range(10)])
    table("Without any sample of the class", NOTES["blind"], [(CLASSES[c], f"blind.{c}") for c in range(10)])
    further = [(f"{CLASSES[c]}, seed {s}", f"single.{c}.seed{s}") for c in range(10) for s in SEEDS[1:]]
    table("Further seeds", NOTES["seeds"], further)
    label = lambda classes: ", ".join(CLASSES[c] for c in classes)
    sets = table("Several classes", NOTES["sets"], [(label(c), f"set.{key(c)}") for c in SETS])
    for m, classes, f in sets:
        text.append(f"- {m}, {classes}: {f.noise_steps} steps of noise, {f.steps} of impair and repair")
    text.append("")
    published = [(label(c), f"reference.{key(c)}") for c in [*SETS, [0, 2]]]
    table("The published notebook's procedure", NOTES["reference"], published)
    table("A learning rate that others use", NOTES["fixed"], [("airplane", "fixed.0.1e-4")])
    text.append(depths(found, models))
    taught = [(f"{CLASSES[c]}, {t}", f"targets.{c}.{t}") for c, t in TAUGHT]
    table("What the retain samples teach", NOTES["targets"], taught)
    text.append(times(found, models))
    settings = [(f"{CLASSES[c]}, {name}", f"setting.{c}.{name}") for c in SETTING_CLASSES for name in SETTINGS]
    table("One setting changed", NOTES["settings"], settings)
    text.append(compared(found, models))
    text.append(COMMANDS)
    args.out.write_text("\n".join(text).rstrip() + "\n")


HEAD = """# Results

Made by `python3 benches/results.py write` from what `benches/results.py run` has measured; no figure is put in by hand.
The models are ResNet18 for CIFAR-10 with BatchNormalization folded into the convolutions (*folded*) and kept (*bn*), and
the vision transformer that `benches/train_vit.py` trains (*vit*). The retain sample is up to 1,000 training images a class,
`--eval` the 10,000 test images, of which 8,000 are measured where a fifth judges trials. Models and images are not part of
the repository: [the command](#commands) takes your own. One run a line; a difference of a point is within chance.
What a table lacks was not measured. Figures in [method.md](method.md) have their own commands beside them.
"""

COMMANDS = """## Commands

```sh
python3 benches/train_vit.py --train cifar10-train.npz --test cifar10-test.npz --out vit.onnx
python3 benches/results.py run --program target/release/onnx-unlearn --work DIR \\
    --train cifar10-train.npz --test cifar10-test.npz \\
    --model folded=resnet18.onnx --model bn=resnet18-bn.onnx --model vit=vit.onnx \\
    --retrained folded=resnet18-without-airplane.onnx --retrained bn=resnet18-without-airplane.onnx
python3 benches/results.py write --work DIR --out docs/results.md
```

`--suite` names parts of the work, `--only` single figures; what is there already is not measured again.
"""

NOTES = {
    "singles": "`forget` with `--eval`, seed 0, nothing set by hand.",
    "blind": "`forget` without `--eval`: no sample of the class is read. Accuracies are measured afterwards by `evaluate` on all "
    "test images; the verdict of such a run is *not assessed*.",
    "seeds": "The same as the first table with other seeds.",
    "sets": "The class sets of the paper. All classes share one budget of noise samples.",
    "reference": "`--variant reference`, its own learning rates. It is the notebook's procedure, not the paper's result.",
    "fixed": "`--impair-lr 1e-4 --repair-lr 1e-4`.",
    "targets": "`--impair-lr 3e-4` with `--targets labels` and with `--targets source`, the default.",
    "settings": "Beside the defaults one setting each; rates are found by trials every time.",
}


def conditions(found):
    seen = {}
    for name, f in found.items():
        if f.report:
            runtime = f.report["runtime"]
            where = (runtime["backend"], runtime["device"], runtime["threads"])
            seen.setdefault(where, []).append(name)
    lines = [f"- {backend} on {device}, {threads} threads: {len(names)} figures" for (backend, device, threads), names in seen.items()]
    return "\n".join(["Measured with:\n", *lines, ""])


def depths(found, models):
    """The three depths beside the retrained model."""
    lines = []
    shown = [("probe", "recall of", "probe"), ("probe", "accuracy on", "probe, others"), ("relearn", "", "relearn")]
    for m in models:
        for depth in DEPTHS:
            runs = [found[f"{m}.depth.{depth}.seed{s}"] for s in SEEDS if f"{m}.depth.{depth}.seed{s}" in found]
            lines.extend((m, depth, f) for f in runs if "audit" in f.kept)
    text = ["## Depth\n", NOTE_DEPTH]
    if not lines:
        return "\n".join([*text, "Not measured.\n"])
    text += ["| model | depth | seed | forgotten, % | retained: fall | probe of airplane | probe, others | relearn | seconds |", "|" + "---|" * 9]
    audit = lambda f, of: [cell(f, measure, start, of) for measure, start, _ in shown]
    for m in models:
        of = [(d, f) for n, d, f in lines if n == m]
        for role in ("before", "retrained") if of else ():
            text.append(f"| {m} | {role} | | | | {' | '.join(audit(of[0][1], role))} | |")
        for depth, f in of:
            seed = f.report["parameters"]["recipe"]["seed"]
            cells = " | ".join(audit(f, "after"))
            text.append(f"| {m} | {depth} | {seed} | {f.after[0]:.2f} | {f.drop:+.2f} | {cells} | {f.seconds:.0f} |")
    return "\n".join([*text, ""])


NOTE_DEPTH = """`forget --forget airplane --depth ..`, then `audit` with a model that was trained without airplanes: recall of airplane by a linear
probe on the penultimate layer, accuracy of that probe on the other classes, and mini-batches until the class is relearned
(learning rate 0.001; folded: 0.0001, because the larger one throws that network itself off).
"""


def cell(f, measure, start, of):
    for m in f.kept["audit"].get("measures", []):
        for figure in m.get("figures") or []:
            if m["name"] == measure and figure["of"] == of and figure["figure"].startswith(start):
                value, bound = figure["value"], figure.get("bound")
                shown = f"{100 * value:.1f} %" if figure["unit"] == "share" else f"{value:g}"
                return ("> " if bound == "above" else "") + shown
    return "-"


def times(found, models):
    rows = ["## Run times\n", "Wall time of the whole command in seconds, trials included.\n"]
    rows += ["| model | processes at once | runs with one class | fastest | median |", "|---|---|---|---|---|"]
    for m in models:
        of = {}
        for name, f in found.items():
            if name.startswith(f"{m}.single."):
                of.setdefault(f.kept.get("at_once", 1), []).append(f.seconds)
        for at_once, seconds in sorted(of.items()):
            rows.append(f"| {m} | {at_once} | {len(seconds)} | {min(seconds):.0f} | {statistics.median(seconds):.0f} |")
    return "\n".join([*rows, ""])


def compared(found, models):
    rows = ["## Beside other methods\n", "`compare`: the same number of steps and the same rates, three seeds.\n"]
    seen = [(m, c, found[f"{m}.compare.{c}"]) for m in models for c in SETTING_CLASSES if f"{m}.compare.{c}" in found]
    if not seen:
        return "\n".join([*rows, "Not measured.\n"])
    rows += ["| model | class | method | forgotten, % | retained, % | steps |", "|---|---|---|---|---|---|"]
    for m, c, f in seen:
        for method in f.kept["printed"]["methods"]:
            runs = [run for run in method["runs"] if run]
            shown = [spread([100 * run[k] for run in runs if run[k] is not None]) for k in ("forget", "retain")]
            rows.append(f"| {m} | {CLASSES[c]} | {method['method']} | {shown[0]} | {shown[1]} | {method['steps']} |")
    return "\n".join([*rows, ""])


def spread(values):
    if not values:
        return "no number"
    deviation = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


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
        page(args)
        return
    args.rest, args.models, args.retrained = rest, dict(args.model), dict(args.retrained)
    args.suites = args.suite.split(",")
    args.only = [name for name in args.only.split(",") if name]
    run(args)


if __name__ == "__main__":
    main()
