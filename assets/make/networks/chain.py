"""The face chain: photograph -> faces with five landmarks -> aligned crop -> embedding. The engine does the same, step by step.

    python chain.py PHOTO [PHOTO ...]       prints the faces, and the cosines between the photographs' largest faces

The numbers below (thresholds, margins) are part of the chain. The procedure in words is in `assets/networks/README.md`.
"""
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

import geometry
import reference
import store

NETWORKS = Path(__file__).resolve().parents[2] / "networks"

MIN_SCORE = 0.5        # BlazeFace score of a hit
MIN_PROBABILITY = 0.5  # O-Net probability that confirms a hit in the whole picture
TILE_PROBABILITY = 0.97  # the same for a hit in a retry or a tile, where false hits are likelier
SURE_SCORE = 0.75      # BlazeFace score of a hit in the whole picture that needs no confirmation
SAME_FACE = 0.3        # intersection over union of two boxes of one face
INSIDE = 0.6           # share of the smaller box inside the larger one, of one face seen twice
CLOSE_UP = 2.0         # side of the second view over the larger side of the first box
EYE_MARGIN = 1.25      # half side of O-Net's box in eye distances
PAD = (1.5, 2.0)       # retries for tight crops: sides of the view over the picture's
MIN_TILE = 128         # smallest tile in pixels
MOUTH = 0.8281         # mouth width over eye distance in the template


@dataclass
class Face:
    box: np.ndarray     # x0, y0, x1, y1 in pixels
    score: float        # BlazeFace
    probability: float  # O-Net
    points: np.ndarray  # [5, 2]: left eye in the picture, right eye, nose, left and right mouth corner


class Networks:
    """The three networks, by name; `run(name, images)` takes [B, S, S, 3]. Swappable for the original runtimes."""

    def __init__(self, folder=NETWORKS):
        self.parts = {}
        for name, file in {"blazeface": "blazeface_front", "onet": "onet", "mobilefacenet": "mobilefacenet"}.items():
            tensors, config = store.read(Path(folder) / f"{file}.safetensors")
            self.parts[name] = (reference.as_torch(tensors), config)

    @torch.no_grad()
    def run(self, name, images):
        out = getattr(reference, name)(*self.parts[name], np.asarray(images))
        return [o.numpy() for o in (out[:1] if name == "mobilefacenet" else out)]


def load(path):
    """A photograph as [H, W, 3] bytes, RGB, turned upright by its EXIF tag."""
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


def faces(networks, image, everywhere=False):
    """All faces found, largest first. `everywhere` also searches tiles, for small faces; otherwise tiles are the last resort."""
    whole = whole_view(image)
    found = confirm(networks, image, hits(networks, image, [whole]), trusted=True)
    for factor in PAD if not found else ():
        found = found or confirm(networks, image, hits(networks, image, [whole_view(image, factor)]), trusted=False)
    if everywhere or not found:
        found = found + confirm(networks, image, hits(networks, image, tiles(image)), trusted=False)
    found = unique(found)
    return sorted(found, key=lambda f: -(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]))


def embed(networks, image, points):
    """The unit-length embedding of the face with these landmarks."""
    crop = geometry.align(image, points, 112)
    vector = networks.run("mobilefacenet", crop[None])[0][0]
    return vector / np.linalg.norm(vector)


# ------------------------------------------------------------------ where to look


def whole_view(image, factor=1.0):
    """(x0, y0, side) of the centred square that holds the picture, enlarged by `factor`."""
    h, w = image.shape[:2]
    side = math.ceil(max(h, w) * factor)
    return math.floor((w - side) / 2), math.floor((h - side) / 2), side


def tiles(image):
    """Half-overlapping squares of a half, a quarter, ... of the longer side, down to MIN_TILE pixels."""
    h, w = image.shape[:2]
    found, side = [], math.ceil(max(h, w) / 2)
    while side >= MIN_TILE:
        found += [(x, y, side) for y in _steps(h, side) for x in _steps(w, side)]
        side = math.ceil(side / 2)
    return found


def _steps(length, side):
    if length <= side:
        return [math.floor((length - side) / 2)]
    n = math.ceil((length - side) / (side / 2)) + 1
    return [math.floor(i * (length - side) / (n - 1) + 0.5) for i in range(n)]


# ------------------------------------------------------------------ BlazeFace


def hits(networks, image, views):
    """Every BlazeFace hit in the views, after suppression: [N, 17] of score, box x0 y0 x1 y1, six keypoints x y, in pixels."""
    found = [np.zeros((0, 17))]
    for x0, y0, side in views:
        scores, raw = networks.run("blazeface", geometry.view(image, x0, y0, side, 128)[None])
        found.append(suppress(decode(scores[0], raw[0], x0, y0, side)))
    return suppress(np.concatenate(found))


def decode(scores, raw, x0, y0, side, size=128):
    """Hits above MIN_SCORE, mapped from the unit square to the picture."""
    scores = 1 / (1 + np.exp(-np.clip(scores.astype(np.float64), -80, 80)))
    keep = np.flatnonzero(scores >= MIN_SCORE)
    anchor = anchors()[keep]
    raw = raw[keep].astype(np.float64) / size
    centre, half = anchor + raw[:, 0:2], raw[:, 2:4] / 2
    points = anchor[:, None] + raw[:, 4:].reshape(-1, 6, 2)
    unit = np.concatenate([centre - half, centre + half, points.reshape(-1, 12)], 1)
    # pixel coordinates name centres, hence the half
    return np.concatenate([scores[keep, None], unit * side + np.tile([x0 - 0.5, y0 - 0.5], 8)], 1)


def anchors():
    cells = []
    for grid, per_cell in ((16, 2), (8, 6)):
        y, x = np.mgrid[0:grid, 0:grid]
        centres = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) / grid
        cells.append(np.repeat(centres, per_cell, 0))
    return np.concatenate(cells)


def suppress(found):
    """Best first; each hit is the score-weighted mean of the hits that overlap it by SAME_FACE or more, which it uses up."""
    kept, rest = [], found[np.argsort(-found[:, 0], kind="stable")]
    while len(rest):
        same = overlap(rest[0, 1:5], rest[:, 1:5])[0] >= SAME_FACE
        same[0] = True
        weight = rest[same, :1]
        kept.append(np.concatenate([rest[0, :1], (weight * rest[same, 1:]).sum(0) / weight.sum()]))
        rest = rest[~same]
    return np.array(kept).reshape(-1, 17)


def overlap(box, boxes):
    """(intersection over union, intersection over the smaller) of one box with each of `boxes`."""
    width = np.clip(np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0]), 0, None)
    height = np.clip(np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1]), 0, None)
    both = width * height
    one = (box[2] - box[0]) * (box[3] - box[1])
    each = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return both / np.maximum(one + each - both, 1e-9), both / np.maximum(np.minimum(one, each), 1e-9)


# ------------------------------------------------------------------ a closer look


def confirm(networks, image, found, trusted):
    """Looks again at each hit from close up, asks O-Net for the landmarks, and keeps what is a face."""
    kept = []
    for hit in found:
        hit = close_up(networks, image, hit)
        probability, points = landmarks(networks, image, hit)
        if probability < (MIN_PROBABILITY if trusted else TILE_PROBABILITY):
            if not trusted or hit[0] < SURE_SCORE:
                continue
            points = five_of_six(hit[5:].reshape(6, 2))
        kept.append(Face(hit[1:5], float(hit[0]), probability, points))
    return kept


def close_up(networks, image, hit):
    """The hit seen again in a square CLOSE_UP times its box; the old one if it is not seen there."""
    centre = (hit[1:3] + hit[3:5]) / 2
    side = max(2, round_half_up(CLOSE_UP * max(hit[3] - hit[1], hit[4] - hit[2])))
    x0, y0 = (round_half_up(c - side / 2) for c in centre)
    again = [h for h in hits(networks, image, [(x0, y0, side)])
             if (hit[1:3] <= (h[1:3] + h[3:5]) / 2).all() and ((h[1:3] + h[3:5]) / 2 <= hit[3:5]).all()]
    return again[0] if again else hit


def landmarks(networks, image, hit):
    """O-Net's (probability, points [5, 2]) in the square round the hit's eyes, nose and mouth."""
    keypoints = hit[5:].reshape(6, 2)
    centre = keypoints[:4].mean(0)
    half = EYE_MARGIN * np.hypot(*(keypoints[1] - keypoints[0]))
    side = max(2, round_half_up(2 * half))
    x0, y0 = (round_half_up(c - half) for c in centre)
    probability, _, points = networks.run("onet", geometry.view(image, x0, y0, side, 48)[None])
    points = points[0].astype(np.float64).reshape(2, 5).T * side + [x0 - 0.5, y0 - 0.5]
    return float(probability[0]), points


def five_of_six(keypoints):
    """Landmarks from BlazeFace's keypoints alone: the mouth corners are put round the mouth's centre, along the eyes."""
    half = (keypoints[1] - keypoints[0]) * (MOUTH / 2)
    return np.stack([keypoints[0], keypoints[1], keypoints[2], keypoints[3] - half, keypoints[3] + half])


def unique(found):
    """Each face once: the most probable of those that overlap."""
    kept = []
    for face in sorted(found, key=lambda f: -(f.score + f.probability)):
        boxes = np.array([k.box for k in kept]).reshape(-1, 4)
        iou, inside = overlap(face.box, boxes)
        if not ((iou >= SAME_FACE) | (inside >= INSIDE)).any():
            kept.append(face)
    return kept


def round_half_up(value):
    return int(math.floor(value + 0.5))


def main():
    networks, vectors = Networks(), []
    for path in sys.argv[1:]:
        image = load(path)
        found = faces(networks, image)
        print(f"{path}: {len(found)} faces in {image.shape[1]}x{image.shape[0]}")
        for face in found:
            print(f"  score {face.score:.3f} probability {face.probability:.3f} box {np.round(face.box, 1).tolist()}",
                  f"points {np.round(face.points, 1).tolist()}")
        if found:
            vectors.append(embed(networks, image, found[0].points))
    if len(vectors) > 1:
        print(np.round(np.array(vectors) @ np.array(vectors).T, 4))


if __name__ == "__main__":
    main()
