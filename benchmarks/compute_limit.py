"""Lower bound of a network pass: the matrix products and attention of HuMo's network alone, one after another.

There is no normalization, rotation, addition or copy, and the inputs are ready. No network that computes the same
function with these calls can be faster.

Shape suffixes: B batch, F latent frames, S video tokens, s tokens of a frame, D width, L context positions, N heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo import HuMoTransformer3DModel
from humo.model.transformer import CrossAttentionKV


class ComputeLimit:
    """Matrix products and attention of a network for one size of its input, with text and audio keys and values given.

    Args:
        network: its weights are used.
        cross_attention_kv: cross-attention keys and values of text and audio.
        latents_BCFHW: input of the network.
    """

    def __init__(
        self, network: HuMoTransformer3DModel, cross_attention_kv: CrossAttentionKV, latents_BCFHW: Tensor
    ) -> None:
        config = network.config
        batch, _, frames, height, width = latents_BCFHW.shape
        self._network, self._kv, self._latents = network, cross_attention_kv, latents_BCFHW
        tokens = frames * (height // 2) * (width // 2)
        dim = config.num_attention_heads * config.attention_head_dim
        blocks: Any = network.blocks
        dtype = cross_attention_kv.dtype
        self._x_BSD = torch.randn(batch, tokens, dim).to(dtype)
        self._inner_BSD = torch.randn(batch, tokens, blocks[0].ffn.net[2].in_features).to(dtype)
        heads = (config.num_attention_heads, config.attention_head_dim)
        self._queries_BSND = self._x_BSD.unflatten(2, heads)
        self._by_frame = self._queries_BSND.unflatten(1, (frames, -1)).flatten(0, 1)

    def __call__(self) -> Tensor:
        """Run all products and attention; the output has no meaning."""
        network, x_BSD, q_BSND = self._network, self._x_BSD, self._queries_BSND
        blocks: Any = network.blocks
        network.patch_embedding(self._latents)
        for block, text, audio in zip(blocks, self._kv.text, self._kv.audio, strict=True):
            for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v):
                product(layer, x_BSD)
            attend(q_BSND, q_BSND, q_BSND)
            product(block.attn1.to_out[0], x_BSD)
            for attention, queries, pair in ((block.attn2, q_BSND, text), (block.attn_audio, self._by_frame, audio)):
                product(attention.to_q, x_BSD)
                attend(queries, *pair)
                product(attention.to_out[0], x_BSD)
            product(block.ffn.net[0].proj, x_BSD)
            product(block.ffn.net[2], self._inner_BSD)
        return product(network.proj_out, x_BSD.to(network.proj_out.weight.dtype))


def product(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return the output of a linear layer."""
    return F.linear(x, layer.weight, layer.bias)


def attend(queries_BSND: Tensor, keys_BLND: Tensor, values_BLND: Tensor) -> Tensor:
    """Return torch's scaled dot-product attention."""
    queries, keys, values = (one.transpose(1, 2) for one in (queries_BSND, keys_BLND, values_BLND))
    return F.scaled_dot_product_attention(queries, keys, values)
