"""Read weights where they are: files of any supported kind, under the names of a model folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from humo.checkpoints.conversion_plan import ComponentPlan, plan_component
from humo.checkpoints.discovery import DiscoveredComponent
from humo.checkpoints.formats.base import CHUNK_BYTES
from humo.checkpoints.formats.open import open_weights
from humo.checkpoints.keymap import Naming
from humo.checkpoints.signatures import ComponentName


class MappedFile:
    """A weights file with the tensors that its conversion would write; each is cast when it is read.

    Args:
        plan: the conversion.
    """

    def __init__(self, plan: ComponentPlan) -> None:
        self.path = plan.weights.path
        self.tensors = {name: cast.tensor for name, cast in plan.casts.items()}
        self.non_tensors: tuple[str, ...] = ()
        self.metadata: dict[str, str] = {}
        self._casts = plan.casts

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """See `WeightFile.chunks`; the size of the chunks is that of the conversion."""
        return self._casts[name].chunks()

    def read_bytes(self, name: str, begin: int, length: int) -> bytes:
        """See `WeightFile.read_bytes`."""
        return self._casts[name].read_bytes(begin, length)


def open_mapped(component: ComponentName, path: Path, config: Mapping[str, Any]) -> MappedFile:
    """Open a component's weights where they are; quantized blocks of a transformer stay quantized.

    Args:
        component: its name.
        path: a weights file, or the index of several.
        config: the component's ``config.json``, for the sizes that no tensor shows.

    Raises:
        CheckpointError: the file is missing, damaged, or another component.
    """
    discovered = DiscoveredComponent(component, open_weights(path), config)
    return MappedFile(plan_component(discovered, Naming.DIFFUSERS, None, None, keep_quantized=True))
