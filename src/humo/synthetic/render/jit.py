"""The compiler of the renderer's inner loops, or a kind word where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from humo.errors import DependencyError

try:
    from numba import njit
except ImportError:
    raise DependencyError("numba", "is not installed", "pip install 'humo-video[synthetic]'") from None

Array = Any
"""An array inside compiled code: numba infers its type, each signature's docstring states it."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function at its first call and keep the result on disk.

    IEEE arithmetic as written: nothing is reordered, so that the same input gives the same bytes.

    Args:
        function: scalar loops over arrays.
    """
    return cast(_Function, njit(cache=True, fastmath=False)(function))
