#!/usr/bin/env python3
"""Times whole runs: `onnx-unlearn forget` beside a PyTorch program that does the same work.

    python3 benches/compare/compare.py --program target/release/onnx-unlearn --python PYTHON \\
        --model resnet18-cifar10.onnx --retain train.npz [--network NAME-SIZE]

All take turns, so that a busy machine slows all: ours, PyTorch channels-last with fused Adam, PyTorch as a notebook would
have it (contiguous images, default Adam, gradients of the weights while noise is learned). Same model file, retain sample,
batch, optimizer, number of steps and threads; learning rates are fixed, so nothing is searched for. All measure the retain
sample before, between and after; ours also writes its result and checks it in a second engine, PyTorch writes nothing. A
run counts from the start of the process to its end. Prints medians, ratios, peak memory, and what share of the speed of
PyTorch's products of matrices a step reaches, by PyTorch's count of its operations, padding included. `--python` has what
`pytorch_unsir.py` asks for; this script needs the standard library only, on Linux or macOS.

With `--autotune` it times the forms that `forget --autotune full` finds beside those that the rules choose, and no PyTorch; a
first run that is not timed finds them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
MEAN, STD = ["0.4914", "0.4822", "0.4465"], ["0.2023", "0.1994", "0.2010"]
PHASES = ["noise", "impair", "repair"]
TUNED = "autotune full"
OURS, BEST, NOTEBOOK = "onnx-unlearn", "PyTorch, best practice", "PyTorch, as a notebook"


def run(command):
    """Seconds and peak memory in MB of a process, and what it printed on stdout and stderr."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        out.seek(0)
        err.seek(0)
        printed, notes = out.read().decode(), err.read().decode()
        # 1 is a verdict: the rates here are not chosen to forget.
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            sys.exit(f"{' '.join(map(str, command))}\n{notes}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return seconds, usage.ru_maxrss / scale, printed, notes


def ours(args, work, *more):
    out = tempfile.mkdtemp(dir=work)
    command = [args.program, "forget", args.model, "--forget", str(args.forget), "--retain", args.retain,
               "--mean", ",".join(MEAN), "--std", ",".join(STD), "--threads", str(args.threads),
               "--batch-size", str(args.batch), "--per-class", str(args.per_class), "--targets", "labels",
               "--noise-images", str(args.batch), "--noise-steps", str(args.noise_steps),
               "--noise-samples", str(args.batch * args.copies),
               "--impair-lr", "1e-4", "--repair-lr", "1e-4", "--out", out, "--keep-failed", "--allow-unchecked", "--json",
               "--device", "cuda" if args.cuda else "cpu", *(["--tf32"] if args.tf32 else []), *more]
    seconds, peak, _, notes = run(command)
    told = re.findall(r"(noise|impair|repair): (\d+) steps in .*\(([\d.]+) ms a step\)", notes)
    return seconds, peak, {phase: (int(steps), float(ms) / 1000) for phase, steps, ms in told}


def script(args):
    network = ["--network", args.network] if args.network else []
    return [args.python, HERE / "pytorch_unsir.py", "--model", args.model, *network, "--retain", args.retain,
            "--forget", str(args.forget), "--mean", *MEAN, "--std", *STD, "--threads", str(args.threads),
            "--batch", str(args.batch), "--per-class", str(args.per_class),
            *(["--cuda"] if args.cuda else []), *(["--tf32"] if args.tf32 else [])]


def pytorch(args, best):
    command = [*script(args), "--noise-samples", str(args.batch), "--noise-steps", str(args.noise_steps),
               "--copies", str(args.copies), "--impair-lr", "1e-4", "--repair-lr", "1e-4", "--measure"]
    way = ["--channels-last", "--adam", "fused"] if best else ["--weight-gradients"]
    seconds, peak, printed, _ = run(command + way)
    told = json.loads(printed.splitlines()[-1])
    return seconds, peak, {p: (told[p]["steps"], told[p]["seconds"] / told[p]["steps"]) for p in PHASES}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="onnx-unlearn, built for release")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch")
    parser.add_argument("--model", required=True, help="a ResNet18 as ONNX, or what networks.py wrote")
    parser.add_argument("--network", help="NAME-SIZE of networks.py, where the model is one of these")
    parser.add_argument("--retain", required=True, help="npz with x uint8 [N,H,W,C] and y")
    parser.add_argument("--forget", type=int, default=0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--noise-steps", type=int, default=40)
    parser.add_argument("--copies", type=int, default=20, help="how often the noise of a batch enters the impair epoch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cuda", action="store_true", help="run all on the first GPU; peak memory is the host's all the same")
    parser.add_argument("--tf32", action="store_true", help="let the GPU round the factors of products to TF32")
    parser.add_argument("--autotune", action="store_true", help="compare with forms found by timing, not with PyTorch")
    args = parser.parse_args()
    tuned = {TUNED: lambda w: ours(args, w, "--autotune", "full")}
    pytorchs = {BEST: lambda _: pytorch(args, True), NOTEBOOK: lambda _: pytorch(args, False)}
    programs = {OURS: lambda w: ours(args, w), **(tuned if args.autotune else pytorchs)}
    found = {name: [] for name in programs}
    counted = None if args.autotune else json.loads(run([*script(args), "--count"])[2].splitlines()[-1])
    with tempfile.TemporaryDirectory() as work:
        if args.autotune:
            programs[TUNED](work)
        for _ in range(args.rounds):
            for name, program in programs.items():
                found[name].append(program(work))
    median = {name: statistics.median(r[0] for r in runs) for name, runs in found.items()}
    print(f"{Path(args.model).name}, batch {args.batch}, {args.threads} threads, {args.rounds} rounds"
          + (f"; {counted['peak']:.0f} GFLOP/s in products of matrices" if counted else ""))
    share = ", share of the GFLOP/s" if counted else ""
    print(f"{'':24} {'seconds':>8} {'ours / it':>10} {'peak MB':>8}   ms a step (images a second{share})")
    for name, runs in found.items():
        phases = []
        for phase in PHASES:
            step = statistics.median(r[2][phase][1] for r in runs)
            share = f", {100 * counted[phase] / step / counted['peak']:.0f} %" if counted else ""
            phases.append(f"{phase} {1000 * step:.0f} ({args.batch / step:.0f}{share})")
        ratio, peak = median[OURS] / median[name], max(r[1] for r in runs)
        print(f"{name:24} {median[name]:8.1f} {ratio:10.2f} {peak:8.0f}   {', '.join(phases)}")


if __name__ == "__main__":
    main()
