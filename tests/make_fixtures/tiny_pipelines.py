#!/usr/bin/env python3
"""tiny-a, tiny-b, tiny-c: whole pipelines of unusual shapes, and what diffusers and transformers compute with them in float32.

    python tiny_pipelines.py --bpe bpe_simple_vocab_16e6.txt.gz
"""
import argparse

import torch
from diffusers import DDIMScheduler

import model_folder
from common import FIXTURES, normal, save
from model_folder import Spec

SPECS = {
    # float32, linear projections, exact GELU, published layer counts
    "tiny-a": Spec(blocks=(16, 32), heads=(2, 4), layers=2, groups=8, text_width=32, text_layers=3, text_heads=2, text_inner=64,
                   vae_blocks=(8, 16), vae_layers=1, vae_groups=4, merges=300, seed=1),
    # float16 files, three levels, head widths 4, 12 and 9, convolutional projections, QuickGELU, old VAE names
    "tiny-b": Spec(blocks=(12, 24, 36), heads=(3, 2, 4), layers=1, groups=6, linear_projection=False, text_width=20, text_layers=2,
                   text_heads=4, text_inner=52, text_act="quick_gelu", vae_blocks=(6, 12, 18), vae_layers=2, vae_groups=3, merges=150,
                   dtype=torch.float16, legacy=True, seed=2),
    # bfloat16 files, one head, one layer
    "tiny-c": Spec(blocks=(8, 16), heads=(1, 2), layers=1, groups=4, text_width=24, text_layers=1, text_heads=3, text_inner=40,
                   vae_blocks=(8, 8), vae_layers=1, vae_groups=2, merges=64, dtype=torch.bfloat16, seed=3),
}
STEPS, GUIDANCE = 30, 7.5


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bpe", required=True, help="CLIP's merges, as in the PyPI package open-clip-torch")
    a = ap.parse_args()
    for name, spec in SPECS.items():
        models = model_folder.build(spec)
        model_folder.write(FIXTURES / name, spec, models, a.bpe)
        with torch.no_grad():
            tensors = {**text(spec, models["text_encoder"]), **unet(spec, models["unet"]), **vae(spec, models["vae"]),
                       **ddim(spec, models["unet"])}
        tensors.update(gradient(spec, models))
        save(f"{name}/expected.safetensors", tensors, ddim={"steps": STEPS, "guidance": GUIDANCE}, drift=drift(spec, models, tensors))


def text(spec, model):
    """Hidden states of two prompts, plain and with two rows of the token embedding replaced."""
    vocab = 514 + spec.merges
    ids = torch.randint(0, vocab - 2, (2, 77), generator=torch.Generator().manual_seed(spec.seed * 100))
    ids[:, 0], ids[0, 20], ids[1, 9:] = vocab - 2, vocab - 1, 0
    ids[1, 9] = vocab - 1
    positions = torch.tensor([[3, 4], [1, 2]])
    embeds = normal(spec.seed * 100 + 1, 2, 2, spec.text_width) * 0.5
    return {"text.input_ids": ids, "text.hidden": encode(model, ids), "text.positions": positions, "text.embeds": embeds,
            "text.hidden_injected": encode(model, ids, positions, embeds)}


def encode(model, ids, positions=None, embeds=None):
    """Last hidden states; rows of the token embedding at `positions` [B, k] are replaced before positions are added."""
    def inject(module, inputs, output):
        output = output.clone()
        for b in range(ids.shape[0]):
            output[b, positions[b]] = embeds[b].to(output.dtype)
        return output

    table = next(m for n, m in model.named_modules() if n.endswith("token_embedding"))
    hook = table.register_forward_hook(inject) if positions is not None else None
    hidden = model(input_ids=ids).last_hidden_state
    if hook:
        hook.remove()
    return hidden


def unet(spec, model):
    """Three latent sizes: square with two timesteps, oblong, and odd on both sides (uneven halving)."""
    tensors = {}
    for i, (batch, h, w, steps) in enumerate([(2, 8, 8, [1, 958]), (1, 12, 20, [500]), (1, 15, 9, [34])]):
        x, t = normal(spec.seed * 100 + 10 + i, batch, 4, h, w), torch.tensor(steps)
        context = normal(spec.seed * 100 + 20 + i, batch, 77, spec.text_width)
        inner = {} if i else taps(model)
        eps = model(x, t, context).sample
        tensors.update({f"unet.{i}.latents": x, f"unet.{i}.timesteps": t, f"unet.{i}.context": context, f"unet.{i}.eps": eps})
        for name, value in inner.items():
            if name != "hooks":
                tensors[f"unet.{i}.{name}"] = value
        for hook in inner.get("hooks", []):
            hook.remove()
    return tensors


def taps(model):
    """Records the time embedding and the output of the first layer, down block, middle and up block of the next run."""
    seen = {"hooks": []}
    watched = {"time_embedding": model.time_embedding, "conv_in": model.conv_in, "down_0": model.down_blocks[0], "mid": model.mid_block,
               "up_0": model.up_blocks[0]}
    for name, module in watched.items():
        def record(m, i, out, name=name):
            seen[name] = (out[0] if isinstance(out, tuple) else out).clone()
        seen["hooks"].append(module.register_forward_hook(record))
    return seen


def vae(spec, model):
    """Encoder moments of an oblong picture, and the decoding of latents as the sampler leaves them (scaled by 0.18215)."""
    scale = 2 ** (len(spec.vae_blocks) - 1)
    image = normal(spec.seed * 100 + 30, 1, 3, 8 * scale, 6 * scale).clamp(-1, 1)
    latents = normal(spec.seed * 100 + 31, 2, 4, 6, 9)
    posterior = model.encode(image).latent_dist
    return {"vae.image": image, "vae.mean": posterior.mean, "vae.logvar": posterior.logvar,
            "vae.latents": latents, "vae.decoded": model.decode(latents / 0.18215).sample}


def ddim(spec, model):
    """Thirty guided DDIM steps from stored noise."""
    latents = normal(spec.seed * 100 + 40, 2, 4, 8, 6)
    context, uncond = normal(spec.seed * 100 + 41, 2, 77, spec.text_width), normal(spec.seed * 100 + 42, 2, 77, spec.text_width)
    return {"ddim.latents": latents, "ddim.context": context, "ddim.context_uncond": uncond,
            "ddim.final": sample(model, latents, context, uncond)}


def sample(model, latents, context, uncond):
    scheduler = DDIMScheduler(**model_folder.SCHEDULER)
    scheduler.set_timesteps(STEPS)
    both = torch.cat([uncond, context])
    for t in scheduler.timesteps:
        e_uncond, e_cond = model(torch.cat([latents, latents]), t, both).sample.chunk(2)
        latents = scheduler.step(e_uncond + GUIDANCE * (e_cond - e_uncond), t, latents, eta=0.0).prev_sample
    return latents


def gradient(spec, models):
    """The denoising loss of one pair and its gradient in the injected word embeddings, through UNet and text encoder."""
    x0, noise = normal(spec.seed * 100 + 50, 2, 4, 8, 8), normal(spec.seed * 100 + 51, 2, 4, 8, 8)
    t = torch.tensor([700, 120])
    ids = torch.randint(0, 400 + spec.merges, (2, 77), generator=torch.Generator().manual_seed(spec.seed * 100 + 52))
    positions = torch.tensor([[5, 6], [2, 3]])
    embeds = (normal(spec.seed * 100 + 53, 2, 2, spec.text_width) * 0.5).requires_grad_()
    noisy = DDIMScheduler(**model_folder.SCHEDULER).add_noise(x0, noise, t)
    eps = models["unet"](noisy, t, encode(models["text_encoder"], ids, positions, embeds)).sample
    loss = ((eps - noise) ** 2).mean()
    loss.backward()
    return {"grad.latents": x0, "grad.noise": noise, "grad.timesteps": t, "grad.noisy": noisy, "grad.input_ids": ids,
            "grad.positions": positions, "grad.embeds": embeds, "grad.loss": loss, "grad.grad_embeds": embeds.grad}


@torch.no_grad()
def drift(spec, models, tensors):
    """What float32 itself costs torch, against float64: relative error (largest difference over largest value) of the two longest chains."""
    exact = models["unet"].double()
    final = sample(exact, *(tensors[f"ddim.{k}"].double() for k in ("latents", "context", "context_uncond")))
    eps = exact(*(tensors[f"unet.0.{k}"].double() if k != "timesteps" else tensors["unet.0.timesteps"] for k in ("latents", "timesteps", "context"))).sample
    models["unet"].float()
    relative = lambda a, b: float((a - b).abs().max() / b.abs().max())
    return {"ddim.final": relative(tensors["ddim.final"].double(), final), "unet.0.eps": relative(tensors["unet.0.eps"].double(), eps)}


if __name__ == "__main__":
    main()
