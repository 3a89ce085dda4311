"""Classifier-free guidance as a ladder: the conditions of each network pass, and the scale of each step up.

A ladder is a tuple of rungs. The velocity is

    total = p(rung 0);  for each further rung: total += rung.scale * (p(rung) - p(rung before))

This is a weighted sum of the passes; a pass whose weight is zero is not run (`pass_weights`). The two tables below
contain every published formula, and the modes that were announced but never released.

**Source:** paper (arXiv 2509.08519), time-adaptive classifier-free guidance; published code, ``humo/generate.py`` and
``humo/generate_1_7B.py``, ``forward_tia`` and ``forward_ta``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["T", "TI", "TA", "TIA"]
MODES: tuple[Mode, ...] = get_args(Mode)


MAX_SCALE = 50.0
"""Largest guidance scale that a request may have."""


@dataclass(frozen=True, slots=True)
class GuidanceScales:
    """Guidance scale of each condition.

    Args:
        text, audio, image: guidance scales; 1 is no guidance.
        switch_timestep: a time-adaptive ladder treats timesteps (0 to 1000) above it as early ones.
    """

    text: float
    audio: float
    image: float = 1.0
    switch_timestep: float = 980.0


@dataclass(frozen=True, slots=True)
class Rung:
    """One network pass: its conditions (letters of ``TIA``) and the scale of the step up to it."""

    keep: str
    scale: float = 1.0

    @property
    def text(self) -> bool:
        """True if this pass is conditioned on the prompt, otherwise on the negative prompt."""
        return "T" in self.keep

    @property
    def image(self) -> bool:
        """True if this pass is conditioned on the reference images."""
        return "I" in self.keep

    @property
    def audio(self) -> bool:
        """True if this pass is conditioned on the audio."""
        return "A" in self.keep


Ladder = tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class GuidanceReuse:
    """Schedule of full steps, which run every pass, and steps that run only the last rung.

    Args:
        steps: number of steps after a full one that reuse its guidance difference.
        guidance_above_timestep: timestep (0 to 1000) at and below which no guidance is applied.
    """

    steps: int = 0
    guidance_above_timestep: float = 0.0


SpeedName = Literal["exact", "balanced", "fast"]

SPEEDS: Mapping[SpeedName, GuidanceReuse] = {
    "exact": GuidanceReuse(),
    "balanced": GuidanceReuse(steps=2),
    "fast": GuidanceReuse(steps=3, guidance_above_timestep=400.0),
}
"""Values of the field ``speed``; docs/speed.md has their effect on quality."""


@dataclass(frozen=True, slots=True)
class GuidanceStep:
    """Passes of one denoising step.

    Args:
        rungs: passes, each with its weight in the sum.
        reuse_difference: whether to add the guidance difference of the last full step.
    """

    rungs: tuple[tuple[Rung, float], ...]
    reuse_difference: bool = False


@dataclass(frozen=True, slots=True)
class Guidance:
    """A ladder for early timesteps (above the switch) and one for the rest; equal if nothing switches."""

    early: Ladder
    late: Ladder
    switch_timestep: float = 0.0

    def at(self, timestep: float) -> Ladder:
        """Return the ladder of a timestep (0 to 1000)."""
        return self.early if timestep > self.switch_timestep else self.late

    def plan_steps(self, timesteps: Sequence[float], reuse: GuidanceReuse = SPEEDS["exact"]) -> list[GuidanceStep]:
        """Return the passes of each step. A ladder whose last rung has no weight always runs every pass."""
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
        """Return the number of network passes of a denoising run over these timesteps."""
        return sum(len(step.rungs) for step in self.plan_steps(timesteps, reuse))


def pass_weights(ladder: Ladder) -> list[tuple[Rung, float]]:
    """Return the rungs with a nonzero weight, and their weights in the sum of passes; the weights add up to 1.

    The weight of rung k is scale_k - scale_(k+1), with scale_0 = 1. A weight is exactly zero where two neighboring
    scales are equal, as in the preset of HuMo-1.7B; that pass is skipped.
    """
    scales = [1.0, *(rung.scale for rung in ladder[1:]), 0.0]
    weighted = [(rung, scales[k] - scales[k + 1]) for k, rung in enumerate(ladder)]
    return [(rung, weight) for rung, weight in weighted if weight != 0.0]


def constant(*ladder: Rung) -> Guidance:
    """Return guidance with the same ladder at every timestep."""
    return Guidance(early=ladder, late=ladder)


def switched(early: Ladder, late: Ladder, switch_timestep: float) -> Guidance:
    """Return guidance that switches from one ladder to another.

    With all scales 1 there is no guidance: every step runs the last pass alone. The offset of the late text scale would
    otherwise bring all passes back.
    """
    if all(rung.scale == 1.0 for rung in early):
        return constant(early[-1])
    return Guidance(early, late, switch_timestep)


LATE_TEXT_OFFSET = -2.0  # added to the text scale at late timesteps (published constant)

GuidanceTable = Mapping[Mode, Callable[[GuidanceScales], Guidance]]

GuidanceName = Literal["published", "comfy"]
"""Value of the field ``guidance``: as published, or as ComfyUI's HuMo node."""

TIME_ADAPTIVE: GuidanceTable = {
    "T": lambda s: constant(Rung(""), Rung("T", s.text)),
    "TA": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TA", s.audio)),
    "TI": lambda s: switched(
        early=(Rung("I"), Rung("TI", s.text)),
        late=(Rung(""), Rung("TI", s.text + LATE_TEXT_OFFSET)),
        switch_timestep=s.switch_timestep,
    ),
    "TIA": lambda s: switched(
        early=(Rung("I"), Rung("TI", s.text), Rung("TIA", s.audio)),
        late=(Rung(""), Rung("TI", s.text + LATE_TEXT_OFFSET), Rung("TIA", s.audio)),
        switch_timestep=s.switch_timestep,
    ),
}
"""HuMo-17B: early passes keep the reference images while the text decides the scene; late ones add audio and images."""

CONSTANT: GuidanceTable = {
    "T": lambda s: constant(Rung(""), Rung("T", s.text)),
    "TA": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TA", s.audio)),
    "TI": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TI", s.image)),
    "TIA": lambda s: constant(Rung(""), Rung("T", s.text), Rung("TA", s.audio), Rung("TIA", s.image)),
}
"""HuMo-1.7B: one rung per condition, the image on top."""


def _two_passes(mode: Mode) -> Callable[[GuidanceScales], Guidance]:
    return lambda scales: constant(Rung(""), Rung(mode, scales.text))


TWO_PASSES: GuidanceTable = {mode: _two_passes(mode) for mode in MODES}
"""ComfyUI: one pass with all conditions, one with none, and one scale (``cfg``), that of the text."""


def _one_pass(mode: Mode) -> Callable[[GuidanceScales], Guidance]:
    return lambda scales: constant(Rung(mode))


DISTILLED: GuidanceTable = {mode: _one_pass(mode) for mode in MODES}
"""Distilled models: one pass with all conditions; the network receives the guidance scales as inputs."""
