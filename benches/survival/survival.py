#!/usr/bin/env python3
"""Put stamped models through the tools that rewrite ONNX files, and write down what is left of digests and stamp.

    pip install -r benches/survival/requirements.txt
    python3 benches/survival/survival.py --program target/release/onnx-unlearn --model NAME=FILE ... [--write docs/survival.md]

Each FILE is a stamped model that `verify` accepts, such as one written by `onnx-unlearn forget`; it is read, never written.
Every operation below makes a changed file in a temporary folder, in a process of its own, and the program's `digest` and
`verify` say what became of it. The page goes to stdout or to `--write`. An operation that fails, or whose package is
missing, is a row that says so. Exit code 0 when the page was written, whatever stands in it.
"""

import argparse
import collections
import concurrent.futures
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

PACKAGES = ["onnx", "onnxruntime", "onnxsim", "onnxscript", "onnx-ir", "numpy", "protobuf"]
STAMP = "dev.onnx-unlearn."
LATER_OPSET = 21

PAGE = """# What survives of digests and stamp

Made by `benches/survival/survival.py`; no outcome is put in by hand. Stamped models go through the tools that rewrite ONNX files.
Each changed file is then asked for its digests (`onnx-unlearn digest`) and whether it still is what its stamp says
(`onnx-unlearn verify`). [stamp-format.md](stamp-format.md) specifies both.

| column | what it says |
|---|---|
| file | the SHA-256 of the model file is the *same* as before or *differs*; external data files are not in it |
| weights, graph | likewise the digests of all constant tensors, and of inputs, outputs, nodes, attributes and operator set versions |
| stamp | *kept*: both metadata entries are there as they were; *lost*: neither is; else *damaged* |
| verify | the answer to the changed file alone, and the reason when it is not *yes* |
| what changed | where a digest differs, what all models of the row have in common: more (+) or fewer (-) nodes of a type, and other finds |

## How to read it

- Equal digests mean the same parameter bytes and the same declared graph. They do not mean the same behaviour; nor do other
  digests mean another: a fused graph computes the same function up to rounding, and verify says *no* to it.
- An optimised, converted or quantised copy is a new artifact. Verify says *no* to it unless the tool found nothing to do, though
  the stamp, which tells of the model from before, is mostly kept. To vouch for a copy, keep the stamped model and say how the copy
  was made.
- *yes* means that nothing which the digests cover has changed since stamping. It does not say who wrote the stamp.
- Documentation, names of nodes, `value_info`, other metadata and the storage form of tensors are in no digest: a tool may drop or
  add them and the answer stays *yes*.

## Models

{models}

Stamped by {tools}, according to the stamps, and accepted by verify. How well they forget does not matter here.

## Matrix

*all* stands for the {count} models; where they differ, each outcome has a row.

{matrix}

The last two rows are controls: a change of one bit and a lost stamp are noticed.

## Operations

{operations}

## Versions and command

{versions}

```sh
pip install -r benches/survival/requirements.txt
{command}
```

A stamped model is what `onnx-unlearn forget` writes. For the models in `fixtures/models` (`--allow-unchecked` for one that
tract cannot load):

```sh
onnx-unlearn forget fixtures/models/fashion-mnist.onnx --forget 1 --retain fixtures/data/fashion-mnist-retain.npz \\
    --eval fixtures/data/fashion-mnist-eval.npz --mean 0.2860 --std 0.3530 --impair-lr 8e-4 --keep-failed --out fashion-mnist
```
"""

OPERATIONS = {}


def operation(name, what):
    """Registers a function that reads the model at `source` and writes the changed one to `made`."""
    def register(make):
        OPERATIONS[name] = make, what
        return make
    return register


def rewriting(name, what):
    """The same for a function from a loaded model, external data read in, to the changed one."""
    def register(change):
        def make(source, made):
            import onnx
            onnx.save(change(onnx.load(source)), made)
        return operation(name, what)(make)
    return register


@rewriting("onnx load, save", "`onnx.load`, `onnx.save`; external data ends up in the file")
def load_save(model):
    return model


def tensors(model):
    """The initializers, and the values of Constant nodes, of the main graph."""
    constants = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")]
    return [*model.graph.initializer, *constants]


@rewriting("raw_data to typed data", "FLOAT and INT64 tensors stored as `float_data` and `int64_data`")
def typed_data(model):
    import onnx
    fields = {onnx.TensorProto.FLOAT: "float_data", onnx.TensorProto.INT64: "int64_data"}
    for tensor in tensors(model):
        if tensor.data_type in fields and tensor.HasField("raw_data"):
            values = onnx.numpy_helper.to_array(tensor).ravel()
            tensor.ClearField("raw_data")
            getattr(tensor, fields[tensor.data_type]).extend(values.tolist())
    return model


@rewriting("text printer, parser", "`onnx.printer.to_text`, `onnx.parser.parse_model`")
def text(model):
    import onnx.parser
    import onnx.printer
    return onnx.parser.parse_model(onnx.printer.to_text(model))


@operation("external data", "`onnx.save` with all `raw_data`, that of attributes too, in one data file")
def external(source, made):
    import onnx
    onnx.save(onnx.load(source), made, save_as_external_data=True, location="tensors.data", size_threshold=0,
              convert_attribute=True)


@rewriting("shape inference", "`onnx.shape_inference.infer_shapes`")
def shapes(model):
    import onnx
    return onnx.shape_inference.infer_shapes(model)


@operation("onnx_ir load, save", "`onnx_ir.load`, `onnx_ir.save`")
def onnx_ir(source, made):
    import onnx_ir
    onnx_ir.save(onnx_ir.load(source), made)


@rewriting("older protobuf schema", "read and written with the messages of IR version 8; later fields are dropped")
def older_schema(model):
    import onnx
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    later = {"metadata_props", "device_configurations", "configuration", "overload", "attribute_proto"}
    file = descriptor_pb2.FileDescriptorProto()
    onnx.onnx_ml_pb2.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        for field in list(message.field):
            new = field.name in later or (message.name, field.name) == ("FunctionProto", "value_info")
            if new and (message.name, field.name) != ("ModelProto", "metadata_props"):
                message.field.remove(field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    old = message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx.ModelProto")).FromString(model.SerializeToString())
    old.DiscardUnknownFields()
    return onnx.ModelProto.FromString(old.SerializeToString())


def ort_save(level):
    def make(source, made):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(made)
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return make


for label, level, own in [("off", "ORT_DISABLE_ALL", ""), ("basic", "ORT_ENABLE_BASIC", ""),
                          ("extended", "ORT_ENABLE_EXTENDED", ""),
                          ("all", "ORT_ENABLE_ALL", ", tensor layouts of the machine's CPU")]:
    operation(f"ONNX Runtime, {label}", f"`optimized_model_filepath` at `{level}`, CPU provider{own}")(ort_save(level))


@rewriting("onnxsim", "`onnxsim.simplify`")
def simplified(model):
    import onnxsim
    changed, good = onnxsim.simplify(model)
    if not good:
        raise RuntimeError("onnxsim's own check of its result failed")
    return changed


@rewriting("onnxscript optimizer", "`onnxscript.optimizer.optimize`")
def optimized(model):
    import onnxscript.optimizer
    return onnxscript.optimizer.optimize(model)


@operation("extract_model", "`onnx.utils.extract_model` from all inputs to all outputs")
def extracted(source, made):
    import onnx.utils
    graph = onnx.load(source, load_external_data=False).graph
    onnx.utils.extract_model(str(source), str(made), [i.name for i in graph.input], [o.name for o in graph.output])


@rewriting("version_converter", f"`onnx.version_converter.convert_version` to operator set {LATER_OPSET}, or to the next if the model has it")
def later_opset(model):
    import onnx.version_converter
    now = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return onnx.version_converter.convert_version(model, max(LATER_OPSET, now + 1))


@rewriting("add_prefix", "`onnx.compose.add_prefix`: every name begins with `a/`")
def prefixed(model):
    import onnx.compose
    return onnx.compose.add_prefix(model, "a/")


@rewriting("float16", "`convert_float_to_float16` of `onnxruntime.transformers.float16`")
def float16(model):
    from onnxruntime.transformers.float16 import convert_float_to_float16
    return convert_float_to_float16(model)


@operation("quantize_dynamic", "`onnxruntime.quantization.quantize_dynamic`, int8")
def quantized(source, made):
    from onnxruntime.quantization import quantize_dynamic
    quantize_dynamic(source, made)


@rewriting("control: one bit", "the lowest bit of the first element of the first FLOAT tensor flipped")
def one_bit(model):
    import onnx
    tensor = next(t for t in tensors(model) if t.data_type == onnx.TensorProto.FLOAT)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.reshape(-1).view("u4")[0] ^= 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


@rewriting("control: no metadata", "all entries of `metadata_props` removed")
def no_metadata(model):
    del model.metadata_props[:]
    return model


class Program:
    """The program under test."""

    def __init__(self, path):
        self.path = path

    def ask(self, *arguments):
        """The JSON on stdout, or None and the error."""
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)
        try:
            return json.loads(done.stdout), ""
        except ValueError:
            return None, first_line(done.stderr) or f"exit code {done.returncode}"


class Look:
    """What the program and `onnx` see in a file; `digests` is None when the program refuses it."""

    def __init__(self, program, file):
        import onnx
        self.model = onnx.load(file, load_external_data=False)
        self.digests, _ = program.ask("digest", file, "--json")
        self.verified, error = program.ask("verify", file, "--json")
        if self.verified is None:
            raise RuntimeError(f"verify gave no answer: {error}")
        self.stamp = {p.key: p.value for p in self.model.metadata_props if p.key.startswith(STAMP)}

    def opset(self):
        return next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))

    def changes(self, made):
        """What differs in `made`, where a digest differs, in a few words."""
        if made.digests is None or made.digests["model"] == self.digests["model"]:
            return set()
        now, then = ({t["key"]: t["digest"] for t in look.digests["tensors"]} for look in (made, self))
        found = {"tensors added": now.keys() - then.keys(), "tensors removed": then.keys() - now.keys(),
                 "tensors changed": [key for key in now.keys() & then.keys() if now[key] != then[key]],
                 "operator set": made.opset() != self.opset(),
                 "inputs or outputs": interface(made.model) != interface(self.model),
                 "functions": list(made.model.functions) != list(self.model.functions)}
        now, then = (collections.Counter(n.op_type for n in look.model.graph.node) for look in (made, self))
        del now["Constant"], then["Constant"]  # those are tensors
        nodes = {f"+{kind}" for kind in now - then} | {f"-{kind}" for kind in then - now}
        return {what for what, differs in found.items() if differs} | nodes


def interface(model):
    return [(value.name, value.type) for value in [*model.graph.input, *model.graph.output]]


def data_files(file):
    """The external data that a model's tensors refer to."""
    import onnx
    model = onnx.load(file, load_external_data=False)
    places = {entry.value for tensor in tensors(model) for entry in tensor.external_data if entry.key == "location"}
    return [file.parent / place for place in sorted(places)]


def change(name, source, made):
    OPERATIONS[name][0](source, made)


def outcome(program, name, source, before):
    """The cells of a row for one model (file, weights, graph, stamp, verify), and what changed."""
    with tempfile.TemporaryDirectory() as folder:
        copy, made = pathlib.Path(folder) / source.name, pathlib.Path(folder) / "changed.onnx"
        try:
            for part in [source, *data_files(source)]:
                target = copy.parent / part.relative_to(source.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(part, target)
            with concurrent.futures.ProcessPoolExecutor(1, initializer=mute) as pool:  # a crash ends that process alone
                pool.submit(change, name, copy, made).result()
            after = Look(program, made)
        except Exception as e:  # whatever a tool throws is a result
            return ("-", "-", "-", "-", cell("not run: " + reason(e), folder)), set()
        digests = ["refused" if after.digests is None else "same" if after.digests[kind] == before.digests[kind] else "differs"
                   for kind in ("file", "weights", "graph")]
        kept = "kept" if after.stamp == before.stamp else "damaged" if after.stamp else "lost"
        return (*digests, kept, cell(answer(after.verified), folder)), before.changes(after)


def answer(verified):
    if verified["answer"] == "yes":
        return "yes"
    word = {"no": "no"}.get(verified["answer"], "could not tell")
    detail = next((c["detail"] for c in verified["checks"] if c["outcome"] == "undecided"), "")
    return f"{word}: `{verified['reason']}`" + (f" ({detail})" if detail else "")


def mute():
    """Sends what the tools print, the native ones too, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def reason(e):
    """First and last line of what an exception says: some give the reason last."""
    text = str(e)
    if text.startswith("b'"):  # bytes as Python prints them
        text = text[2:-1].replace("\\n", "\n").replace("\\'", "'")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(e).__name__]
    ends = dict.fromkeys([lines[0], lines[-1]])
    return " ... ".join(line if len(line) <= 120 else line[:120] + "..." for line in ends)


def first_line(text):
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def cell(text, *folders):
    """Text for a table, without folders of this run."""
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text)).replace("|", "\\|")


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def matrix(results):
    """`results` maps an operation to the outcome of each model; models with equal cells share a row."""
    rows = []
    for name, outcomes in results.items():
        groups = {}
        for model, (cells, _) in outcomes.items():
            groups.setdefault(cells, []).append(model)
        for cells, members in sorted(groups.items(), key=lambda group: -len(group[1])):
            most = "all" if len(groups) == 1 else "all others" if 2 * len(members) > len(outcomes) else ""
            changed = set.intersection(*(outcomes[model][1] for model in members))
            rows.append([name, most or ", ".join(members), *cells, ", ".join(sorted(changed, key=str.lower))])
    return table(["operation", "models", "file", "weights", "graph", "stamp", "verify", "what changed"], rows)


def describe(name, look):
    """One row about a model."""
    model = look.model
    storage = {"external" if t.external_data else "raw_data" if t.HasField("raw_data") else "typed" for t in tensors(model)}
    kinds = len({n.op_type for n in model.graph.node})
    return [name, cell(f"{model.producer_name} {model.producer_version}"), model.ir_version, look.opset(),
            f"{len(model.graph.node)} ({kinds})", len(model.functions), len(look.digests["tensors"]), ", ".join(sorted(storage))]


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions(program):
    said = subprocess.run([program.path, "--version"], capture_output=True, text=True).stdout.split()
    rows = [["onnx-unlearn", said[-1]], ["Python", platform.python_version()], *([name, version(name)] for name in PACKAGES),
            ["system", f"{platform.system()} {platform.machine()}"]]
    return table(["what", "version"], rows)


def page(program, models):
    before = {name: Look(program, file) for name, file in models.items()}
    for name, look in before.items():
        if look.verified["answer"] != "yes":
            sys.exit(f"{models[name]} is no stamped model that verify accepts: {answer(look.verified)}")
    results = {}
    for name in OPERATIONS:
        print(name, file=sys.stderr)
        results[name] = {model: outcome(program, name, file, before[model]) for model, file in models.items()}
    heads = ["model", "producer", "IR", "operator set", "nodes (types)", "functions", "tensors", "storage"]
    tools = {json.loads(look.stamp[STAMP + "stamp.v1"])["tool"] for look in before.values()}
    return PAGE.format(
        models=table(heads, [describe(name, look) for name, look in before.items()]), tools=", ".join(sorted(tools)),
        matrix=matrix(results), versions=versions(program), count=len(models),
        operations=table(["operation", "what is called"], [[name, what] for name, (_, what) in OPERATIONS.items()]),
        command=" \\\n    ".join(["python3 benches/survival/survival.py --program target/release/onnx-unlearn"]
                                 + [f"--model {name}={name}/model.onnx" for name in models] + ["--write docs/survival.md"]))


def named(text):
    name, _, file = text.partition("=")
    if not name or not pathlib.Path(file).is_file():
        raise argparse.ArgumentTypeError(f"{text}: not NAME=FILE with a file that is there")
    return name, pathlib.Path(file).resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True, action="append", type=named, metavar="NAME=FILE")
    parser.add_argument("--write", type=pathlib.Path, metavar="FILE", help="write the page there instead of stdout")
    args = parser.parse_args()
    made = page(Program(args.program), dict(args.model))
    args.write.write_text(made) if args.write else print(made, end="")


if __name__ == "__main__":
    main()
