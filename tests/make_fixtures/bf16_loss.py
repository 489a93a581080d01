#!/usr/bin/env python3
"""bf16.json: what torch loses by computing the tiny pipelines in bfloat16, as the largest difference over the largest float32 value.

The reference is expected.safetensors of tiny_pipelines.py, which has to be there.
"""
import torch
from safetensors.torch import load_file

import model_folder
from common import FIXTURES, write_json
from tiny_pipelines import SPECS, encode, sample


def main():
    write_json("bf16.json", {name: losses(spec, load_file(FIXTURES / name / "expected.safetensors")) for name, spec in SPECS.items()}, indent=1)


@torch.no_grad()
def losses(spec, expected):
    models = {part: model.bfloat16() for part, model in model_folder.build(spec).items()}
    get = lambda name: expected[name].bfloat16()
    out = {"text.hidden": encode(models["text_encoder"], expected["text.input_ids"]),
           "ddim.final": sample(models["unet"], get("ddim.latents"), get("ddim.context"), get("ddim.context_uncond")),
           "vae.mean": models["vae"].encode(get("vae.image")).latent_dist.mean,
           "vae.decoded": models["vae"].decode(get("vae.latents") / 0.18215).sample}
    for i in range(3):
        inputs = (get(f"unet.{i}.latents"), expected[f"unet.{i}.timesteps"], get(f"unet.{i}.context"))
        out[f"unet.{i}.eps"] = models["unet"](*inputs).sample
    return {name: float((value.float() - expected[name]).abs().max() / expected[name].abs().max()) for name, value in sorted(out.items())}


if __name__ == "__main__":
    main()
