"""MTCNN in full: P-Net over a pyramid, R-Net, O-Net; for photographs with many or small faces.

    python pyramid.py PHOTO [PHOTO ...]

Follows facenet-pytorch's `detect_face` (MIT) in its thresholds, rounding and order; written anew and without its batching.
"""
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import chain
import reference
import store

MIN_FACE, FACTOR, THRESHOLDS = 20, 0.709, (0.6, 0.7, 0.7)


class Networks:
    def __init__(self, folder=chain.NETWORKS):
        self.parts = {}
        for name in ("pnet", "rnet", "onet"):
            tensors, config = store.read(Path(folder) / f"{name}.safetensors")
            self.parts[name] = (reference.as_torch(tensors), config)

    @torch.no_grad()
    def run(self, name, images):
        return [o.numpy() for o in getattr(reference, name)(*self.parts[name], images)]


def faces(networks, image):
    """-> boxes [N, 5] (x0, y0, x1, y1, probability), points [N, 5, 2], most probable first."""
    boxes = square(propose(networks, image))
    boxes = square(refine(networks, image, boxes))
    return finish(networks, image, boxes)


def propose(networks, image):
    """P-Net at every scale. -> [N, 5] boxes, one-based."""
    h, w = image.shape[:2]
    scale, found = 12 / MIN_FACE, [np.zeros((0, 9), np.float32)]
    while min(h, w) * scale >= 12:
        small = area_resize(image, int(h * scale + 1), int(w * scale + 1))
        probability, moves = networks.run("pnet", small[None])
        y, x = np.nonzero(probability[0] >= THRESHOLDS[0])
        cells = np.stack([x, y], -1).astype(np.float32)
        corners = [np.floor((2 * cells + 1) / np.float32(scale)), np.floor((2 * cells + 12) / np.float32(scale))]
        at_scale = np.concatenate([*corners, probability[0][y, x][:, None], moves[0][y, x]], 1)
        found.append(at_scale[suppress(at_scale, 0.5)])
        scale *= FACTOR
    boxes = np.concatenate(found)
    return move(boxes[suppress(boxes, 0.7)], extra=0)


def refine(networks, image, boxes):
    """R-Net. -> [N, 5]."""
    crops, boxes = cut(image, boxes, 24)
    if not len(boxes):
        return boxes
    probability, moves = networks.run("rnet", crops)
    keep = probability > THRESHOLDS[1]
    boxes = np.concatenate([boxes[keep, :4], probability[keep, None], moves[keep]], 1)
    return move(boxes[suppress(boxes, 0.7)], extra=1)


def finish(networks, image, boxes):
    """O-Net. -> boxes [N, 5], points [N, 5, 2]; zero-based pixels."""
    crops, boxes = cut(image, boxes, 48)
    if not len(boxes):
        return boxes, np.zeros((0, 5, 2), np.float32)
    probability, moves, points = networks.run("onet", crops)
    keep = probability > THRESHOLDS[2]
    boxes = np.concatenate([boxes[keep, :4], probability[keep, None], moves[keep]], 1)
    size = (boxes[:, 2:4] - boxes[:, 0:2] + 1)[:, None]
    points = points[keep].reshape(-1, 2, 5).transpose(0, 2, 1) * size + boxes[:, None, 0:2] - 1
    boxes = move(boxes, extra=1)
    order = suppress(boxes, 0.7, smaller=True, extra=1)
    return boxes[order], points[order]


def area_resize(image, height, width):
    """Adaptive average, [h, w, 3] -> [height, width, 3] float32."""
    x = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None]
    return F.adaptive_avg_pool2d(x, (height, width))[0].permute(1, 2, 0).numpy()


def cut(image, boxes, size):
    """Crops of the boxes (one-based, clipped, corners truncated) at size x size, and the boxes that were not empty."""
    h, w = image.shape[:2]
    corners = np.trunc(boxes[:, :4]).astype(int)
    x0, y0 = np.maximum(corners[:, 0], 1), np.maximum(corners[:, 1], 1)
    x1, y1 = np.minimum(corners[:, 2], w), np.minimum(corners[:, 3], h)
    keep = (x1 > x0 - 1) & (y1 > y0 - 1)
    crops = [area_resize(image[b - 1 : d, a - 1 : c], size, size) for a, b, c, d in zip(x0[keep], y0[keep], x1[keep], y1[keep])]
    return np.array(crops).reshape(-1, size, size, 3), boxes[keep]


def move(boxes, extra):
    """Corners shifted by the network's regression, columns 5..8, in units of the box's size plus `extra`. -> [N, 5]"""
    size = np.tile(boxes[:, 2:4] - boxes[:, 0:2] + extra, 2)
    return np.concatenate([boxes[:, :4] + boxes[:, 5:9] * size, boxes[:, 4:5]], 1)


def square(boxes):
    """The square of the larger side about the same centre."""
    size = boxes[:, 2:4] - boxes[:, 0:2]
    side = size.max(1, keepdims=True, initial=0)
    start = boxes[:, 0:2] + size * 0.5 - side * 0.5
    return np.concatenate([start, start + side, boxes[:, 4:5]], 1)


def suppress(boxes, threshold, smaller=False, extra=0):
    """Greedy non-maximum suppression: indices kept, best first; drops what overlaps a kept box by more than `threshold`."""
    order = np.argsort(-boxes[:, 4], kind="stable")
    area = (boxes[:, 2] - boxes[:, 0] + extra) * (boxes[:, 3] - boxes[:, 1] + extra)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, 0:2], boxes[order, 0:2]), np.minimum(boxes[best, 2:4], boxes[order, 2:4])
        both = np.maximum(high - low + extra, 0).prod(1)
        whole = np.minimum(area[best], area[order]) if smaller else area[best] + area[order] - both
        order = order[both <= threshold * whole]
    return np.array(kept, int)


def main():
    networks = Networks()
    for path in sys.argv[1:]:
        boxes, points = faces(networks, chain.load(path))
        print(f"{path}: {len(boxes)} faces")
        for box, five in zip(boxes, points):
            print(f"  {box[4]:.4f} box {np.round(box[:4], 1).tolist()} points {np.round(five, 1).tolist()}")


if __name__ == "__main__":
    main()
