#!/usr/bin/env bash
# Runs the CUDA checks and benchmarks on a machine with an NVIDIA GPU, from what benches/cuda/pack.sh has packed:
#
#     benches/cuda/run.sh FOLDER [--model resnet18-cifar10.onnx --retain cifar10-train.npz]
#
# Needed there: a checkout of the same commit, python3 with PyTorch for CUDA 13 (whose packages bring the CUDA and cuDNN
# libraries) and what pytorch_unsir.py and networks.py in benches/compare ask for. No network, no cargo. Without --model
# the checks run, and the benchmarks of the networks that need no file.
set -euo pipefail
packed=$(cd "$1" && pwd)
shift
model= retain=
while [ $# -gt 0 ]; do
    case $1 in
    --model) model=$(realpath "$2") ;;
    --retain) retain=$(realpath "$2") ;;
    *) echo "$0: unknown argument $1" >&2 && exit 2 ;;
    esac
    shift 2
done
cd "$(dirname "$0")/../.."
here=$PWD
at=${UNPACKED:-$(mktemp -d)}
[ -d "$at/bin" ] || tar -C "$at" -xJf "$packed/programs.tar.xz"
[ -d "$at/runtime" ] || cat "$packed"/runtime.tar.xz.* | tar -C "$at" -xJf -
built_in=$(cat "$at/bin/built-in")
# The tests look for their fixtures where they were built.
[ -e "$built_in" ] || { mkdir -p "$(dirname "$built_in")" && ln -s "$here" "$built_in"; }
libraries=$(python3 -c 'import glob, os, sysconfig
print(":".join(sorted({os.path.dirname(f) for f in glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/**/*.so*", recursive=True)})))')
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export ORT_DYLIB_PATH=$(echo "$at"/runtime/libonnxruntime.so.*)

title() { printf '\n== %s\n' "$*"; }
title doctor
"$at/bin/onnx-unlearn" doctor --device cuda
title checks
(cd "$built_in" && "$at/bin/golden_step" --ignored)
nets=$(mktemp -d)
python3 benches/compare/networks.py --out "$nets" --only mobilenet-32,plain-32,vit-32,mlp-32 >"$nets/log" 2>&1 ||
    { cat "$nets/log" >&2 && exit 1; }
# Whole runs of a network, with these flags of compare.py.
compare() {
    local name=$1
    shift
    title "$name $*"
    python3 benches/compare/compare.py --program "$at/bin/onnx-unlearn" --python python3 --cuda --rounds 3 "$@"
}
if [ -n "$model" ]; then
    compare resnet18 --model "$model" --retain "$retain"
    compare resnet18 --model "$model" --retain "$retain" --tf32
    title profile of resnet18
    "$at/bin/unsir" --cuda --model "$model" --retain "$retain" --steps 10 --profile "$(mktemp -d)/profile"
    title steps of resnet18
    "$at/bin/unsir" --cuda --model "$model" --retain "$retain" --steps 20 --rounds 3 --python python3 --channels-last
fi
for name in mobilenet plain vit mlp; do
    compare "$name" --model "$nets/$name-32.onnx" --network "$name-32" --retain "$nets/images-32.npz" --per-class 64 \
        --noise-steps 40 --copies 4
done
