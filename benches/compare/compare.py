#!/usr/bin/env python3
"""Times whole runs: `onnx-unlearn forget` beside a PyTorch program that does the same work.

    python3 benches/compare/compare.py --program target/release/onnx-unlearn --python PYTHON \\
        --model resnet18-cifar10.onnx --retain train.npz

Both take turns, so that a busy machine slows both: ours, PyTorch channels-last with fused Adam, PyTorch as a notebook
would have it (contiguous images, default Adam). Same model file, retain sample, batch, optimizer, number of steps and
threads; learning rates are fixed, so nothing is searched for. A run counts from the start of the process to its end. Ours
also writes, checks and measures its result on the retain sample; PyTorch writes nothing. Prints medians, ratios and peak
memory. `--python` has what `pytorch_unsir.py` asks for; this script needs the standard library only, on Linux or macOS.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
MEAN, STD = ["0.4914", "0.4822", "0.4465"], ["0.2023", "0.1994", "0.2010"]


def run(command):
    """Seconds and peak memory in MB of a process, and what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        out.seek(0)
        err.seek(0)
        printed = out.read().decode()
        # 1 is a verdict: the rates here are not chosen to forget.
        if os.waitstatus_to_exitcode(status) not in (0, 1):
            sys.exit(f"{' '.join(map(str, command))}\n{err.read().decode()}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return seconds, usage.ru_maxrss / scale, printed


def ours(args, work):
    out = tempfile.mkdtemp(dir=work)
    command = [args.program, "forget", args.model, "--forget", str(args.forget), "--retain", args.retain,
               "--mean", ",".join(MEAN), "--std", ",".join(STD), "--threads", str(args.threads),
               "--batch-size", str(args.batch), "--per-class", str(args.per_class), "--targets", "labels",
               "--impair-lr", "1e-4", "--repair-lr", "1e-4", "--out", out, "--keep-failed", "--allow-unchecked", "--json"]
    return run(command)


def pytorch(args, best):
    command = [args.python, HERE / "pytorch_unsir.py", "--model", args.model, "--retain", args.retain,
               "--forget", str(args.forget), "--mean", *MEAN, "--std", *STD, "--threads", str(args.threads),
               "--batch", str(args.batch), "--per-class", str(args.per_class),
               "--impair-lr", "1e-4", "--repair-lr", "1e-4"]
    return run(command + (["--channels-last", "--adam", "fused"] if best else []))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="onnx-unlearn, built for release")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch")
    parser.add_argument("--model", required=True, help="ResNet18 as ONNX")
    parser.add_argument("--retain", required=True, help="npz with x uint8 [N,H,W,C] and y")
    parser.add_argument("--forget", type=int, default=0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    programs = {"onnx-unlearn": lambda w: ours(args, w), "PyTorch, best practice": lambda _: pytorch(args, True),
                "PyTorch, as a notebook": lambda _: pytorch(args, False)}
    found = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as work:
        for _ in range(args.rounds):
            for name, program in programs.items():
                found[name].append(program(work))
    print(f"{args.model}, batch {args.batch}, {args.threads} threads, {args.rounds} rounds")
    print(f"{'program':24} {'seconds':>8} {'ours / it':>10} {'peak MB':>8}")
    median = {name: statistics.median(r[0] for r in runs) for name, runs in found.items()}
    for name, runs in found.items():
        ratio = median["onnx-unlearn"] / median[name]
        print(f"{name:24} {median[name]:8.1f} {ratio:10.2f} {max(r[1] for r in runs):8.0f}")
    for name in list(programs)[1:]:
        phases = [json.loads(r[2].splitlines()[-1]) for r in found[name]]
        seconds = {p: statistics.median(f[p]["seconds"] for f in phases) for p in ("noise", "impair", "repair")}
        steps = {p: phases[0][p]["steps"] for p in seconds}
        print(f"{name}: " + ", ".join(f"{p} {seconds[p]:.1f} s in {steps[p]} steps" for p in seconds))


if __name__ == "__main__":
    main()
