"""The drawn pictures as one array on disk: images.npy [people, variants, 128, 128, 3] uint8, and their split.

    python dataset.py DATA_DIR      # waits for draw_all.sh's files, paints the styles, resumes where it stopped
"""
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import filters

PEOPLE, CHUNK, SIZE = 5000, 250, 128
VARIANTS = ["plain0", "plain1", "plain2", "smile", "glasses", "hat", "oil", "watercolor", "pencil", "fauvism", "wizard", "chef", "nurse", "police"]
NAMED = range(0, 1500)          # have names of two made-up words
TRAIN = range(0, 4500)          # named and unnamed
VALIDATION = range(4500, 4700)  # choose checkpoints and projectors
UNSEEN = range(4700, 5000)      # final figures only


def images(data_dir, mode="r"):
    """The picture array, memory-mapped."""
    path = Path(data_dir) / "images.npy"
    if not path.exists():
        np.lib.format.open_memmap(path, "w+", np.uint8, (PEOPLE, len(VARIANTS), SIZE, SIZE, 3)).flush()
    return np.load(path, mmap_mode=mode)


def look_codes(data_dir):
    """[people, code] float32, as people.mjs writes them (one-hot choices, then numbers)."""
    chunks = [json.loads((Path(data_dir) / f"{first:04d}.json").read_text())["codes"] for first in range(0, PEOPLE, CHUNK)]
    return np.array(sum(chunks, []), np.float32)


def finished(data_dir):
    """First people of the chunks that are painted."""
    path = Path(data_dir) / "painted.json"
    return json.loads(path.read_text()) if path.exists() else []


def _paint(raw):
    for name, style in filters.STYLES.items():
        v = VARIANTS.index(name)
        raw[v] = style(raw[v])
    return raw


def main(data_dir):
    target, done = images(data_dir, "r+"), finished(data_dir)
    for first in range(0, PEOPLE, CHUNK):
        if first in done:
            continue
        path = Path(data_dir) / f"{first:04d}.rgb"
        while not path.exists():
            time.sleep(1)
        raw = np.fromfile(path, np.uint8).reshape(CHUNK, len(VARIANTS), SIZE, SIZE, 3)
        with ThreadPoolExecutor(2) as pool:
            for i, painted in enumerate(pool.map(_paint, raw)):
                target[first + i] = painted
        target.flush()
        done.append(first)
        (Path(data_dir) / "painted.json").write_text(json.dumps(done))
        path.unlink()
        path.touch()  # keeps draw_all.sh from drawing it again
        print("painted", first, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
