"""The tokens of one sequence on several ranks: each has some places of the frame, in every latent frame.

So what happens within a latent frame (the audio attention) or within a token stays as it is; only self-attention needs
what the others have, and gathers their keys and values. Any number of places can be divided, evenly or not.

Shape suffixes: B batch, F latent frames, P places of a frame, p those of a rank, D channels, N heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from humo.model.attention import KeyValue, RotaryEmbedding


@dataclass(frozen=True)
class Group:
    """Processes that share something.

    Args:
        rank: of this one among them.
        size: how many there are.
        group: of torch.distributed; None for all processes.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def gather(self, mine: Tensor) -> list[Tensor]:
        """Everybody's tensor, contiguous and all of one shape, in the order of ranks."""
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self.group)
        return parts


class ContextParallel(Group):
    """How the places of a frame are divided."""

    def offsets(self, places: int) -> list[int]:
        """Where each rank's places begin, and where the last one's end.

        Raises:
            ValueError: there are fewer places than ranks.
        """
        if places < self.size:
            raise ValueError(f"{places} places of a frame cannot be divided among {self.size} processes")
        return [places * rank // self.size for rank in range(self.size + 1)]

    def shard(self, whole: Tensor, frames: int, dim: int) -> Tensor:
        """This rank's part of the tokens, frame by frame, that lie along a dimension (F * P)."""
        by_frame = whole.unflatten(dim, (frames, -1))
        start, end = self.offsets(by_frame.shape[dim + 1])[self.rank :][:2]
        part: Tensor = by_frame.narrow(dim + 1, start, end - start)
        return part.flatten(dim, dim + 1).contiguous()

    def gather_tokens(self, mine_BSD: Tensor, frames: int, places: int) -> Tensor:
        """All tokens (B, F * P, D), in their order, of each rank's part (B, F * p, D)."""
        parts = [part.unflatten(1, (frames, -1)) for part in self._gather(mine_BSD, frames, places)]
        return torch.cat(parts, dim=2).flatten(1, 2)

    def rotary(self, whole: RotaryEmbedding, frames: int, places: int) -> RotaryEmbedding:
        """The positions of this rank's tokens, from those of all."""
        cos, sin, turn = (self.shard(table, frames, dim=0) for table in (whole.cos, whole.sin, whole.cis))
        return RotaryEmbedding(cos, sin, turn, partial(self._keys_values, frames=frames, places=places))

    def _keys_values(self, mine: KeyValue, frames: int, places: int) -> KeyValue:
        """Keys and values (B, F * P, N, D) of all ranks' tokens, in an order that attention does not mind."""
        both = torch.stack(mine, dim=0)
        keys, values = torch.cat(self._gather(both.flatten(0, 1), frames, places), dim=1).unflatten(0, (2, -1))
        return keys, values

    def _gather(self, mine: Tensor, frames: int, places: int) -> list[Tensor]:
        """Every rank's tokens (B, F * p, ...); the parts travel at the length of the longest."""
        bounds = self.offsets(places)
        lengths = [frames * (end - start) for start, end in pairwise(bounds)]
        padding = [0, 0] * (mine.ndim - 2) + [0, max(lengths) - mine.shape[1]]
        parts = self.gather(F.pad(mine, padding).contiguous())
        return [part[:, :length] for part, length in zip(parts, lengths, strict=True)]
