"""Sampling in plain PyTorch as the engine does it: DDIM, guidance, S* by word injection; used by training and evaluation."""
import torch

from base import alphas_cumprod

STEPS, GUIDANCE = 30, 7.5


def prompt(template, words, tokenizer):
    """(ids, words, at) for one caption template and each person's words [B, slots, width]."""
    ids, at = tokenizer.template(template)
    n = words.shape[0]
    return torch.tensor([ids] * n), words, torch.full((n,), at)


@torch.no_grad()
def ddim(unet, context, empty, noise, steps=STEPS, guidance=GUIDANCE):
    """Latents [B, 4, 16, 16] from contexts [B, 77, width], the empty prompt's [1, 77, width] and initial noise."""
    abar, stride = alphas_cumprod(), 1000 // steps
    x, both = noise.clone(), torch.cat([empty.expand_as(context), context])
    for i in reversed(range(steps)):
        t = i * stride + 1
        with torch.autocast("cpu", torch.bfloat16):
            e = unet(torch.cat([x, x]).contiguous(memory_format=torch.channels_last), torch.full((2 * len(x),), t), both, return_dict=False)[0].float()
        without, with_ = e.chunk(2)
        e = without + guidance * (with_ - without)
        now, before = abar[t], abar[max(t - stride, 0)]
        x0 = (x - (1 - now).sqrt() * e) / now.sqrt()
        x = before.sqrt() * x0 + (1 - before).sqrt() * e
    return x


@torch.no_grad()
def decode(vae, latents, scale):
    """Pictures [B, 128, 128, 3] uint8."""
    with torch.autocast("cpu", torch.bfloat16):
        y = vae.decode(latents / scale).sample.float()
    return ((y / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def noise_for(n, seed):
    """One initial noise per picture, from the picture's own seed."""
    return torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed + i)) for i in range(n)])


def context_of(model, template, words, tokenizer):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.context(*prompt(template, words, tokenizer)).float()


def empty_context(model, tokenizer):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.context(torch.tensor([tokenizer.encode("")])).float()


