"""S3FD, the face detector that the published sync scores use.

Parameter names are those of ``sfd_face.pth``.

**Source:** Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector" (arXiv 1708.05237), and
https://github.com/joonson/syncnet_python, ``detectors/s3fd/nets.py`` and ``box_utils.py``.

Shape suffixes: C channels, H height, W width, N boxes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from humo.analysis.opencv import opencv

MEAN_RGB = (123.0, 117.0, 104.0)
"""Color that is subtracted from each pixel."""

BOX_SIDES, STEPS = (16, 32, 64, 128, 256, 512), (4, 8, 16, 32, 64, 128)
"""Side of the default box, and pixels between boxes, of each level."""

CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
"""Scales of the predicted offsets."""

LEVEL_OVERLAP, FINAL_OVERLAP = 0.3, 0.1
"""Largest overlap (intersection over union) of boxes that stay, inside the network and at the end."""

MAX_BOXES = 750

VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512, "M")
"""Channels of the convolutions; M is a pooling layer, C one that keeps an odd pixel."""

TAPS = ((16, "L2Norm3_3"), (23, "L2Norm4_3"), (30, "L2Norm5_3"))
"""Layers of the backbone whose output is normalized and used as a level."""

Boxes = NDArray[np.float32]
"""(N, 5): left, top, right, bottom in pixels, and the score."""


class _L2Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x_1CHW: Tensor) -> Tensor:
        norm = x_1CHW.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return self.weight[None, :, None, None] * (x_1CHW / norm)


class S3FD(nn.Module):
    """The detector's network."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for layer in VGG:
            if isinstance(layer, str):
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=layer == "C"))
            else:
                layers += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU()]
                channels = layer
        layers += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU()]
        self.vgg = nn.ModuleList(layers)
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = _L2Norm(256), _L2Norm(512), _L2Norm(512)
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(1024, 256, 1),
                nn.Conv2d(256, 512, 3, 2, padding=1),
                nn.Conv2d(512, 128, 1),
                nn.Conv2d(128, 256, 3, 2, padding=1),
            ]
        )
        widths = (256, 512, 512, 1024, 512, 256)
        self.loc = nn.ModuleList([nn.Conv2d(width, 4, 3, padding=1) for width in widths])
        self.conf = nn.ModuleList(
            [nn.Conv2d(width, 4 if n == 0 else 2, 3, padding=1) for n, width in enumerate(widths)]
        )

    def forward(self, image_1CHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, 4) as fractions of the image, and their scores (N,), before any suppression.

        Args:
            image_1CHW: RGB, 0..255, minus `MEAN_RGB`.
        """
        levels = self._levels(image_1CHW)
        offsets, scores, defaults = [], [], []
        height, width = image_1CHW.shape[-2:]
        for number, level in enumerate(levels):
            logits = self.conf[number](level)
            if number == 0:  # three predictions of the background, of which the largest counts
                logits = torch.cat([logits[:, :3].amax(dim=1, keepdim=True), logits[:, 3:]], dim=1)
            offsets.append(self.loc[number](level)[0].permute(1, 2, 0).reshape(-1, 4))
            scores.append(logits[0].permute(1, 2, 0).reshape(-1, 2).softmax(dim=-1)[:, 1])
            defaults.append(_default_boxes(level, number, height, width))
        return _decode(torch.cat(offsets), torch.cat(defaults)), torch.cat(scores)

    def _levels(self, x_1CHW: Tensor) -> list[Tensor]:
        levels = []
        taps = dict(TAPS)
        for number, layer in enumerate(self.vgg):
            if number in taps:
                levels.append(getattr(self, taps[number])(x_1CHW))
            x_1CHW = layer(x_1CHW)
        levels.append(x_1CHW)
        for number, layer in enumerate(self.extras):
            x_1CHW = F.relu(layer(x_1CHW))
            if number % 2:
                levels.append(x_1CHW)
        return levels


def _default_boxes(level: Tensor, number: int, height: int, width: int) -> Tensor:
    """Return the default boxes (N, 4) of a level: center x, y, width and height as fractions of the image."""
    rows, columns = (torch.arange(count, dtype=torch.float64) for count in level.shape[-2:])
    y, x = torch.meshgrid((rows + 0.5) * STEPS[number] / height, (columns + 0.5) * STEPS[number] / width, indexing="ij")
    side = BOX_SIDES[number]
    sizes = [torch.full_like(x, side / width), torch.full_like(x, side / height)]
    return torch.stack([x, y, *sizes], dim=-1).reshape(-1, 4).float().to(level.device)


def _decode(offsets_N4: Tensor, defaults_N4: Tensor) -> Tensor:
    """Return left, top, right, bottom from predicted offsets to default boxes."""
    center = defaults_N4[:, :2] + offsets_N4[:, :2] * CENTER_VARIANCE * defaults_N4[:, 2:]
    size = defaults_N4[:, 2:] * torch.exp(offsets_N4[:, 2:] * SIZE_VARIANCE)
    corner = center - size / 2
    return torch.cat([corner, corner + size], dim=1)


def suppress(boxes: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]], overlap: float) -> list[int]:
    """Return the indices of boxes that stay, the highest score first.

    A box goes if it overlaps a better one by more than ``overlap`` (intersection over union).
    """
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top)
    order = scores.argsort(kind="stable")[::-1]
    kept: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        wide = np.clip(np.minimum(right[best], right[order]) - np.maximum(left[best], left[order]), 0, None)
        high = np.clip(np.minimum(bottom[best], bottom[order]) - np.maximum(top[best], top[order]), 0, None)
        shared = wide * high
        order = order[shared / (areas[best] + areas[order] - shared) <= overlap]
    return kept


@torch.inference_mode()
def detect_faces(network: S3FD, frame: NDArray[np.uint8], scale: float, min_score: float, device: str = "cpu") -> Boxes:
    """Return the faces of a frame, the highest score first.

    Args:
        network: the detector.
        frame: (H, W, 3) RGB.
        scale: factor on the frame's size before detection.
        min_score: lowest score.
        device: the network's.
    """
    height, width = frame.shape[:2]
    cv2 = opencv()
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(small.astype(np.float32) - np.array(MEAN_RGB, np.float32)).movedim(-1, 0)
    boxes, scores = (part.cpu().numpy() for part in network(pixels[None].to(device)))
    confident = scores > min_score
    boxes, scores = boxes[confident], scores[confident]
    kept = suppress(boxes, scores, LEVEL_OVERLAP)[:MAX_BOXES]
    pixels_N4 = boxes[kept] * np.array([width, height, width, height], np.float32)
    candidates = np.concatenate([pixels_N4, scores[kept, None]], axis=1)
    result: Boxes = candidates[suppress(candidates[:, :4], candidates[:, 4], FINAL_OVERLAP)]
    return result


def load_s3fd(weights: dict[str, Tensor]) -> S3FD:
    """Return the network with released weights."""
    network = S3FD()
    network.load_state_dict(weights)
    return network.eval()
