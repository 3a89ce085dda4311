"""The interface's entry: extensions, progress, and the words that nodes are described in (`io`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from . import _io as io

__all__ = ["SHOWN", "ComfyAPISync", "ComfyExtension", "io"]

SHOWN: list[tuple[float, float]] = []
"""Progress that was shown, (value, maximum) in order; the stand-in's own."""


class _Execution:
    def set_progress(
        self,
        value: float,
        max_value: float,
        node_id: str | None = None,
        preview_image: Any = None,
        ignore_size_limit: bool = False,
    ) -> None:
        SHOWN.append((value, max_value))


class ComfyAPISync:
    """As in ComfyUI, ``execution`` is there once there is an instance."""

    def __init__(self) -> None:
        self.execution = _Execution()


class ComfyExtension(ABC):
    """What a folder of nodes gives to ComfyUI."""

    @abstractmethod
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes."""
