"""Picture geometry of the face chain: square views, similarity from landmarks, warp. Pixels are [H, W, 3], 0..255.

Coordinates are float64 and name pixel centres by integers, as in OpenCV: (0, 0) is the centre of the top left pixel.
"""
import numpy as np
from PIL import Image

# Five landmarks of an aligned 112x112 face: eyes, nose, mouth corners, left to right in the picture (ArcFace's template).
TEMPLATE_112 = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])


def view(image, x0, y0, side, size):
    """The square of `side` pixels with its top left pixel at (x0, y0), black outside the picture, as [size, size, 3] bytes.

    Resized with Pillow's bilinear filter, which averages when it shrinks. (Bytes in, bytes out.)
    """
    h, w = image.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + side, w), min(y0 + side, h)
    if right > left and bottom > top:
        square[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return np.asarray(Image.fromarray(square).resize((size, size), Image.BILINEAR))


def similarity(source, target):
    """The least-squares similarity (Umeyama without reflection) that takes points `source` [N, 2] to `target`.

    Returns [2, 3]: (x, y) -> (a x - b y + tx, b x + a y + ty). In two dimensions Umeyama's solution has this closed form.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    s0, t0 = source.mean(0), target.mean(0)
    s, t = source - s0, target - t0
    norm = (s * s).sum()
    a = (s * t).sum() / norm
    b = (s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum() / norm
    return np.array([[a, -b, t0[0] - a * s0[0] + b * s0[1]], [b, a, t0[1] - b * s0[0] - a * s0[1]]])


def invert(m):
    """The inverse of a similarity [2, 3]."""
    (a, nb, tx), (b, _, ty) = m
    norm = a * a + b * b
    a, b = a / norm, -b / norm
    return np.array([[a, -b, -a * tx + b * ty], [b, a, -b * tx - a * ty]])


def warp(image, m, size):
    """Samples `image` at the inverse of `m` for each pixel of a [size, size, 3] float32 result: bilinear, zero outside."""
    inverse = invert(m)
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    sx = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    sy = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    x0, y0 = np.floor(sx).astype(int), np.floor(sy).astype(int)
    fx, fy = (sx - x0).astype(np.float32)[..., None], (sy - y0).astype(np.float32)[..., None]
    top = _at(image, y0, x0) * (1 - fx) + _at(image, y0, x0 + 1) * fx
    bottom = _at(image, y0 + 1, x0) * (1 - fx) + _at(image, y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy


def align(image, points, size):
    """The face with landmarks `points` [5, 2] brought to the template at `size` pixels, [size, size, 3] float32.

    A face more than twice as large as the result is first reduced by the whole factor, by averaging, so that it does not alias.
    """
    target = TEMPLATE_112 * (size / 112)
    m = similarity(points, target)
    factor = int(1 / np.hypot(m[0, 0], m[1, 0]))
    if factor >= 2:
        image = reduce(image, factor)
        m = similarity((np.asarray(points, np.float64) + 0.5) / factor - 0.5, target)
    return warp(image, m, size)


def reduce(image, factor):
    """Averages blocks of factor x factor pixels, in float32; incomplete blocks at the right and bottom average what they have."""
    h, w = image.shape[:2]
    rows, columns = np.arange(0, h, factor), np.arange(0, w, factor)
    total = np.add.reduceat(np.add.reduceat(image.astype(np.float32), rows, 0), columns, 1)
    count = np.minimum(h - rows, factor)[:, None] * np.minimum(w - columns, factor)[None, :]
    return total / count[..., None].astype(np.float32)


def _at(image, y, x):
    h, w = image.shape[:2]
    inside = ((y >= 0) & (y < h) & (x >= 0) & (x < w))[..., None]
    return np.where(inside, image[np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)], 0).astype(np.float32)
