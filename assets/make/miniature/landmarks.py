"""Five landmarks of each person's first plain picture, found as the engine finds them:  python landmarks.py DATA_DIR

Writes landmarks.npy [people, 5, 2] float32 (pixel centres at integers); NaN where no face is found.
"""
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "networks"))
import chain  # noqa: E402

import dataset  # noqa: E402

TEMPLATE_ID = "dreamid-112"
# Looser than ArcFace's template: hair and chin are in the 112x112 crop.
# Order: left eye in the picture, right eye, nose, left mouth corner, right mouth corner.
TEMPLATE = np.array([[43.0, 52.5], [69.0, 52.5], [56.0, 67.0], [46.5, 81.8], [65.5, 81.8]])


def main(data_dir):
    torch.set_num_threads(1)
    data, networks = dataset.images(data_dir), chain.Networks()
    points = np.full((dataset.PEOPLE, 5, 2), np.nan, np.float32)
    for person in range(dataset.PEOPLE):
        found = chain.faces(networks, data[person, 0])
        if found:
            points[person] = found[0].points
        if person % 500 == 499:
            print(person + 1, "people,", int(np.isnan(points[:person + 1, 0, 0]).sum()), "without a face", flush=True)
    np.save(Path(data_dir) / "landmarks.npy", points)


if __name__ == "__main__":
    main(sys.argv[1])
