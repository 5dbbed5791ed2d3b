#!/usr/bin/env python3
"""Networks that the benchmarks time, beside the ResNet18 that is read from its file.

    python3 benches/compare/networks.py --out FOLDER [--only mobilenet-32,vit-224] [--per-class 64]

writes NAME-SIZE.onnx, the same weights for PyTorch as NAME-SIZE.pt, and images-SIZE.npz: ten classes of random
pixels, enough to time steps, which take the same time whatever the pixels are. Nothing here is trained.
"""
# requirements: torch==2.15.0 torchvision onnx==1.23.2 onnxscript numpy

import argparse
import pathlib

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

CLASSES = 10


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.before, self.mix, self.between = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.mix(self.before(x))
        return x + self.down(F.gelu(self.up(self.between(x))))


class VisionTransformer(nn.Module):
    def __init__(self, size, patch, width, heads, depth):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.layers = nn.Sequential(*[Layer(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(x)).mean(1))


def vit(size):
    """Patches of 4 pixels and six layers for small images, ViT-Ti/16 for large ones."""
    return VisionTransformer(size, 4, 192, 3, 6) if size < 64 else VisionTransformer(size, 16, 192, 3, 12)


def mobilenet(size):
    """MobileNetV2 with BatchNormalization folded into the convolutions, as exporters leave it."""
    model = torchvision.models.mobilenet_v2(num_classes=CLASSES).eval()
    for block in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for i, (conv, norm) in enumerate(zip(list(block), list(block)[1:])):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[i], block[i + 1] = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm), nn.Identity()
    return model


def plain(size):
    """The eight convolutions of VGG-11, and one layer in place of its three large ones."""
    features = torchvision.models.vgg11(num_classes=CLASSES).features
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def mlp(size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 1024 if size < 64 else 256), nn.ReLU(),
                         nn.Linear(1024 if size < 64 else 256, 1024), nn.ReLU(), nn.Linear(1024, CLASSES))


def huge(size):
    """A gigabyte of weights."""
    widths = [3 * size * size, 10240, 10240, 10240]
    layers = [layer for pair in zip(widths, widths[1:]) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], CLASSES))


NETWORKS = {"mobilenet": mobilenet, "plain": plain, "vit": vit, "mlp": mlp, "huge": huge}
SIZES = [32, 224]


def build(name):
    """The network NAME-SIZE, its weights drawn with a fixed seed."""
    kind, size = name.split("-")
    torch.manual_seed(0)
    return NETWORKS[kind](int(size)).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", default=",".join(f"{n}-{s}" for s in SIZES for n in NETWORKS if n != "huge"),
                        help="what to write, such as vit-224; all but huge-32 unless given")
    parser.add_argument("--per-class", type=int, default=64)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only.split(","):
        model, size = build(name), int(name.split("-")[1])
        torch.save(model.state_dict(), args.out / f"{name}.pt")
        batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
        torch.onnx.export(model, (torch.zeros(2, 3, size, size),), args.out / f"{name}.onnx", input_names=["input"],
                          output_names=["logits"], opset_version=18, external_data=False, dynamo=True, **batch)
        images = args.out / f"images-{size}.npz"
        if not images.exists():
            y = np.repeat(np.arange(CLASSES), args.per_class)
            x = np.random.default_rng(0).integers(0, 256, (len(y), size, size, 3), dtype=np.uint8)
            np.savez(images, x=x, y=y)
        print(name, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    main()
