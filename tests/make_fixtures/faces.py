#!/usr/bin/env python3
"""faces.json and faces_steps.safetensors: what the face chain gives on real photographs with the original runtimes.

    python faces.py --cache FOLDER [--group PATH_TO/rustface-0.1.7/test.png]

Also writes the two small JPEG variants under photos/. The group photograph is read from the source of the crate rustface,
which is a development dependency; its figures are kept from the last run if no path is given.
"""
import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from common import FIXTURES, save, write_json
from originals import FacenetPytorch, Originals

import chain  # from assets/make/networks, by way of originals
import geometry

PHOTOS = Path(__file__).resolve().parents[2] / "assets/photos"
GROUP_SHA256 = "eb854bcafbe7e0e13fb1b8073a1e6c30b67e06b463f919325c4a20b13a3c8e0c"
CROP = (120, 20, 360, 300)  # left, top, right, bottom of the re-cropped astronaut
TIGHT = (190, 80, 260, 155)  # a crop with nothing but the face: found only in a padded view


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cache", required=True)
    ap.add_argument("--group")
    a = ap.parse_args()
    networks, mtcnn = Originals(a.cache), FacenetPytorch(a.cache)
    write_variants()
    photos = {name: describe(networks, mtcnn, image, how) for name, (how, image) in pictures().items()}
    vectors = {n: p["faces"][0]["embedding"] for n, p in photos.items() if p["faces"]}
    write_json("faces.json", {
        "photos": photos,
        "cosines": {f"{a} {b}": float(np.dot(vectors[a], vectors[b])) for i, a in enumerate(vectors) for b in list(vectors)[i + 1 :]},
        "group": group(networks, mtcnn, a.group),
    }, indent=1)
    steps(networks)


def pictures():
    """{name: (how to make it from a file, pixels)}; the making is exact in any image library, except for JPEG decoding."""
    astronaut = chain.load(PHOTOS / "astronaut.png")
    left, top, right, bottom = CROP
    a, b, c, d = TIGHT
    return {
        "astronaut": ({"file": "assets/photos/astronaut.png"}, astronaut),
        "astronaut_mirrored": ({"file": "assets/photos/astronaut.png", "mirror": True}, astronaut[:, ::-1].copy()),
        "astronaut_cropped": ({"file": "assets/photos/astronaut.png", "crop": CROP}, astronaut[top:bottom, left:right].copy()),
        "astronaut_tight": ({"file": "assets/photos/astronaut.png", "crop": TIGHT}, astronaut[b:d, a:c].copy()),
        "astronaut_jpeg": ({"file": "tests/fixtures/photos/astronaut_q50.jpg"}, chain.load(FIXTURES / "photos/astronaut_q50.jpg")),
        "astronaut_far": ({"file": "tests/fixtures/photos/astronaut_far.jpg"}, chain.load(FIXTURES / "photos/astronaut_far.jpg")),
        "two_people": ({"file": "tests/fixtures/photos/two_people.jpg"}, chain.load(FIXTURES / "photos/two_people.jpg")),
        "grace_hopper": ({"file": "assets/photos/grace_hopper.jpg"}, chain.load(PHOTOS / "grace_hopper.jpg")),
        "coffee": ({"file": "assets/photos/coffee.png"}, chain.load(PHOTOS / "coffee.png")),
    }


def write_variants():
    """A poor JPEG of half the size, with an EXIF tag that says it is turned; the astronaut far away in a grey room; two people."""
    folder = FIXTURES / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    astronaut = Image.open(PHOTOS / "astronaut.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned a quarter to the left; to be shown turned a quarter to the right
    astronaut.resize((256, 256), Image.BICUBIC).transpose(Image.Transpose.ROTATE_90).save(folder / "astronaut_q50.jpg", quality=50, exif=exif)
    room = Image.new("RGB", (900, 600), (120, 124, 128))
    room.paste(astronaut.resize((180, 180), Image.BICUBIC), (640, 330))
    room.save(folder / "astronaut_far.jpg", quality=90)
    two = Image.new("RGB", (460, 256), (90, 110, 90))
    two.paste(astronaut.resize((256, 256), Image.BICUBIC), (0, 0))
    two.paste(Image.open(PHOTOS / "grace_hopper.jpg").convert("RGB").resize((204, 239), Image.BICUBIC), (256, 10))
    two.save(folder / "two_people.jpg", quality=85)
    for path in folder.iterdir():
        path.chmod(0o644)


def describe(networks, mtcnn, image, how):
    """Faces by the chain, with tiles only as a last resort (`faces`) and always (`everywhere`), and by MTCNN."""
    found = chain.faces(networks, image)
    return {**how, "width": image.shape[1], "height": image.shape[0], "found_in": where(networks, image),
            "faces": [as_json(f, chain.embed(networks, image, f.points)) for f in found],
            "everywhere": [as_json(f) for f in chain.faces(networks, image, everywhere=True)], "mtcnn": mtcnn_json(mtcnn, image)}


def where(networks, image):
    """Which of the chain's attempts finds the face: "whole", "padded 1.5", "padded 2.0", "tiles" or "none"."""
    attempts = {"whole": [chain.whole_view(image)], **{f"padded {f}": [chain.whole_view(image, f)] for f in chain.PAD}, "tiles": chain.tiles(image)}
    return next((n for n, views in attempts.items() if chain.confirm(networks, image, chain.hits(networks, image, views), n == "whole")), "none")


def group(networks, mtcnn, path):
    if not path:
        return json.loads((FIXTURES / "faces.json").read_text())["group"]
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == GROUP_SHA256
    image = chain.load(path)
    found = chain.faces(networks, image, everywhere=True)
    return {"crate": "rustface 0.1.7", "file": "test.png", "sha256": GROUP_SHA256, "people": 29, "everywhere": True,
            "width": image.shape[1], "height": image.shape[0], "faces": [as_json(f) for f in found], "mtcnn": mtcnn_json(mtcnn, image)}


def as_json(face, embedding=None):
    out = {"box": rounded(face.box, 3), "score": round(face.score, 6), "probability": round(face.probability, 6), "points": rounded(face.points, 3)}
    return out if embedding is None else {**out, "embedding": rounded(embedding, 6)}


def mtcnn_json(mtcnn, image):
    boxes, points = mtcnn.faces(image)
    return [{"box": rounded(b[:4], 3), "probability": round(float(b[4]), 6), "points": rounded(p, 3)} for b, p in zip(boxes, points)]


def rounded(values, digits):
    return np.round(np.asarray(values, np.float64), digits).tolist()


def steps(networks):
    """The intermediate values of the astronaut's first look, landmarks and embedding."""
    image = chain.load(PHOTOS / "astronaut.png")
    x0, y0, side = chain.whole_view(image)
    view = geometry.view(image, x0, y0, side, 128)
    scores, raw = networks.run("blazeface", view[None])
    hit = chain.close_up(networks, image, chain.hits(networks, image, [(x0, y0, side)])[0])
    centre, half = hit[5:].reshape(6, 2)[:4].mean(0), chain.EYE_MARGIN * np.hypot(*(hit[7:9] - hit[5:7]))
    box = [*(chain.round_half_up(c - half) for c in centre), chain.round_half_up(2 * half)]
    face = geometry.view(image, *box, 48)
    probability, move, fractions = networks.run("onet", face[None])
    _, points = chain.landmarks(networks, image, hit)
    crop = geometry.align(image, points, 112)
    save("faces_steps.safetensors", {
        "view_128": view, "blazeface.scores": scores[0], "blazeface.boxes": raw[0], "hit": hit, "onet.square": np.array(box), "view_48": face,
        "onet.probability": probability, "onet.box": move, "onet.points": fractions, "points": points, "aligned_112": crop,
        "mobilefacenet.embedding": networks.run("mobilefacenet", crop[None])[0]})


if __name__ == "__main__":
    main()
