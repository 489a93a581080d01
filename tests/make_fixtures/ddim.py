#!/usr/bin/env python3
"""ddim.safetensors: the noise schedule, timestep lists and single steps of diffusers' DDIMScheduler with SD 2.1's settings."""
import torch
from diffusers import DDIMScheduler

from common import normal, save
from model_folder import SCHEDULER

COUNTS = (1, 2, 3, 4, 7, 10, 20, 25, 30, 50, 100, 250, 999)


def main():
    scheduler = DDIMScheduler(**SCHEDULER)
    tensors = {"alphas_cumprod": scheduler.alphas_cumprod}
    for count in COUNTS:
        scheduler.set_timesteps(count)
        tensors[f"timesteps.{count}"] = scheduler.timesteps
    scheduler.set_timesteps(30)
    steps = scheduler.timesteps[[0, 1, 15, 28, 29]]
    sample, eps = normal(1, 5, 4, 3, 2), normal(2, 5, 4, 3, 2)
    stepped = [scheduler.step(e[None], t, s[None], eta=0.0).prev_sample for s, e, t in zip(sample, eps, steps)]
    noisy = scheduler.add_noise(sample, eps, steps)
    tensors.update({"step.timesteps": steps, "step.sample": sample, "step.eps": eps, "step.previous": torch.cat(stepped), "step.noisy": noisy})
    save("ddim.safetensors", tensors, step={"steps": 30, "eta": 0.0, "prediction_type": "epsilon"})


if __name__ == "__main__":
    main()
