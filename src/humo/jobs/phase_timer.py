"""Seconds that each phase of a job takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from humo.geometry import FRAMES_PER_SECOND
from humo.progress import Event, ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Frame = npt.NDArray[np.uint8]


class PhaseTimer:
    """Forwards events to a callback and counts the seconds of each phase.

    The time before an event belongs to the event's phase. Decoding and writing alternate frame by frame, so each gets
    its own share.

    Args:
        callback: is called with each event.
    """

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent in each phase so far."""
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}

    def __call__(self, event: Event) -> None:
        """Take the time of an event and call the callback."""
        self._update(event)
        self._callback(event)

    def time_frames(self, frames: Iterable[Frame], total: int) -> Iterator[Frame]:
        """Yield the frames, and send an event of the phase ``write`` after each second of them."""
        self(Event("write", 0, total))
        for done, frame in enumerate(frames, 1):
            yield frame
            event = Event("write", done, total)
            self._update(event)
            if done % FRAMES_PER_SECOND == 0 or done == total:
                self._callback(event)

    def _update(self, event: Event) -> None:
        now = time.perf_counter()
        if event.done > 0:
            self._seconds[event.phase] = self._seconds.get(event.phase, 0.0) + now - self._last
        self._last = now
