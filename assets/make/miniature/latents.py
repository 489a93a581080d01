"""Latents of the training pictures from the trained autoencoder:  python latents.py DATA_DIR CKPT_DIR [--workers 2]

Writes latents.npy [people, variants, 8, 16, 16] float16 (mean, log variance; zeros where there is none yet) and latents.json with
the scaling factor. Of each person two plain pictures and five of the eleven others: more people serve better than more pictures of
each. In random order, so that training can begin before it has ended; started again, it goes on.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch

import common
import dataset
import train_vae

OTHERS = 5


def chosen():
    """[N, 2] of (person, variant), shuffled."""
    rng, plain = np.random.default_rng(22), 3
    rows = []
    for p in dataset.TRAIN:
        rows += [(p, 0), (p, rng.integers(1, plain))]
        rows += [(p, v) for v in rng.choice(np.arange(plain, len(dataset.VARIANTS)), OTHERS, replace=False)]
    return rng.permutation(np.array(rows))


def ready(latents):
    """[N, 2] of the pictures whose latents are there."""
    return np.argwhere(latents[:, :, 0, 0, 0] != 0)


def work(rank, a):
    model = train_vae.build()
    model.load_state_dict(common.load(f"{a.ckpt}/vae.pt")["averaged"])
    model.eval()
    data, out = dataset.images(a.data), np.load(Path(a.data) / "latents.npy", mmap_mode="r+")
    rows = chosen()[rank::a.workers]
    rows = rows[out[rows[:, 0], rows[:, 1], 0, 0, 0] == 0]
    for i in range(0, len(rows), 32):
        who, what = rows[i:i + 32].T
        x = torch.from_numpy(data[who, what]).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            moments = model.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.parameters.float()
        if rank == 0 and not (Path(a.data) / "latents.json").exists():
            mean = moments[:, :4]
            scale = {"scaling_factor": round(float(1 / mean.std()), 5), "channel_mean": mean.mean((0, 2, 3)).tolist()}
            (Path(a.data) / "latents.json").write_text(json.dumps(scale))
        out[who, what] = moments.numpy()
        if rank == 0 and i % 1600 == 0:
            print(i, "of", len(rows), flush=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data"), a.add_argument("ckpt")
    a.add_argument("--workers", type=int, default=2)
    a = a.parse_args()
    path = Path(a.data) / "latents.npy"
    if not path.exists():
        np.lib.format.open_memmap(path, "w+", np.float16, (dataset.PEOPLE, len(dataset.VARIANTS), 8, 16, 16)).flush()
    common.launch(work, a)


if __name__ == "__main__":
    main()
