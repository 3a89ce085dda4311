"""Seconds that each phase of a job takes, and the share of the whole job that is done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from humo.geometry import FRAMES_PER_SECOND
from humo.progress import Event, Phase, ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Frame = npt.NDArray[np.uint8]

DEFAULT_SECONDS: Mapping[Phase, float] = {"load": 5, "encode": 5, "denoise": 75, "decode": 10, "write": 5}
"""Relative durations of the phases of a model that has not been run here."""


class PhaseTimer:
    """Forwards events to a callback with the job's progress, and counts the seconds of each phase.

    The time before an event belongs to the event's phase. Decoding and writing alternate frame by frame, so each gets
    its own share. The progress of the job is the finished share of all phases, weighted by what they are expected to
    take. It never falls, also not where the windows of a long clip alternate between phases.

    Args:
        callback: is called with each event.
    """

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._is_estimated = False
        self._expected = dict(DEFAULT_SECONDS)
        self._shares: dict[Phase, float] = {}
        self._fraction = 0.0
        self._seconds: dict[Phase, float] = {}
        self._last = time.perf_counter()

    def expect(self, seconds: Mapping[Phase, float] | None) -> None:
        """Set the expected seconds of each phase; None: they are unknown."""
        self._is_estimated = seconds is not None
        self._expected = {**DEFAULT_SECONDS, **(seconds or {})}

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent in each phase so far."""
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}

    def __call__(self, event: Event) -> None:
        """Take the time of an event and call the callback."""
        self._update(event)
        self._callback(replace(event, fraction=self._fraction, seconds_left=self._seconds_left()))

    def time_frames(self, frames: Iterable[Frame], total: int) -> Iterator[Frame]:
        """Yield the frames, and send an event of the phase ``write`` after each second of them."""
        self(Event("write", 0, total))
        for done, frame in enumerate(frames, 1):
            yield frame
            event = Event("write", done, total)
            if done % FRAMES_PER_SECOND == 0 or done == total:
                self(event)
            else:
                self._update(event)

    def _update(self, event: Event) -> None:
        now = time.perf_counter()
        if event.done > 0:
            self._seconds[event.phase] = self._seconds.get(event.phase, 0.0) + now - self._last
        self._last = now
        self._shares[event.phase] = event.done / max(1, event.total)
        done = sum(self._expected[phase] * share for phase, share in self._shares.items())
        self._fraction = max(self._fraction, min(1.0, done / sum(self._expected.values())))

    def _seconds_left(self) -> float | None:
        """Return the expected seconds of the work that is left, by the pace of the network's passes so far."""
        done = self._expected["denoise"] * self._shares.get("denoise", 0.0)
        if done > 0 and "denoise" in self._seconds:
            pace = self._seconds["denoise"] / done
        elif self._is_estimated:
            pace = 1.0
        else:
            return None
        return round(pace * sum(self._expected.values()) * (1 - self._fraction), 1)
