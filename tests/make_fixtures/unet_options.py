#!/usr/bin/env python3
"""unet-options: a UNet with the options that Stable Diffusion's own files leave at their defaults, and what diffusers computes with it."""
import torch
from diffusers import UNet2DConditionModel

from common import fill, normal, save, write_json

CONFIG = {
    "in_channels": 4, "out_channels": 4, "sample_size": 8, "flip_sin_to_cos": False, "freq_shift": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 12, 16], "layers_per_block": [1, 2, 1], "transformer_layers_per_block": [1, 2, 1],
    "downsample_padding": 0, "norm_num_groups": 4, "norm_eps": 1e-4, "cross_attention_dim": 10, "attention_head_dim": 2,
    "use_linear_projection": True, "time_embedding_dim": 20,
}


@torch.no_grad()
def main():
    model = fill(UNet2DConditionModel(**CONFIG), 21, torch.float16)
    write_json("unet-options/config.json", {"_class_name": "UNet2DConditionModel", **CONFIG}, indent=2)
    save("unet-options/diffusion_pytorch_model.safetensors", {k: v.half() for k, v in model.state_dict().items()})
    tensors = {}
    for i, (name, batch, h, w, steps) in enumerate([("even", 2, 8, 12, [999, 3]), ("odd", 1, 11, 6, [250])]):
        x, t, context = normal(2100 + i, batch, 4, h, w), torch.tensor(steps), normal(2110 + i, batch, 9, 10)
        eps = model(x, t, context).sample
        tensors.update({f"{name}.latents": x, f"{name}.timesteps": t, f"{name}.context": context, f"{name}.eps": eps})
    save("unet-options/expected.safetensors", tensors)


if __name__ == "__main__":
    main()
