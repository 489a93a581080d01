"""The base model: text encoder, UNet, and the map from look codes to words that gives text space its structure.

Billions of captions teach Stable Diffusion what thousands of names look like. Here one linear map, shared by everybody and
learnt with the model, turns a person's look code into the two words of the name. It is a training aid and is not shipped:
the named people's rows of the token table are its output, everybody else enters through the same two slots as S* does.
"""
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

import language

WIDTH = 192
TEXT = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=language.CONTEXT,
            hidden_act="gelu", layer_norm_eps=1e-5, attention_dropout=0.0, initializer_range=0.02, initializer_factor=1.0, projection_dim=WIDTH,
            pad_token_id=1, bos_token_id=0, eos_token_id=2)  # the three ids as SD 2.1's file has them; nothing reads them
UNET = dict(sample_size=16, in_channels=4, out_channels=4, center_input_sample=False, flip_sin_to_cos=True, freq_shift=0,
            down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            block_out_channels=[64, 128, 160], layers_per_block=1, downsample_padding=1, mid_block_scale_factor=1, act_fn="silu",
            norm_num_groups=16, norm_eps=1e-5, cross_attention_dim=WIDTH, attention_head_dim=[2, 4, 5],
            use_linear_projection=True, dual_cross_attention=False, only_cross_attention=False, num_class_embeds=None)
SCHEDULER = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                 set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon")


def alphas_cumprod():
    betas = torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class Look(nn.Module):
    """Look code [B, C] -> words [B, slots, width]. The code is standardised with the training people's statistics."""

    def __init__(self, codes, scale=0.4):
        super().__init__()
        self.register_buffer("mean", codes.mean(0))
        self.register_buffer("std", codes.std(0).clamp_min(1e-3))
        self.map = nn.Linear(codes.shape[1], language.SLOTS * WIDTH)
        nn.init.normal_(self.map.weight, std=scale / codes.shape[1] ** 0.5)
        nn.init.zeros_(self.map.bias)

    def standard(self, codes):
        return (codes - self.mean) / self.std

    def forward(self, codes):
        return self.map(self.standard(codes)).view(-1, language.SLOTS, WIDTH)


class Base(nn.Module):
    def __init__(self, tokens, codes, seed=12):
        super().__init__()
        torch.manual_seed(seed)
        self.text = CLIPTextModel(CLIPTextConfig(vocab_size=tokens, **TEXT))
        self.unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
        self.unet.set_attn_processor(AttnProcessor())  # plain matrix products: faster here than the fused one
        self.look = Look(codes)
        nn.init.normal_(self.embeddings.token_embedding.weight, std=0.1)

    @property
    def inner(self):
        return getattr(self.text, "text_model", self.text)

    @property
    def embeddings(self):
        return self.inner.embeddings

    def embed(self, ids, words=None, at=None):
        """Token rows [B, 77, width]; rows at[b], at[b]+1 are `words` [B, slots, width] where at[b] >= 0."""
        rows = self.embeddings.token_embedding(ids)
        if words is None:
            return rows
        place = torch.arange(ids.shape[1])[None, :] - at[:, None]
        for slot in range(language.SLOTS):
            here = ((place == slot) & (at >= 0)[:, None])[..., None]
            rows = torch.where(here, words[:, slot, None, :], rows)
        return rows

    def hidden(self, rows):
        """Context [B, 77, width] from token rows: CLIP's text transformer, causal, after the final norm."""
        x = rows + self.embeddings.position_embedding.weight[None, :rows.shape[1]]
        for layer in self.inner.encoder.layers:
            x = x + self._attention(layer.self_attn, layer.layer_norm1(x))
            x = x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.layer_norm2(x))))
        return self.inner.final_layer_norm(x)

    @staticmethod
    def _attention(a, x):
        b, n, width = x.shape
        q, k, v = (p(x).view(b, n, a.num_heads, -1).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return a.out_proj(y.transpose(1, 2).reshape(b, n, width))

    def context(self, ids, words=None, at=None):
        return self.hidden(self.embed(ids, words, at))

    @torch.no_grad()
    def bake_names(self, codes, rows):
        """Writes the named people's words into the token table."""
        self.embeddings.token_embedding.weight[torch.tensor(rows)] = self.look(codes[:len(rows)])
