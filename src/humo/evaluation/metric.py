"""Metrics as values: a name, a protocol that decides every number, what a case must have, and a function.

The protocol holds everything on which a value depends: networks, sizes, frames, aggregation. The function reads its
settings from it, so that the hash of the protocol says whether two values may be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from humo.analysis.mesh_track import Curve

if TYPE_CHECKING:
    from humo.evaluation.context import CaseContext

Protocol = Mapping[str, Any]
"""Settings of a metric; JSON values."""

ALL_FRAMES = "all"
"""Value of a protocol's ``frames`` that measures every frame."""

HASH_DIGITS = 12
"""Hexadecimal digits of a protocol's hash that are kept."""

DECIMALS = 6
"""Digits after the point of every stored value."""

FRACTION = "fraction"
"""Unit of values from 0 to 1 that people read as percent."""


class Direction(StrEnum):
    """Direction in which values are better."""

    UP = "up"
    DOWN = "down"
    ZERO = "zero"
    """The nearer to zero, the better."""
    NEITHER = "neither"
    """The value describes a clip and does not rank it."""


class Need(StrEnum):
    """Part of a case that a metric uses beside the video."""

    REFERENCE = "reference"
    AUDIO = "audio"
    PROMPT = "prompt"
    TRUTH = "truth"
    GALLERY = "gallery"


class Status(StrEnum):
    """Outcome of a metric for a video."""

    VALID = "valid"
    INVALID = "invalid"
    """It was measured in vain: no face, no speech, an unreadable video."""
    NOT_APPLICABLE = "not applicable"
    """The case lacks something that the metric needs."""
    UNAVAILABLE = "unavailable"
    """Weights or a package are missing on this machine."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Value of a metric for one video.

    Args:
        value: the value; None if it could not be measured.
        reason: why there is none.
        frames: number of frames that the value is from.
        details: further numbers that explain the value, such as a detection rate.
        curves: name -> values over the frames of the clip, NaN where there is none.
    """

    value: float | None
    reason: str = ""
    frames: int = 0
    details: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """``valid`` or ``invalid``."""
        return Status.INVALID if self.value is None else Status.VALID


Measure = Callable[["CaseContext", Protocol], Measurement]


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric.

    Args:
        name: unique name; of models and protocols that differ between publications, it contains the variant.
        version: is raised when the function computes something else.
        summary: what it measures, in a line.
        better: which values are better.
        protocol: everything that decides the value.
        measure: computes it for a case.
        needs: parts of a case without which it is not applicable.
        weights: names of `humo.analysis.weights.WEIGHTS` that it needs.
        unit: of the value; empty if it has none, `FRACTION` if people read it as percent.
        low, high: the ends of the scale for people; None where it has none.
    """

    name: str
    version: int
    summary: str
    better: Direction
    protocol: Protocol
    measure: Measure
    needs: frozenset[Need] = frozenset()
    weights: tuple[str, ...] = ()
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def protocol_hash(self, checksums: Mapping[str, str]) -> str:
        """Return the hash of everything that decides a value.

        Args:
            checksums: name of a weights file -> its SHA-256.
        """
        content = {
            "name": self.name,
            "version": self.version,
            "protocol": dict(self.protocol),
            "weights": {name: checksums[name] for name in self.weights},
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]

    def with_frames(self, frames: int | None) -> Metric:
        """Return the metric on that many evenly spaced frames; on all of them for None.

        Metrics whose number of frames is part of their definition stay as they are.
        """
        if frames is None or self.protocol.get("frames") != ALL_FRAMES:
            return self
        return replace(self, protocol={**self.protocol, "frames": frames})


def spaced_frames(count: int, frames: int | str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the numbers of evenly spaced frames of a clip, the first and the last one among them.

    Args:
        count: frames of the clip.
        frames: how many; ``all`` for every frame.
    """
    if frames == ALL_FRAMES:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, int(frames)).round().astype(np.int64))


def curve_of(count: int, numbers: Any, values: Any) -> Curve:
    """Return a curve (F,) with values at some frames and NaN elsewhere.

    Args:
        count: frames of the clip.
        numbers: frames that have a value.
        values: their values.
    """
    curve = np.full(count, np.nan)
    curve[numbers] = values
    return curve


def rounded(value: float) -> float:
    """Round a value as it is stored; negative zero becomes zero."""
    return round(float(value), DECIMALS) + 0.0


def value_text(value: float, unit: str, interval: tuple[float, float] | None = None, *, signed: bool = False) -> str:
    """Return a value with its interval and unit for people; fractions are shown in percent.

    Args:
        value: as it is stored.
        unit: of its metric.
        interval: both ends.
        signed: it is a difference: it gets a sign, and fractions differ by percentage points.
    """
    scale, unit_text = (100, "percentage points" if signed else "%") if unit == FRACTION else (1, unit)
    form = "+.4g" if signed else ".4g"
    mean, *ends = (f"{scale * one:{form}}" if one else "0" for one in (value, *(interval or ())))
    return " ".join(filter(None, (mean, f"[{', '.join(ends)}]" if ends else "", unit_text)))


class NotApplicableError(Exception):
    """Raised by a metric for a case that lacks something that can only be known from the files, such as audio."""
