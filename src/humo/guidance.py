"""Guidance is a ladder, a value: which conditions each network pass sees, and how much its step up counts.

A ladder is a tuple of rungs. The velocity is

    total = p(rung 0);  for each further rung: total += rung.scale * (p(rung) - p(rung before))

which is a weighted sum of the passes; a pass whose weight is zero need not be run (`pass_weights`). Every published
formula (method.md, 5) is a row of the two tables below, and so are the modes that were announced and never released.
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
class GuidanceScales:
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
class GuidanceReuse:
    """Which steps run every pass of their ladder, and which the last rung's alone.

    Args:
        steps: steps after a full one that reuse its guidance difference.
        guidance_above_timestep: timestep (0..1000) at and below which no guidance is applied.
    """

    steps: int = 0
    guidance_above_timestep: float = 0.0


SpeedName = Literal["exact", "balanced", "fast"]

SPEEDS: Mapping[SpeedName, GuidanceReuse] = {
    "exact": GuidanceReuse(),
    "balanced": GuidanceReuse(steps=2),
    "fast": GuidanceReuse(steps=3, guidance_above_timestep=400.0),
}
"""What each costs in quality: docs/speed.md."""


@dataclass(frozen=True, slots=True)
class GuidanceStep:
    """What one step runs.

    Args:
        rungs: passes, each with its weight in their sum.
        again: the difference between the sum of the last whole turn and its last pass is added.
    """

    rungs: tuple[tuple[Rung, float], ...]
    reuse_difference: bool = False


@dataclass(frozen=True, slots=True)
class Guidance:
    """A ladder for early timesteps (above the switch) and one for the rest; the same one where nothing switches."""

    early: Ladder
    late: Ladder
    switch_timestep: float = 0.0

    def at(self, timestep: float) -> Ladder:
        """The ladder for a timestep (0..1000)."""
        return self.early if timestep > self.switch_timestep else self.late

    def plan_steps(self, timesteps: Sequence[float], reuse: GuidanceReuse = SPEEDS["exact"]) -> list[GuidanceStep]:
        """What each step runs; of a ladder whose last pass counts for nothing, always every pass."""
        steps: list[GuidanceStep] = []
        full_ladder: Ladder = ()
        steps_reused = 0
        for timestep in timesteps:
            ladder = self.at(timestep)
            weighted = tuple(pass_weights(ladder))
            reusable = len(weighted) > 1 and weighted[-1][0] == ladder[-1]
            guided = timestep > reuse.guidance_above_timestep
            if reusable and (not guided or (full_ladder == ladder and steps_reused < reuse.steps)):
                steps_reused += 1
                steps.append(GuidanceStep(((ladder[-1], 1.0),), reuse_difference=guided))
            else:
                full_ladder, steps_reused = ladder, 0
                steps.append(GuidanceStep(weighted))
        return steps

    def passes(self, timesteps: Sequence[float], reuse: GuidanceReuse = SPEEDS["exact"]) -> int:
        """Network passes that denoising over these timesteps takes."""
        return sum(len(turn.rungs) for turn in self.plan_steps(timesteps, reuse))


def pass_weights(ladder: Ladder) -> list[tuple[Rung, float]]:
    """The rungs that count, each with its weight in the sum of passes; the weights add up to 1.

    Rung k enters with its own scale and leaves with the next one's: weight = scale_k - scale_(k+1), with scale_0 = 1.
    Weights of exactly zero (two equal scales in a row, as in the 1.7B preset) are passes saved.
    """
    scales = [1.0, *(rung.scale for rung in ladder[1:]), 0.0]
    weighted = [(rung, scales[k] - scales[k + 1]) for k, rung in enumerate(ladder)]
    return [(rung, weight) for rung, weight in weighted if weight != 0.0]


def constant(*ladder: Rung) -> Guidance:
    """The same ladder at every timestep."""
    return Guidance(early=ladder, late=ladder)


LATE_TEXT_OFFSET = -2.0  # added to the text scale once the scene is laid out (published constant)

GuidanceTable = Mapping[Mode, Callable[[GuidanceScales], Guidance]]

TIME_ADAPTIVE: GuidanceTable = {
    "T": lambda s: constant(Rung(""), Rung("T", s.text)),
    "TA": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TA", s.audio)),
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

CONSTANT: GuidanceTable = {
    "T": lambda s: constant(Rung(""), Rung("T", s.text)),
    "TA": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TA", s.audio)),
    "TI": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TI", s.image)),
    "TIA": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TA", s.audio), Rung("TIA", s.image)),
}
"""HuMo-1.7B: one rung a condition, the picture on top."""


def _one_pass(mode: Mode) -> Callable[[GuidanceScales], Guidance]:
    return lambda scales: constant(Rung(mode))


DISTILLED: GuidanceTable = {mode: _one_pass(mode) for mode in MODES}
"""A student's: it sees everything at once, and is told the scales."""
