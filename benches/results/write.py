#!/usr/bin/env python3
"""Write docs/results.md from what `run.py` has measured.

    python3 benches/results/write.py

Reads `figures.jsonl` beside this file and nothing else (`--figures`, `--out` for others). A table whose figures were not
measured says so.
"""

import argparse
import json
import pathlib
import statistics

from run import COMPARED, DEPTHS, FIXED, HERE, SEEDS, SETS, SETTINGS, SUCCESSIVE, TAUGHT, key

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MODELS = ["folded", "bn", "vit"]  # the order of the page

HEAD = """# Results

Made by `python3 benches/results/write.py` from `benches/results/figures.jsonl`, what `benches/results/run.py` has measured; no
figure is put in by hand. The models are ResNet18 for CIFAR-10 with BatchNormalization folded into the convolutions
(*folded*) and kept (*bn*), and the vision transformer that `benches/train_vit.py` trains (*vit*). It was trained twice, which on a GPU
does not repeat bits: the tables of settings, of what is taught and the row *1e-4, source* are of the first training, all
others of the second. The retain sample is up to
1,000 training images a class, `--eval` the 10,000 test images, of which those that judge trials are not measured.
Models and images are not part of the repository: [the command](#commands) takes your own. One run a line; a difference of a
point is within chance. What a table lacks was not measured. Figures in [method.md](method.md) have their own commands
beside them.
"""

ELSEWHERE = """## Shown elsewhere

- The default command on a small Fashion-MNIST network: the [session of the README](../README.md#a-session), `onnx-unlearn demo`.
- Random weights, and a retain sample of one image a class, end in *fail* or *not assessed*, never in *pass*; a rate that changes
  nothing, and 1e-4 on that network, end in *fail*: the tests of `tests/cli/forget/calibration.rs`.
"""

COMMANDS = """## Commands

```sh
python3 benches/train_vit.py --train cifar10-train.npz --test cifar10-test.npz --out vit.onnx
python3 benches/results/run.py --program target/release/onnx-unlearn \\
    --train cifar10-train.npz --test cifar10-test.npz \\
    --model folded=resnet18.onnx --model bn=resnet18-bn.onnx --model vit=vit.onnx \\
    --retrained folded=resnet18-without-airplane.onnx --retrained bn=resnet18-without-airplane.onnx
python3 benches/results/write.py
```

`--suite` names parts of the work, `--only` single figures; what is in the file already is not measured again.
"""

NOTES = {
    "singles": "`forget` with `--eval`, seed 0, nothing set by hand.",
    "blind": "`forget` without `--eval`: no sample of the class is read. Accuracies are measured afterwards by `evaluate` on all "
    "test images; the verdict of such a run is *not assessed*.",
    "seeds": "The same as the first table with other seeds.",
    "sets": "The class sets of the paper. All classes share one budget of noise samples.",
    "trials": "Training steps of all trials of a run, divided by the steps of a run with given rates (noise, impair, repair). Where "
    "held-out samples judge, the trial that is taken is the result, so that its steps are none on top. Measuring, which each "
    "run does as well, is not counted.",
    "successive": "One request after the other, each on the model that the one before left: airplane, automobile, truck. Shown is "
    "the model after the last beside the model before the first; the highest accuracy is that of any of the three.",
    "reference": "`--variant reference`, its own learning rates. It is the notebook's procedure, not the paper's result.",
    "fixed": "`--impair-lr 1e-4 --repair-lr 1e-4`: with the other settings of bad-teaching-unlearning (labels, 500 samples a class, 240 noise "
    "samples learned in 250 steps), with labels alone (`--targets labels`), and with the source model's answers, the default.",
    "depth": "`forget --forget airplane --depth ..`, then `audit` with a model that was trained without airplanes: recall of "
    "airplane by a linear probe on the penultimate layer, accuracy of that probe on the other classes, and mini-batches until "
    "the class is relearned (learning rate 0.001; folded: 0.0001, because the larger one throws that network itself off).",
    "audit": "`forget --forget airplane --impair-lr 5e-4 --repair-lr 2.5e-4 --targets labels`, then all of `audit` with a model that "
    "was trained without airplanes; [what the figures are](method.md#what-the-audit-measures).",
    "targets": "At the same rate, `--targets labels` and `--targets source`, the default.",
    "times": "Wall time of the whole command in seconds, trials included.",
    "settings": "Airplane at the rate that the trials find for it, and beside the defaults one setting each.",
    "compare": "`compare --forget airplane`: the same number of steps and the same rates, three seeds.",
}

COLUMNS = "model | classes | forgotten, % | retained, % | fall, points | rates | trials | verdict"


class Run:
    """One run as the page shows it."""

    def __init__(self, figure):
        self.figure = figure
        self.before, self.after = (self.accuracies(side) for side in (0, 1))
        self.fall = self.before[1] - self.after[1]
        self.steps = figure["steps"]["impair"] + figure["steps"]["repair"]

    def accuracies(self, side):
        """In percent: the highest of a forgotten class, and that of all retained ones together."""
        classes, forget = self.figure["classes"], self.figure["forget"]
        kept = [c for i, c in enumerate(classes) if i not in forget]
        highest = max(100 * classes[i][side] / classes[i][2] for i in forget)
        return highest, 100 * sum(c[side] for c in kept) / sum(c[2] for c in kept)

    def cells(self):
        (f0, r0), (f1, r1), of = self.before, self.after, self.figure
        rates = ", ".join(f"{rate:.1e}" for rate in of["rates"])
        rates = f"{self.fall:+.2f} | {rates} | {len(of['trials'])} | {of['verdict']}"
        return f"{f0:.2f} to {f1:.2f} | {r0:.2f} to {r1:.2f} | {rates}"


def names(classes):
    return ", ".join(CLASSES[c] for c in classes)


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def header(columns):
    return [row(columns), "|" + "---|" * len(columns.split(" | "))]


class Page:
    """The sections of the page, each a list of lines."""

    def __init__(self, figures):
        self.figures = figures
        models = {name.split(".")[0] for name in figures}
        self.models = [m for m in MODELS if m in models] + sorted(models - set(MODELS))

    def conditions(self):
        seen = {}
        for figure in self.figures.values():
            if "runtime" in figure:
                program = figure.get("program", "not noted")[:19]
                where = (*figure["runtime"], figure["at_once"], program)
                seen[where] = seen.get(where, 0) + 1
        line = "- {} on {}, {} threads a process, {} processes at once, program {}: {} runs"
        return ["Measured with:\n", *(line.format(*where, n) for where, n in seen.items())]

    def runs(self, wanted):
        """(model, label, run) for each model and each of the (label, suffix) that was measured."""
        keys = [(m, label, f"{m}.{suffix}") for m in self.models for label, suffix in wanted]
        return [(m, label, Run(self.figures[name])) for m, label, name in keys if name in self.figures]

    def table(self, wanted, summed=True):
        """The runs, a line each; `summed` where a mean over them says something."""
        runs = self.runs(wanted)
        if not runs:
            return ["Not measured."]
        lines = [*header(COLUMNS), *(row(m, label, run.cells()) for m, label, run in runs)]
        return [*lines, *(self.summary(runs) if summed else []), *self.missing(wanted)]

    def missing(self, wanted):
        """What a table lacks of models that it has."""
        there = {(m, label) for m, label, _ in self.runs(wanted)}
        models = [m for m in self.models if any(m == of for of, _ in there)]
        lacking = [f"{m}: {label}" for m in models for label, _ in wanted if (m, label) not in there]
        return [f"\nNot measured: {'; '.join(lacking)}."] if lacking else []

    def summary(self, runs):
        """A line for each model with several runs."""
        lines = []
        for m in self.models:
            of = [run for model, _, run in runs if model == m]
            if len(of) > 1:
                forgotten, falls = [run.after[0] for run in of], [run.fall for run in of]
                passed = sum(run.figure["verdict"] == "pass" for run in of)
                met = sum(a <= 1 and fall <= 2 for a, fall in zip(forgotten, falls))
                assessed = any(run.figure["verdict"] != "not assessed" for run in of)
                verdicts = f"{passed} pass" if assessed else f"{met} would pass"
                lines.append(
                    f"\n{m}, {len(of)} runs: forgotten {statistics.mean(forgotten):.2f} % on average, at most "
                    f"{max(forgotten):.2f} %; fall {statistics.mean(falls):+.2f} points on average, at most {max(falls):+.2f}; {verdicts}."
                )
        return lines

    def sets(self):
        one = ("airplane", "single.0.seed0")
        wanted = [one, *((names(c), f"set.{key(c)}") for c in SETS[1:])]
        line = "- {}, {}: {} steps of noise, {} of impair and repair"
        steps = [line.format(m, classes, run.figure["steps"]["noise"], run.steps) for m, classes, run in self.runs(wanted)]
        return [*self.table(wanted, summed=False), "", *steps]

    def reference(self):
        return self.table([(names(c), f"reference.{key(c)}") for c in [*SETS, [0, 2]]], summed=False)

    def depth(self):
        wanted = [(f"{depth}, seed {seed}", f"depth.{depth}.seed{seed}") for depth in DEPTHS for seed in SEEDS]
        runs = [r for r in self.runs(wanted) if "audit" in r[2].figure]
        if not runs:
            return ["Not measured."]
        lines = header("model | depth | forgotten, % | fall, points | impair rate | probe of airplane | probe, others | relearn | trials")
        for m in self.models:
            of = [(label, run) for model, label, run in runs if model == m]
            for role in ("before", "retrained") if of else ():
                lines.append(row(m, role, "", "", "", *audited(of[0][1], role), ""))
            for label, run in of:
                shown = (f"{run.after[0]:.2f}", f"{run.fall:+.2f}", f"{run.figure['rates'][0]:.1e}")
                lines.append(row(m, label, *shown, *audited(run, "after"), len(run.figure["trials"])))
        return lines

    def audit(self):
        """Every figure of an audit: those of one model side by side, then those between two."""
        lines, roles = [], ("before", "after", "retrained")
        for m, _, run in self.runs([("airplane", "audit.0")]):
            figures = run.figure["audit"]
            lines += [f"\n{m}: airplane {run.after[0]:.2f} %, fall of the others {run.fall:+.2f} points.\n"]
            lines += [f"Airplanes, {role}: {routed(to)}.\n" for role, to in zip(roles, run.figure["routing"])]
            lines += header("measure | figure | before | after | retrained")
            of = {(f[0], f[1], f[2]): shown(*f[3:]) for f in figures}
            alone = dict.fromkeys(f[:2] for f in map(tuple, figures) if f[2] in roles)
            lines += [row(*kind, *(of.get((*kind, role), "") for role in roles)) for kind in alone]
            lines += ["", *header("measure | figure | between | value")]
            lines += [row(*which, value) for which, value in of.items() if which[2] not in roles]
        return lines or ["Not measured."]

    def times(self):
        of = {}
        for name, figure in self.figures.items():
            if ".single." in name:
                program = figure.get("program", "not noted")[:19]
                kept = (name.split(".")[0], figure["at_once"], figure["runtime"][2], len(figure["trials"]), program)
                of.setdefault(kept, []).append(figure["seconds"])
        lines = header("model | processes at once | threads each | trials | program | runs with one class | fastest | median")
        shown = [row(*kept, len(s), f"{min(s):.0f}", f"{statistics.median(s):.0f}") for kept, s in sorted(of.items())]
        return [*lines, *shown] if shown else ["Not measured."]

    def trials(self):
        """Steps of all impairs and repairs of the trials, over the steps of one run."""
        lines = header("runs | how many | median | most | within 4 times")
        for title, suites in [("with held-out samples of the class", ("single", "set")), ("without", ("blind",))]:
            costs = []
            for name, figure in self.figures.items():
                rates = [(trial[0], trial[1]) for trial in figure.get("trials", ()) if trial[0]]
                if name.split(".")[1] in suites and rates:
                    steps = figure["steps"]
                    trained = len({impair for impair, _ in rates}) * steps["impair"] + len(rates) * steps["repair"]
                    costs.append(trained / sum(steps.values()))
            if costs:
                within = sum(cost <= 4 for cost in costs)
                lines.append(row(title, len(costs), f"{statistics.median(costs):.2f}", f"{max(costs):.2f}", within))
        return lines

    def compare(self):
        of = [(m, self.figures.get(f"{m}.compare.{COMPARED}")) for m in self.models]
        lines = header("model | method | forgotten, % | retained, % | steps")
        for m, figure in of:
            for method in figure["methods"] if figure else ():
                shown = [spread([100 * run[side] for run in method["runs"] if run[side] is not None]) for side in (0, 1)]
                lines.append(row(m, method["method"], *shown, method["steps"]))
        return lines if any(figure for _, figure in of) else ["Not measured."]

    def text(self):
        singles = [(name, f"single.{c}.seed0") for c, name in enumerate(CLASSES)]
        blind = [(name, f"blind.{c}") for c, name in enumerate(CLASSES)]
        seeds = [(f"{name}, seed {s}", f"single.{c}.seed{s}") for c, name in enumerate(CLASSES) for s in SEEDS[1:]]
        targets = [(f"{CLASSES[c]}, {t}", f"targets.{c}.{t}") for c, t in TAUGHT]
        settings = [(name, f"setting.{COMPARED}.{name}") for name in SETTINGS]
        sections = [
            ("Each class alone", "singles", self.table(singles)),
            ("Without any sample of the class", "blind", self.table(blind)),
            ("Further seeds", "seeds", self.table(seeds)),
            ("Several classes", "sets", self.sets()),
            ("One class after the other", "successive", self.table([(names(SUCCESSIVE), "successive")])),
            ("The published notebook's procedure", "reference", self.reference()),
            ("A learning rate that others use", "fixed", self.table([(f"airplane, {t}", f"fixed.0.1e-4.{t}") for t in FIXED], False)),
            ("Depth", "depth", self.depth()),
            ("What an audit finds", "audit", self.audit()),
            ("What the retain samples teach", "targets", self.table(targets, False)),
            ("One setting changed", "settings", self.table(settings, False)),
            ("Beside other methods", "compare", self.compare()),
            ("Cost of the trials", "trials", self.trials()),
            ("Run times", "times", self.times()),
        ]
        parts = [HEAD, "\n".join([*self.conditions(), ""])]
        parts += ["\n".join([f"## {title}\n", f"{NOTES[note]}\n", *lines, ""]) for title, note, lines in sections]
        return "\n".join([*parts, ELSEWHERE, COMMANDS])


def audited(run, role):
    """What the audit says of a model: the probe of the class, of the others, and mini-batches to relearn."""
    wanted = [("probe", "recall of"), ("probe", "accuracy on"), ("relearn", "")]
    return [cell(run.figure["audit"], measure, start, role) for measure, start in wanted]


def cell(audit, measure, start, role):
    for name, figure, of, value, unit, bound in audit:
        if (name, of) == (measure, role) and figure.startswith(start):
            return shown(value, unit, bound)
    return "-"


def routed(to):
    return ", ".join(f"{CLASSES[c]} {100 * share:.1f} %" for c, share in to)


def shown(value, unit, bound):
    if value is None:
        return "-"
    number = {"share": f"{100 * value:.1f} %", "flag": "yes" if value else "no"}.get(unit, f"{value:.4g}")
    return {"above": "> ", "below": "< "}.get(bound, "") + number


def spread(values):
    if not values:
        return "no number"
    deviation = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=pathlib.Path, default=HERE / "figures.jsonl")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent.parent / "docs" / "results.md")
    args = parser.parse_args()
    figures = [json.loads(line) for line in args.figures.read_text().splitlines()]
    args.out.write_text(Page({f["name"]: f for f in figures}).text())


if __name__ == "__main__":
    main()
