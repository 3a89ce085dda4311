"""A small network that classifies visible attributes of a clip: hair, clothes, glasses, beard and background.

It is trained on the rendered people of `humo.synthetic` and can measure only models that are made for them.

Shape suffixes: B batch, H height, W width, V values of an attribute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from humo.analysis.face_mesh import FACE_MODELS
from humo.model.seeding import seeded_generator
from humo.training.dataset import ClipFiles
from humo.training.tensor_files import write_tensors

ATTRIBUTES = ("hair_colour", "clothes_colour", "glasses", "beard", "background")  # word kept: columns of corpora
"""Columns of truth/attributes.parquet that are classified."""

PRESENCE_ONLY = {"glasses": "glasses", "beard": "beard"}
"""Attributes of which only the presence is classified -> the class that stands for all values but ``none``."""

CLASSIFIER_WEIGHTS = FACE_MODELS / "attributes.safetensors"
"""Weights of the classifier that ships; its classes are in the header."""

INPUT_SIDE = 96
"""Side in pixels of the network's square input."""

WIDTHS = (24, 48, 96, 128)
"""Channels of the convolution stages."""

FRAMES_PER_CLIP = 4
"""Number of frames of a clip whose predictions are averaged."""

EPOCHS, BATCH_SIZE, LEARNING_RATE = 14, 64, 2e-3


def attribute_value(name: str, value: str) -> str:
    """Return the class of an attribute's value: the value itself, or its presence for `PRESENCE_ONLY`."""
    return PRESENCE_ONLY[name] if name in PRESENCE_ONLY and value != "none" else value


class AttributeClassifier(nn.Module):
    """Four strided convolution stages, 3 x 3 average pooling, and a linear head for each attribute.

    Args:
        values: attribute -> its classes.
    """

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.values = {name: tuple(classes) for name, classes in values.items()}
        layers: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(9 * WIDTHS[-1], len(classes)) for name, classes in self.values.items()}
        )

    def forward(self, frames_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the logits (B, V) of each attribute for frames in [-1, 1]."""
        features = self.body(frames_B3HW)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def classify(self, frames: NDArray[np.uint8]) -> dict[str, str]:
        """Return the class of each attribute of a clip (F, H, W, 3)."""
        indices = np.unique(np.linspace(0, len(frames) - 1, FRAMES_PER_CLIP).round().astype(int))
        logits = self(_as_input(torch.from_numpy(frames[indices])))
        best = {name: int(scores.log_softmax(dim=1).mean(dim=0).argmax()) for name, scores in logits.items()}
        return {name: self.values[name][index] for name, index in best.items()}


def load_classifier(path: Path = CLASSIFIER_WEIGHTS) -> AttributeClassifier:
    """Load a classifier that `save_classifier` wrote; by default the one that ships."""
    with safe_open(path, "pt") as file:
        values = json.loads((file.metadata() or {})["humo"])
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    classifier = AttributeClassifier(values)
    classifier.load_state_dict(classifier.state_dict() | weights)  # the counters of batch norm are not stored
    return classifier.eval()


def train_classifier(
    clips: Sequence[ClipFiles], truth: Mapping[str, Sequence[str]], frames: Mapping[str, NDArray[np.uint8]]
) -> AttributeClassifier:
    """Train a classifier from scratch.

    Args:
        clips: training clips.
        truth: clip name -> values of `ATTRIBUTES`, in that order.
        frames: clip name -> some of its frames, (F, H, W, 3).
    """
    values = {
        name: sorted({attribute_value(name, truth[clip.name][i]) for clip in clips})
        for i, name in enumerate(ATTRIBUTES)
    }
    torch.manual_seed(0)
    classifier = AttributeClassifier(values).train()
    images = torch.from_numpy(np.concatenate([frames[clip.name] for clip in clips]))
    counts = [len(frames[clip.name]) for clip in clips]
    clip_of_image = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(counts))
    targets = {
        name: torch.tensor([values[name].index(attribute_value(name, truth[clip.name][i])) for clip in clips])
        for i, name in enumerate(ATTRIBUTES)
    }
    steps = EPOCHS * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        generator = seeded_generator("attributes", step)
        indices = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        inputs = _as_input(images[indices])
        if torch.rand((), generator=generator) < 0.5:
            inputs = inputs.flip(-1)
        inputs = inputs + 0.05 * torch.randn(inputs.shape, generator=generator)
        logits = classifier(inputs)
        terms = [F.cross_entropy(scores, targets[name][clip_of_image[indices]]) for name, scores in logits.items()]
        torch.stack(terms).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return classifier.eval()


def save_classifier(classifier: AttributeClassifier, path: Path) -> None:
    """Write the weights in float16, with the classes in the file's header."""
    weights: dict[str, Any] = {name: weight.half() for name, weight in classifier.state_dict().items() if weight.ndim}
    write_tensors(path, weights, classifier.values)


def _as_input(frames_BHWC: Tensor) -> Tensor:
    """Convert frames of any size to the network's input (B, 3, `INPUT_SIDE`, `INPUT_SIDE`) in [-1, 1]."""
    images = frames_BHWC.movedim(-1, 1).float() / 127.5 - 1
    if images.shape[-2:] == (INPUT_SIDE, INPUT_SIDE):
        return images
    return F.interpolate(images, size=(INPUT_SIDE, INPUT_SIDE), mode="bilinear", antialias=True)
