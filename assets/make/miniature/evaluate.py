"""Scores the shipped files on unseen people:  python evaluate.py DATA_DIR CKPT_DIR MODEL_DIR [--guidance 7.5] [--people 100]

Everything generated comes from MODEL_DIR's 16-bit files through diffusers and transformers; DATA_DIR supplies drawn portraits of
people never trained on, CKPT_DIR the judge of prompts. Identity is judged by the real MobileFaceNet, which never saw this world.
Writes results.json and sheet.png into MODEL_DIR.
"""
import argparse
import json
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


def portraits(data, networks, people):
    """(people found, their aligned crops, MobileFaceNet embeddings of their portraits, of another picture of each)."""
    kept, crops, photo, other = [], [], [], []
    for p in people:
        first, second = chain.faces(networks, data[p, 0]), chain.faces(networks, data[p, 1])
        if first and second:
            kept.append(p)
            crops.append(faces.align(data[p, 0], first[0].points))
            photo.append(chain.embed(networks, data[p, 0], first[0].points))
            other.append(chain.embed(networks, data[p, 1], second[0].points))
    return kept, crops, np.stack(photo), np.stack(other)


def rank(queries, found, gallery):
    """Share of queries whose nearest portrait is their own (mean-centred cosine); a picture without a face is a miss."""
    q = queries - queries[found].mean(0)
    g = gallery - gallery.mean(0)
    s = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (g / np.linalg.norm(g, axis=1, keepdims=True)).T
    right = (s.argmax(1) == np.arange(len(s))) & found
    return float(right.mean()), float(np.diag(s)[found].mean())


def embed_all(networks, pictures):
    vectors, found = np.zeros((len(pictures), 192)), np.zeros(len(pictures), bool)
    for i, x in enumerate(pictures):
        face = chain.faces(networks, x)
        if face:
            vectors[i], found[i] = chain.embed(networks, x, face[0].points), True
    return vectors, found


def generate(m, template, words, empty, guidance, steps, batch=25):
    noise, out = sample.noise_for(len(words), SEED), []
    context = m.context(template, words)
    for i in range(0, len(words), batch):
        z = sample.ddim(m.unet, context[i:i + batch], empty, noise[i:i + batch], steps, guidance)
        out.append(sample.decode(m.vae, z, m.vae.config.scaling_factor))
    return np.concatenate(out)


def score(m, data, networks, judge, people, prompts, guidance, steps):
    kept, crops, photo, other = portraits(data, networks, people)
    words, empty = m.identity(crops), m.context("")
    real, _ = rank(other, np.ones(len(kept), bool), photo)
    result = {"people": len(kept), "portraits_without_face": len(people) - len(kept), "guidance": guidance, "steps": steps,
              "rank1_of_other_drawings": real, "prompts": {}}
    pictures = {}
    for name, template in prompts.items():
        x = pictures[name] = generate(m, template, words, empty, guidance, steps)
        vectors, found = embed_all(networks, x)
        rank1, cosine = rank(vectors, found, photo)
        with torch.no_grad():
            said = judge(train_judge.prepare(x)).argmax(1).numpy()
        result["prompts"][name] = {"template": template.replace("{}", "S*"), "rank1": rank1, "cosine": cosine, "faces_found": float(found.mean()),
                                   "obeyed": float((said == train_judge.CLASSES.index(name)).mean())}
        print(name, result["prompts"][name], flush=True)
    edits = [v["obeyed"] for k, v in result["prompts"].items() if k != "plain"]
    result["obeyed_mean_of_edits"] = float(np.mean(edits)) if edits else None
    return result, kept, pictures


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
    a.add_argument("--plain-only", action="store_true")
    a.add_argument("--validation", action="store_true", help="validation people instead of unseen ones, and no files written")
    a = a.parse_args()
    people = list(dataset.VALIDATION if a.validation else dataset.UNSEEN)
    judge, saved = train_judge.build().eval(), common.load(f"{a.ckpt}/judge.pt")
    judge.load_state_dict(saved["judge"])
    data, networks = dataset.images(a.data), chain.Networks()
    # exactly `people` people whose portrait shows a face to the detector
    found = []
    for p in people:
        if len(found) < a.people and chain.faces(networks, data[p, 0]) and chain.faces(networks, data[p, 1]):
            found.append(p)
    prompts = {"plain": language.PLAIN_PROMPT, **({} if a.plain_only else language.EDITS)}
    result, kept, pictures = score(Miniature(a.model), data, networks, judge, found, prompts, a.guidance, a.steps)
    result["judge_held_out_accuracy"] = saved["held_out"]
    result["searched_portraits"], result["portraits_without_face"] = people.index(found[-1]) + 1, people.index(found[-1]) + 1 - len(found)
    print(json.dumps(result, indent=2))
    if not (a.validation or a.plain_only):
        sheet(data, kept, pictures, Path(a.model) / "sheet.png")
        (Path(a.model) / "results.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
