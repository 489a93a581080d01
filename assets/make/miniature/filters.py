"""The four painting styles, as filters over a plainly drawn 128x128 picture (uint8 RGB in and out).

Each keeps the person recognisable and looks unlike the other three.
"""
import cv2
import numpy as np

SIZE = 128


def _noise(seed, sigma):
    """Smooth noise with unit deviation, fixed by its seed."""
    n = np.random.default_rng(seed).standard_normal((SIZE, SIZE)).astype(np.float32)
    n = cv2.GaussianBlur(n, (0, 0), sigma)
    return n / n.std()


def _strokes(seed):
    """Diagonal brush strokes: noise smeared along one direction."""
    n = np.random.default_rng(seed).standard_normal((SIZE, SIZE)).astype(np.float32)
    kernel = cv2.GaussianBlur(np.eye(11, dtype=np.float32)[::-1].copy(), (0, 0), 0.8)
    n = cv2.GaussianBlur(cv2.filter2D(n, -1, kernel), (0, 0), 0.9)
    return n / n.std()


STROKES = _strokes(1)
GRAIN = _noise(2, 2.5)
WASH = _noise(3, 9)
HATCH = np.sin((np.add.outer(np.arange(SIZE), np.arange(SIZE))) * (2 * np.pi / 8)).astype(np.float32)
_edge = np.minimum.outer(np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1]), np.full(SIZE, SIZE))
BORDER = np.minimum(_edge, _edge.T).astype(np.float32)


def oil(x):
    """Heavy paint: blurred lines, warm varnish, diagonal strokes."""
    y = cv2.medianBlur(x, 3)
    y = cv2.bilateralFilter(y, 7, 50, 4).astype(np.float32)
    y = (y - 118) * 1.05 + 100
    y *= np.array([1.06, 0.96, 0.78], np.float32)
    y += 9 * STROKES[..., None]
    return np.clip(y, 0, 255).astype(np.uint8)


def watercolor(x):
    """Thin paint: no black lines, pale washes, bare paper at the border."""
    y = cv2.morphologyEx(x, cv2.MORPH_CLOSE, np.ones((2, 2), np.uint8))
    y = cv2.bilateralFilter(y, 7, 60, 5).astype(np.float32)
    y = 255 - (255 - y) * (0.62 + 0.09 * WASH[..., None])
    paper = np.array([252, 250, 244], np.float32)
    bare = 1 / (1 + np.exp((BORDER + 4 * WASH - 11) / 1.6))
    return np.clip(y * (1 - bare[..., None]) + paper * bare[..., None], 0, 255).astype(np.uint8)


def pencil(x):
    """Grey lines on paper, shaded parts hatched."""
    grey = cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dodge = np.minimum(255, grey * 256 / (cv2.GaussianBlur(grey, (0, 0), 2.2) + 1))
    tone = 0.55 + 0.45 * grey / 255
    y = dodge * tone - 8 * (grey < 120) * (HATCH + 1)
    y = 12 + 0.93 * y
    return np.clip(np.stack([y, y, y * 0.96], -1), 0, 255).astype(np.uint8)


PALETTE = np.array([[18, 16, 80], [20, 80, 190], [150, 20, 140], [235, 40, 60], [255, 140, 20], [255, 225, 60]], np.float32)


def fauvism(x):
    """Wild colours: lightness picks from a hot and cold palette, hues overdriven."""
    flat = cv2.medianBlur(x, 3).astype(np.float32)
    grey = flat @ np.array([0.3, 0.59, 0.11], np.float32)
    at = np.clip(grey / 255 * (len(PALETTE) - 1) + 0.25 * GRAIN, 0, len(PALETTE) - 1.001)
    low = at.astype(int)
    part = np.clip((at - low - 0.5) * 3 + 0.5, 0, 1)[..., None]
    wild = PALETTE[low] * (1 - part) + PALETTE[low + 1] * part
    vivid = np.clip((flat - grey[..., None]) * 2.2 + grey[..., None], 0, 255)
    return np.clip(0.62 * wild + 0.38 * vivid, 0, 255).astype(np.uint8)


STYLES = {"oil": oil, "watercolor": watercolor, "pencil": pencil, "fauvism": fauvism}
