#!/usr/bin/env python3
"""Image towers with random weights, each a folder of config.json, model.safetensors and expected.safetensors:

clip-vision-openai   CLIP image tower as OpenAI's (QuickGELU), config nested in a whole CLIP's
clip-vision-h        as OpenCLIP's ViT-H (exact GELU, head width 20, patch 14), config of the tower alone
vit-timm             timm's ViT with a class token
vit-hf               the same weights under Hugging Face names, which is how face ViTs are published
iresnet              arcface_torch's IResNet

float32 throughout. Inputs are already normalised pictures [B, 3, S, S].
"""
import timm.models.vision_transformer
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from common import fill, normal, save, write_json


@torch.no_grad()
def main():
    clip_vision("clip-vision-openai", seed=11, nested=True, hidden_size=48, num_attention_heads=4, num_hidden_layers=3,
                intermediate_size=112, patch_size=8, image_size=32, hidden_act="quick_gelu", projection_dim=24)
    clip_vision("clip-vision-h", seed=12, nested=False, hidden_size=60, num_attention_heads=3, num_hidden_layers=2,
                intermediate_size=130, patch_size=14, image_size=42, hidden_act="gelu", projection_dim=32)
    vit()
    iresnet()


def clip_vision(folder, seed, nested, **config):
    model = fill(CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), seed)
    state = {published_clip(k): v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    write_json(f"{folder}/config.json", {"model_type": "clip", "projection_dim": config["projection_dim"], "vision_config": config} if nested
               else {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"], **config}, indent=2)
    save(f"{folder}/model.safetensors", state)
    pixels = normal(seed * 100, 2, 3, config["image_size"], config["image_size"])
    out = model(pixels, output_hidden_states=True)
    save(f"{folder}/expected.safetensors", {
        "pixel_values": pixels, "block_0": out.hidden_states[1], "last_hidden_state": out.last_hidden_state, "image_embeds": out.image_embeds})


def published_clip(name):
    return name if name.startswith(("vision_model.", "visual_projection.")) else f"vision_model.{name}"


def vit(width=36, depth=4, heads=3, patch=8, size=32, ratio=2.5, seed=13):
    """Class-token features after every block, before the last norm, and the normed class token at the end."""
    theirs = fill(timm.models.vision_transformer.VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=ratio, num_classes=0), seed)
    state = theirs.state_dict()
    pixels = normal(seed * 100, 2, 3, size, size)
    blocks = theirs.forward_intermediates(pixels, indices=list(range(depth)), return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True)
    taps = torch.stack([prefix[:, 0] for _, prefix in blocks], 1)
    write_json("vit-timm/config.json", {"architecture": "vit", "img_size": size, "patch_size": patch, "embed_dim": width, "depth": depth,
                                        "num_heads": heads, "mlp_ratio": ratio, "layer_norm_eps": 1e-6}, indent=2)
    save("vit-timm/model.safetensors", state)
    save("vit-timm/expected.safetensors", {"pixel_values": pixels, "tokens_0": blocks_tokens(blocks[0]), "taps": taps,
                                           "last_hidden_state": theirs.forward_features(pixels)})

    config = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=int(width * ratio), image_size=size,
                  patch_size=patch, hidden_act="gelu", layer_norm_eps=1e-12, qkv_bias=True)
    named = hugging_face_names(state, depth)
    model = ViTModel(ViTConfig(**config), add_pooling_layer=False).eval()
    load_hugging_face(model, named, pixels)
    out = model(pixels, output_hidden_states=True)
    write_json("vit-hf/config.json", {"model_type": "vit", "architectures": ["ViTForImageClassification"], **config}, indent=2)
    save("vit-hf/model.safetensors", {f"vit.{k}": v for k, v in named.items()})
    save("vit-hf/expected.safetensors", {"pixel_values": pixels, "taps": torch.stack([h[:, 0] for h in out.hidden_states[1:]], 1),
                                         "last_hidden_state": out.last_hidden_state})


def blocks_tokens(block):
    """Class token and patches of one block's output, [B, 1 + patches, width]."""
    patches, prefix = block
    return torch.cat([prefix, patches], 1)


def hugging_face_names(state, depth):
    """timm's state under the names of ViTModel; the joint qkv is cut in three."""
    out = {"embeddings.cls_token": state["cls_token"], "embeddings.position_embeddings": state["pos_embed"]}
    for kind in ("weight", "bias"):
        out[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        out[f"layernorm.{kind}"] = state[f"norm.{kind}"]
        for i in range(depth):
            ours, hf = f"blocks.{i}", f"encoder.layer.{i}"
            for name, part in zip(("query", "key", "value"), state[f"{ours}.attn.qkv.{kind}"].chunk(3)):
                out[f"{hf}.attention.attention.{name}.{kind}"] = part.clone()
            for a, b in {"attn.proj": "attention.output.dense", "norm1": "layernorm_before", "norm2": "layernorm_after",
                         "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}.items():
                out[f"{hf}.{b}.{kind}"] = state[f"{ours}.{a}.{kind}"]
    return out


def load_hugging_face(model, named, pixels):
    """Loads by the published names, following the renaming that newer transformers versions have made inside."""
    inner = {"encoder.layer.": "layers.", "attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj",
             "attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj",
             "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
    keys = set(model.state_dict())
    renamed = {}
    for k, v in named.items():
        new = k
        if k not in keys:
            for a, b in inner.items():
                new = new.replace(a, b)
        renamed[new] = v
    model.load_state_dict(renamed)  # strict: an unknown or missing name is an error


class Block(nn.Module):
    """BN, conv, BN, PReLU, strided conv, BN; the shortcut is a strided 1x1 conv and a BN where the shape changes."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin, eps=1e-5), nn.Conv2d(cin, cout, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(cout, eps=1e-5), nn.PReLU(cout)
        self.conv2, self.bn3 = nn.Conv2d(cout, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout, eps=1e-5)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout, eps=1e-5))

    def forward(self, x):
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """The recogniser of arcface_torch under its checkpoint names, at any width."""

    def __init__(self, widths, blocks, size, features):
        super().__init__()
        self.conv1, self.bn1, self.prelu = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0], eps=1e-5), nn.PReLU(widths[0])
        cin = widths[0]
        for i, (width, count) in enumerate(zip(widths[1:], blocks)):
            layers = [Block(cin if j == 0 else width, width, 2 if j == 0 else 1) for j in range(count)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*layers))
            cin = width
        self.bn2 = nn.BatchNorm2d(cin, eps=1e-5)
        self.fc = nn.Linear(cin * (size // 16) ** 2, features)
        self.features = nn.BatchNorm1d(features, eps=1e-5)

    def forward(self, x):
        """-> embedding [B, features], and the output of each of the four stages."""
        x, stages = self.prelu(self.bn1(self.conv1(x))), []
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
            stages.append(x)
        return self.features(self.fc(self.bn2(x).flatten(1))), stages


def iresnet(widths=(8, 8, 12, 16, 24), blocks=(2, 1, 2, 1), size=48, features=20, seed=14):
    model = fill(IResNet(widths, blocks, size, features), seed)
    pixels = normal(seed * 100, 2, 3, size, size).clamp(-1, 1)
    embedding, stages = model(pixels)
    write_json("iresnet/config.json", {"architecture": "iresnet", "widths": widths, "blocks": blocks, "input_size": size,
                                       "embedding": features}, indent=2)
    save("iresnet/model.safetensors", {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")})
    save("iresnet/expected.safetensors", {"pixel_values": pixels, "embedding": embedding,
                                          **{f"stage_{i}": s for i, s in enumerate(stages)}})


if __name__ == "__main__":
    main()
