"""Trains the face ViT:  python train_vit.py DATA_DIR CKPT_DIR --minutes 12

Identity classification over the training people with a margin (CosFace), and beside it linear read-outs of the look code from the
taps (least squares, and which part of each kind), which teach in minutes what classification alone teaches in hours. The heads are
dropped afterwards.
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
SHARE = {"plain0": 20, "plain1": 20, "plain2": 20, "smile": 8, "glasses": 8, "hat": 8, "oil": 2, "watercolor": 2, "pencil": 2, "fauvism": 2,
         "wizard": 2, "chef": 2, "nurse": 2, "police": 2}
PARTS = [32, 5, 16, 10, 12, 10, 11, 18, 5, 3, 3, 3]  # choices of each kind in the look code, in the order of people.mjs


class Heads(torch.nn.Module):
    def __init__(self, people, code):
        super().__init__()
        self.classes = torch.nn.Parameter(torch.randn(people, faces.CONFIG["embedding_size"]))
        self.look = torch.nn.Linear(faces.FEATURES, code)
        self.parts = torch.nn.Linear(faces.FEATURES, sum(PARTS))

    def forward(self, v, who, code, parts):
        """(margin loss, look loss, loss of the parts, share of right classes)."""
        cosine = F.normalize(v[:, -faces.CONFIG["embedding_size"]:].float()) @ F.normalize(self.classes).T
        right = F.one_hot(who, cosine.shape[1]).float()
        identity = F.cross_entropy(SCALE * (cosine - MARGIN * right), who)
        logits = self.parts(v).float().split(PARTS, 1)
        choice = sum(F.cross_entropy(x, p) for x, p in zip(logits, parts.T)) / len(PARTS)
        return identity, F.mse_loss(self.look(v).float(), code), choice, (cosine.argmax(1) == who).float().mean()


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
    a.add_argument("--batch", type=int, default=128)
    a.add_argument("--compile", action="store_true")
    a.add_argument("--lr", type=float, default=2e-3)
    a = a.parse_args()
    codes = torch.from_numpy(dataset.look_codes(a.data))
    parts = torch.stack([x.argmax(1) for x in codes[:, :sum(PARTS)].split(PARTS, 1)], 1)
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
    features = torch.compile(faces.features) if a.compile else faces.features
    crops = Crops(a.data, dataset.TRAIN, seed=step)
    last = kept = time.time()
    with ThreadPoolExecutor(1) as ahead:
        future = ahead.submit(crops.batch, a.batch)
        while spent < total:
            x, who = future.result()
            future = ahead.submit(crops.batch, a.batch)
            with torch.autocast("cpu", torch.bfloat16):
                v = features(vit, x)
            identity, look, choice, right = heads(v.float(), who, codes[who], parts[who])
            opt.zero_grad()
            (look * 3 + choice + identity * 0.1 * min(1.0, spent / total) ** 2).backward()  # the margin comes in when the look is learnt
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            opt.step(common.cosine(spent, total, a.lr, warm=0.05 * total))
            average.update()
            step += 1
            row = np.array([float(identity.detach()), float(look.detach()), float(choice.detach()), float(right)])
            seen = row if seen is None else 0.98 * seen + 0.02 * row
            now = time.time()
            spent, last = spent + (min(now - last, 20) if step > 2 else 0), now
            if step % 100 == 0:
                log(part="vit", step=step, spent=round(spent), identity=float(seen[0]), look=float(seen[1]), parts=float(seen[2]), right=float(seen[3]))
            if now - kept > 150 or spent >= total:
                average.swap()
                averaged = {k: v.clone() for k, v in vit.state_dict().items()}
                average.swap()
                common.save(path, vit=vit.state_dict(), averaged=averaged, heads=heads.state_dict(), opt=opt.state_dict(),
                            average=average.state(), step=step, spent=spent)
                last = kept = time.time()


if __name__ == "__main__":
    main()
