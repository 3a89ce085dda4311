"""Draw how a person appears in one clip: clothes, background, light and framing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from humo.synthetic.person.identity import Color, Person

_STREAM = 0x100C  # separates this module's random stream from others of the same seed

CLOTHES: tuple[str, ...] = ("T-shirt", "V-neck sweater", "turtleneck", "collared shirt", "suit", "hoodie")
_CLOTHES_ODDS = (0.24, 0.16, 0.14, 0.20, 0.14, 0.12)
CLOTHES_COLORS: dict[str, Color] = {
    "red": (0.74, 0.12, 0.13),
    "orange": (0.90, 0.46, 0.12),
    "yellow": (0.92, 0.78, 0.22),
    "green": (0.14, 0.48, 0.24),
    "teal": (0.08, 0.48, 0.50),
    "blue": (0.16, 0.32, 0.72),
    "navy": (0.09, 0.13, 0.30),
    "purple": (0.43, 0.18, 0.55),
    "pink": (0.92, 0.58, 0.68),
    "brown": (0.40, 0.25, 0.15),
    "grey": (0.52, 0.53, 0.55),
    "black": (0.09, 0.09, 0.10),
    "white": (0.93, 0.93, 0.92),
}
SUIT_COLORS: tuple[str, ...] = ("navy", "grey", "black", "brown")
PATTERNS: tuple[str, ...] = ("plain", "striped", "checked", "dotted")
_PATTERN_ODDS = (0.64, 0.14, 0.12, 0.10)
BACKGROUNDS: tuple[str, ...] = ("plain wall", "studio", "bookshelf", "window", "park", "sea", "city lights", "curtain")
COLORED_BACKGROUNDS = ("plain wall", "curtain")
WALL_COLORS: dict[str, Color] = {
    "red": (0.62, 0.20, 0.18),
    "orange": (0.86, 0.58, 0.34),
    "yellow": (0.90, 0.80, 0.50),
    "green": (0.40, 0.58, 0.42),
    "blue": (0.38, 0.55, 0.76),
    "purple": (0.50, 0.38, 0.62),
    "pink": (0.88, 0.68, 0.72),
    "brown": (0.52, 0.40, 0.30),
    "grey": (0.60, 0.61, 0.62),
    "white": (0.90, 0.89, 0.87),
}
FRAMINGS: tuple[tuple[str, float], ...] = (("close-up", 1.38), ("head and shoulders", 1.58), ("medium shot", 9.9))
"""Framings: name, and the largest visible half height (in half heights of the head) that it is used for."""
TIGHTEST_FRAMING, WIDEST_FRAMING = 1.20, 1.75


@dataclass(frozen=True, slots=True)
class Appearance:
    """One appearance of one person.

    Args:
        seed: the seed that it was drawn from.
        clothes: one of `CLOTHES`.
        clothes_color: one of `CLOTHES_COLORS`.
        second_color: color of the pattern or the tie.
        pattern: one of `PATTERNS`.
        background: one of `BACKGROUNDS`.
        wall_color: one of `WALL_COLORS`; visible only on `COLORED_BACKGROUNDS`.
        light: unit vector toward the key light; x to the right of the image, y up, z to the camera.
        strength: strength of the key light, about 1.
        warmth: color of the light, -1 (cool) to 1 (warm).
        framing: visible half height, in half heights of the head.
        offset: horizontal offset of the head from the center of the image, in widths of the image.
        pose: yaw, pitch and roll in radians, added to the track's.
        turn: yaw of shoulders and head together, radians.
    """

    seed: int
    clothes: str
    clothes_color: str
    second_color: str
    pattern: str
    background: str
    wall_color: str
    light: tuple[float, float, float]
    strength: float
    warmth: float
    framing: float
    offset: float
    pose: tuple[float, float, float]
    turn: float

    @classmethod
    def from_seed(cls, person: Person, seed: int) -> Appearance:
        """Draw the appearance of a person from a seed.

        Args:
            person: the identity.
            seed: 0 or more; different seeds give different clothes, scenes and poses.
        """
        random = np.random.Generator(np.random.PCG64([_STREAM, person.seed, seed]))
        clothes = CLOTHES[int(random.choice(len(CLOTHES), p=_CLOTHES_ODDS))]
        colors = SUIT_COLORS if clothes == "suit" else tuple(CLOTHES_COLORS)
        color = colors[int(random.integers(len(colors)))]
        others = [name for name in CLOTHES_COLORS if name != color]
        second = others[int(random.integers(len(others)))]
        pattern = PATTERNS[int(random.choice(len(PATTERNS), p=_PATTERN_ODDS))]
        side, height = random.uniform(-1.0, 1.0), random.uniform(0.25, 0.75)
        light = np.array((0.9 * math.sin(side), height, 0.95 * math.cos(side)))
        light /= np.sqrt((light * light).sum())
        return cls(
            seed=seed,
            clothes=clothes,
            clothes_color=color,
            second_color=second,
            pattern="plain" if clothes in ("suit", "hoodie") else pattern,
            background=BACKGROUNDS[int(random.integers(len(BACKGROUNDS)))],
            wall_color=tuple(WALL_COLORS)[int(random.integers(len(WALL_COLORS)))],
            light=(float(light[0]), float(light[1]), float(light[2])),
            strength=float(random.uniform(0.85, 1.1)),
            warmth=float(np.clip(0.5 * random.normal(), -1, 1)),
            framing=float(random.uniform(TIGHTEST_FRAMING, WIDEST_FRAMING)),
            offset=float(np.clip(0.035 * random.normal(), -0.07, 0.07)),
            pose=(
                float(np.clip(0.10 * random.normal(), -0.22, 0.22)),
                float(np.clip(0.05 * random.normal(), -0.12, 0.12)),
                float(np.clip(0.04 * random.normal(), -0.1, 0.1)),
            ),
            turn=float(np.clip(0.12 * random.normal(), -0.3, 0.3)),
        )

    def closer(self, amount: float) -> Appearance:
        """Return the same appearance framed tighter and more frontal.

        Args:
            amount: 0 for the same appearance; 1 for the tightest framing and half of the rotation.
        """
        if amount == 0:
            return self
        factor = 1 - amount / 2
        yaw, pitch, roll = (factor * angle for angle in self.pose)
        framing = TIGHTEST_FRAMING + (1 - amount) * (self.framing - TIGHTEST_FRAMING)
        return replace(
            self, framing=framing, offset=factor * self.offset, pose=(yaw, pitch, roll), turn=factor * self.turn
        )

    @property
    def attributes(self) -> dict[str, str]:
        """Return the visible attributes in words: name -> value of `APPEARANCE_ATTRIBUTES`."""
        return {
            "clothes": self.clothes,
            "clothes colour": self.clothes_color,
            "pattern": self.pattern,
            "background": self.background,
            "background colour": self.wall_color if self.background in COLORED_BACKGROUNDS else "none",
            "framing": next(name for name, end in FRAMINGS if self.framing < end),
        }


APPEARANCE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "clothes": CLOTHES,
    "clothes colour": tuple(CLOTHES_COLORS),
    "pattern": PATTERNS,
    "background": BACKGROUNDS,
    "background colour": (*WALL_COLORS, "none"),
    "framing": tuple(name for name, _ in FRAMINGS),
}
"""Attribute of an appearance -> its possible values."""
