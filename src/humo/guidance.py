"""Guidance is a ladder, a value: which conditions each network pass sees, and how much its step up counts.

A ladder is a tuple of rungs. The velocity is

    total = p(rung 0);  for each further rung: total += rung.scale * (p(rung) - p(rung before))

which is a weighted sum of the passes; a pass whose weight is zero need not be run (`weigh`). Every published formula
(method.md, 5) is a row of the two tables below, and so are the modes that were announced and never released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["T", "TI", "TA", "TIA"]
MODES: tuple[Mode, ...] = get_args(Mode)


MAX_SCALE = 50.0
"""The largest guidance scale that can be asked for."""


@dataclass(frozen=True, slots=True)
class Scales:
    """How strongly each condition is followed, in the field's words.

    Args:
        text, audio, image: guidance scales; 1 is none.
        switch_timestep: timesteps (0..1000) above it are early ones, which a time-adaptive ladder treats apart.
    """

    text: float
    audio: float
    image: float = 1.0
    switch_timestep: float = 980.0


@dataclass(frozen=True, slots=True)
class Rung:
    """One network pass: the conditions it sees (letters of ``TIA``) and the scale of the step up to it."""

    keep: str
    scale: float = 1.0

    @property
    def text(self) -> bool:
        """Whether this pass sees the prompt; otherwise the negative prompt."""
        return "T" in self.keep

    @property
    def image(self) -> bool:
        """Whether this pass sees the reference pictures."""
        return "I" in self.keep

    @property
    def audio(self) -> bool:
        """Whether this pass hears the sound."""
        return "A" in self.keep


Ladder = tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """Which steps run every pass of their ladder, and which the last rung's alone.

    Args:
        again: steps after a whole one in which the difference that guidance made there is added once more.
        guided_above: timestep (0..1000) at and below which there is no guidance: the picture is laid out by then.
    """

    again: int = 0
    guided_above: float = 0.0


SpeedName = Literal["exact", "balanced", "fast"]

SPEEDS: Mapping[SpeedName, Speed] = {
    "exact": Speed(),
    "balanced": Speed(again=2),
    "fast": Speed(again=3, guided_above=400.0),
}
"""What each costs in quality: docs/speed.md."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one step runs.

    Args:
        rungs: passes, each with its weight in their sum.
        again: the difference between the sum of the last whole turn and its last pass is added.
    """

    rungs: tuple[tuple[Rung, float], ...]
    again: bool = False


@dataclass(frozen=True, slots=True)
class Guidance:
    """A ladder for early timesteps (above the switch) and one for the rest; the same one where nothing switches."""

    early: Ladder
    late: Ladder
    switch_timestep: float = 0.0

    def at(self, timestep: float) -> Ladder:
        """The ladder for a timestep (0..1000)."""
        return self.early if timestep > self.switch_timestep else self.late

    def turns(self, timesteps: Sequence[float], speed: Speed = SPEEDS["exact"]) -> list[Turn]:
        """What each step runs; of a ladder whose last pass counts for nothing, always every pass."""
        turns: list[Turn] = []
        whole: Ladder = ()
        since = 0
        for timestep in timesteps:
            ladder = self.at(timestep)
            weighed = tuple(weigh(ladder))
            spares = len(weighed) > 1 and weighed[-1][0] == ladder[-1]
            guided = timestep > speed.guided_above
            if spares and (not guided or (whole == ladder and since < speed.again)):
                since += 1
                turns.append(Turn(((ladder[-1], 1.0),), again=guided))
            else:
                whole, since = ladder, 0
                turns.append(Turn(weighed))
        return turns

    def passes(self, timesteps: Sequence[float], speed: Speed = SPEEDS["exact"]) -> int:
        """Network passes that denoising over these timesteps takes."""
        return sum(len(turn.rungs) for turn in self.turns(timesteps, speed))


def weigh(ladder: Ladder) -> list[tuple[Rung, float]]:
    """The rungs that count, each with its weight in the sum of passes; the weights add up to 1.

    Rung k enters with its own scale and leaves with the next one's: weight = scale_k - scale_(k+1), with scale_0 = 1.
    Weights of exactly zero (two equal scales in a row, as in the 1.7B preset) are passes saved.
    """
    scales = [1.0, *(rung.scale for rung in ladder[1:]), 0.0]
    weighted = [(rung, scales[k] - scales[k + 1]) for k, rung in enumerate(ladder)]
    return [(rung, weight) for rung, weight in weighted if weight != 0.0]


def steady(*ladder: Rung) -> Guidance:
    """The same ladder at every timestep."""
    return Guidance(early=ladder, late=ladder)


LATE_TEXT_OFFSET = -2.0  # added to the text scale once the scene is laid out (published constant)

Table = Mapping[Mode, Callable[[Scales], Guidance]]

TIME_ADAPTIVE: Table = {
    "T": lambda s: steady(Rung(""), Rung("T", s.text)),
    "TA": lambda s: steady(Rung(""), Rung("T", s.text), Rung("TA", s.audio)),
    "TI": lambda s: Guidance(
        early=(Rung("I"), Rung("TI", s.text)),
        late=(Rung(""), Rung("TI", s.text + LATE_TEXT_OFFSET)),
        switch_timestep=s.switch_timestep,
    ),
    "TIA": lambda s: Guidance(
        early=(Rung("I"), Rung("TI", s.text), Rung("TIA", s.audio)),
        late=(Rung(""), Rung("TI", s.text + LATE_TEXT_OFFSET), Rung("TIA", s.audio)),
        switch_timestep=s.switch_timestep,
    ),
}
"""HuMo-17B: text first lays the scene out with the picture in sight, then sound and picture take over."""

CONSTANT: Table = {
    "T": lambda s: steady(Rung(""), Rung("T", s.text)),
    "TA": lambda s: steady(Rung(""), Rung("T", s.text), Rung("TA", s.audio)),
    "TI": lambda s: steady(Rung(""), Rung("T", s.text), Rung("TI", s.image)),
    "TIA": lambda s: steady(Rung(""), Rung("T", s.text), Rung("TA", s.audio), Rung("TIA", s.image)),
}
"""HuMo-1.7B: one rung a condition, the picture on top."""


def _one_pass(mode: Mode) -> Callable[[Scales], Guidance]:
    return lambda scales: steady(Rung(mode))


ONE_PASS: Table = {mode: _one_pass(mode) for mode in MODES}
"""A student's: it sees everything at once, and is told the scales."""
