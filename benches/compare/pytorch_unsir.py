#!/usr/bin/env python3
"""UNSIR (corrected variant) in eager PyTorch, phase by phase: the reference of the benchmark.

    python3 benches/compare/pytorch_unsir.py --model resnet18-cifar10.onnx --retain train.npz --forget 0

does what `onnx-unlearn forget` does, on the CPU or (`--cuda`) on a GPU: learn noise for one class with the weights frozen,
impair on the retain sample plus the noise, repair on the retain sample alone, with the statistics
of BatchNormalization frozen throughout. The model is a torchvision-shaped ResNet18, rebuilt from
the file's initializers (BatchNormalization folded or kept), or one of `networks.py`, and its logits
are compared with ONNX Runtime's first. stdout gets one JSON line; seconds are wall clock. `--eval`
measures the accuracy before and after, `--measure` that on the retain sample before, between and
after, outside the timed phases.
"""
# requirements: torch==2.15.0 torchvision onnx==1.23.2 onnxruntime==1.31.1 numpy

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime
import torch
import torch.utils.flop_counter
from torch import nn
from torch.nn import functional as F

import networks


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; `norm` makes what follows a convolution."""

    def __init__(self, conv, norm, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride, 1), norm(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3, 1, 1), norm(outputs)
        self.shortcut = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride, 0), norm(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    def __init__(self, folded, classes):
        super().__init__()

        def conv(inputs, outputs, size, stride, padding):
            return nn.Conv2d(inputs, outputs, size, stride, padding, bias=folded)

        def norm(channels):
            return nn.Identity() if folded else nn.BatchNorm2d(channels)

        self.conv1, self.bn1 = conv(3, 64, 7, 2, 3), norm(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1),
                  (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
        self.blocks = nn.Sequential(*(Block(conv, norm, *w) for w in widths))
        self.fc = nn.Linear(512, classes)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.blocks(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def load_model(path):
    """Modules are registered in the order in which the exporter visits them, so the n-th Conv node
    belongs to the n-th Conv2d. An initializer read twice (through Identity) is one parameter."""
    graph = onnx.load(path).graph
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    weights = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    parameters = {name: nn.Parameter(w) for name, w in weights.items()}
    nodes = {op: [n for n in graph.node if n.op_type == op] for op in ("Conv", "BatchNormalization", "Gemm")}
    folded = not nodes["BatchNormalization"]
    model = ResNet18(folded, classes=len(weights[nodes["Gemm"][0].input[2]]))

    for kind, op in ((nn.Conv2d, "Conv"), (nn.BatchNorm2d, "BatchNormalization"), (nn.Linear, "Gemm")):
        modules = [m for m in model.modules() if isinstance(m, kind)]
        if len(modules) != len(nodes[op]):
            sys.exit(f"{path}: {len(nodes[op])} {op} nodes, a ResNet18 has {len(modules)}")
        for module, node in zip(modules, nodes[op], strict=True):
            names = [source.get(name, name) for name in node.input[1:]]
            module.weight = parameters[names[0]]
            if len(names) > 1:
                module.bias = parameters[names[1]]
            if op == "BatchNormalization":
                module.running_mean.copy_(weights[names[2]])
                module.running_var.copy_(weights[names[3]])
                module.eps = next(a.f for a in node.attribute if a.name == "epsilon")
    return model.eval()


def load_images(path, mean, std):
    """uint8 [N,H,W,C] images to normalised float32 [N,C,H,W], and their labels."""
    file = np.load(path)
    x = (file["x"].astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))), torch.from_numpy(file["y"])


def retain_sample(x, y, forget, per_class):
    rows = [torch.nonzero(y == c).flatten()[:per_class] for c in y.unique().tolist() if c != forget]
    rows = torch.cat(rows)
    return x[rows], y[rows]


class Clock:
    """Seconds of a phase and of each of its steps."""

    def __init__(self):
        self.begin = self.last = time.perf_counter()
        self.steps = []

    def step(self):
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now

    def summary(self, losses):
        median = statistics.median(self.steps) if self.steps else None
        return {"seconds": round(self.last - self.begin, 4), "steps": len(self.steps),
                "median_step_seconds": median and round(median, 5), "losses": [round(l, 5) for l in losses]}


def adam(parameters, lr, args):
    how = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}[args.adam]
    return torch.optim.Adam(parameters, lr=lr, **how)


def learn_noise(model, shape, args):
    """Minimise lambda * mean_i |z_i|^2 - CE(model(z), class) over z; the weights need no gradient, though a notebook that
    does not say so computes it."""
    noise = torch.randn(args.noise_samples, *shape)
    noise = noise.to(args.device, memory_format=args.format).requires_grad_(True)
    labels = torch.full((args.noise_samples,), args.forget, device=args.device)
    opt, losses = adam([noise], args.noise_lr, args), []
    model.requires_grad_(args.weight_gradients)
    clock = Clock()
    for _ in range(args.noise_steps):
        penalty = noise.square().sum((1, 2, 3)).mean()
        loss = args.noise_lambda * penalty - F.cross_entropy(model(noise), labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        clock.step()
    model.requires_grad_(True).zero_grad()
    return noise.detach(), clock.summary(losses)


def epoch(model, x, y, lr, steps, args):
    """One shuffled pass with a fresh Adam, ended early after `steps` batches."""
    opt, losses = adam(model.parameters(), lr, args), []
    clock = Clock()
    for rows in torch.randperm(len(x)).to(args.device).split(args.batch)[:steps]:
        images = x[rows].contiguous(memory_format=args.format)
        loss = F.cross_entropy(model(images), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
        clock.step()
    return clock.summary(losses)


@torch.inference_mode()
def accuracies(model, x, y, forget, batch=500):
    hit = torch.cat([model(b).argmax(1) for b in x.split(batch)]) == y
    return {"forget": hit[y == forget].float().mean().item(), "retain": hit[y != forget].float().mean().item()}


def work(model, x, args):
    """GFLOP of a step of each phase: twice the forward half for noise, three times where weights have gradients. PyTorch's own
    count of a backward half takes grouped convolutions for full ones. Beside them the GFLOP/s of the machine's products of
    2048 x 2048 matrices."""
    with torch.no_grad(), torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        model(x[: args.batch])
    forward = counter.get_total_flops() / 1e9
    a, b = torch.randn(2, 2048, 2048, device=args.device)
    best = math.inf
    for _ in range(10):
        begin = time.perf_counter()
        torch.mm(a, b)[0, 0].item()
        best = min(best, time.perf_counter() - begin)
    return {"noise": 2 * forward, "impair": 3 * forward, "repair": 3 * forward, "peak": 2 * 2048**3 / best / 1e9}


def logit_difference(model, path, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        return float(np.abs(model(images).numpy() - theirs).max())


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="ResNet18 as ONNX, BatchNormalization folded or kept")
    parser.add_argument("--retain", required=True, help="npz with x uint8 [N,H,W,C] and y")
    parser.add_argument("--eval", help="npz to measure accuracy on, before and after")
    parser.add_argument("--network", help="NAME-SIZE of networks.py; its weights are in a .pt beside the model file")
    parser.add_argument("--measure", action="store_true", help="measure the retain sample before, between and after")
    parser.add_argument("--count", action="store_true", help="count operations instead, and measure how fast they can be")
    parser.add_argument("--weight-gradients", action="store_true", help="compute those of the weights for noise, too")
    parser.add_argument("--forget", type=int, required=True, help="class index")
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise-samples", type=int, default=256)
    parser.add_argument("--noise-steps", type=int, default=40)
    parser.add_argument("--noise-lr", type=float, default=0.1)
    parser.add_argument("--noise-lambda", type=float, default=0.1)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--impair-steps", type=int, help="at most; default: the whole epoch")
    parser.add_argument("--repair-steps", type=int, help="at most; default: the whole epoch")
    parser.add_argument("--impair-lr", type=float, default=0.0005)
    parser.add_argument("--repair-lr", type=float, default=0.00025)
    parser.add_argument("--mean", type=float, nargs="+", default=[0.4914, 0.4822, 0.4465])
    parser.add_argument("--std", type=float, nargs="+", default=[0.2023, 0.1994, 0.2010])
    parser.add_argument("--adam", choices=["default", "foreach", "fused"], default="default")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--cuda", action="store_true", help="run on the first GPU, with everything kept there")
    parser.add_argument("--tf32", action="store_true", help="let the GPU round the factors of products to TF32")
    args = parser.parse_args()
    args.device = "cuda" if args.cuda else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    args.format = torch.channels_last if args.channels_last else torch.contiguous_format
    return args


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    x, y = load_images(args.retain, args.mean, args.std)
    probe = x[: args.batch]
    x, y = retain_sample(x, y, args.forget, args.per_class)
    if args.network:
        model = networks.build(args.network)
        model.load_state_dict(torch.load(pathlib.Path(args.model).with_suffix(".pt")))
    else:
        model = load_model(args.model)
    difference = logit_difference(model, args.model, probe)
    print(f"largest difference of the logits from ONNX Runtime's: {difference:.2e}", file=sys.stderr)
    if difference > 1e-4:
        sys.exit("the rebuilt model is not the model in the file")
    model, x, y = model.to(args.device), x.to(args.device), y.to(args.device)
    if args.count:
        print(json.dumps(work(model, x, args)))
        return
    model = model.to(memory_format=args.format)
    measured = {}
    if args.eval:
        held_out = [t.to(args.device) for t in load_images(args.eval, args.mean, args.std)]
        measured["before"] = accuracies(model, *held_out, args.forget)

    def measure(when):
        if args.measure:
            images = x.contiguous(memory_format=args.format)
            measured[f"retain sample {when}"] = accuracies(model, images, y, args.forget, args.batch)["retain"]

    measure("before")
    noise, noise_phase = learn_noise(model, x.shape[1:], args)
    mix_x = torch.cat([x, noise.contiguous().repeat(args.copies, 1, 1, 1)])
    mix_y = torch.cat([y, torch.full((len(mix_x) - len(x),), args.forget, device=args.device)])
    impair = epoch(model, mix_x, mix_y, args.impair_lr, args.impair_steps, args)
    measure("between")
    repair = epoch(model, x, y, args.repair_lr, args.repair_steps, args)

    measure("after")
    if args.eval:
        measured["after"] = accuracies(model, *held_out, args.forget)
    print(json.dumps({
        "tool": f"pytorch {torch.__version__}", "model": args.model, "threads": torch.get_num_threads(), "device": args.device,
        "batch": args.batch, "channels_last": args.channels_last, "adam": args.adam, "seed": args.seed,
        "retain_images": len(x), "noise_images": len(mix_x) - len(x), "logit_difference": difference,
        "noise": noise_phase, "impair": impair, "repair": repair, **measured,
    }))


if __name__ == "__main__":
    main()
