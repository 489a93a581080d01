#!/usr/bin/env python3
"""images.safetensors: Pillow's resizing, CLIP's and ViT's preprocessing, similarity transforms and warps, on the astronaut.

Everything is computed by others than the engine and the face chain: Pillow, torchvision, scipy, and Umeyama's method by SVD.
"""
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import map_coordinates
from torchvision import transforms

from common import FIXTURES, save

ASTRONAUT = Path(__file__).resolve().parents[2] / "assets/photos/astronaut.png"
SOURCE = (170, 60, 271, 139)  # left, top, right, bottom of the 101x79 piece that is resized
SIZES = [(40, 31), (101, 20), (37, 79), (7, 5), (130, 96)]  # width, height: smaller, one side kept, tiny, larger
OBLONG = (40, 10, 440, 310)  # 400x300, for the preprocessing
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def main():
    astronaut = Image.open(ASTRONAUT).convert("RGB")
    tensors = {**resized(astronaut.crop(SOURCE)), **preprocessed(astronaut.crop(OBLONG)), **warped(np.asarray(astronaut))}
    save("images.safetensors", tensors, source=SOURCE, oblong=OBLONG, sizes=SIZES)


def resized(piece):
    """`FILTER.WxH`: [H, W, 3] bytes."""
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
    return {f"{name}.{w}x{h}": np.asarray(piece.resize((w, h), f)) for name, f in filters.items() for w, h in SIZES}


def preprocessed(picture):
    """CLIP: short side by bicubic, centre crop, mean and deviation. ViT: straight to the square by bilinear, 0.5 and 0.5."""
    out = {}
    for size in (32, 45):
        shrink = transforms.Compose([transforms.Resize(size, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size)])
        out[f"clip.{size}.bytes"] = np.asarray(shrink(picture))
        out[f"clip.{size}"] = transforms.Compose([shrink, transforms.ToTensor(), transforms.Normalize(CLIP_MEAN, CLIP_STD)])(picture)
    square = transforms.Compose([transforms.Resize((48, 48), transforms.InterpolationMode.BILINEAR), transforms.ToTensor(),
                                 transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    out["vit.48"] = square(picture)
    return out


def warped(image):
    """`warp.N.matrix` takes the photograph's pixels to the result's; `warp.N` is [S, S, 3] float32, bilinear, zero outside."""
    points = np.array(json.loads((FIXTURES / "faces.json").read_text())["photos"]["astronaut"]["faces"][0]["points"])
    turn = np.array([[0.35, -0.8, 210.0], [0.8, 0.35, -130.0]])
    out = {"points": points}
    for i, (matrix, size) in enumerate([(umeyama(points, TEMPLATE * (56 / 112)), 56), (turn, 48), (umeyama(points[::-1], TEMPLATE), 40)]):
        out[f"warp.{i}.matrix"], out[f"warp.{i}"] = matrix, warp(image, matrix, size)
    # a face 5.8 times as large as the result: the photograph is first averaged in blocks of 5 (incomplete ones average what they have)
    factor, size = 5, 24
    scale = np.hypot(*umeyama(points, TEMPLATE * (size / 112))[:, 0])
    assert int(1 / scale) == factor, 1 / scale
    blocks = F.avg_pool2d(torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None], factor, ceil_mode=True, count_include_pad=False)
    small = blocks[0].permute(1, 2, 0).numpy()
    out["reduced.corner"] = small[-6:, -6:]
    out["aligned.24"] = warp(small, umeyama((points + 0.5) / factor - 0.5, TEMPLATE * (size / 112)), size)
    return out


def umeyama(source, target):
    """Umeyama (1991), equations 39 to 43: rotation by SVD of the covariance, then scale and shift. [2, 3]."""
    s0, t0 = source.mean(0), target.mean(0)
    s, t = source - s0, target - t0
    u, d, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / (s * s).sum(1).mean()
    return np.hstack([scale * rotation, (t0 - scale * rotation @ s0)[:, None]])


def warp(image, matrix, size):
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    y, x = np.mgrid[0:size, 0:size]
    sx, sy, _ = np.tensordot(inverse, np.stack([x, y, np.ones_like(x)]), 1)
    channels = [map_coordinates(image[..., c].astype(np.float64), [sy, sx], order=1, mode="grid-constant", cval=0.0) for c in range(3)]
    return np.stack(channels, -1).astype(np.float32)


if __name__ == "__main__":
    main()
