"""Muon for matrices and convolutions (momentum, then the nearest orthogonal matrix by Newton-Schulz), AdamW for the rest.

Muon's step is scaled to the size of an Adam step (0.2 root mean square).
"""
import torch


def orthogonal(g, steps=5):
    """Approximately U V^T of the matrix g, in bfloat16."""
    x = g.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x if wide else x.mT).float()


class Muon:
    """An optimiser over named parameters; `plain(name)` says which of them AdamW keeps, at half the rate."""

    def __init__(self, named, plain=lambda name: False, decay=0.01, momentum=0.95, betas=(0.9, 0.99)):
        named = list(named)
        self.matrices = [p for n, p in named if p.ndim >= 2 and not plain(n)]
        self.adam = torch.optim.AdamW([p for n, p in named if p.ndim < 2 or plain(n)], betas=betas, weight_decay=0.0, fused=True)
        self.decay, self.momentum = decay, momentum
        self.velocity = [torch.zeros_like(p, memory_format=torch.contiguous_format).flatten(1) for p in self.matrices]

    @torch.no_grad()
    def step(self, lr):
        for group in self.adam.param_groups:
            group["lr"] = lr / 2
        self.adam.step()
        for p, v in zip(self.matrices, self.velocity):
            g = p.grad.flatten(1)
            v.lerp_(g, 1 - self.momentum)
            step = orthogonal(g.lerp(v, self.momentum)).view(p.shape)
            p.mul_(1 - lr * self.decay).sub_(step, alpha=lr * 0.2 * max(v.shape) ** 0.5)

    def zero_grad(self):
        self.adam.zero_grad(set_to_none=True)
        for p in self.matrices:
            p.grad = None

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "velocity": self.velocity}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        for v, s in zip(self.velocity, state["velocity"]):
            v.copy_(s)
