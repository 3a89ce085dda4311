"""How a person appears in one clip: clothes, background, light and framing, drawn from one seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from humo.synthetic.person.identity import Colour, Person

_STREAM = 0x100C  # keeps this module's random numbers apart from every other's of the same seed

CLOTHES: tuple[str, ...] = ("T-shirt", "V-neck sweater", "turtleneck", "collared shirt", "suit", "hoodie")
_CLOTHES_ODDS = (0.24, 0.16, 0.14, 0.20, 0.14, 0.12)
CLOTHES_COLOURS: dict[str, Colour] = {
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
SUIT_COLOURS: tuple[str, ...] = ("navy", "grey", "black", "brown")
PATTERNS: tuple[str, ...] = ("plain", "striped", "checked", "dotted")
_PATTERN_ODDS = (0.64, 0.14, 0.12, 0.10)
BACKGROUNDS: tuple[str, ...] = ("plain wall", "studio", "bookshelf", "window", "park", "sea", "city lights", "curtain")
COLOURED_BACKGROUNDS = ("plain wall", "curtain")
WALL_COLOURS: dict[str, Colour] = {
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
"""Words for framing and the visible half height (in half heights of the head) up to which each is used."""
TIGHTEST, WIDEST = 1.20, 1.75


@dataclass(frozen=True, slots=True)
class Look:
    """One appearance of one person.

    Args:
        seed: what it was drawn from.
        clothes: one of `CLOTHES`.
        clothes_colour: one of `CLOTHES_COLOURS`.
        second_colour: the pattern's, the tie's.
        pattern: one of `PATTERNS`.
        background: one of `BACKGROUNDS`.
        wall_colour: one of `WALL_COLOURS`; seen on `COLOURED_BACKGROUNDS` only.
        light: direction to the key light, length 1; x to the right of the picture, y up, z to the camera.
        strength: of the key light, about 1.
        warmth: of the light, -1 (cool) to 1 (warm).
        framing: visible half height, in half heights of the head.
        offset: of the head from the middle of the picture, in picture sizes, x.
        pose: yaw, pitch and roll in radians, added to the track's.
        turn: yaw of shoulders and head together, radians.
    """

    seed: int
    clothes: str
    clothes_colour: str
    second_colour: str
    pattern: str
    background: str
    wall_colour: str
    light: tuple[float, float, float]
    strength: float
    warmth: float
    framing: float
    offset: float
    pose: tuple[float, float, float]
    turn: float

    @classmethod
    def from_seed(cls, person: Person, seed: int) -> Look:
        """The look a seed stands for on this person.

        Args:
            person: who wears it.
            seed: 0 or more; other seeds are other clothes, scenes and poses.
        """
        random = np.random.Generator(np.random.PCG64([_STREAM, person.seed, seed]))
        clothes = CLOTHES[int(random.choice(len(CLOTHES), p=_CLOTHES_ODDS))]
        colours = SUIT_COLOURS if clothes == "suit" else tuple(CLOTHES_COLOURS)
        colour = colours[int(random.integers(len(colours)))]
        others = [name for name in CLOTHES_COLOURS if name != colour]
        second = others[int(random.integers(len(others)))]
        pattern = PATTERNS[int(random.choice(len(PATTERNS), p=_PATTERN_ODDS))]
        side, height = random.uniform(-1.0, 1.0), random.uniform(0.25, 0.75)
        light = np.array((0.9 * math.sin(side), height, 0.95 * math.cos(side)))
        light /= np.sqrt((light * light).sum())
        return cls(
            seed=seed,
            clothes=clothes,
            clothes_colour=colour,
            second_colour=second,
            pattern="plain" if clothes in ("suit", "hoodie") else pattern,
            background=BACKGROUNDS[int(random.integers(len(BACKGROUNDS)))],
            wall_colour=tuple(WALL_COLOURS)[int(random.integers(len(WALL_COLOURS)))],
            light=(float(light[0]), float(light[1]), float(light[2])),
            strength=float(random.uniform(0.85, 1.1)),
            warmth=float(np.clip(0.5 * random.normal(), -1, 1)),
            framing=float(random.uniform(TIGHTEST, WIDEST)),
            offset=float(np.clip(0.035 * random.normal(), -0.07, 0.07)),
            pose=(
                float(np.clip(0.10 * random.normal(), -0.22, 0.22)),
                float(np.clip(0.05 * random.normal(), -0.12, 0.12)),
                float(np.clip(0.04 * random.normal(), -0.1, 0.1)),
            ),
            turn=float(np.clip(0.12 * random.normal(), -0.3, 0.3)),
        )

    def closer(self, share: float) -> Look:
        """The same look seen closer and more from the front: 0 as it is, 1 as close as can be, turned half as far."""
        if share == 0:
            return self
        less = 1 - share / 2
        yaw, pitch, roll = (less * angle for angle in self.pose)
        framing = TIGHTEST + (1 - share) * (self.framing - TIGHTEST)
        return replace(self, framing=framing, offset=less * self.offset, pose=(yaw, pitch, roll), turn=less * self.turn)

    @property
    def words(self) -> dict[str, str]:
        """What one would say of this appearance, by attribute."""
        return {
            "clothes": self.clothes,
            "clothes colour": self.clothes_colour,
            "pattern": self.pattern,
            "background": self.background,
            "background colour": self.wall_colour if self.background in COLOURED_BACKGROUNDS else "none",
            "framing": next(word for word, end in FRAMINGS if self.framing < end),
        }


LOOK_WORDS: dict[str, tuple[str, ...]] = {
    "clothes": CLOTHES,
    "clothes colour": tuple(CLOTHES_COLOURS),
    "pattern": PATTERNS,
    "background": BACKGROUNDS,
    "background colour": (*WALL_COLOURS, "none"),
    "framing": tuple(word for word, _ in FRAMINGS),
}
"""Every value that `Look.words` can take."""
