"""Compares the converted networks with the original runtimes (onnxruntime, LiteRT) on seeded noise and a smooth picture."""
import numpy as np
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter

import reference

onnxruntime.set_default_logger_severity(3)


def blazeface(tensors, config, path):
    images = pictures(config["input"]["size"])
    session = onnxruntime.InferenceSession(str(path))
    runs = [session.run(None, {"input:0": ((i[None] - 127.5) / 127.5).astype(np.float32)}) for i in images]
    scores = np.stack([np.concatenate([r[0].ravel(), r[1].ravel()]) for r in runs])
    boxes = np.stack([np.concatenate([r[2][0], r[3][0]]) for r in runs])
    got = reference.blazeface(reference.as_torch(tensors), config, images)
    return {"scores": relative(got[0], scores), "boxes": relative(got[1], boxes)}


def mtcnn(net, tensors, config, path):
    """The original takes x before y, so it is given, and gives back, transposed pictures."""
    images = pictures({"pnet": 37}.get(net, config["input"]["size"]))
    session = onnxruntime.InferenceSession(str(path))
    feed = ((images - 127.5) / 128).astype(np.float32).transpose(0, 2, 1, 3)
    names = [o.name for o in session.get_outputs()]
    out = dict(zip(names, session.run(None, {session.get_inputs()[0].name: feed})))
    probability = next(v for n, v in out.items() if n.startswith("softmax"))[..., 1]
    expected = {"pnet": "conv2d_4", "rnet": "dense_2", "onet": "dense_5"}
    box = out[expected[net]]
    if net == "pnet":
        probability, box = probability.transpose(0, 2, 1), box.transpose(0, 2, 1, 3)
    got = getattr(reference, net)(reference.as_torch(tensors), config, images)
    errors = {"face": relative(got[0], probability), "box": relative(got[1], box)}
    if net == "onet":
        errors["points"] = relative(got[2], out["dense_6"])
    return errors


def mobilefacenet(tensors, config, path):
    images = pictures(config["input"]["size"])
    expected = litert_embeddings(path, images)
    got = reference.mobilefacenet(reference.as_torch(tensors), config, images)[0].numpy()
    cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    return {"embedding": relative(got, expected), "embedding, 1 - cosine": float(max(0.0, 1 - cosine.min()))}


def litert_embeddings(path, images):
    """The original MobileFaceNet on [B, 112, 112, 3] pictures of 0..255; its file takes two at a time."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    rows = []
    for image in images:
        pair = np.stack([image, image]).astype(np.float32)
        interpreter.set_tensor(source, ((pair - np.float32(127.5)) / np.float32(128)))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target)[0].copy())
    return np.stack(rows)


def same_values(net, tensors, checkpoint):
    """The licence is the torch checkpoint's, so show that both packages hold the very same numbers."""
    theirs = np.sort(np.concatenate([v.numpy().ravel() for v in torch.load(checkpoint, weights_only=True).values()]))
    ours = np.sort(np.concatenate([v.ravel() for v in tensors.values()]))
    assert theirs.shape == ours.shape and np.array_equal(theirs, ours), f"{net}: the two packages differ"


def pictures(size):
    """Two seeded test pictures [2, size, size, 3], 0..255: white noise, and a smooth one."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:size, 0:size] / size
    smooth = np.stack([np.sin(3 * x + k) * np.cos(5 * y - k) for k in range(3)], -1) * 100 + 127.5
    return np.stack([rng.uniform(0, 255, (size, size, 3)), smooth]).astype(np.float32)


def relative(got, expected):
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())
