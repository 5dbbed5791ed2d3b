#!/usr/bin/env bash
# Packs what a GPU machine without network needs to run the CUDA checks and benchmarks of this checkout:
#
#     benches/cuda/pack.sh FOLDER [SIZE]
#
# builds the programs, fetches the GPU build of the ONNX Runtime that is needed at least, and writes it all into FOLDER: the programs, and the
# runtime in pieces of SIZE (as split -b has it; default 50M), for machines that take files in small portions only.
# benches/cuda/run.sh does the rest over there. Needed here: cargo, pip, strip, unzip, xz.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
size=${2:-50M}
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Where cargo put the program of a test or benchmark, from its messages.
built() {
    cargo build --release --locked "$@" --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}
mkdir "$work/bin"
cp "$(built --test golden_step)" "$work/bin/golden_step"
cp "$(built --bench unsir)" "$work/bin/unsir"
cp "$(built --bin onnx-unlearn)" "$work/bin/onnx-unlearn"
strip "$work"/bin/*
echo "$PWD" >"$work/bin/built-in"
tar -C "$work" -cf - bin | xz -T0 >"$out/programs.tar.xz"

version=$(sed -n 's/^pub const MINIMUM: .* = (\([0-9]*\), \([0-9]*\), \([0-9]*\));/\1.\2.\3/p' src/runtime/probe.rs)
python3 -m pip download -q --no-deps --only-binary=:all: -d "$work" "onnxruntime-gpu==$version"
unzip -q -d "$work" "$work"/onnxruntime_gpu-*.whl 'onnxruntime/capi/libonnxruntime*' -x '*tensorrt*'
mkdir "$work/runtime"
mv "$work"/onnxruntime/capi/lib* "$work/runtime/"
rm -f "$out"/runtime.tar.xz.*
tar -C "$work" -cf - runtime | xz -T0 -3 | split -b "$size" - "$out/runtime.tar.xz."
ls -l "$out"
