"""LoRA files for tiny networks, with keys as public files have them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import tiny_transformer

RANK, ALPHA = 2, 4.0
LAYERS = {  # published layer -> the network's
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
}
"""Layers that the low-rank part of the file changes."""


def lora_tensors(family: str, seed: int = 0, **sizes: object) -> dict[str, Tensor]:
    """Return a LoRA as lightx2v's: low-rank factors with alpha, a bias and a modulation table, and a foreign branch."""
    network = tiny_transformer(family, **sizes)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for published, own in LAYERS.items():
        weight = network.get_submodule(own).weight
        assert isinstance(weight, Tensor)
        out, into = weight.shape
        tensors[f"diffusion_model.{published}.lora_down.weight"] = torch.randn(RANK, into, generator=generator)
        tensors[f"diffusion_model.{published}.lora_up.weight"] = 0.2 * torch.randn(out, RANK, generator=generator)
        tensors[f"diffusion_model.{published}.alpha"] = torch.tensor(ALPHA)
    width = network.config.num_attention_heads * network.config.attention_head_dim
    tensors["diffusion_model.blocks.0.self_attn.q.diff_b"] = 0.3 * torch.randn(width, generator=generator)
    tensors["diffusion_model.blocks.0.diff_m"] = 0.3 * torch.randn(1, 6, width, generator=generator)
    tensors["diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight"] = torch.randn(RANK, width)
    tensors["diffusion_model.blocks.0.cross_attn.k_img.lora_up.weight"] = torch.randn(width, RANK)
    return tensors


def write_lora(path: Path, family: str, seed: int = 0, **sizes: object) -> Path:
    """Write such a LoRA to a file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_tensors(family, seed, **sizes), path)
    return path
