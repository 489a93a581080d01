"""Scores the shipped files on unseen people:  python evaluate.py DATA_DIR CKPT_DIR MODEL_DIR [--guidance 7.5] [--people 100]

Everything generated comes from MODEL_DIR's 16-bit files through diffusers and transformers; DATA_DIR supplies drawn portraits of
people never trained on, CKPT_DIR the judge of prompts. Identity is judged by the real MobileFaceNet, which never saw this world.
Writes results.json and sheet.png into MODEL_DIR.
"""
import argparse
import json
import multiprocessing as mp
import os
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import common
import dataset
import faces
import language
import sample
import train_judge
from projector import Projector

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "networks"))
import chain  # noqa: E402

SEED = 4321
STATE = {}  # what the workers share


class Miniature:
    """The shipped files, loaded with public tools."""

    def __init__(self, folder):
        folder = Path(folder)
        config = json.loads((folder / "text_encoder/config.json").read_text())
        self.text = CLIPTextModel(CLIPTextConfig(**{k: v for k, v in config.items() if k not in ("architectures", "model_type", "torch_dtype")})).eval()
        state = load_file(folder / "text_encoder/model.safetensors")
        prefix = "" if next(iter(self.text.state_dict())).startswith("text_model.") else "text_model."
        missing = self.text.load_state_dict({k.removeprefix(prefix): v.float() for k, v in state.items()}, strict=False)
        assert not missing.unexpected_keys and all("position_ids" in k for k in missing.missing_keys), missing
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().eval().to(memory_format=torch.channels_last)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval().to(memory_format=torch.channels_last)
        self.vit, self.projector = faces.build().eval(), Projector().eval()
        self.vit.load_state_dict({k: v.float() for k, v in load_file(folder / "face_encoder/model.safetensors").items()})
        self.projector.load_state_dict({k: v.float() for k, v in load_file(folder / "projector/model.safetensors").items()})
        with safe_open(folder / "face_encoder/model.safetensors", "pt") as f:
            self.template = np.array(json.loads(f.metadata()["config"])["alignment_points"])

    @torch.no_grad()
    def identity(self, crops):
        return self.projector(faces.features(self.vit, faces.normalise(np.stack(crops))))

    @torch.no_grad()
    def context(self, template, words=None):
        """[B, 77, width] with the words in S*'s two places, or [1, 77, width] of a plain text."""
        ids = self.tokenizer(template.replace("{}", "! !"), padding="max_length", max_length=77).input_ids
        ids = torch.tensor([ids]) if words is None else torch.tensor([ids] * len(words))
        before = self.tokenizer(template.split("{}")[0]).input_ids if words is not None else None

        def inject(_module, _inputs, rows):
            if words is not None:
                at = len(before) - 1  # its end token is not counted
                rows = rows.clone()
                rows[:, at:at + language.SLOTS] = words
            return rows

        inner = getattr(self.text, "text_model", self.text)
        hook = inner.embeddings.token_embedding.register_forward_hook(inject)
        hidden = self.text(ids).last_hidden_state
        hook.remove()
        return hidden


def portraits(data, networks, people, wanted):
    """The first `wanted` people in whose portraits the detector finds a face: (how many were looked at, the people, their aligned
    crops, MobileFaceNet embeddings of their portraits, and of another drawing of each)."""
    kept, crops, photo, other = [], [], [], []
    for searched, p in enumerate(people, 1):
        first, second = chain.faces(networks, data[p, 0]), chain.faces(networks, data[p, 1])
        if first and second:
            kept.append(p)
            crops.append(faces.align(data[p, 0], first[0].points))
            photo.append(chain.embed(networks, data[p, 0], first[0].points))
            other.append(chain.embed(networks, data[p, 1], second[0].points))
        if len(kept) == wanted:
            break
    return searched, kept, crops, np.stack(photo), np.stack(other)


def rank(queries, found, gallery):
    """(share of queries whose nearest portrait is their own by mean-centred cosine, mean cosine to the own one where a face was found).

    A picture without a face is a miss.
    """
    if not found.any():
        return 0.0, None
    q = queries - queries[found].mean(0)
    g = gallery - gallery.mean(0)
    s = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (g / np.linalg.norm(g, axis=1, keepdims=True)).T
    right = (s.argmax(1) == np.arange(len(s))) & found
    return float(right.mean()), float(np.diag(s)[found].mean())


def judge_part(task):
    """One prompt for some people: (prompt, first, pictures, MobileFaceNet embeddings, faces found, what the judge says)."""
    name, template, first, words, noise = task
    z = sample.ddim(STATE["m"].unet, STATE["m"].context(template, words), STATE["empty"], noise, STATE["steps"], STATE["guidance"])
    pictures = sample.decode(STATE["m"].vae, z, STATE["m"].vae.config.scaling_factor)
    vectors, found = np.zeros((len(pictures), 192)), np.zeros(len(pictures), bool)
    for i, x in enumerate(pictures):
        face = chain.faces(STATE["networks"], x)
        if face:
            vectors[i], found[i] = chain.embed(STATE["networks"], x, face[0].points), True
    with torch.no_grad():
        said = STATE["judge"](train_judge.prepare(pictures)).argmax(1).numpy()
    return name, first, pictures, vectors, found, said


def score(words, photo, prompts, workers, edit_people, batch=10):
    """({prompt: figures}, {prompt: pictures})."""
    noise, tasks = sample.noise_for(len(words), SEED), []
    for name, template in prompts.items():
        n = len(words) if name == "plain" else min(edit_people, len(words))
        tasks += [(name, template, i, words[i:min(i + batch, n)], noise[i:min(i + batch, n)]) for i in range(0, n, batch)]
    if workers > 1:  # forked after loading: the models are shared
        with mp.get_context("fork").Pool(workers, initializer=os.setsid) as pool:
            parts = list(pool.imap_unordered(judge_part, tasks))
    else:
        parts = [judge_part(t) for t in tasks]
    figures, pictures = {}, {}
    for name, template in prompts.items():
        mine = sorted((p for p in parts if p[0] == name), key=lambda p: p[1])
        x, vectors, found, said = (np.concatenate([p[i] for p in mine]) for i in (2, 3, 4, 5))
        rank1, cosine = rank(vectors, found, photo)
        pictures[name] = x
        figures[name] = {"template": template.replace("{}", "S*"), "people": len(x), "rank1": rank1, "cosine": cosine,
                         "faces_found": float(found.mean()), "obeyed": float((said == train_judge.CLASSES.index(name)).mean())}
        print(name, figures[name], flush=True)
    return figures, pictures


def sheet(data, kept, pictures, path, rows=6):
    """Rows: people. Columns: the portrait, the plain prompt, the nine edits."""
    columns = [data[kept[:rows], 0]] + [p[:rows] for p in pictures.values()]
    Image.fromarray(np.concatenate([np.concatenate(list(c), 0) for c in columns], 1)).quantize(256, dither=0).save(path, optimize=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data"), a.add_argument("ckpt"), a.add_argument("model")
    a.add_argument("--guidance", type=float, default=sample.GUIDANCE)
    a.add_argument("--steps", type=int, default=sample.STEPS)
    a.add_argument("--people", type=int, default=100)
    a.add_argument("--edit-people", type=int, default=100, help="how many of them are drawn for the edits too")
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--plain-only", action="store_true", help="no files written")
    a.add_argument("--validation", action="store_true", help="validation people instead of unseen ones, and no files written")
    a = a.parse_args()
    judge, saved = train_judge.build().eval(), common.load(f"{a.ckpt}/judge.pt")
    judge.load_state_dict(saved["judge"])
    data, networks, m = dataset.images(a.data), chain.Networks(), Miniature(a.model)
    searched, kept, crops, photo, other = portraits(data, networks, dataset.VALIDATION if a.validation else dataset.UNSEEN, a.people)
    STATE.update(m=m, networks=networks, judge=judge, empty=m.context(""), steps=a.steps, guidance=a.guidance)
    prompts = {"plain": language.PLAIN_PROMPT, **({} if a.plain_only else language.EDITS)}
    figures, pictures = score(m.identity(crops), photo, prompts, a.workers, a.edit_people)
    edits = [v["obeyed"] for k, v in figures.items() if k != "plain"]
    result = {"people": len(kept), "portraits_searched": searched, "portraits_without_face": searched - len(kept), "guidance": a.guidance,
              "steps": a.steps, "rank1_of_other_drawings": rank(other, np.ones(len(kept), bool), photo)[0],
              "judge_held_out_accuracy": saved["held_out"], "obeyed_mean_of_edits": float(np.mean(edits)) if edits else None, "prompts": figures}
    print(json.dumps(result, indent=2))
    if not (a.validation or a.plain_only):
        sheet(data, kept, pictures, Path(a.model) / "sheet.png")
        (Path(a.model) / "results.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
