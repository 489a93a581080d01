#!/usr/bin/env python3
"""gradients.safetensors beside each tiny pipeline, and beside vit-timm: what torch's autograd gives through whole networks.

    python gradients.py

The pipelines are those of tiny_pipelines.py, which has to have run: `grad.*` of its expected.safetensors are the inputs of the denoising loss.
Some gradients are stored whole; of all others the length (Euclidean norm) is in the metadata, so that every weight of every network is
compared. float32, like everything here, except for `bf16` in the metadata of the pipelines.
"""
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

import model_folder
from common import FIXTURES, normal, save
from tiny_pipelines import SPECS, encode

# names in the checkpoints; those of one tuple are one parameter of the engine
UNET = ["conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.norm1.weight", "down_blocks.0.resnets.0.conv1.weight",
        "down_blocks.0.resnets.0.time_emb_proj.bias", "down_blocks.0.downsamplers.0.conv.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.norm1.bias", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight", "up_blocks.0.upsamplers.0.conv.weight", "conv_out.bias"]
TEXT = ["text_model.embeddings.position_embedding.weight", "text_model.encoder.layers.0.mlp.fc1.weight", "text_model.final_layer_norm.weight"]
VAE = ["decoder.conv_in.weight", "decoder.mid_block.resnets.0.norm1.bias", "decoder.up_blocks.0.upsamplers.0.conv.weight", "post_quant_conv.bias"]
VIT = ["patch_embed.proj.weight", "cls_token", "pos_embed", "blocks.0.attn.qkv.bias", "blocks.1.mlp.fc1.weight", "norm.weight"]


def main():
    for name, spec in SPECS.items():
        models = model_folder.build(spec)
        tensors, lengths = denoising(load_file(FIXTURES / name / "expected.safetensors"), models)
        for part in (picture(spec, models["vae"]), projector(spec)):
            tensors.update(part[0])
            lengths.update(part[1])
        save(f"{name}/gradients.safetensors", tensors, lengths=lengths, bf16=half_precision(name, spec, tensors))
    tensors, lengths = face()
    save("vit-timm/gradients.safetensors", tensors, lengths=lengths)


def denoising(known, models):
    """mean((eps - noise)^2) through UNet and text encoder, in the word embeddings, the context and all weights."""
    get = lambda name: known[f"grad.{name}"]
    embeds = get("embeds").clone().requires_grad_()
    noisy = DDIMScheduler(**model_folder.SCHEDULER).add_noise(get("latents"), get("noise"), get("timesteps"))
    hidden = encode(models["text_encoder"], get("input_ids"), get("positions"), embeds)
    hidden.retain_grad()
    loss = F.mse_loss(models["unet"](noisy, get("timesteps"), hidden).sample, get("noise"))
    loss.backward()
    tensors = {"loss": loss, "grad_embeds": embeds.grad, "grad_context": hidden.grad}
    lengths = {}
    for part, wanted in (("unet", UNET), ("text_encoder", TEXT)):
        collect(part, weight_gradients(models[part]), wanted, tensors, lengths)
    return tensors, lengths


def half_precision(name, spec, exact):
    """What torch loses by computing the denoising loss and its gradients in bfloat16: largest difference over the largest float32 value."""
    known = {k: v.bfloat16() if v.is_floating_point() else v for k, v in load_file(FIXTURES / name / "expected.safetensors").items()}
    rounded, _ = denoising(known, {part: model.bfloat16() for part, model in model_folder.build(spec).items()})
    relative = lambda n: float((rounded[n].float() - exact[n]).abs().max() / exact[n].abs().max())
    return {n: relative(n) for n in ("loss", "grad_embeds", "grad_context")}


def picture(spec, vae):
    """Mean squared difference of decoded latents and a picture, in the latents and all weights of the decoder."""
    latents = normal(spec.seed * 100 + 60, 2, 4, 5, 6).requires_grad_()
    target = normal(spec.seed * 100 + 61, 2, 3, *(n * 2 ** (len(spec.vae_blocks) - 1) for n in (5, 6)))
    loss = F.mse_loss(vae.decode(latents / 0.18215).sample, target)
    loss.backward()
    tensors, lengths = {"vae.latents": latents, "vae.target": target, "vae.loss": loss, "vae.grad_latents": latents.grad}, {}
    collect("vae", weight_gradients(vae), VAE, tensors, lengths)
    return tensors, lengths


def projector(spec, words=2, width=24, hidden=16):
    """mean((s - target)^2) + 0.1 * the sum of lengths of the words s, in all weights of the projector."""
    g = torch.Generator().manual_seed(spec.seed * 100 + 70)
    random = lambda *shape: torch.randn(shape, generator=g)
    features, target = random(3, width), random(3, words, spec.text_width)
    weights = {}
    for i in range(words):
        for name, shape in {"fc1.weight": (hidden, width), "fc1.bias": (hidden,), "norm.weight": (hidden,), "norm.bias": (hidden,),
                            "fc2.weight": (spec.text_width, hidden), "fc2.bias": (spec.text_width,)}.items():
            weights[f"words.{i}.{name}"] = (random(*shape) * (0.3 if len(shape) > 1 else 1)).requires_grad_()
    out = []
    for i in range(words):
        w = lambda name: weights[f"words.{i}.{name}"]
        h = F.layer_norm(F.linear(features, w("fc1.weight"), w("fc1.bias")), (hidden,), w("norm.weight"), w("norm.bias"), 1e-5)
        out.append(F.linear(F.leaky_relu(h, 0.2), w("fc2.weight"), w("fc2.bias")))
    s = torch.stack(out, 1)
    loss = F.mse_loss(s, target) + 0.1 * s.norm(dim=-1).sum()
    loss.backward()
    tensors = {"projector.features": features, "projector.target": target, "projector.loss": loss}
    tensors.update({f"projector.weights.{k}": v for k, v in weights.items()})
    lengths = {}
    collect("projector", {k: v.grad for k, v in weights.items()}, list(weights), tensors, lengths)
    return tensors, lengths


def face():
    """Mean squared difference of class tokens after every block, and of the normed one, and a target; in the picture and all weights."""
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=36, depth=4, num_heads=3, mlp_ratio=2.5, num_classes=0).eval()
    model.load_state_dict(load_file(FIXTURES / "vit-timm/model.safetensors"))
    pixels = load_file(FIXTURES / "vit-timm/expected.safetensors")["pixel_values"].clone().requires_grad_()
    tokens, blocks = model.forward_intermediates(pixels, indices=[0, 1, 2, 3], return_prefix_tokens=True, output_fmt="NLC")
    taps = torch.stack([prefix[:, 0] for _, prefix in blocks] + [tokens[:, 0]], 1)
    target = normal(1360, *taps.shape)
    loss = F.mse_loss(taps, target)
    loss.backward()
    tensors, lengths = {"target": target, "loss": loss, "grad_pixels": pixels.grad}, {}
    collect("face_encoder", weight_gradients(model), VIT, tensors, lengths)
    return tensors, lengths


def weight_gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def collect(part, gradients, wanted, tensors, lengths):
    if part == "text_encoder":
        gradients = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in gradients.items()}
    missing = [name for name in wanted if name not in gradients]
    assert not missing, missing
    tensors.update({f"grad.{part}.{name}": gradients[name] for name in wanted})
    lengths.update({f"{part}.{name}": float(g.double().norm()) for name, g in sorted(gradients.items())})


if __name__ == "__main__":
    main()
