"""Trains text encoder, UNet and look map on cached latents:  python train_base.py DATA_DIR CKPT_DIR --minutes 60

The schedule follows the clock; started again with more minutes, it goes on from the checkpoint. Each worker takes APART steps of its
own, then they average their weights: on a busy machine, waiting for each other at every step costs a third of the time.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import common
import dataset
import language
import latents
from base import Base, alphas_cumprod
from muon import Muon

PLAIN = ("embedding.weight", "conv_in", "conv_out", "look.")  # these stay with AdamW
APART = 10   # steps that the workers take apart before they average their weights
EMPTY = 0.1  # share of empty prompts, for guidance
LEVEL = 5    # errors in the picture weigh 1 + SNR up to here: noise error alone hardly sees the high noise, where the person is decided
SHARE = {"plain0": 26, "plain1": 14, "plain2": 14, "smile": 3, "glasses": 4, "hat": 7, "oil": 6, "watercolor": 6, "pencil": 6, "fauvism": 6,
         "wizard": 6.5, "chef": 6.5, "nurse": 6.5, "police": 6.5}


class Pictures:
    """Draws training examples: latents, token ids, the name's position, the person."""

    def __init__(self, data_dir, seed=0):
        self.latents = np.load(Path(data_dir) / "latents.npy", mmap_mode="r")
        self.scale = json.loads((Path(data_dir) / "latents.json").read_text())["scaling_factor"]
        self.rng, self.drawn = np.random.default_rng(seed), 0
        t = language.Tokenizer()
        self.empty = t.encode("")
        self.captions = {v: [t.template(c) for c in language.CAPTIONS[language.kind(v)]] for v in dataset.VARIANTS}

    def latent(self, who, what):
        moments = torch.from_numpy(self.latents[who, what].astype(np.float32))
        mean, logvar = moments.chunk(2, 1)
        return (mean + (0.5 * logvar).exp() * torch.randn_like(mean)) * self.scale

    def batch(self, size):
        if self.drawn % 50 == 0:  # more may have been encoded since
            self.rows = latents.ready(self.latents)
            share = np.array([SHARE[v] for v in dataset.VARIANTS], float)
            count = np.bincount(self.rows[:, 1], minlength=len(share))
            self.weight = np.cumsum((share / np.maximum(count, 1))[self.rows[:, 1]])
        self.drawn += 1
        at = np.searchsorted(self.weight, self.rng.random(size) * self.weight[-1])
        who, what = self.rows[at].T
        ids, at = [], []
        for v in what:
            forms = self.captions[dataset.VARIANTS[v]]
            tokens, place = forms[self.rng.integers(len(forms))]
            if self.rng.random() < EMPTY:
                tokens, place = self.empty, -1
            ids.append(tokens)
            at.append(place)
        return self.latent(who, what), torch.tensor(ids), torch.tensor(at), torch.from_numpy(who)


def noised(x, abar):
    """Noisy latents, the noise, and times spread evenly over the batch."""
    n = x.shape[0]
    t = ((torch.arange(n) + torch.rand(n)) / n * 1000).long().clamp_max(999)[torch.randperm(n)]
    noise, a = torch.randn_like(x), abar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * noise, noise, t


def importance(t, abar):
    """Weight [B, 1, 1, 1] of the squared noise error at time t: that of `v` (1 / abar), with at most LEVEL for the picture's own error."""
    a = abar[t].view(-1, 1, 1, 1)
    return (LEVEL * (1 - a)).clamp_max(1) / a


def work(rank, a):
    codes = torch.from_numpy(dataset.look_codes(a.data))
    model = Base(len(language.Tokenizer().vocab), codes[:dataset.TRAIN.stop])
    params, abar, workers = list(model.parameters()), alphas_cumprod(), a.workers
    opt = Muon(model.named_parameters(), plain=lambda n: any(part in n for part in PLAIN))
    average, path, log = common.Average(params, 250 // APART), f"{a.ckpt}/base.pt", common.Log(f"{a.ckpt}/base.jsonl")
    step, spent, total, running = 0, 0.0, a.minutes * 60, None
    state = common.load(path)
    if state:
        model.load_state_dict(state["model"]), opt.load_state_dict(state["opt"]), average.load(state["average"])
        step, spent = state["step"], state["spent"]
    first, pictures = step, Pictures(a.data, seed=10 * step + rank)
    torch.manual_seed(2000 + 10 * step + rank)

    def loss_of(x, noise, t, ids, words, at):
        error = (model.unet(x, t, model.context(ids, words, at), return_dict=False)[0].float() - noise).square()
        return (importance(t, abar) * error).mean(), error.mean()

    if a.compile:
        loss_of = torch.compile(loss_of)

    last = kept = time.time()
    while spent < total:
        x, ids, at, who = pictures.batch(a.batch // workers)
        noisy, noise, t = noised(x, abar)
        with torch.autocast("cpu", torch.bfloat16):
            loss, error = loss_of(noisy.contiguous(memory_format=torch.channels_last), noise, t, ids, model.look(codes[who]), at)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        lr = common.cosine(spent, total, a.lr, warm=0.02 * total)
        opt.step(lr)
        step += 1
        row = np.array([float(loss.detach()), float(error.detach())])
        running = row if running is None else 0.99 * running + 0.01 * row
        if step % APART:
            continue
        now = time.time()
        elapsed = min(now - last, 20 * APART) if step > first + APART else 0.0
        spent, late = common.meet(params, rank, workers, spent + elapsed, float(now - kept > 240))
        last = now
        average.update()
        if rank == 0 and step % (5 * APART) == 0:
            log(part="base", step=step, spent=round(spent), loss=float(running[0]), noise_error=float(running[1]), lr=lr)
        if late or spent >= total:
            kept = time.time()
            if rank == 0:
                common.save(path, model=model.state_dict(), opt=opt.state_dict(), average=average.state(), step=step, spent=spent)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data"), a.add_argument("ckpt")
    a.add_argument("--minutes", type=float, default=60)
    a.add_argument("--batch", type=int, default=64)
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--compile", action="store_true", help="a third faster, after two minutes of compiling")
    common.launch(work, a.parse_args())


if __name__ == "__main__":
    main()
