"""Reads words off frames (hair, clothes, glasses, beard, background) by a small network trained on true clips.

It knows the people of `humo.synthetic` alone, and measures models made for them.

Shape suffixes: B batch, H, W size, V values of an attribute.
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

from humo.evaluation.face_mesh import MODELS
from humo.model.seeding import seeded_generator
from humo.training.dataset import ClipFiles
from humo.training.tensor_files import write_tensors

ATTRIBUTES = ("hair_colour", "clothes_colour", "glasses", "beard", "background")
"""Columns of truth/attributes.parquet that it reads."""

PRESENT = {"glasses": "glasses", "beard": "beard"}
"""Attributes of which it says only whether they are there, and the word for that."""

WEIGHTS = MODELS / "attributes.safetensors"

SIDE = 96
WIDTHS = (24, 48, 96, 128)
LOOKED_AT = 4
"""Frames of a clip whose readings are averaged."""

EPOCHS, BATCH, RATE = 14, 64, 2e-3


def shown(name: str, value: str) -> str:
    """What is to be read of an attribute's value."""
    return PRESENT[name] if name in PRESENT and value != "none" else value


class AttributeReader(nn.Module):
    """Four strided convolutions, then for each attribute a linear layer over what they see on average and where.

    Args:
        values: attribute -> its values.
    """

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.values = {name: tuple(words) for name, words in values.items()}
        layers: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({name: nn.Linear(9 * WIDTHS[-1], len(words)) for name, words in self.values.items()})

    def forward(self, frames_B3HW: Tensor) -> dict[str, Tensor]:
        """Logits (B, V) of each attribute, for frames in [-1, 1]."""
        seen = self.body(frames_B3HW)
        return {name: head(seen) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, frames: NDArray[np.uint8]) -> dict[str, str]:
        """The words for a clip (F, H, W, 3)."""
        picks = np.unique(np.linspace(0, len(frames) - 1, LOOKED_AT).round().astype(int))
        logits = self(_as_input(torch.from_numpy(frames[picks])))
        best = {name: int(one.log_softmax(dim=1).mean(dim=0).argmax()) for name, one in logits.items()}
        return {name: self.values[name][number] for name, number in best.items()}


def open_reader(path: Path = WEIGHTS) -> AttributeReader:
    """The reader that ships, or another."""
    with safe_open(path, "pt") as file:
        values = json.loads((file.metadata() or {})["humo"])
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    reader = AttributeReader(values)
    whole = reader.state_dict() | weights  # batch counters are not kept
    reader.load_state_dict(whole)
    return reader.eval()


def train_reader(
    clips: Sequence[ClipFiles], truth: Mapping[str, Sequence[str]], frames: Mapping[str, NDArray[np.uint8]]
) -> AttributeReader:
    """Train one.

    Args:
        clips: of training people.
        truth: ID -> values of `ATTRIBUTES`, in that order.
        frames: ID -> some frames (F, H, W, 3).
    """
    words = {name: sorted({shown(name, truth[one.name][i]) for one in clips}) for i, name in enumerate(ATTRIBUTES)}
    torch.manual_seed(0)
    reader = AttributeReader(words).train()
    pictures = torch.from_numpy(np.concatenate([frames[one.name] for one in clips]))
    counts = [len(frames[one.name]) for one in clips]
    owners = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(counts))
    targets = {
        name: torch.tensor([words[name].index(shown(name, truth[one.name][i])) for one in clips])[owners]
        for i, name in enumerate(ATTRIBUTES)
    }
    steps = EPOCHS * (len(pictures) // BATCH)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in range(steps):
        generator = seeded_generator("attributes", step)
        chosen = torch.randint(len(pictures), (BATCH,), generator=generator)
        seen = _as_input(pictures[chosen])
        if torch.rand((), generator=generator) < 0.5:
            seen = seen.flip(-1)
        seen = seen + 0.05 * torch.randn(seen.shape, generator=generator)
        logits = reader(seen)
        loss = torch.stack([F.cross_entropy(one, targets[name][chosen]) for name, one in logits.items()]).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return reader.eval()


def save_reader(reader: AttributeReader, path: Path) -> None:
    """Write it in float16, its values in the header."""
    weights: dict[str, Any] = {name: one.half() for name, one in reader.state_dict().items() if one.ndim}
    write_tensors(path, weights, reader.values)


def _as_input(frames_BHWC: Tensor) -> Tensor:
    """Frames of any size as the network sees them."""
    pictures = frames_BHWC.movedim(-1, 1).float() / 127.5 - 1
    if pictures.shape[-2:] == (SIDE, SIDE):
        return pictures
    return F.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", antialias=True)
