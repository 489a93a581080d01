"""Writes Stable Diffusion 2.1 pipelines of any size, with random weights, as a diffusers folder under the published names."""
import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from common import fill

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


@dataclass
class Spec:
    """One pipeline. The defaults are SD 2.1-base."""

    blocks: tuple = (320, 640, 1280, 1280)
    heads: tuple = (5, 10, 20, 20)
    layers: int = 2
    groups: int = 32
    linear_projection: bool = True
    text_width: int = 1024
    text_layers: int = 23
    text_heads: int = 16
    text_inner: int = 4096
    text_act: str = "gelu"
    vae_blocks: tuple = (128, 256, 512, 512)
    vae_layers: int = 2
    vae_groups: int = 32
    merges: int = 48894
    dtype: torch.dtype = torch.float32  # of the stored weights
    legacy: bool = False  # old names of the VAE's attention, and position_ids in the text encoder
    seed: int = 0
    output_gain: float = 1.0  # size of the predicted noise
    parts: tuple = field(default=("text_encoder", "unet", "vae"))


def build(spec):
    """{part: torch model in float32 whose values are exact in spec.dtype}."""
    made = {}
    if "text_encoder" in spec.parts:
        made["text_encoder"] = fill(CLIPTextModel(CLIPTextConfig(**text_config(spec))), spec.seed * 10 + 1, spec.dtype)
    if "unet" in spec.parts:
        unet = uninitialised(lambda: UNet2DConditionModel(**unet_config(spec)))
        made["unet"] = fill(unet, spec.seed * 10 + 2, spec.dtype, output=("conv_out.weight", spec.output_gain))
    if "vae" in spec.parts:
        made["vae"] = fill(uninitialised(lambda: AutoencoderKL(**vae_config(spec))), spec.seed * 10 + 3, spec.dtype)
    return made


def uninitialised(make):
    """A model without the minutes that default initialisation takes at full size; `fill` sets every value."""
    with torch.device("meta"):
        model = make()
    return model.to_empty(device="cpu")


def write(folder, spec, models, bpe):
    """The whole folder: weights, configs, tokenizer (from `bpe`, the gzipped CLIP merges), scheduler, index."""
    folder = Path(folder)
    configs = {"text_encoder": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **text_config(spec)},
               "unet": {"_class_name": "UNet2DConditionModel", **unet_config(spec)},
               "vae": {"_class_name": "AutoencoderKL", **vae_config(spec)}}
    if spec.legacy:
        configs["vae"].pop("scaling_factor")  # the published file leaves it to the default, 0.18215
    for part, model in models.items():
        write_json(folder / part / "config.json", configs[part])
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        tensors = {k: v.to(spec.dtype) if v.is_floating_point() else v for k, v in published_names(part, model, spec.legacy).items()}
        save_file(tensors, folder / part / f"{name}.safetensors", metadata={"format": "pt"})
        (folder / part / f"{name}.safetensors").chmod(0o644)
    write_tokenizer(folder / "tokenizer", spec.merges, bpe)
    write_json(folder / "scheduler/scheduler_config.json", {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **SCHEDULER})
    write_json(folder / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})


SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
             "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon"}


def text_config(spec):
    # bos 0, eos 2 and pad 1 are what the published file says; only the unused pooled output reads them
    return {"vocab_size": 514 + spec.merges, "hidden_size": spec.text_width, "intermediate_size": spec.text_inner,
            "num_hidden_layers": spec.text_layers, "num_attention_heads": spec.text_heads, "max_position_embeddings": 77,
            "hidden_act": spec.text_act, "layer_norm_eps": 1e-5, "projection_dim": 512, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}


def unet_config(spec):
    levels = len(spec.blocks)
    return {"sample_size": 64, "in_channels": 4, "out_channels": 4, "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0,
            "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1), "block_out_channels": list(spec.blocks),
            "layers_per_block": spec.layers, "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu",
            "norm_num_groups": spec.groups, "norm_eps": 1e-5, "cross_attention_dim": spec.text_width,
            "attention_head_dim": list(spec.heads),  # the number of heads, whatever the name says
            "use_linear_projection": spec.linear_projection, "dual_cross_attention": False, "only_cross_attention": False}


def vae_config(spec):
    levels = len(spec.vae_blocks)
    return {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels, "block_out_channels": list(spec.vae_blocks), "layers_per_block": spec.vae_layers,
            "act_fn": "silu", "norm_num_groups": spec.vae_groups, "sample_size": 64, "scaling_factor": 0.18215}


def published_names(part, model, legacy):
    """State under the names of the published checkpoint, which newer libraries have changed."""
    state = {k: v.detach().contiguous() for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    if part == "text_encoder":
        state = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in state.items()}
        if legacy:
            state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if part == "vae" and legacy:
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for k in [k for k in state if ".attentions." in k]:
            new = next((k.replace(f".{a}.", f".{b}.") for a, b in old.items() if f".{a}." in k), k)
            state[new] = state.pop(k)
    return state


def write_tokenizer(folder, merges, bpe):
    """vocab.json, merges.txt and the two conflicting configs of the published folder (pad "!" and pad endoftext)."""
    lines = gzip.decompress(Path(bpe).read_bytes()).decode("utf-8").split("\n")[1 : 1 + merges]
    letters = list(byte_letters().values())
    vocab = letters + [c + "</w>" for c in letters] + [line.replace(" ", "") for line in lines] + [BOS, EOS]
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(vocab)}, indent=None)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
    special = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    bos, eos = ({"content": c, **special} for c in (BOS, EOS))
    write_json(folder / "special_tokens_map.json", {"bos_token": bos, "eos_token": eos, "pad_token": "!", "unk_token": eos})
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": 77, "errors": "replace", "add_prefix_space": False,
        "bos_token": {"__type": "AddedToken", **bos}, "eos_token": {"__type": "AddedToken", **eos}, "unk_token": {"__type": "AddedToken", **eos},
        "pad_token": EOS})


def byte_letters():
    """GPT-2's printable stand-ins for the 256 bytes, in the vocabulary's order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def write_json(path, value, indent=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
