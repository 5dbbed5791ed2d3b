#!/usr/bin/env python3
"""Time and memory of `onnx-unlearn forget` as batch, sample, model, classes and image grow.

    python3 benches/compare/scale.py --program target/release/onnx-unlearn --nets FOLDER

FOLDER is what `networks.py` has written: mobilenet-32 and mobilenet-224 are needed, and huge-32 with `--huge`. `--only-large`
leaves out everything but what `--huge` and `--pictures` ask for.
One quantity changes at a time, with rates given and so without trials, and each row is one run: milliseconds of a training
step (impair), seconds and peak memory of the process. Below each group stands the straight line through its rows (least
squares), and how far the rows are from it at most. Needs the standard library only, on Linux or macOS.
"""

import argparse
import re
import struct
import tempfile
import zlib
from pathlib import Path
from random import Random

from compare import MEAN, STD, run


def forget(args, name, batch=256, per_class=64, classes="0", noise_steps=4, copies=2, flags=(), retain=None):
    """Milliseconds of a step of impair, seconds of the run, MB."""
    retain = retain or args.nets / f"images-{name.split('-')[1]}.npz"
    with tempfile.TemporaryDirectory() as out:
        command = [args.program, "forget", args.nets / f"{name}.onnx", "--forget", classes, "--retain", retain, "--mean", ",".join(MEAN),
                   "--std", ",".join(STD), "--threads", str(args.threads), "--batch-size", str(batch),
                   "--per-class", str(per_class), "--targets", "labels", "--noise-images", str(batch),
                   "--noise-steps", str(noise_steps), "--noise-samples", str(batch * copies), "--impair-lr", "1e-4",
                   "--repair-lr", "1e-4", "--device", "cpu", "--keep-failed", "--allow-unchecked", "--json", "--out", out,
                   *flags]
        seconds, peak, _, notes = run([str(part) for part in command])
    return float(re.search(r"impair: \d+ steps in .*\(([\d.]+) ms a step\)", notes)[1]), seconds, peak


def pictures(folder, count):
    """Writes so many PNG files of 32 x 32 random pixels into ten class folders."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
    random = Random(0)
    for i in range(count):
        rows = b"".join(b"\0" + random.randbytes(96) for _ in range(32))
        path = folder / str(i % 10) / f"{i:06}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(head + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


def line(points):
    """Slope and intercept of the least squares line, and the largest relative distance from it."""
    n = len(points)
    mx, my = (sum(p[i] for p in points) / n for i in (0, 1))
    slope = sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)
    return slope, my - slope * mx, max(abs(my + slope * (x - mx) - y) / y for x, y in points)


def group(title, unit, rows):
    """Prints measured rows, (quantity, result), and the lines through them."""
    print(f"{title}\n{unit:>24} {'ms a step':>10} {'seconds':>8} {'peak MB':>8}")
    for quantity, (step, seconds, peak) in rows:
        print(f"{quantity:>24} {step:10.0f} {seconds:8.1f} {peak:8.0f}")
    for i, what in ((0, "ms a step"), (2, "peak MB")):
        slope, start, off = line([(quantity, result[i]) for quantity, result in rows])
        print(f"  {what} = {start:.1f} + {slope:.4g} x {unit} (within {100 * off:.0f} %)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="onnx-unlearn, built for release")
    parser.add_argument("--nets", type=Path, required=True, help="what networks.py has written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--huge", action="store_true", help="also the model of a gigabyte (9 GB of memory)")
    parser.add_argument("--pictures", type=int, metavar="N", help="also a folder of N picture files, held out as well")
    parser.add_argument("--only-large", action="store_true")
    args = parser.parse_args()
    if not args.only_large:
        small(args)
    if args.pictures:
        with tempfile.TemporaryDirectory() as folder:
            pictures(Path(folder), args.pictures)
            step, seconds, peak = forget(args, "mobilenet-32", retain=folder, flags=["--eval", folder])
        print(f"a folder of {args.pictures} pictures, all held out and 64 a class retained: {step:.0f} ms a step, {seconds:.1f} s, "
              f"{peak:.0f} MB")
    if args.huge:
        step, seconds, peak = forget(args, "huge-32", 64, 16)
        size = (args.nets / "huge-32.onnx").stat().st_size / 1e6
        print(f"a model of {size:.0f} MB, batch 64: {step:.0f} ms a step, {seconds:.1f} s, {peak:.0f} MB")


def small(args):
    """Everything that fits on any machine."""
    batches = [32, 64, 128, 256]
    group("MobileNetV2, 32 x 32", "images in a batch", [(b, forget(args, "mobilenet-32", b)) for b in batches])
    group("MobileNetV2, 224 x 224", "images in a batch", [(b, forget(args, "mobilenet-224", b, 8)) for b in (8, 16, 32)])
    samples = [8, 16, 32, 64]
    group("MobileNetV2, 32 x 32, batch 64", "samples of each class",
          [(n, forget(args, "mobilenet-32", 64, n)) for n in samples])
    forgotten = ["0", "0,1", "0,1,2,3"]
    group("MobileNetV2, 32 x 32, batch 64", "classes to forget",
          [(len(c.split(",")), forget(args, "mobilenet-32", 64, classes=c)) for c in forgotten])
    print("MobileNetV2, 224 x 224, batch 32, --memory-limit")
    for limit in ("none", "2G", "1G", "500M"):
        flags = [] if limit == "none" else ["--memory-limit", limit]
        step, seconds, peak = forget(args, "mobilenet-224", 32, 8, flags=flags)
        print(f"{limit:>24} {step:10.0f} {seconds:8.1f} {peak:8.0f}")


if __name__ == "__main__":
    main()
