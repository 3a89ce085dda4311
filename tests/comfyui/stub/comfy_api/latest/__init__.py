"""The interface's entry: extensions, videos, and the words that nodes are described in (`io`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from . import _io as io

__all__ = ["ComfyExtension", "InputImpl", "Types", "io"]


@dataclass
class VideoComponents:
    """Contents of a video."""

    images: Any
    frame_rate: Fraction
    audio: Any = None


class VideoFromComponents:
    """VIDEO that is not in a file."""

    def __init__(self, components: VideoComponents) -> None:
        self._components = components

    def get_components(self) -> VideoComponents:
        """Contents that it was created with."""
        return self._components


class InputImpl:
    """Values of inputs."""

    VideoFromComponents = VideoFromComponents


class Types:
    """Types of values."""

    VideoComponents = VideoComponents


class ComfyExtension(ABC):
    """Nodes that a folder gives to ComfyUI."""

    @abstractmethod
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes."""
