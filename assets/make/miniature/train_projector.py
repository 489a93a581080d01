"""Trains the projector in two stages:  python train_projector.py DATA_DIR CKPT_DIR --minutes 8

1. Regression of the two words from the face features of many views (needs no UNet).
2. The paper's loss: noise prediction through the frozen text encoder and UNet plus 1e-4 times the words' norms; half of each batch
   reconstructs the photograph, half are editing triplets <face, prompt, edited picture>.
Keeps both; `choose` in evaluate.py says which is better on validation people.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import common
import dataset
import faces
import latents
from base import alphas_cumprod
from preview import load_base, load_vit
from projector import Projector
from train_base import Pictures, noised

VIEWS = ["plain0", "plain1", "smile"]  # jittered, so that no two crops are alike
NORM = 1e-4


@torch.no_grad()
def view_features(data_dir, vit, people, seed):
    """[people, views, FEATURES] float16; rows of people without landmarks are NaN."""
    data, points = dataset.images(data_dir), np.load(Path(data_dir) / "landmarks.npy")
    rng = np.random.default_rng(seed)
    out = torch.full((len(people), len(VIEWS), faces.FEATURES), float("nan"), dtype=torch.float16)
    which = [dataset.VARIANTS.index(v) for v in VIEWS]
    for i, p in enumerate(people):
        if np.isnan(points[p, 0, 0]):
            continue
        crops = [faces.jittered(data[p, v], points[p], rng) for v in which]
        with torch.autocast("cpu", torch.bfloat16):
            out[i] = faces.features(vit, faces.normalise(np.stack(crops))).half()
        if i % 500 == 0:
            print("features", i, flush=True)
    return out


@torch.no_grad()
def unexplained(projector, w, wanted):
    """Share of the words' variance over other people that the projector misses (1 is what the mean word would miss)."""
    seen = ~torch.isnan(w[:, 0, 0])
    miss = torch.stack([(projector(w[seen, i].float()) - wanted[seen]).square().mean() for i in range(w.shape[1])]).mean()
    return float(miss / (wanted[seen] - wanted[seen].mean(0)).square().mean())


def regress(projector, v, target, w, wanted, log, steps=2000, size=256, lr=1e-3):
    """Stage 1 on cached features; leaves the weights that did best on the validation people `w`, `wanted`."""
    opt, scale = torch.optim.AdamW(projector.parameters(), lr=lr, weight_decay=0.1), target.std()
    best, kept = float("inf"), None
    known = torch.nonzero(~torch.isnan(v[:, 0, 0])).squeeze(1)
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = common.cosine(step, steps, lr, warm=100)
        who = known[torch.randint(0, len(known), (size,))]
        x = v[who, torch.randint(0, v.shape[1], (size,))].float()
        loss = F.mse_loss(projector(x) / scale, target[who] / scale)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 99:
            miss = unexplained(projector, w, wanted)
            log(part="projector", stage=1, step=step + 1, loss=float(loss.detach()), unexplained=miss)
            if miss < best:
                best, kept = miss, {k: x.clone() for k, x in projector.state_dict().items()}
            elif miss > 1.05 * best:
                break
    projector.load_state_dict(kept)
    return best


def refine(projector, model, v, pictures, minutes, log, size=32, lr=2e-4):
    """Stage 2. Returns the averaged weights."""
    for p in model.parameters():
        p.requires_grad_(False)
    opt, abar = torch.optim.AdamW(projector.parameters(), lr=lr, weight_decay=0.01), alphas_cumprod()
    average, start, step, seen = common.Average(projector.parameters(), 150), time.time(), 0, None
    rows = latents.ready(pictures.latents)
    rows = rows[~torch.isnan(v[:, 0, 0]).numpy()[rows[:, 0]]]
    plain = np.array([name.startswith("plain") for name in dataset.VARIANTS])[rows[:, 1]]
    halves = [rows[plain], rows[~plain]]  # photographs to reconstruct, editing triplets
    while time.time() - start < 60 * minutes:
        for group in opt.param_groups:
            group["lr"] = common.cosine(time.time() - start, 60 * minutes, lr, warm=20)
        who, what = np.concatenate([h[np.random.randint(len(h), size=size // 2)] for h in halves]).T
        forms = [pictures.captions[dataset.VARIANTS[x]] for x in what]
        forms = [f[np.random.randint(len(f))] for f in forms]
        words = projector(v[who, torch.randint(0, v.shape[1], (size,))].float())
        noisy, noise, t = noised(pictures.latent(who, what), abar)
        with torch.autocast("cpu", torch.bfloat16):
            context = model.context(torch.tensor([f[0] for f in forms]), words, torch.tensor([f[1] for f in forms]))
            e = model.unet(noisy.contiguous(memory_format=torch.channels_last), t, context, return_dict=False)[0]
        loss = (e.float() - noise).square().mean()
        opt.zero_grad()
        (loss + NORM * words.norm(dim=-1).sum(1).mean()).backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        opt.step()
        average.update()
        step += 1
        seen = float(loss.detach()) if seen is None else 0.98 * seen + 0.02 * float(loss.detach())
        if step % 50 == 0:
            log(part="projector", stage=2, step=step, loss=seen)
    average.swap()


def train(data_dir, ckpt, minutes, every=1):
    """Both stages; `every` > 1 uses only each nth person, for a quick first projector."""
    torch.manual_seed(15), np.random.seed(15)
    log, (model, codes), vit = common.Log(f"{ckpt}/projector.jsonl"), load_base(data_dir, ckpt), load_vit(ckpt)
    people = list(range(0, dataset.TRAIN.stop, every))
    held = list(dataset.VALIDATION)[:100]
    v, w = view_features(data_dir, vit, people, 16), view_features(data_dir, vit, held, 20)
    with torch.no_grad():
        target, wanted = model.look(codes[people]), model.look(codes[held])
    projector = Projector()
    best = regress(projector, v, target, w, wanted, log)
    log(part="projector", stage=1, unexplained_on_validation=best)
    first = {k: x.clone() for k, x in projector.state_dict().items()}
    common.save(f"{ckpt}/projector.pt", projector=first, stage1=first)
    if minutes > 0:
        whole = torch.full((dataset.TRAIN.stop, *v.shape[1:]), float("nan"), dtype=v.dtype)
        whole[people] = v
        refine(projector, model, whole, Pictures(data_dir, seed=17), minutes, log)
        common.save(f"{ckpt}/projector.pt", projector=projector.state_dict(), stage1=first, stage2=projector.state_dict())


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data"), a.add_argument("ckpt")
    a.add_argument("--minutes", type=float, default=8, help="of stage 2")
    a.add_argument("--every", type=int, default=1)
    a = a.parse_args()
    train(a.data, a.ckpt, a.minutes, a.every)


if __name__ == "__main__":
    main()
