"""Writes the trained parts as the shipped miniature, in 16 bits:  python export.py DATA_DIR CKPT_DIR OUT_DIR

OUT_DIR gets diffusers' layout plus face_encoder/ and projector/, and SHA256SUMS.
"""
import hashlib
import json
import sys
from pathlib import Path

import diffusers
import torch
from PIL import Image
from safetensors.torch import save_file

import base
import common
import dataset
import faces
import language
import projector
import train_vae
from landmarks import TEMPLATE, TEMPLATE_ID
from preview import load_base, load_vae, load_vit

PHOTOS = (4711, 4715, 4718, 4734, 4706, 4746)  # unseen people whose portraits are shipped; the first is the default face
LICENCE = "MIT OR Apache-2.0"


def tensors(state, prefix=""):
    """float16, contiguous, under `prefix`."""
    return {prefix + k: v.detach().half().contiguous() for k, v in state.items() if v.is_floating_point()}


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def weights(path, state, config=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"format": "pt", "licence": LICENCE, **({"config": json.dumps(config)} if config else {})})


def export_base(out, model, codes):
    t = language.write(out)
    model.bake_names(codes, t.name_rows())
    text = model.inner.state_dict()
    text.pop("embeddings.position_ids", None)
    weights(out / "text_encoder/model.safetensors", tensors(text, "text_model."))
    dump(out / "text_encoder/config.json", {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "torch_dtype": "float16", "dropout": 0.0,
                                            "vocab_size": len(t.vocab), **base.TEXT})
    weights(out / "unet/diffusion_pytorch_model.safetensors", tensors(model.unet.state_dict()))
    dump(out / "unet/config.json", {"_class_name": "UNet2DConditionModel", "_diffusers_version": diffusers.__version__, **base.UNET})


def export_vae(out, vae, scale):
    weights(out / "vae/diffusion_pytorch_model.safetensors", tensors(vae.state_dict()))
    dump(out / "vae/config.json", {"_class_name": "AutoencoderKL", "_diffusers_version": diffusers.__version__, **train_vae.CONFIG, "scaling_factor": scale})


def export_faces(out, vit, words):
    alignment = {"alignment": TEMPLATE_ID, "alignment_points": TEMPLATE.tolist(), "licence": LICENCE}
    weights(out / "face_encoder/model.safetensors", tensors(vit.state_dict()), {**faces.CONFIG, **alignment})
    weights(out / "projector/model.safetensors", tensors(words), {**projector.CONFIG, "face_encoder": "face_encoder", "licence": LICENCE})


def export_index(out):
    dump(out / "scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler", "_diffusers_version": diffusers.__version__, **base.SCHEDULER})
    dump(out / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__, "feature_extractor": [None, None],
        "requires_safety_checker": False, "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "face_encoder": ["dreamid-engine", "FaceViT"], "projector": ["dreamid-engine", "M2Projector"]})


def export_photos(out, data):
    (out / "photos").mkdir(parents=True, exist_ok=True)
    for i, person in enumerate(PHOTOS):
        name = "face.png" if i == 0 else f"unseen_{person}.png"
        Image.fromarray(data[person, 0]).save(out / "photos" / name, optimize=True)


def checksums(out):
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    (out / "SHA256SUMS").write_text("".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(out)}\n" for p in files))
    return sum(p.stat().st_size for p in files)


def main(data_dir, ckpt, out):
    out = Path(out)
    model, codes = load_base(data_dir, ckpt)
    export_base(out, model, codes)
    scale = json.loads((Path(data_dir) / "latents.json").read_text())["scaling_factor"]
    export_vae(out, load_vae(ckpt), scale)
    export_faces(out, load_vit(ckpt), common.load(f"{ckpt}/projector.pt")["projector"])
    export_index(out)
    export_photos(out, dataset.images(data_dir))
    print(checksums(out), "bytes")


if __name__ == "__main__":
    with torch.no_grad():
        main(*sys.argv[1:])
