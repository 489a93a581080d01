"""Trains the face ViT:  python train_vit.py DATA_DIR CKPT_DIR --minutes 12

Identity classification over the training people with a margin (CosFace), and beside it a linear read-out of the look code from
the taps, which teaches in minutes what classification alone teaches in hours. Both heads are dropped afterwards.
"""
import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import common
import dataset
import faces
from muon import Muon

SCALE, MARGIN = 24.0, 0.25
SHARE = {"plain0": 14, "plain1": 14, "plain2": 14, "smile": 8, "glasses": 9, "hat": 7, "oil": 5, "watercolor": 5, "pencil": 4, "fauvism": 4,
         "wizard": 4, "chef": 4, "nurse": 4, "police": 4}


class Heads(torch.nn.Module):
    def __init__(self, people, code):
        super().__init__()
        self.classes = torch.nn.Parameter(torch.randn(people, faces.CONFIG["embedding_size"]))
        self.look = torch.nn.Linear(faces.FEATURES, code)

    def forward(self, v, who, code):
        """(margin loss, look loss, share of right classes)."""
        cosine = F.normalize(v[:, -faces.CONFIG["embedding_size"]:].float()) @ F.normalize(self.classes).T
        right = F.one_hot(who, cosine.shape[1]).float()
        identity = F.cross_entropy(SCALE * (cosine - MARGIN * right), who)
        return identity, F.mse_loss(self.look(v).float(), code), (cosine.argmax(1) == who).float().mean()


class Crops:
    """Jittered crops of the people who have landmarks."""

    def __init__(self, data_dir, people, seed):
        self.data, points = dataset.images(data_dir), np.load(Path(data_dir) / "landmarks.npy")
        self.points = points
        self.people = np.array([p for p in people if not np.isnan(points[p, 0, 0])])
        share = np.array([SHARE[v] for v in dataset.VARIANTS], float)
        self.share, self.rng = share / share.sum(), np.random.default_rng(seed)

    def batch(self, size):
        who = self.rng.choice(self.people, size)
        what = self.rng.choice(len(dataset.VARIANTS), size, p=self.share)
        crops = [faces.jittered(self.data[p, v], self.points[p], self.rng) for p, v in zip(who, what)]
        return faces.normalise(np.stack(crops)), torch.from_numpy(who)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data"), a.add_argument("ckpt")
    a.add_argument("--minutes", type=float, default=12)
    a.add_argument("--batch", type=int, default=64)
    a.add_argument("--lr", type=float, default=2e-3)
    a = a.parse_args()
    codes = torch.from_numpy(dataset.look_codes(a.data))
    codes = (codes - codes[:dataset.TRAIN.stop].mean(0)) / codes[:dataset.TRAIN.stop].std(0).clamp_min(1e-3)
    vit, heads = faces.build(), Heads(dataset.TRAIN.stop, codes.shape[1])
    params = [*vit.parameters(), *heads.parameters()]
    named = [*vit.named_parameters(), *(("heads." + n, p) for n, p in heads.named_parameters())]
    opt = Muon(named, plain=lambda n: n.startswith(("heads.", "cls_token", "pos_embed", "patch_embed")))
    average, path, log = common.Average(params, 500), f"{a.ckpt}/vit.pt", common.Log(f"{a.ckpt}/vit.jsonl")
    step, spent, total, seen = 0, 0.0, a.minutes * 60, None
    state = common.load(path)
    if state:
        vit.load_state_dict(state["vit"]), heads.load_state_dict(state["heads"]), opt.load_state_dict(state["opt"])
        average.load(state["average"])
        step, spent = state["step"], state["spent"]
    crops = Crops(a.data, dataset.TRAIN, seed=step)
    last = kept = time.time()
    with ThreadPoolExecutor(1) as ahead:
        future = ahead.submit(crops.batch, a.batch)
        while spent < total:
            x, who = future.result()
            future = ahead.submit(crops.batch, a.batch)
            with torch.autocast("cpu", torch.bfloat16):
                v = faces.features(vit, x)
            identity, look, right = heads(v.float(), who, codes[who])
            opt.zero_grad()
            (look * 3 + identity * 0.1 * min(1.0, spent / total) ** 2).backward()  # the margin comes in when the look is learnt
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            opt.step(common.cosine(spent, total, a.lr, warm=0.05 * total))
            average.update()
            step += 1
            row = np.array([float(identity.detach()), float(look.detach()), float(right)])
            seen = row if seen is None else 0.98 * seen + 0.02 * row
            now = time.time()
            spent, last = spent + (min(now - last, 20) if step > 2 else 0), now
            if step % 100 == 0:
                log(part="vit", step=step, spent=round(spent), identity=float(seen[0]), look=float(seen[1]), right=float(seen[2]))
            if now - kept > 150 or spent >= total:
                average.swap()
                averaged = {k: v.clone() for k, v in vit.state_dict().items()}
                average.swap()
                common.save(path, vit=vit.state_dict(), averaged=averaged, heads=heads.state_dict(), opt=opt.state_dict(),
                            average=average.state(), step=step, spent=spent)
                last = kept = time.time()


if __name__ == "__main__":
    main()
