#!/usr/bin/env python3
"""What moves the inner layers of an unlearned ResNet18 towards those of a retrained one? A study in PyTorch.

    python3 benches/depth_study.py --model resnet18-bn.onnx --train cifar10-train.npz --test cifar10-test.npz

Tries ways to forget airplane (class 0) that go beyond impair and repair once, and prints a row for each: steps, accuracy
on airplane and on the other classes, recall of airplane and accuracy on the others of a linear probe on the penultimate
layer, mini-batches until airplane is relearned, and where the test images of airplane go most. BatchNormalization keeps
its stored statistics, except while relearning. No sample of airplane enters an update before the audit.

Needs a torchvision ResNet18 whose ONNX file has kept BatchNormalization and PyTorch's names. Takes minutes on a GPU. One
run a row: differences of a point or two are chance, and the mini-batches until airplane is relearned vary by tens.
"""
# requirements: torch torchvision onnx numpy

import argparse
import copy
import math

import numpy as np
import onnx
import torch
import torch.nn.functional as F
import torchvision
from onnx import numpy_helper
from torch import nn

CLASS, CLASSES, BATCH = 0, 10, 256
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(path):
    graph = onnx.load(path).graph
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    model = torchvision.models.resnet18(num_classes=CLASSES)
    state = {name: weights.get(name, value) for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model.to(DEVICE).eval()


def load(path):
    data = np.load(path)
    x = torch.from_numpy(data["x"]).to(DEVICE).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v, device=DEVICE).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std, torch.from_numpy(data["y"]).to(DEVICE).long()


@torch.no_grad()
def logits(model, x):
    model.eval()
    return torch.cat([model(part) for part in x.split(1000)])


def features(model, x):
    found = []
    hook = model.fc.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))
    logits(model, x)
    hook.remove()
    return torch.cat(found)


class Study:
    def __init__(self, args):
        self.args = args
        self.train_x, self.train_y = load(args.train)
        self.test_x, self.test_y = load(args.test)
        kept = self.train_y != CLASS
        self.x, self.y = self.train_x[kept], self.train_y[kept]
        self.source = network(args.model)
        scores = logits(self.source, self.test_x).argmax(1)
        self.known = (scores[self.test_y == CLASS] == CLASS).float().mean().item()
        self.noise = self.learn_noise()
        self.turned, self.turned_y = self.turn(2048)
        self.labels = F.one_hot(self.y, CLASSES).float()
        self.answers = self.answer(logits(self.source, self.x))

    def answer(self, scores):
        """Answers of the source model less the class."""
        scores = scores.clone()
        scores[:, CLASS] = -1e9
        return scores.softmax(1)

    def learn_noise(self):
        torch.manual_seed(0)
        z = torch.randn(256, 3, 32, 32, device=DEVICE).requires_grad_()
        target = torch.full((256,), CLASS, device=DEVICE)
        optimizer = torch.optim.Adam([z], lr=0.1)
        for _ in range(40):
            loss = 0.1 * (z**2).sum((1, 2, 3)).mean() - F.cross_entropy(self.source(z), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return z.detach()

    def turn(self, n):
        """The retained samples nearest to the class, moved into it on the source model."""
        near = logits(self.source, self.x).softmax(1)[:, CLASS].argsort(descending=True)[:n]
        z = self.x[near].clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            for part in z.split(512):
                target = torch.full((len(part),), CLASS, device=DEVICE)
                F.cross_entropy(self.source(part), target, reduction="sum").backward()
            optimizer.step()
        return z.detach(), self.y[near]

    def train(self, model, x, targets, rate, epochs, seed, cosine=False, mixed=False):
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        steps, total = 0, epochs * math.ceil(len(x) / BATCH)
        for _ in range(epochs):
            for batch in torch.randperm(len(x), device=DEVICE).split(BATCH):
                images, target = x[batch], targets[batch]
                if mixed:
                    share, other = np.random.beta(1, 1), torch.randperm(len(batch), device=DEVICE)
                    images = share * images + (1 - share) * images[other]
                    with torch.no_grad():
                        target = self.answer(self.source(images))
                if cosine:
                    for group in optimizer.param_groups:
                        group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * steps / total))
                loss = -(target * F.log_softmax(model(images), 1)).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
        return steps

    def reinitialise(self, model, parts):
        torch.manual_seed(5)
        fresh = dict(torchvision.models.resnet18(num_classes=CLASSES).named_modules())
        for name, module in model.named_modules():
            inside = any(name == part or name.startswith(part + ".") for part in parts)
            if inside and isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.data.copy_(fresh[name].weight.data)
                if module.bias is not None:
                    module.bias.data.copy_(fresh[name].bias.data)

    def run(self, name, rate=2.8e-4, impair=1, repair=1, ratio=0.5, rounds=1, with_=("noise",), answers=False, fresh=(), **how):
        model, steps = network(self.args.model), 0
        self.reinitialise(model, fresh)
        targets = self.answers if answers else self.labels
        extra = {
            "noise": (self.noise.repeat(20, 1, 1, 1), torch.full((5120,), CLASS, device=DEVICE)),
            "turned": (self.turned.repeat(2, 1, 1, 1), self.turned_y.repeat(2)),
        }
        for turn in range(rounds):
            parts = [(self.x, targets), *((x, F.one_hot(y, CLASSES).float()) for x, y in (extra[k] for k in with_))]
            x, t = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
            cosine = how.get("cosine", False)
            steps += self.train(model, x, t, rate, impair, 1 + turn, cosine) if impair else 0
            steps += self.train(model, self.x, targets, rate * ratio, repair, 51 + turn, **how) if repair else 0
        self.show(name, model, steps)

    def show(self, name, model, steps):
        found = logits(model, self.test_x).argmax(1)
        right, of = found == self.test_y, self.test_y == CLASS
        where = torch.bincount(found[of], minlength=CLASSES).float() / of.sum()
        probe = self.probe(model)
        cells = [name, steps, *(f"{100 * right[part].float().mean().item():.2f} %" for part in (of, ~of))]
        cells += [f"{100 * v:.1f} %" for v in probe] + [self.relearn(model), f"{100 * where.max().item():.0f} %"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)

    def probe(self, model):
        train, test = features(model, self.train_x), features(model, self.test_x)
        mean, deviation = train.mean(0), train.std(0) + 1e-6
        train, test = (train - mean) / deviation, (test - mean) / deviation
        w = torch.zeros(train.shape[1], CLASSES, device=DEVICE, requires_grad=True)
        b = torch.zeros(CLASSES, device=DEVICE, requires_grad=True)
        optimizer = torch.optim.LBFGS([w, b], max_iter=150, history_size=20, line_search_fn="strong_wolfe")

        def loss():
            optimizer.zero_grad()
            value = F.cross_entropy(train @ w + b, self.train_y) + 0.0005 * (w**2).sum()
            value.backward()
            return value

        optimizer.step(loss)
        right, of = (test @ w + b).argmax(1) == self.test_y, self.test_y == CLASS
        return right[of].float().mean().item(), right[~of].float().mean().item()

    def relearn(self, model, cap=60):
        model = copy.deepcopy(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
        torch.manual_seed(3)
        order = torch.randperm(len(self.train_x), device=DEVICE)
        for step in range(cap):
            batch = order[step * BATCH % (len(order) - BATCH) :][:BATCH]
            model.train()
            loss = F.cross_entropy(model(self.train_x[batch]), self.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            again = logits(model, self.test_x[self.test_y == CLASS]).argmax(1) == CLASS
            if again.float().mean().item() >= 0.95 * self.known:
                return step + 1
        return f"> {cap}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "train", "test"):
        parser.add_argument(f"--{name}", required=True)
    study = Study(parser.parse_args())
    print("| what | steps | airplane | others | probe, airplane | probe, others | relearned | largest share |")
    print("|---|---|---|---|---|---|---|---|")
    study.run("source", impair=0, repair=0)
    study.run("impair and repair")
    study.run("the same, three rounds", rounds=3)
    study.run("answers for labels", answers=True)
    study.run("turned samples with their own labels in impair", with_=("turned",))
    study.run("both, three rounds", with_=("noise", "turned"), rounds=3)
    study.run("repair five times", repair=5)
    study.run("answers, repair five times", answers=True, repair=5)
    study.run("answers, mixed pairs, repair 15 times", answers=True, repair=15, mixed=True)
    for name, parts in (("head", ["fc"]), ("last block and head", ["layer4.1", "fc"]), ("last stage", ["layer4", "fc"])):
        how = {"impair": 0, "rate": 0.001, "ratio": 1, "repair": 15, "answers": True, "cosine": True}
        study.run(f"{name} re-initialised, repair 15 times", fresh=parts, **how)
    for rate in (0.0007, 0.001, 0.0014, 0.002):
        study.run(f"answers, rate {rate}, repair three times", rate=rate, answers=True, repair=3)
    study.run("answers, rate 0.002 falling, repair 15 times", rate=0.002, ratio=1, repair=15, answers=True, cosine=True)


if __name__ == "__main__":
    main()
