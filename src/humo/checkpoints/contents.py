"""Notice weights that no training produces: NaN, infinity, and matrices of zeros.

A download that was cut short and padded has the right size and the right header. Its tensors are zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from humo.checkpoints.formats.base import DOWNLOAD_AGAIN
from humo.checkpoints.formats.writer import TensorToWrite
from humo.errors import CheckpointError

EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}
"""Element type -> unsigned type of the same size, and the bits that are all 1 in NaN and infinity (IEEE 754)."""

MAX_ZERO_FRACTION = 0.2
"""Largest fraction of a component's matrices that may be zeros; a few are in networks that were not fully trained."""


@dataclass
class ContentCheck:
    """Watches the chunks of a component's tensors while they are written.

    Args:
        source: file or index that they come from.
    """

    source: str
    num_matrices: int = 0
    zeros: list[str] = field(default_factory=list)

    def watch(self, output: TensorToWrite) -> TensorToWrite:
        """Return the tensor with the same chunks, which are checked when they are read."""
        return TensorToWrite(output.name, output.tensor, lambda: self._chunks(output))

    def _chunks(self, output: TensorToWrite) -> Iterator[memoryview]:
        """Yield a tensor's chunks.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        kind, mask = EXPONENTS.get(output.tensor.dtype, (None, 0))
        is_zero = True
        for chunk in output.chunks():
            values = np.frombuffer(chunk, np.uint8)
            is_zero = is_zero and not values.any()
            if kind is not None and not is_zero and bool(((values.view(kind) & mask) == mask).any()):
                problem = f"{output.name!r} has values that are NaN or infinite"
                raise CheckpointError(self.source, problem, DOWNLOAD_AGAIN)
            yield chunk
        if len(output.tensor.shape) > 1:
            self.num_matrices += 1
            if is_zero:
                self.zeros.append(output.name)

    def finish(self) -> str | None:
        """Return a note about matrices of zeros, if there are any.

        Raises:
            CheckpointError: they are so many that the file must be damaged.
        """
        if not self.zeros:
            return None
        problem = f"{len(self.zeros)} of {self.num_matrices} matrices are zeros, {self.zeros[0]!r} among them"
        if len(self.zeros) > MAX_ZERO_FRACTION * self.num_matrices:
            raise CheckpointError(self.source, problem, DOWNLOAD_AGAIN)
        return f"{self.source}: {problem}"
