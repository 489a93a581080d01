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

VIEWS = ["plain0", "plain1", "plain2", "plain0", "plain1", "smile", "glasses", "hat", "watercolor", "oil"]  # jittered each time
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


def regress(projector, v, target, steps=3000, size=512, lr=2e-3, log=None):
    """Stage 1 on cached features."""
    opt, scale = torch.optim.AdamW(projector.parameters(), lr=lr, weight_decay=0.05), target.std()
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
        if step % 500 == 499:
            log(part="projector", stage=1, step=step + 1, loss=float(loss.detach()))


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


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data"), a.add_argument("ckpt")
    a.add_argument("--minutes", type=float, default=8, help="of stage 2")
    a = a.parse_args()
    torch.manual_seed(15), np.random.seed(15)
    log, (model, codes), vit = common.Log(f"{a.ckpt}/projector.jsonl"), load_base(a.data, a.ckpt), load_vit(a.ckpt)
    known = list(range(dataset.VALIDATION.stop))
    cache = Path(a.data) / "view_features.pt"
    if not cache.exists() or cache.stat().st_mtime < Path(f"{a.ckpt}/vit.pt").stat().st_mtime:
        torch.save(view_features(a.data, vit, known, 16), cache)
    v = torch.load(cache)
    with torch.no_grad():
        target = model.look(codes[known])
    projector, train = Projector(), dataset.TRAIN.stop
    regress(projector, v[:train], target[:train], log=log)
    with torch.no_grad():
        held = v[train:, 0].float()
        fine = ~torch.isnan(held[:, 0])
        error = (projector(held[fine]) - target[train:][fine]).square().mean() / target[train:][fine].var()
    log(part="projector", stage=1, unexplained_on_validation=float(error))
    first = {k: x.clone() for k, x in projector.state_dict().items()}
    common.save(f"{a.ckpt}/projector.pt", projector=first, stage1=first)
    if a.minutes > 0:
        refine(projector, model, v[:train], Pictures(a.data, seed=17), a.minutes, log)
        common.save(f"{a.ckpt}/projector.pt", projector=projector.state_dict(), stage1=first, stage2=projector.state_dict())


if __name__ == "__main__":
    main()
