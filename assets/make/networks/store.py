"""Reading and writing the converted networks: float16 safetensors with a JSON `config` in the metadata."""
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def write(path, tensors, config):
    tensors = {name: np.ascontiguousarray(value, dtype=np.float16) for name, value in tensors.items()}
    for name, value in tensors.items():
        assert np.isfinite(value).all(), f"{name} leaves the range of float16"
    save_file(tensors, path, metadata={"config": json.dumps(config, sort_keys=True)})  # one key: reproducible bytes
    Path(path).chmod(0o644)


def read(path):
    """Returns ({name: float32 array}, config)."""
    with safe_open(Path(path), framework="numpy") as f:
        config = json.loads(f.metadata()["config"])
        return {name: f.get_tensor(name).astype(np.float32) for name in f.keys()}, config
