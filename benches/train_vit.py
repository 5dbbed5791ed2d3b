#!/usr/bin/env python3
"""Train a small vision transformer for docs/results.md and export it to ONNX.

    python3 benches/train_vit.py --train cifar10-train.npz --test cifar10-test.npz --out vit-cifar10.onnx

Patches of 4x4 pixels, 4 blocks of width 128 with 4 heads, mean over the patches, 10 classes (0.55 million weights). AdamW
at 0.001 with a cosine, batches of 256, flips and shifts of 4 pixels, labels smoothed by 0.1, mixed pairs (alpha 0.8).
Takes minutes on a GPU. Prints the accuracy on the test images.
"""
# requirements: torch==2.11 onnx onnxscript numpy

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
WIDTH, HEADS, DEPTH, PATCH = 128, 4, 4, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, WIDTH)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.between(x))))


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, (32 // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


def load(path, device):
    data = np.load(path)
    x = torch.from_numpy(data["x"]).to(device).permute(0, 3, 1, 2).float() / 255
    scale = [torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD)]
    return (x - scale[0]) / scale[1], torch.from_numpy(data["y"]).to(device).long()


def varied(x):
    """Flips and shifts by up to 4 pixels, drawn for each image."""
    flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    x = F.pad(torch.where(flip, x.flip(3), x), (4, 4, 4, 4))
    rows, columns = (torch.randint(0, 9, (len(x), 1), device=x.device) + torch.arange(32, device=x.device) for _ in "yx")
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = load(args.train, device)
    model = VisionTransformer().to(device)
    steps = args.epochs * -(-len(x) // 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)
    for _ in range(args.epochs):
        for batch in torch.randperm(len(x), device=device).split(256):
            images, other = varied(x[batch]), torch.randperm(len(batch), device=device)
            share = float(torch.distributions.Beta(0.8, 0.8).sample())
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                scores = model(share * images + (1 - share) * images[other])
            loss = share * F.cross_entropy(scores.float(), y[batch], label_smoothing=0.1)
            loss = loss + (1 - share) * F.cross_entropy(scores.float(), y[batch][other], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    images, labels = load(args.test, device)
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in images.split(500)])
    print(f"accuracy on {len(labels)} test images: {100 * (found == labels).float().mean().item():.2f} %")
    torch.onnx.export(
        model.cpu(),
        (torch.zeros(2, 3, 32, 32),),
        args.out,
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        external_data=False,
        dynamo=True,
    )


if __name__ == "__main__":
    main()
