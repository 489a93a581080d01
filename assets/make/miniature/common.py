"""What every training script shares: workers, checkpoints to resume from, averaged weights, a log."""
import json
import math
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

torch.set_num_threads(int(os.environ.get("THREADS", "2")))
try:
    torch.set_flush_denormal(True)
except RuntimeError:
    pass


def launch(work, args):
    """Runs work(rank, args) in args.workers single-threaded processes. They meet once a step, where threads meet at every operation."""
    if args.workers == 1:
        work(0, args)
    else:
        mp.spawn(_worker, (work, tempfile.mktemp(), args), nprocs=args.workers)


def _worker(rank, work, meeting, args):
    os.setsid()  # a session of its own: schedulers that share by session see two workers, not one
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=args.workers)
    work(rank, args)


def share(params, rank, workers, *values):
    """Averages gradients over the workers. Returns `values` as the first worker has them."""
    if workers == 1:
        return values
    flat = torch.cat([p.grad.flatten() for p in params] + [torch.tensor([v * workers * (rank == 0) for v in values], dtype=torch.float32)])
    dist.all_reduce(flat)
    flat /= workers
    at = 0
    for p in params:
        p.grad.copy_(flat[at:at + p.numel()].view(p.shape))
        at += p.numel()
    return tuple(flat[at:].tolist())


@torch.no_grad()
def meet(params, rank, workers, *values):
    """Averages the workers' weights. Returns `values` as the first worker has them."""
    if workers == 1:
        return values
    flat = torch.cat([p.flatten() for p in params] + [torch.tensor([v * workers * (rank == 0) for v in values], dtype=torch.float32)])
    dist.all_reduce(flat)
    flat /= workers
    at = 0
    for p in params:
        p.copy_(flat[at:at + p.numel()].view(p.shape))
        at += p.numel()
    return tuple(flat[at:].tolist())


def cosine(step, total, peak, warm=200, floor=0.02):
    """Learning rate: linear warm-up, then a half cosine to `floor` times the peak."""
    if step < warm:
        return peak * (step + 1) / warm
    part = min(1.0, (step - warm) / max(1, total - warm))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part)))


class Average:
    """Exponential average of the weights, with a short memory at the start."""

    def __init__(self, params, horizon=500):
        self.params, self.horizon, self.n = list(params), horizon, 0
        self.mean = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def update(self):
        self.n += 1
        keep = min(1 - 1 / self.horizon, self.n / (self.n + 9))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.params], 1 - keep)

    @torch.no_grad()
    def swap(self):
        """Exchange the averaged and the trained weights."""
        for p, m in zip(self.params, self.mean):
            t = p.detach().clone()
            p.copy_(m)
            m.copy_(t)

    def state(self):
        return {"n": self.n, "mean": self.mean}

    def load(self, state):
        self.n = state["n"]
        for m, s in zip(self.mean, state["mean"]):
            m.copy_(s)


def save(path, **state):
    """Write a checkpoint whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load(path):
    """The checkpoint at `path`; None when there is none."""
    return torch.load(path, map_location="cpu", weights_only=False) if Path(path).exists() else None


class Log:
    """Appends one JSON line per report, and prints it."""

    def __init__(self, path):
        self.path, self.start = Path(path), time.time()

    def __call__(self, **row):
        row = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}
        row["wall_s"] = round(time.time() - self.start)
        with self.path.open("a") as f:
            f.write(json.dumps(row) + "\n")
        print(row, flush=True)
