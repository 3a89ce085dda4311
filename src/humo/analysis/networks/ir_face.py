"""IR-101, the face recognition network of CurricularFace.

Parameter names are those of ``glint360k_curricular_face_r101_backbone.bin``.

**Source:** Huang et al., "CurricularFace" (arXiv 2004.00288), and TFace's ``model_irse.py``
(https://github.com/Tencent/TFace), as OpenS2V-Nexus has it in ``eval/utils/curricularface``.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

INPUT_SIDE, EMBEDDING_SIZE = 112, 512
"""Side in pixels of the images, and size of an embedding."""

STAGES = ((64, 3), (128, 13), (256, 30), (512, 3))
"""Channels and blocks of each stage of IR-101."""


class _Block(nn.Module):
    def __init__(self, channels: int, out_channels: int, spacing: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, spacing)
        if channels != out_channels:
            projection = nn.Conv2d(channels, out_channels, 1, spacing, bias=False)
            self.shortcut_layer = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, spacing, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        result: Tensor = self.res_layer(x_BCHW) + self.shortcut_layer(x_BCHW)
        return result


class IRFace(nn.Module):
    """Embeds aligned faces.

    Args:
        stages: channels and blocks of each stage.
    """

    def __init__(self, stages: Sequence[tuple[int, int]] = STAGES) -> None:
        super().__init__()
        first, last = stages[0][0], stages[-1][0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        blocks, channels = [], first
        for width, count in stages:
            for number in range(count):
                blocks.append(_Block(channels, width, 2 if number == 0 else 1))
                channels = width
        self.body = nn.Sequential(*blocks)
        side = INPUT_SIDE // 2 ** len(stages)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(last * side * side, EMBEDDING_SIZE),
            nn.BatchNorm1d(EMBEDDING_SIZE, affine=False),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return embeddings (B, `EMBEDDING_SIZE`) of RGB faces in [-1, 1], `INPUT_SIDE` pixels."""
        embeddings: Tensor = self.output_layer(self.body(self.input_layer(images_BCHW)))
        return embeddings


def load_ir_face(weights: dict[str, Tensor]) -> IRFace:
    """Return IR-101 with released weights."""
    network = IRFace()
    with torch.no_grad():
        network.load_state_dict(weights)
    return network.eval()
