"""Context parallelism: the tokens of one sequence are divided among ranks by their position in the frame.

Each rank has the same positions of every latent frame. Audio attention stays within a latent frame and needs no
exchange. Self-attention gathers the keys and values of all ranks. The positions need not divide evenly.

Shape suffixes: B batch, S tokens, F latent frames, P positions of a frame, p positions of a rank, D channels, N heads.
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
    """Ranks that divide one task.

    Args:
        rank: index of this process in the group.
        size: number of processes.
        group: process group of torch.distributed; None for all processes.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def gather(self, local: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, in their order; each must be contiguous and of the same shape."""
        tensors = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(tensors, local, group=self.group)
        return tensors


class ContextParallel(Group):
    """Division of the positions of a frame among ranks."""

    def offsets(self, positions: int) -> list[int]:
        """Return the first position of each rank, and the number of positions at the end.

        Raises:
            ValueError: there are fewer positions than ranks.
        """
        if positions < self.size:
            raise ValueError(f"{positions} positions of a frame cannot be divided among {self.size} processes")
        return [positions * rank // self.size for rank in range(self.size + 1)]

    def shard(self, tokens: Tensor, frames: int, dim: int) -> Tensor:
        """Return the tokens of this rank.

        Args:
            tokens: has the tokens of all ranks along dimension ``dim``, of length F * P.
            frames: F.
            dim: dimension of the tokens; its length in the result is F * p.
        """
        by_frame = tokens.unflatten(dim, (frames, -1))
        start, end = self.offsets(by_frame.shape[dim + 1])[self.rank :][:2]
        local: Tensor = by_frame.narrow(dim + 1, start, end - start)
        return local.flatten(dim, dim + 1).contiguous()

    def gather_tokens(self, local_BSD: Tensor, frames: int, positions: int) -> Tensor:
        """Return the tokens (B, F * P, D) of all ranks, in their order, from those of this rank (B, F * p, D)."""
        shards = [shard.unflatten(1, (frames, -1)) for shard in self._gather(local_BSD, frames, positions)]
        return torch.cat(shards, dim=2).flatten(1, 2)

    def rotary(self, rotary: RotaryEmbedding, frames: int, positions: int) -> RotaryEmbedding:
        """Return the rotary positions of this rank's tokens, from those of all tokens."""
        cos, sin, cis = (self.shard(table, frames, dim=0) for table in (rotary.cos, rotary.sin, rotary.cis))
        return RotaryEmbedding(cos, sin, cis, partial(self._gather_kv, frames=frames, positions=positions))

    def _gather_kv(self, local: KeyValue, frames: int, positions: int) -> KeyValue:
        """Return keys and values (B, F * P, N, D) of all ranks, by rank; their order does not matter to attention."""
        pair = torch.stack(local, dim=0)
        keys, values = torch.cat(self._gather(pair.flatten(0, 1), frames, positions), dim=1).unflatten(0, (2, -1))
        return keys, values

    def _gather(self, local: Tensor, frames: int, positions: int) -> list[Tensor]:
        """Return the tokens (B, F * p, ...) of each rank, which are sent padded to the length of the longest."""
        lengths = [frames * (end - start) for start, end in pairwise(self.offsets(positions))]
        padding = [0, 0] * (local.ndim - 2) + [0, max(lengths) - local.shape[1]]
        shards = self.gather(F.pad(local, padding).contiguous())
        return [shard[:, :length] for shard, length in zip(shards, lengths, strict=True)]
