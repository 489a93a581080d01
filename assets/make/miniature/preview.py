"""A contact sheet of the model as it stands:  python preview.py DATA_DIR CKPT_DIR OUT.png [projector]

Rows: unseen people. Columns: drawn portrait, its reconstruction, then the plain prompt and the nine edits.
Without "projector" the words come from the look codes, which shows what the base model alone can do.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import common
import dataset
import faces
import language
import sample
import train_vae
from base import Base
from projector import Projector


def load_base(data_dir, ckpt, averaged=True):
    codes = torch.from_numpy(dataset.look_codes(data_dir))
    model = Base(len(language.Tokenizer().vocab), codes[:dataset.TRAIN.stop])
    state = common.load(f"{ckpt}/base.pt")
    model.load_state_dict(state["model"])
    if averaged:
        average = common.Average(model.parameters())
        average.load(state["average"])
        average.swap()
    return model.eval(), codes


def load_vae(ckpt):
    vae = train_vae.build()
    path = Path(ckpt) / "vae_decoder.pt"
    vae.load_state_dict(common.load(path if path.exists() else f"{ckpt}/vae.pt")["averaged"])
    return vae.eval()


def load_vit(ckpt):
    vit = faces.build()
    vit.load_state_dict(common.load(f"{ckpt}/vit.pt")["averaged"])
    return vit.eval()


@torch.no_grad()
def words_of(vit, projector, data, points, people, variant=0):
    crops = np.stack([faces.align(data[p, variant], points[p]) for p in people])
    return projector(faces.features(vit, faces.normalise(crops)))


def main(data_dir, ckpt, out, source="look"):
    model, codes = load_base(data_dir, ckpt)
    vae, data, t = load_vae(ckpt), dataset.images(data_dir), language.Tokenizer()
    scale = json.loads((Path(data_dir) / "latents.json").read_text())["scaling_factor"]
    people = list(dataset.VALIDATION)[:6]
    with torch.no_grad():
        words = model.look(codes[people])
        if source == "projector":
            projector = Projector()
            projector.load_state_dict(common.load(f"{ckpt}/projector.pt")["projector"])
            words = words_of(load_vit(ckpt), projector.eval(), data, np.load(Path(data_dir) / "landmarks.npy"), people)
        x = torch.from_numpy(data[people, 0]).permute(0, 3, 1, 2).float() / 127.5 - 1
        columns = [data[people, 0], sample.decode(vae, vae.encode(x).latent_dist.mean, 1.0)]
    empty = sample.empty_context(model, t)
    for template in (language.PLAIN_PROMPT, *language.EDITS.values()):
        context = sample.context_of(model, template, words, t)
        columns.append(sample.decode(vae, sample.ddim(model.unet, context, empty, sample.noise_for(len(people), 5), steps=20, guidance=5.0), scale))
    sheet = np.concatenate([np.concatenate(list(c), 0) for c in columns], 1)
    Image.fromarray(sheet).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
