"""The progress bar of the running node."""

from __future__ import annotations

from typing import Any

UPDATES: list[tuple[float, float]] = []
"""Progress that was shown, (value, maximum) in order; the stand-in's own."""

PREVIEWS: list[Any] = []
"""Previews that were shown; the stand-in's own."""


class ProgressBar:
    """A bar of ``total`` units."""

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.total = total
        self.current = 0
        self.node_id = node_id

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        """Show a value, and a preview if there is one."""
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        UPDATES.append((self.current, self.total))
        if preview is not None:
            PREVIEWS.append(preview)
