"""Aligned face crops, and the face ViT."""
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from landmarks import TEMPLATE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "networks"))
import geometry  # noqa: E402

SIZE = 112
CONFIG = dict(architecture="vit", image_size=SIZE, patch_size=16, hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=288,
              hidden_act="gelu", layer_norm_eps=1e-6, tap_layers=[3, 6, 9, 12], tap_source="cls", final_source="head", embedding_size=128,
              mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
FEATURES = len(CONFIG["tap_layers"]) * CONFIG["hidden_size"] + CONFIG["embedding_size"]


def build(seed=13):
    torch.manual_seed(seed)
    c = CONFIG
    return VisionTransformer(img_size=SIZE, patch_size=c["patch_size"], embed_dim=c["hidden_size"], depth=c["num_hidden_layers"],
                             num_heads=c["num_attention_heads"], mlp_ratio=c["intermediate_size"] / c["hidden_size"], num_classes=c["embedding_size"])


def features(vit, x):
    """V = [v3, v6, v9, v12, v_final], [B, FEATURES]: the CLS token after blocks 3, 6, 9, 12, and the identity vector."""
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
    taps = []
    for i, block in enumerate(vit.blocks):
        x = block(x)
        if i + 1 in CONFIG["tap_layers"]:
            taps.append(x[:, 0])
    return torch.cat([*taps, vit.head(vit.norm(x)[:, 0])], 1)


def normalise(crops):
    """[B, 112, 112, 3] in 0..255 -> [B, 3, 112, 112] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(crops, np.float32)).permute(0, 3, 1, 2) / 127.5 - 1


def align(image, points):
    """The crop as the engine makes it: [112, 112, 3] float32."""
    return geometry.warp(image, geometry.similarity(points, TEMPLATE), SIZE)


def jittered(image, points, rng):
    """The crop with alignment errors, and other light; for training."""
    m = geometry.similarity(points + rng.normal(0, 0.5, (5, 2)), TEMPLATE)
    angle, zoom = rng.normal(0, 0.02), np.exp(rng.normal(0, 0.02))
    c, s = np.cos(angle) * zoom, np.sin(angle) * zoom
    turn = np.array([[c, -s], [s, c]])
    m = turn @ m
    m[:, 2] += (np.eye(2) - turn) @ [SIZE / 2, SIZE / 2] + rng.normal(0, 1.0, 2)
    crop = cv2.warpAffine(image, m, (SIZE, SIZE), flags=cv2.INTER_LINEAR).astype(np.float32)
    return np.clip((crop - 128) * rng.uniform(0.92, 1.08) + 128 + rng.normal(0, 6), 0, 255)
