"""The M2 projector: V [B, inputs] -> k words [B, k, width], one small network per word."""
import torch
from torch import nn
import torch.nn.functional as F

import base
import faces
import language

CONFIG = dict(architecture="m2-projector", words=language.SLOTS, input_size=faces.FEATURES, hidden_size=320, output_size=base.WIDTH,
              layer_norm_eps=1e-5, negative_slope=0.2)


class Word(nn.Module):
    def __init__(self):
        super().__init__()
        c = CONFIG
        self.fc1 = nn.Linear(c["input_size"], c["hidden_size"])
        self.norm = nn.LayerNorm(c["hidden_size"], eps=c["layer_norm_eps"])
        self.fc2 = nn.Linear(c["hidden_size"], c["output_size"])

    def forward(self, v):
        return self.fc2(F.leaky_relu(self.norm(self.fc1(v)), CONFIG["negative_slope"]))


class Projector(nn.Module):
    def __init__(self, seed=14):
        super().__init__()
        torch.manual_seed(seed)
        self.words = nn.ModuleList(Word() for _ in range(CONFIG["words"]))

    def forward(self, v):
        return torch.stack([w(v) for w in self.words], 1)
