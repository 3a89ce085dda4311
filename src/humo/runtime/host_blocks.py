"""Blocks whose weights wait in the host's memory, and are copied to the device while the block before computes.

Each block is one buffer on the host, which is locked in memory (pinned) where CUDA allows it, so that its copy runs
beside the computation, on a stream of its own. On the device, streamed blocks share two buffers: while one block
computes, the next is copied into the other. Events order the copies and the computations; the host waits for neither.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

ALIGNMENT = 256
"""Bytes that the first byte of each weight in a buffer is a multiple of."""


@dataclass(frozen=True)
class Slot:
    """Place of a weight in the buffer of its block."""

    begin: int
    end: int
    shape: torch.Size
    dtype: torch.dtype


class PackedBlock:
    """The weights of a block in one buffer on the host, locked in memory if CUDA is there.

    Args:
        weights: name -> tensor.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._slots: dict[str, Slot] = {}
        end = 0
        for name, weight in weights.items():
            begin = -(-end // ALIGNMENT) * ALIGNMENT
            end = begin + weight.nbytes
            self._slots[name] = Slot(begin, end, weight.shape, weight.dtype)
        self.buffer = torch.empty(end, dtype=torch.uint8)
        """All weights, (bytes,) uint8."""
        for name, view in self.views(self.buffer).items():
            view.copy_(weights[name])
        if pin(self.buffer):
            weakref.finalize(self, _unpin, self.buffer).atexit = False

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Return the weights in a buffer that has a copy of `buffer`."""
        return {
            name: buffer[slot.begin : slot.end].view(slot.dtype).view(slot.shape) for name, slot in self._slots.items()
        }


class Copies(Protocol):
    """Copies from the host to a device, beside the computation on it. Marks are points in the order of work."""

    def allocate(self, size: int) -> Tensor:
        """Return a buffer (size,) uint8 on the device."""

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Start a copy after a mark of the computation, or at once after None; return the mark of its end."""

    def wait(self, copied: Any) -> None:
        """Let the computation that follows wait for a copy."""

    def mark(self) -> Any:
        """Return the mark of the computation so far."""


class DirectCopies:
    """Copies that end before the next operation starts, for devices without streams.

    Args:
        device: target of the copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def allocate(self, size: int) -> Tensor:
        """Return a buffer (size,) uint8 on the device."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Copy."""
        target.copy_(source)

    def wait(self, copied: Any) -> None:
        """Do nothing."""

    def mark(self) -> Any:
        """Return None."""


class CudaCopies:
    """Copies on a CUDA stream of their own.

    Args:
        device: target of the copies.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)

    def allocate(self, size: int) -> Tensor:
        """Return a buffer (size,) uint8 on the device. Copies wait for computations that had its memory before."""
        buffer = torch.empty(size, dtype=torch.uint8, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return buffer

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Start a copy after a mark of the computation; return the mark of its end."""
        if after is not None:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        return self._stream.record_event()

    def wait(self, copied: Any) -> None:
        """Let the computation that follows wait for a copy."""
        torch.cuda.current_stream(self._device).wait_event(copied)

    def mark(self) -> Any:
        """Return the mark of the computation so far."""
        return torch.cuda.current_stream(self._device).record_event()


@dataclass
class _DeviceBuffer:
    """A buffer on the device, the block that it holds, and the marks of its last copy and computation."""

    memory: Tensor
    holder: int | None = None
    copied: Any = None
    computed: Any = None


class HostBlocks:
    """Blocks in the host's memory.

    Args:
        blocks: their weights; those are freed as far as nothing else refers to them.
        copies: copies to the device.
    """

    def __init__(self, blocks: Sequence[PackedBlock], copies: Copies) -> None:
        self._blocks, self._copies = blocks, copies
        self._size = max((block.buffer.numel() for block in blocks), default=0)
        self._shared: list[_DeviceBuffer] = []
        self._own: dict[int, _DeviceBuffer] = {}
        self._computing: int | None = None

    @property
    def host_bytes(self) -> int:
        """Bytes of all blocks on the host."""
        return sum(block.buffer.numel() for block in self._blocks)

    def start(self, number: int, *, keep: bool) -> None:
        """Start to copy a block to the device.

        Args:
            number: of the block.
            keep: give it a buffer of its own, which it has until `release`.
        """
        if self._buffer_of(number) is not None:
            return
        buffer = self._new(number) if keep else self._next_shared()
        buffer.holder = number
        source = self._blocks[number].buffer
        buffer.copied = self._copies.copy(buffer.memory[: source.numel()], source, buffer.computed)

    def finish(self, number: int, *, keep: bool) -> dict[str, Tensor]:
        """Return the weights of a block on the device; computations that follow wait for the copy."""
        self.start(number, keep=keep)
        buffer = self._buffer_of(number)
        assert buffer is not None
        self._computing = number
        self._copies.wait(buffer.copied)
        return self._blocks[number].views(buffer.memory)

    def free(self, number: int) -> None:
        """Let another block have the buffer of a streamed block when its computation has ended."""
        for buffer in self._shared:
            if buffer.holder == number:
                buffer.holder, buffer.computed = None, self._copies.mark()

    def release(self) -> None:
        """Free the device's memory. Computations that follow may reuse it, so they wait for copies that still run."""
        for buffer in (*self._shared, *self._own.values()):
            if buffer.holder is not None:
                self._copies.wait(buffer.copied)
        self._shared, self._own = [], {}

    def _buffer_of(self, number: int) -> _DeviceBuffer | None:
        return self._own.get(number) or next((one for one in self._shared if one.holder == number), None)

    def _new(self, number: int) -> _DeviceBuffer:
        self._own[number] = _DeviceBuffer(self._copies.allocate(self._blocks[number].buffer.numel()))
        return self._own[number]

    def _next_shared(self) -> _DeviceBuffer:
        """Return a shared buffer that does not hold the computing block: a free one, a new one, or the other one."""
        others = [one for one in self._shared if one.holder is None or one.holder != self._computing]
        free = [one for one in others if one.holder is None]
        if not free and len(self._shared) < 2:
            self._shared.append(_DeviceBuffer(self._copies.allocate(self._size)))
            return self._shared[-1]
        return (free or others)[0]


def copies_to(device: torch.device) -> Copies:
    """Return the way to copy to a device."""
    return CudaCopies(device) if device.type == "cuda" else DirectCopies(device)


def pin(buffer: Tensor) -> bool:
    """Lock a buffer on the host in memory, so that CUDA copies from it beside the computation.

    Torch's own pinned memory is allocated in powers of two, which can almost double it.

    Returns:
        whether CUDA did it: there may be a limit to it. Copies from other memory are correct and slower.
    """
    if not torch.cuda.is_available() or not buffer.numel():
        return False
    if int(_cuda_runtime().cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0)):
        _clear_cuda_error()
        return False
    return True


def _unpin(buffer: Tensor) -> None:
    _cuda_runtime().cudaHostUnregister(buffer.data_ptr())


def _cuda_runtime() -> Any:
    return torch.cuda.cudart()


def _clear_cuda_error() -> None:
    """Consume CUDA's last error, which the next operation would report as its own."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()
