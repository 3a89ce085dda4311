"""The compiler of the renderer's inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from humo.errors import DependencyError

try:
    from numba import njit
except ImportError:
    raise DependencyError("numba", "is not installed", "pip install 'humo-video[synthetic]'") from None

Array = Any
"""An array inside compiled code. numba infers its type; the docstring of each function states it."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def jit(function: _Function) -> _Function:
    """Compile a function at its first call and cache the machine code on disk.

    Arithmetic stays as written (``fastmath=False``), so that the same input gives the same bytes.

    Args:
        function: scalar loops over arrays.
    """
    return cast(_Function, njit(cache=True, fastmath=False)(function))
