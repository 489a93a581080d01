#!/usr/bin/env python3
"""Full-size SD 2.1-base from random weights: does the engine compute what torch computes in float32?

    python full_size_check.py --out FOLDER --bpe bpe_simple_vocab_16e6.txt.gz --engine target/release/dreamid-engine

Writes a seeded model folder (2.6 GB in float16; the values are exact, so torch sees the same numbers in float32), runs the text
encoder on two prompts, one UNet step (batch 2, 64x64 latents), a VAE encode and a VAE decode in torch float32, then the same
with `dreamid-engine run`, and prints the relative errors (largest difference over largest value, and root mean square).
Needs about 8 GB of memory and a few minutes. Exits with 1 if an error is above the tolerance. A folder made before is used again.
"""
import argparse
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import model_folder
from common import normal
from model_folder import Spec

TOLERANCE = {"f32": 1e-4, "bf16": 1e-1, "f16": 1e-2}
# graph -> (part, output names)
GRAPHS = {"text": ("text_encoder", ["hidden"]), "unet": ("unet", ["eps"]), "vae-encode": ("vae", ["mean", "logvar"]), "vae-decode": ("vae", ["image"])}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--bpe", required=True)
    ap.add_argument("--engine", required=True)
    ap.add_argument("--graphs", default=",".join(GRAPHS))
    ap.add_argument("--dtype", default="f32", choices=sorted(TOLERANCE), help="the engine's; torch always computes in float32")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=2, help="torch's")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    graphs = a.graphs.split(",")
    prepare(a.out, a.bpe, graphs)
    worst = [compare(a, graph) for graph in graphs]
    sys.exit(max(worst) > TOLERANCE[a.dtype])


def prepare(out, bpe, graphs):
    """Writes each part, its inputs and torch's results, one part in memory at a time."""
    for part in dict.fromkeys(GRAPHS[g][0] for g in graphs):
        wanted = [g for g in graphs if GRAPHS[g][0] == part]
        if all((out / f"{g}.expected.safetensors").exists() for g in wanted):
            continue
        spec = Spec(dtype=torch.float16, seed=5, parts=(part,))
        models = model_folder.build(spec)
        model_folder.write(out / "model", spec, models, bpe)
        for graph in wanted:
            started = time.time()
            given = inputs(graph)
            with torch.no_grad():
                results = reference(graph, models[part], given)
            print(f"torch {graph}: {time.time() - started:.1f} s", flush=True)
            save_file(given, out / f"{graph}.inputs.safetensors")
            save_file({k: v.contiguous() for k, v in results.items()}, out / f"{graph}.expected.safetensors")
        del models
        gc.collect()


def inputs(graph):
    if graph == "text":
        ids = torch.randint(0, 49406, (2, 77), generator=torch.Generator().manual_seed(60))
        ids[:, 0], ids[0, 12], ids[0, 13:], ids[1, 76] = 49406, 49407, 0, 49407
        return {"input_ids": ids}
    if graph == "unet":
        return {"latents": normal(61, 2, 4, 64, 64), "timesteps": torch.tensor([500, 500]), "context": normal(62, 2, 77, 1024)}
    if graph == "vae-encode":
        return {"image": normal(63, 1, 3, 512, 512).clamp(-1, 1)}
    return {"latents": normal(64, 1, 4, 64, 64) * 0.18215}


def reference(graph, model, given):
    if graph == "text":
        return {"hidden": model(input_ids=given["input_ids"]).last_hidden_state}
    if graph == "unet":
        return {"eps": model(given["latents"], given["timesteps"], given["context"]).sample}
    if graph == "vae-encode":
        posterior = model.encode(given["image"]).latent_dist
        return {"mean": posterior.mean, "logvar": posterior.logvar}
    return {"image": model.decode(given["latents"] / 0.18215).sample}


def compare(a, graph):
    """Runs the engine on the stored inputs; returns its worst relative error."""
    outputs = a.out / f"{graph}.engine.safetensors"
    started = time.time()
    subprocess.run([a.engine, "run", graph, "--model", str(a.out / "model"), "--inputs", str(a.out / f"{graph}.inputs.safetensors"),
                    "--outputs", str(outputs), "--device", a.device, "--dtype", a.dtype], check=True)
    got, expected = load_file(outputs), load_file(a.out / f"{graph}.expected.safetensors")
    worst = 0.0
    for name in GRAPHS[graph][1]:
        difference = (got[name].double() - expected[name].double()).abs()
        error = float(difference.max() / expected[name].abs().max())
        rms = float(difference.square().mean().sqrt() / expected[name].double().square().mean().sqrt())
        print(json.dumps({"graph": graph, "output": name, "dtype": a.dtype, "max": error, "rms": rms, "engine_s": round(time.time() - started, 2)}), flush=True)
        worst = max(worst, error if error == error else float("inf"))
    return worst


if __name__ == "__main__":
    main()
