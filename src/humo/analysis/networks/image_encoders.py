"""CLIP ViT-L/14 and DINOv2 ViT-B/14 as image encoders, with transformers' classes, and LAION's aesthetic head.

**Source:** https://github.com/openai/CLIP (``clip/model.py``), https://github.com/facebookresearch/dinov2, and
https://github.com/Vchitect/VBench (``vbench/utils.py`` ``clip_transform``, ``vbench/aesthetic_quality.py``).

Shape suffixes: B batch, H height, W width, D width of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in the training images."""

INPUT_SIDE = 224

CLIP_L_14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": INPUT_SIDE,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
"""Configuration of CLIP's image encoder; OpenAI's weights need ``quick_gelu``."""

DINO_V2_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": INPUT_SIDE,
    "patch_size": 14,
}
"""Configuration of DINOv2 base, for images of `INPUT_SIDE` pixels."""

DINO_OFFSET = 0.1
"""Number of patches that the published code adds to each axis when it scales the position embeddings."""


def prepare(frames_BHW3: Tensor, resized: int, mean: Any, std: Any, *, antialias: bool) -> Tensor:
    """Return frames as an encoder's input (B, 3, 224, 224).

    The shorter side becomes ``resized`` pixels (bicubic), then the middle is cut out, as torchvision does it.

    Args:
        frames_BHW3: uint8.
        resized: shorter side in pixels before the cut.
        mean, std: of the colors.
        antialias: whether shrinking averages over pixels.
    """
    images = frames_BHW3.movedim(-1, 1).float()
    height, width = images.shape[-2:]
    short, long = min(height, width), max(height, width)
    longer = int(resized * long / short)
    size = (resized, longer) if height <= width else (longer, resized)
    if size != (height, width):
        images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=antialias)
    top, left = round((size[0] - INPUT_SIDE) / 2), round((size[1] - INPUT_SIDE) / 2)
    images = images[..., top : top + INPUT_SIDE, left : left + INPUT_SIDE] / 255
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def clip_encoder(config: dict[str, Any] | None = None) -> Any:
    """Return CLIP's image encoder without weights; its output ``image_embeds`` is (B, D)."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPVisionConfig(**(config or CLIP_L_14))).eval()


def load_clip(weights: dict[str, Tensor]) -> Any:
    """Return CLIP's image encoder with released weights, whose text encoder is left out."""
    encoder = clip_encoder()
    wanted = encoder.state_dict()
    encoder.load_state_dict({name: weights[name] for name in wanted if name in weights}, strict=True)
    return encoder


def dino_encoder(config: dict[str, Any] | None = None) -> Any:
    """Return DINOv2 without weights; its output ``pooler_output`` is the normalized class token (B, D)."""
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**(config or DINO_V2_BASE))).eval()


def load_dino(weights: dict[str, Tensor]) -> Any:
    """Return DINOv2 base with released weights."""
    encoder = dino_encoder()
    encoder.load_state_dict(resize_positions(rename_released(weights, encoder.state_dict())))
    return encoder


_RELEASED_ATTENTION = re.compile(r"\.attention\.(?:attention\.(query|key|value)|output\.dense)\.")
"""Names of attention's matrices in released weights of DINOv2."""


def rename_released(weights: Mapping[str, Tensor], wanted: Container[str]) -> dict[str, Tensor]:
    """Return released weights of DINOv2 under the names of transformers' class, which change with its version.

    Args:
        weights: parameter -> tensor, as released.
        wanted: names of the class's parameters.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        plain = name.removeprefix("dinov2.")
        if plain not in wanted:
            plain = _RELEASED_ATTENTION.sub(lambda match: f".attention.{(match[1] or 'output')[0]}_proj.", plain)
        renamed[plain] = tensor
    return renamed


def resize_positions(weights: dict[str, Tensor], side: int = INPUT_SIDE, patch: int = 14) -> dict[str, Tensor]:
    """Return DINOv2's weights with position embeddings for another image size.

    transformers scales them to a size, the published code by a factor with `DINO_OFFSET`; this is the latter.

    **Source:** ``DinoVisionTransformer.interpolate_pos_encoding`` in ``dinov2/models/vision_transformer.py``.

    Args:
        weights: parameter -> tensor, as transformers names them.
        side: side of the images in pixels.
        patch: side of a patch in pixels.
    """
    name = "embeddings.position_embeddings"
    positions = weights[name]
    stored, wanted = round((positions.shape[1] - 1) ** 0.5), side // patch
    if stored == wanted:
        return weights
    grid = positions[:, 1:].unflatten(1, (stored, stored)).movedim(-1, 1)
    factor = (wanted + DINO_OFFSET) / stored
    scaled = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return {**weights, name: torch.cat([positions[:, :1], scaled.flatten(2).transpose(1, 2)], dim=1)}


def aesthetic_scores(embeddings_BD: Tensor, head: nn.Linear) -> Tensor:
    """Return LAION's aesthetic score (B,), about 1 to 10, of CLIP embeddings."""
    scores: Tensor = head(F.normalize(embeddings_BD, dim=-1))[:, 0]
    return scores


def load_aesthetic_head(weights: dict[str, Tensor]) -> nn.Linear:
    """Return the linear head with released weights."""
    head = nn.Linear(weights["weight"].shape[1], 1)
    head.load_state_dict(weights)
    return head.eval()
