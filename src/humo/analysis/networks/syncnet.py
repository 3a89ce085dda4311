"""SyncNet: embeddings of mouths and of speech that are close where both belong together.

Parameter names are those of ``syncnet_v2.model``.

**Source:** Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016), and its code,
https://github.com/joonson/syncnet_python, ``SyncNetModel.py``.

Shape suffixes: B batch, T windows, F frames, S steps of cepstra.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WINDOW_FRAMES, WINDOW_STEPS = 5, 20
"""Frames, and steps of 10 ms of cepstra, in a window."""

LIP_SIDE, CEPSTRA = 224, 13
"""Side in pixels of the images, and number of cepstra."""

EMBEDDING_SIZE = 1024

Layer = tuple[int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Channels in and out, kernel, spacing, padding of a convolution."""

Pool = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Kernel, spacing, padding of a pooling layer."""

_AUDIO: Sequence[Layer | Pool] = (
    (1, 64, (3, 3), (1, 1), (1, 1)),
    ((1, 1), (1, 1), (0, 0)),
    (64, 192, (3, 3), (1, 1), (1, 1)),
    ((3, 3), (1, 2), (0, 0)),
    (192, 384, (3, 3), (1, 1), (1, 1)),
    (384, 256, (3, 3), (1, 1), (1, 1)),
    (256, 256, (3, 3), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (0, 0)),
    (256, 512, (5, 4), (1, 1), (0, 0)),
)
_LIPS: Sequence[Layer | Pool] = (
    (3, 96, (5, 7, 7), (1, 2, 2), (0, 0, 0)),
    ((1, 3, 3), (1, 2, 2), (0, 0, 0)),
    (96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    (256, 256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    (256, 256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    (256, 256, (1, 3, 3), (1, 1, 1), (0, 1, 1)),
    ((1, 3, 3), (1, 2, 2), (0, 0, 0)),
    (256, 512, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
)


class SyncNet(nn.Module):
    """Embeds windows of lips and of cepstra."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud, self.netcnnlip = _convolutions(_AUDIO), _convolutions(_LIPS)
        self.netfcaud, self.netfclip = _head(), _head()

    def embed_lips(self, frames_3FHW: Tensor) -> Tensor:
        """Return the embeddings (F - 4, `EMBEDDING_SIZE`) of all windows of five frames.

        All windows share the first convolution: it runs over time.

        Args:
            frames_3FHW: BGR, 0..255, of `LIP_SIDE` pixels.
        """
        features = self.netcnnlip(frames_3FHW[None])[0, :, :, 0, 0]
        embeddings: Tensor = self.netfclip(features.T)
        return embeddings

    def embed_audio(self, cepstra_BCS: Tensor) -> Tensor:
        """Return the embeddings (B, `EMBEDDING_SIZE`) of windows of cepstra (B, `CEPSTRA`, `WINDOW_STEPS`)."""
        embeddings: Tensor = self.netfcaud(self.netcnnaud(cepstra_BCS[:, None]).flatten(1))
        return embeddings


def _convolutions(layers: Sequence[Layer | Pool]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        if len(layer) == 3:
            pool: type[nn.Module] = nn.MaxPool2d if len(layer[0]) == 2 else nn.MaxPool3d
            modules.append(pool(*layer))
        else:
            flat = len(layer[2]) == 2
            convolution: type[nn.Module] = nn.Conv2d if flat else nn.Conv3d
            norm: type[nn.Module] = nn.BatchNorm2d if flat else nn.BatchNorm3d
            modules += [convolution(*layer), norm(layer[1]), nn.ReLU()]
    return nn.Sequential(*modules)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING_SIZE))


def load_syncnet(weights: dict[str, Tensor]) -> SyncNet:
    """Return the network with released weights."""
    network = SyncNet()
    with torch.no_grad():
        network.load_state_dict(weights)
    return network.eval()
