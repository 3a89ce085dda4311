"""Load the weights of blocks when they are called, from the host's memory or the disk, and free them afterwards.

While one block computes, the next is loaded. Of a network that runs many passes, some blocks can stay on the device
from pass to pass; the streamed ones are spread between them, so that each has the time of several blocks to load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class BlockSource(Protocol):
    """Loads the weights of numbered blocks."""

    def start(self, number: int, *, keep: bool) -> None:
        """Start to load a block, unless it was started; ``keep`` says that it stays until `release`."""

    def finish(self, number: int, *, keep: bool) -> dict[str, Tensor]:
        """Return the weights of a block on the device, by name."""

    def free(self, number: int) -> None:
        """Allow that the memory of a block is reused."""

    def release(self) -> None:
        """Free all blocks."""


def streamed_numbers(blocks: int, resident: int) -> frozenset[int]:
    """Return which blocks are streamed, evenly spread.

    Args:
        blocks: number of blocks.
        resident: number of those that stay on the device.
    """
    streamed = blocks - min(resident, blocks)
    return frozenset(
        number for number in range(blocks) if number * streamed // blocks < (number + 1) * streamed // blocks
    )


class BlockStream:
    """Loads each block before it is called; blocks are called in order.

    Between calls a block's weights are on the meta device.

    Args:
        blocks: the blocks.
        source: loads their weights.
        cyclic: load the first block after the last one, for modules that run many passes in succession.
        before_loading: is called before a block is loaded when none is on the device.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        source: BlockSource,
        *,
        cyclic: bool,
        before_loading: Callable[[], None] = lambda: None,
    ) -> None:
        self._blocks, self._source, self._cyclic = list(blocks), source, cyclic
        self._before_loading = before_loading
        self._meta = [{name: one.to("meta") for name, one in block.state_dict().items()} for block in self._blocks]
        self._streamed = streamed_numbers(len(self._blocks), 0)
        self._loaded: set[int] = set()
        self._is_empty = True
        for number, block in enumerate(self._blocks):
            self._unload(number)
            block.register_forward_pre_hook(self._onload(number))
            block.register_forward_hook(self._offload(number), always_call=True)

    def keep(self, resident: int | None) -> None:
        """Set how many blocks stay on the device after their first call; None for all."""
        blocks = len(self._blocks)
        streamed = streamed_numbers(blocks, blocks if resident is None else resident)
        if streamed != self._streamed:
            self.release()
            self._streamed = streamed

    def release(self) -> None:
        """Free the weights of all blocks, and of those that were loaded ahead."""
        for number in self._loaded:
            self._unload(number)
        self._loaded.clear()
        self._source.release()
        self._is_empty = True

    def _onload(self, number: int) -> Callable[..., None]:
        def onload(block: nn.Module, _: Any) -> None:
            if self._is_empty:
                self._before_loading()
                self._is_empty = False
            if number not in self._loaded:
                weights = self._source.finish(number, keep=self._stays(number))
                block.load_state_dict(weights, assign=True)
                self._loaded.add(number)
            following = self._next(number)
            if following is not None:
                self._source.start(following, keep=self._stays(following))

        return onload

    def _offload(self, number: int) -> Callable[..., None]:
        def offload(*_: Any) -> None:
            if not self._stays(number):
                self._loaded.discard(number)
                self._unload(number)
                self._source.free(number)
            if not self._cyclic and not self._loaded and number == len(self._blocks) - 1:
                self.release()

        return offload

    def _stays(self, number: int) -> bool:
        return number not in self._streamed

    def _next(self, number: int) -> int | None:
        """Return the block to load while a block computes: the next one that is not on the device."""
        count = len(self._blocks)
        following = range(number + 1, number + count if self._cyclic else count)
        return next((one % count for one in following if one % count not in self._loaded), None)

    def _unload(self, number: int) -> None:
        self._blocks[number].load_state_dict(self._meta[number], assign=True)


class WeightStreams:
    """The streams of a pipeline's components, of which one has blocks on the device at a time."""

    def __init__(self) -> None:
        self._encoders: list[BlockStream] = []
        self._networks: list[BlockStream] = []

    def add(self, blocks: Iterable[nn.Module], source: BlockSource, *, is_network: bool = False) -> None:
        """Stream the blocks of a component.

        Args:
            blocks: the blocks.
            source: loads their weights.
            is_network: they belong to the network, which runs many passes in succession.
        """
        stream = BlockStream(blocks, source, cyclic=is_network, before_loading=self.release)
        (self._networks if is_network else self._encoders).append(stream)

    def release(self) -> None:
        """Free the device's memory of all blocks."""
        for stream in (*self._encoders, *self._networks):
            stream.release()

    def keep(self, resident_blocks: int | None) -> None:
        """Set how many of the network's blocks stay on the device from pass to pass.

        Args:
            resident_blocks: number of blocks; None for all blocks of the network and of the encoders.
        """
        for stream in self._networks:
            stream.keep(resident_blocks)
        for stream in self._encoders:
            stream.keep(None if resident_blocks is None else 0)


class RowEmbedding(nn.Module):
    """An embedding whose matrix is not on the device; the rows of the tokens are.

    Args:
        rows: returns rows of the matrix (N, D) for N row numbers, on the device or the host.
    """

    def __init__(self, rows: Callable[[Sequence[int]], Tensor]) -> None:
        super().__init__()
        self._rows = rows

    def forward(self, indices: Tensor) -> Tensor:
        """Return the embeddings (..., D) of token numbers (...)."""
        distinct, positions = indices.unique(return_inverse=True)
        return self._rows(distinct.tolist()).to(indices.device)[positions]
