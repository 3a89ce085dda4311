"""MUSIQ, a transformer that rates the quality of an image from patches at three scales.

Parameter names are those of the converted weights that VBench uses (``musiq_spaq_ckpt-358bb6af.pth``).

**Source:** Ke et al., "MUSIQ: Multi-scale Image Quality Transformer" (arXiv 2108.05997), and its code,
https://github.com/google-research/google-research/tree/master/musiq: ``model/preprocessing.py``,
``model/multiscale_transformer.py``, ``model/resnet.py``.

Shape suffixes: B batch, C channels, H height, W width, P patches, D width of tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_WIDTH = 64
"""Channels of the convolutions before the transformer."""

MASKED_SCORE = -1e3
"""Attention score of patches that only fill a scale up to its length."""


@dataclass(frozen=True, slots=True)
class MusiqConfig:
    """Sizes of the network; the defaults are those of the released weights.

    Args:
        patch: side of a patch in pixels.
        width: width of tokens.
        mlp_width: width of the feed-forward layers.
        heads, layers: of the transformer.
        grid: side of the grid of position embeddings.
        long_sides: longer side in pixels of each scale below the original one.
    """

    patch: int = 32
    width: int = 384
    mlp_width: int = 1152
    heads: int = 6
    layers: int = 14
    grid: int = 10
    long_sides: tuple[int, ...] = (224, 384)


class _StandardizedConv(nn.Conv2d):
    """A convolution with standardized weights and TensorFlow's padding ``SAME``."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(_pad_same(x_BCHW, self.kernel_size[0], self.stride[0]), weight, None, self.stride)


class _Bottleneck(nn.Module):
    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = _conv(width, width, 1), nn.GroupNorm(32, width, eps=1e-4)
        self.conv2, self.gn2 = _conv(width, width, 3), nn.GroupNorm(32, width, eps=1e-4)
        self.conv3, self.gn3 = _conv(width, out_width, 1), nn.GroupNorm(32, out_width, eps=1e-4)
        self.conv_proj, self.gn_proj = _conv(width, out_width, 1), nn.GroupNorm(32, out_width, eps=1e-4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut = self.gn_proj(self.conv_proj(x_BCHW))
        x_BCHW = F.relu(self.gn1(self.conv1(x_BCHW)))
        x_BCHW = F.relu(self.gn2(self.conv2(x_BCHW)))
        return F.relu(self.gn3(self.conv3(x_BCHW)) + shortcut)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_BPD: Tensor, pairs_BPP: Tensor) -> Tensor:
        query, key, value = (
            layer(x_BPD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~pairs_BPP[:, None], MASKED_SCORE).softmax(dim=-1)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class _FeedForward(nn.Module):
    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)

    def forward(self, x_BPD: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(x_BPD)))
        return result


class _Block(nn.Module):
    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, eps=1e-6) for _ in range(2))
        self.attention = _Attention(config.width, config.heads)
        self.mlp = _FeedForward(config.width, config.mlp_width)

    def forward(self, x_BPD: Tensor, pairs_BPP: Tensor) -> Tensor:
        x_BPD = x_BPD + self.attention(self.norm1(x_BPD), pairs_BPP)
        result: Tensor = x_BPD + self.mlp(self.norm2(x_BPD))
        return result


class _Positions(nn.Module):
    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        self.position_emb = nn.Parameter(torch.zeros(1, config.grid**2, config.width))


class _Scales(nn.Module):
    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        self.scale_emb = nn.Parameter(torch.zeros(len(config.long_sides) + 1, config.width))


class _Encoder(nn.Module):
    def __init__(self, config: MusiqConfig) -> None:
        super().__init__()
        self.posembed_input, self.scaleembed_input = _Positions(config), _Scales(config)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.encoder_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.transformer = nn.ModuleDict({f"encoderblock_{n}": _Block(config) for n in range(config.layers)})

    def forward(self, x_BPD: Tensor, positions_P: Tensor, scales_P: Tensor, mask_P: Tensor) -> Tensor:
        x_BPD = x_BPD + self.posembed_input.position_emb[0, positions_P]
        x_BPD = x_BPD + self.scaleembed_input.scale_emb[scales_P]
        x_BPD = torch.cat([self.cls.expand(len(x_BPD), -1, -1), x_BPD], dim=1)
        mask_P = torch.cat([mask_P.new_ones(1), mask_P])
        pairs_BPP = (mask_P[:, None] & mask_P).expand(len(x_BPD), -1, -1)
        for block in self.transformer.values():
            x_BPD = block(x_BPD, pairs_BPP)
        result: Tensor = self.encoder_norm(x_BPD)
        return result


class Musiq(nn.Module):
    """Rates images of one size.

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: MusiqConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MusiqConfig()
        self.conv_root, self.gn_root = _conv(3, STEM_WIDTH, 7, 2), nn.GroupNorm(32, STEM_WIDTH, eps=1e-6)
        self.block1 = _Bottleneck(STEM_WIDTH, 4 * STEM_WIDTH)
        self.embedding = nn.Linear(4 * STEM_WIDTH * (config.patch // 4) ** 2, config.width)
        self.transformer_encoder = _Encoder(config)
        self.head = nn.Linear(config.width, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the score (B,), about 0 to 100, of images in [0, 1]."""
        pixels_BPC, positions_P, scales_P, mask_P = self._patches((images_BCHW - 0.5) * 2)
        batch, count = pixels_BPC.shape[:2]
        x = pixels_BPC.reshape(-1, 3, self.config.patch, self.config.patch)
        x = F.relu(self.gn_root(self.conv_root(x)))
        x = self.block1(F.max_pool2d(_pad_same(x, 3, 2), 3, 2))
        tokens_BPD = self.embedding(x.movedim(1, -1).reshape(batch, count, -1))
        score: Tensor = self.head(self.transformer_encoder(tokens_BPD, positions_P, scales_P, mask_P)[:, 0])
        return score[:, 0]

    def _patches(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return pixels (B, P, C * patch * patch), positions, scales and mask (P,) of the patches of all scales."""
        height, width = images_BCHW.shape[-2:]
        pixels, positions, scales, masks = [], [], [], []
        for scale, long_side in enumerate((*self.config.long_sides, None)):
            image, length = images_BCHW, None
            if long_side is not None:
                ratio = long_side / max(height, width)
                size = round(height * ratio), round(width * ratio)
                image = F.interpolate(images_BCHW, size, mode="bicubic", align_corners=False)
                length = math.ceil(long_side / self.config.patch) ** 2
            one = F.unfold(
                _pad_same(image, self.config.patch, self.config.patch), self.config.patch, stride=self.config.patch
            )
            position = self._positions(image)
            count = one.shape[-1]
            length = count if length is None else length
            pixels.append(F.pad(one, (0, length - count))[..., :length])
            positions.append(F.pad(position, (0, length - count))[:length])
            valid = torch.arange(length, device=image.device) < count
            scales.append(torch.where(valid, scale, 0))
            masks.append(valid)
        return torch.cat(pixels, dim=-1).transpose(1, 2), torch.cat(positions), torch.cat(scales), torch.cat(masks)

    def _positions(self, image_BCHW: Tensor) -> Tensor:
        """Return for each patch of an image its place on the grid of position embeddings."""
        rows, columns = (
            torch.arange(count, device=image_BCHW.device) * self.config.grid // count
            for count in (math.ceil(side / self.config.patch) for side in image_BCHW.shape[-2:])
        )
        return (rows[:, None] * self.config.grid + columns).flatten()


def _conv(width: int, out_width: int, kernel: int, spacing: int = 1) -> _StandardizedConv:
    return _StandardizedConv(width, out_width, kernel, spacing, bias=False)


def _pad_same(x_BCHW: Tensor, kernel: int, spacing: int) -> Tensor:
    """Pad with zeros as TensorFlow's ``SAME`` does: an odd pixel goes right or below."""
    height, width = (max(0, (math.ceil(side / spacing) - 1) * spacing + kernel - side) for side in x_BCHW.shape[-2:])
    return F.pad(x_BCHW, (width // 2, width - width // 2, height // 2, height - height // 2))
