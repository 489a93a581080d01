#!/usr/bin/env python3
"""miniature.safetensors: the trained miniature run by diffusers, transformers and timm in float32, from a face to a picture.

    python miniature.py [--model ../../assets/miniature]

To be run again whenever the miniature's weights change; the metadata holds their SHA-256.
"""
import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from transformers import CLIPTextModel, CLIPTokenizer

from common import normal, save
from tiny_pipelines import encode

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "as a wizard, looking at the camera"  # after the two slots of S*
STEPS, GUIDANCE = 30, 7.5


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", type=Path, default=ROOT / "assets/miniature")
    folder = ap.parse_args().model
    photo = torch.from_numpy(np.array(Image.open(folder / "photos/face.png").convert("RGB"), np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    tensors = face(folder, photo)
    tensors.update(text(folder, tensors["face.embeds"]))
    tensors.update(pictures(folder, photo, tensors["text.hidden"]))
    files = sorted(folder.glob("*/*.safetensors"))
    save("miniature.safetensors", tensors, ddim={"steps": STEPS, "guidance": GUIDANCE},
         sha256={str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})


def face(folder, photo):
    """The middle of the photograph stands for an aligned face: what counts here is the arithmetic."""
    config, state = own_format(folder / "face_encoder/model.safetensors")
    size, width = config["image_size"], config["hidden_size"]
    model = VisionTransformer(img_size=size, patch_size=config["patch_size"], embed_dim=width, depth=config["num_hidden_layers"],
                              num_heads=config["num_attention_heads"], mlp_ratio=config["intermediate_size"] / width, num_classes=config["embedding_size"]).eval()
    model.load_state_dict(state)
    edge = (photo.shape[-1] - size) // 2
    image = photo[:, :, edge:edge + size, edge:edge + size]
    layers = [t - 1 for t in config["tap_layers"]]
    tokens, taps = model.forward_intermediates(image, indices=layers, return_prefix_tokens=True, output_fmt="NLC")
    last = model.forward_head(tokens)
    features = torch.cat([prefix[:, 0] for _, prefix in taps] + [last], 1)
    return {"face.image": image, "face.taps": features, "face.embeds": words(folder, features)}


def words(folder, features):
    config, state = own_format(folder / "projector/model.safetensors")
    linear = lambda x, name: torch.nn.functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
    out = []
    for i in range(config["words"]):
        h = linear(features, f"words.{i}.fc1")
        h = torch.nn.functional.layer_norm(h, h.shape[-1:], state[f"words.{i}.norm.weight"], state[f"words.{i}.norm.bias"], config["layer_norm_eps"])
        out.append(linear(torch.nn.functional.leaky_relu(h, config["negative_slope"]), f"words.{i}.fc2"))
    return torch.stack(out, 1)


def own_format(path):
    """Configuration and float32 tensors of a file that carries both."""
    with safe_open(path, "pt") as f:
        config = json.loads(f.metadata()["config"])
    return config, {k: v.float() for k, v in load_file(path).items()}


def text(folder, embeds):
    """Hidden states of the empty prompt and of one with the person in two slots."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32).eval()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = [[bos, eos], [bos, eos, eos, *tokenizer(PROMPT, add_special_tokens=False).input_ids, eos]]
    ids = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
    positions = torch.tensor([list(range(1, 1 + embeds.shape[1]))])
    hidden = torch.cat([encode(model, ids[:1]), encode(model, ids[1:], positions, embeds)])
    return {"text.input_ids": ids, "text.positions": positions, "text.hidden": hidden}


def pictures(folder, photo, hidden):
    """Thirty guided steps, the picture decoded from them, and the photograph encoded."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(STEPS)
    start = latents = normal(77, 1, 4, unet.config.sample_size, unet.config.sample_size)
    for t in scheduler.timesteps:
        uncond, cond = unet(torch.cat([latents, latents]), t, hidden).sample.chunk(2)
        latents = scheduler.step(uncond + GUIDANCE * (cond - uncond), t, latents, eta=0.0).prev_sample
    posterior = vae.encode(photo).latent_dist
    return {"ddim.latents": start, "ddim.final": latents, "vae.decoded": vae.decode(latents / vae.config.scaling_factor).sample,
            "vae.image": photo, "vae.mean": posterior.mean, "vae.logvar": posterior.logvar}


if __name__ == "__main__":
    main()
