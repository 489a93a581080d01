"""Forward passes of the converted networks in plain torch, written only from the layer tables in `assets/networks/README.md`.

Images are [B, S, S, 3] float32 RGB, 0..255; the normalisation is inside.
"""
import numpy as np
import torch
import torch.nn.functional as F


def as_torch(tensors):
    return {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in tensors.items()}


def blazeface(w, config, images):
    """-> scores [B, 896] (logits), boxes [B, 896, 16] (raw: box centre and size, then six keypoints)."""
    x = F.relu(conv(w, "stem", normalise(images, config), stride=2, pad=(1, 1, 2, 2)))
    features = []
    for i, block in enumerate(config["blocks"]):
        stride = block["stride"]
        y = conv(w, f"blocks.{i}.depthwise", x, stride, (1, 1, 1, 1) if stride == 1 else (0, 0, 1, 1), groups=block["in"])
        y = conv(w, f"blocks.{i}.pointwise", y)
        if block["residual"]:
            skip = x if stride == 1 else F.max_pool2d(x, 2)
            y = y + F.pad(skip, (0, 0, 0, 0, 0, block["out"] - block["in"]))
        x = F.relu(y)
        if i in config["features"]:
            features.append(x)
    heads = {kind: [hwc(conv(w, f"{kind}.{i}", f)) for i, f in enumerate(features)] for kind in ("scores", "boxes")}
    batch = images.shape[0]
    scores = torch.cat([s.reshape(batch, -1) for s in heads["scores"]], 1)
    return scores, torch.cat([b.reshape(batch, -1, 16) for b in heads["boxes"]], 1)


def pnet(w, config, images):
    """Fully convolutional. -> face probability [B, h, w], box regression [B, h, w, 4]."""
    x = F.max_pool2d(conv_prelu(w, "conv1", normalise(images, config)), 2, 2, ceil_mode=True)
    x = conv_prelu(w, "conv3", conv_prelu(w, "conv2", x))
    return hwc(conv(w, "face", x)).softmax(-1)[..., 1], hwc(conv(w, "box", x))


def rnet(w, config, images):
    """-> face probability [B], box regression [B, 4]."""
    x = pool3(conv_prelu(w, "conv1", normalise(images, config)))
    x = F.max_pool2d(conv_prelu(w, "conv2", x), 3, 2)
    x = dense_prelu(w, hwc(conv_prelu(w, "conv3", x)).flatten(1))
    return linear(w, "face", x).softmax(-1)[:, 1], linear(w, "box", x)


def onet(w, config, images):
    """-> face probability [B], box regression [B, 4], points [B, 10] (five x then five y, fractions of the box)."""
    x = pool3(conv_prelu(w, "conv1", normalise(images, config)))
    x = F.max_pool2d(conv_prelu(w, "conv2", x), 3, 2)
    x = F.max_pool2d(conv_prelu(w, "conv3", x), 2, 2)
    x = dense_prelu(w, hwc(conv_prelu(w, "conv4", x)).flatten(1))
    return linear(w, "face", x).softmax(-1)[:, 1], linear(w, "box", x), linear(w, "points", x)


def mobilefacenet(w, config, images):
    """-> embedding [B, 192] (not normalised), taps: the three stage features [B, C, H, W]."""
    x = conv_prelu(w, "stem", normalise(images, config), 2, (0, 0, 1, 1))
    x = conv_prelu(w, "first.depthwise", x, 1, (1, 1, 1, 1), groups=64)
    x = conv(w, "first.pointwise", x)
    taps = []
    for i, block in enumerate(config["blocks"]):
        y = conv_prelu(w, f"blocks.{i}.expand", x)
        pad = (1, 1, 1, 1) if block["stride"] == 1 else (0, 0, 1, 1)
        y = conv_prelu(w, f"blocks.{i}.depthwise", y, block["stride"], pad, groups=block["hidden"])
        y = conv(w, f"blocks.{i}.project", y)
        x = x + y if block["residual"] else y
        if i in config["taps"]:
            taps.append(x)
    x = conv(w, "global.depthwise", conv_prelu(w, "last", x), groups=512)
    return conv(w, "embedding", conv(w, "global.pointwise", x)).flatten(1), taps


def normalise(images, config):
    """(x - mean) * scale, then [B, H, W, 3] -> [B, 3, H, W]."""
    images = torch.from_numpy(np.array(images, dtype=np.float32))
    return ((images - config["input"]["mean"]) * config["input"]["scale"]).permute(0, 3, 1, 2)


def conv(w, name, x, stride=1, pad=(0, 0, 0, 0), groups=1):
    """`pad` is (top, left, bottom, right), of zeros."""
    top, left, bottom, right = pad
    return F.conv2d(F.pad(x, (left, right, top, bottom)), w[f"{name}.weight"], w.get(f"{name}.bias"), stride, groups=groups)


def conv_prelu(w, name, x, stride=1, pad=(0, 0, 0, 0), groups=1):
    return F.prelu(conv(w, name, x, stride, pad, groups), w[f"{name}.slope"])


def pool3(x):
    """3x3 maximum, stride 2, one row and column of -inf at the bottom and right."""
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def dense_prelu(w, x):
    return F.prelu(linear(w, "dense", x), w["dense.slope"])


def hwc(x):
    return x.permute(0, 2, 3, 1)
