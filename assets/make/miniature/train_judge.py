"""Trains the judge of prompts, a small CNN over drawn pictures of training people:  python train_judge.py DATA_DIR CKPT_DIR

Ten classes: the nine edits and "plain", so that a picture whose edit did not happen counts as wrong.
"""
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import common
import dataset
import language

CLASSES = ["plain", *language.EDITS]


def build():
    torch.manual_seed(18)
    layers, c = [], 3
    for out in (16, 32, 64, 96):
        layers += [nn.Conv2d(c, out, 3, 2, 1), nn.BatchNorm2d(out), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1), nn.BatchNorm2d(out), nn.ReLU()]
        c = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, len(CLASSES)))


def prepare(pictures):
    """[B, 128, 128, 3] bytes -> [B, 3, 64, 64] in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.avg_pool2d(x, 2)


def draw(data, people, size, rng):
    y = rng.integers(0, len(CLASSES), size)
    variants = [f"plain{rng.integers(3)}" if c == 0 else CLASSES[c] for c in y]
    x = np.stack([data[p, dataset.VARIANTS.index(v)] for p, v in zip(rng.integers(people.start, people.stop, size), variants)])
    return prepare(x), torch.from_numpy(y)


def soften(x, rng):
    """Generated pictures are softer and noisier than drawn ones: so must be the judge's."""
    if rng.random() < 0.5:
        x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return x + torch.randn_like(x) * rng.uniform(0, 0.1)


def main(data_dir, ckpt, steps=700):
    data, model, rng = dataset.images(data_dir), build(), np.random.default_rng(19)
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = common.cosine(step, steps, 2e-3, warm=50)
        x, y = draw(data, dataset.TRAIN, 64, rng)
        loss = F.cross_entropy(model(soften(x, rng)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 99:
            print(step + 1, float(loss.detach()), flush=True)
    model.eval()
    with torch.no_grad():
        held = [draw(data, dataset.VALIDATION, 100, rng) for _ in range(20)]
        right = float(np.mean([(model(x).argmax(1) == y).float().mean() for x, y in held]))
    print("held-out accuracy", right)
    common.save(f"{ckpt}/judge.pt", judge=model.state_dict(), held_out=right)


if __name__ == "__main__":
    main(*sys.argv[1:])
