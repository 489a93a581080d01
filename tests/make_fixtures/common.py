"""What all fixture scripts share: seeds, random weights that hide no mistake, and files."""
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
torch.set_num_threads(1)  # the same sums in the same order on any machine


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(shape, generator=generator(seed))


@torch.no_grad()
def fill(model, seed, round_to=torch.float32, residual=0.5, output=None):
    """Seeded weights for every parameter and running statistic.

    Matrices keep activations near one; branches that end in a residual sum are scaled by `residual`; norms and
    biases are away from 1 and 0, where a forgotten one would go unnoticed. `output` names the last layer's scale
    as (parameter name, gain). Values are rounded to `round_to`, so that a file of that type holds them exactly.
    """
    ends = (".conv2.", "to_out.0", ".net.2.", "proj_out", "out_proj", ".fc2.", "attn.proj.", "attention.output.dense", "output.dense")
    g = generator(seed)
    for name, p in [*model.named_parameters(), *model.named_buffers()]:
        if not p.is_floating_point():
            continue
        r = torch.randn(p.shape, generator=g)
        if name.endswith("running_var"):
            value = 1 + 0.3 * r.abs()
        elif name.endswith("running_mean"):
            value = 0.1 * r
        elif "token_embedding" in name or "cls_token" in name or "class_embedding" in name:
            value = 0.5 * r
        elif "position" in name or "pos_embed" in name:
            value = 0.1 * r
        elif p.ndim >= 2:
            gain = residual if any(e in name for e in ends) else 1.0
            if output and name == output[0]:
                gain = output[1]
            value = r * gain / math.sqrt(p[0].numel())
        elif name.endswith("weight"):
            value = 1 + 0.1 * r
        else:
            value = 0.05 * r
        p.copy_(value.to(round_to).float())
    return model.eval()


def save(path, tensors, **metadata):
    """Tensors as contiguous copies. Metadata becomes one JSON string under `facts`: one key, so that files are the same byte for byte."""
    path = FIXTURES / path
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().clone().contiguous() if torch.is_tensor(v) else torch.from_numpy(np.array(v, order="C")) for k, v in tensors.items()}
    for name, value in tensors.items():
        assert torch.isfinite(value.float()).all(), f"{path.name}: {name} is not finite"
    save_file(tensors, path, metadata={"facts": json.dumps(metadata)} if metadata else None)
    path.chmod(0o644)
    print(f"{path.relative_to(FIXTURES)}: {path.stat().st_size} bytes, {len(tensors)} tensors")


def write_json(path, value, indent=None):
    path = FIXTURES / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
