"""The limit: the matrix products and the attention of a pass of HuMo's network, called bare, one after another.

Nothing is normed, rotated, added or copied; inputs lie ready. No network that computes the same function by these
calls can be faster.

Shape suffixes: B batch, F latent frames, S video tokens, s tokens of a frame, D width, L context positions, N heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo import HuMoTransformer3DModel
from humo.model.transformer import CrossAttentionKV


class Bare:
    """The products of a network at one size of its input, keys and values of text and sound given.

    Args:
        network: whose weights are multiplied with.
        heard: what text and sound offer to its blocks.
        latents_BCFHW: the input.
    """

    def __init__(self, network: HuMoTransformer3DModel, heard: CrossAttentionKV, latents_BCFHW: Tensor) -> None:
        config = network.config
        batch, _, frames, height, width = latents_BCFHW.shape
        self._network, self._heard, self._latents = network, heard, latents_BCFHW
        tokens = frames * (height // 2) * (width // 2)
        dim = config.num_attention_heads * config.attention_head_dim
        blocks: Any = network.blocks
        dtype = heard.dtype
        self._x_BSD = torch.randn(batch, tokens, dim).to(dtype)
        self._inner_BSD = torch.randn(batch, tokens, blocks[0].ffn.net[2].in_features).to(dtype)
        heads = (config.num_attention_heads, config.attention_head_dim)
        self._queries_BSND = self._x_BSD.unflatten(2, heads)
        self._by_frame = self._queries_BSND.unflatten(1, (frames, -1)).flatten(0, 1)

    def __call__(self) -> Tensor:
        """Multiply and attend; what comes of it means nothing."""
        network, x_BSD, q_BSND = self._network, self._x_BSD, self._queries_BSND
        blocks: Any = network.blocks
        network.patch_embedding(self._latents)
        for block, text, sound in zip(blocks, self._heard.text, self._heard.audio, strict=True):
            for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v):
                product(layer, x_BSD)
            attend(q_BSND, q_BSND, q_BSND)
            product(block.attn1.to_out[0], x_BSD)
            for attention, queries, pair in ((block.attn2, q_BSND, text), (block.attn_audio, self._by_frame, sound)):
                product(attention.to_q, x_BSD)
                attend(queries, *pair)
                product(attention.to_out[0], x_BSD)
            product(block.ffn.net[0].proj, x_BSD)
            product(block.ffn.net[2], self._inner_BSD)
        return product(network.proj_out, x_BSD.to(network.proj_out.weight.dtype))


def product(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer's."""
    return F.linear(x, layer.weight, layer.bias)


def attend(queries_BSND: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> Tensor:
    """Torch's own attention."""
    queries, keys, values = (one.transpose(1, 2) for one in (queries_BSND, keys_BLND, values_BLND))
    return F.scaled_dot_product_attention(queries, keys, values)
