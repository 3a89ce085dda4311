"""Draw identities: everything about a rendered person that is the same in all clips."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

Color = tuple[float, float, float]
"""Red, green and blue in display color (sRGB), in [0, 1]."""

_STREAM = 0x9E25  # separates this module's random stream from others of the same seed

SKIN_TONES: tuple[tuple[str, float], ...] = (
    ("pale", 0.13),
    ("light", 0.33),
    ("tan", 0.52),
    ("brown", 0.74),
    ("dark", 1.01),
)
"""Skin tones: name, and the largest melanin (0 to 1) that it is used for."""
_SKIN_COLORS = (
    (0.945, 0.790, 0.705),
    (0.905, 0.715, 0.600),
    (0.835, 0.625, 0.490),
    (0.690, 0.480, 0.350),
    (0.500, 0.330, 0.235),
    (0.345, 0.220, 0.160),
)
HAIR_COLORS: dict[str, Color] = {
    "black": (0.085, 0.075, 0.075),
    "dark brown": (0.22, 0.145, 0.10),
    "brown": (0.38, 0.25, 0.16),
    "auburn": (0.45, 0.19, 0.10),
    "red": (0.62, 0.29, 0.13),
    "blond": (0.76, 0.60, 0.37),
    "grey": (0.56, 0.56, 0.56),
    "white": (0.88, 0.87, 0.84),
}
EYE_COLORS: dict[str, Color] = {
    "dark brown": (0.27, 0.16, 0.10),
    "brown": (0.47, 0.28, 0.13),
    "hazel": (0.46, 0.37, 0.17),
    "green": (0.33, 0.50, 0.30),
    "blue": (0.30, 0.50, 0.74),
    "grey": (0.50, 0.56, 0.60),
}
HAIR_STYLES: tuple[str, ...] = (
    "short",
    "crew cut",
    "buzz cut",
    "bald",
    "receding",
    "curly",
    "afro",
    "bob",
    "fringe",
    "long",
    "wavy",
    "bun",
    "ponytail",
)
_HAIR_STYLE_ODDS = {
    "man": (0.27, 0.12, 0.10, 0.10, 0.10, 0.10, 0.05, 0.02, 0.03, 0.05, 0.02, 0.03, 0.01),
    "woman": (0.09, 0.01, 0.01, 0.0, 0.0, 0.11, 0.07, 0.14, 0.13, 0.15, 0.12, 0.08, 0.09),
}
BEARDS: tuple[str, ...] = ("none", "stubble", "moustache", "goatee", "full beard")
_BEARD_ODDS = (0.44, 0.14, 0.09, 0.11, 0.22)
GLASSES: tuple[str, ...] = ("none", "round", "square")
_GLASSES_ODDS = (0.76, 0.12, 0.12)
AGE_GROUPS: tuple[tuple[str, float], ...] = (("young", 0.60), ("middle-aged", 0.78), ("elderly", 1.01))
"""Age groups: name, and the largest macro age that it is used for; 0.5 is 25 years, 1.0 is 90 years."""
_LIPSTICK: tuple[Color, ...] = ((0.72, 0.16, 0.20), (0.64, 0.22, 0.30), (0.78, 0.36, 0.38), (0.50, 0.12, 0.20))

_TWO_WAY_TARGETS: tuple[tuple[str, str, str, float], ...] = (  # stem, its two directions, standard deviation
    ("nose/nose-scale-horiz", "decr", "incr", 0.40),
    ("nose/nose-scale-vert", "decr", "incr", 0.35),
    ("nose/nose-scale-depth", "decr", "incr", 0.35),
    ("nose/nose-width1", "decr", "incr", 0.40),
    ("nose/nose-width2", "decr", "incr", 0.40),
    ("nose/nose-width3", "decr", "incr", 0.40),
    ("nose/nose-hump", "decr", "incr", 0.40),
    ("nose/nose-volume", "decr", "incr", 0.30),
    ("nose/nose-point-width", "decr", "incr", 0.35),
    ("nose/nose-greek", "decr", "incr", 0.30),
    ("nose/nose-flaring", "decr", "incr", 0.30),
    ("nose/nose-point", "down", "up", 0.40),
    ("nose/nose-curve", "concave", "convex", 0.35),
    ("mouth/mouth-scale-horiz", "decr", "incr", 0.35),
    ("mouth/mouth-upperlip-height", "decr", "incr", 0.35),
    ("mouth/mouth-lowerlip-height", "decr", "incr", 0.35),
    ("mouth/mouth-upperlip-volume", "decr", "incr", 0.30),
    ("mouth/mouth-lowerlip-volume", "decr", "incr", 0.30),
    ("mouth/mouth-trans", "down", "up", 0.25),
    ("chin/chin-width", "decr", "incr", 0.45),
    ("chin/chin-height", "decr", "incr", 0.35),
    ("chin/chin-prominent", "decr", "incr", 0.35),
    ("head/head-scale-horiz", "decr", "incr", 0.30),
    ("head/head-scale-vert", "decr", "incr", 0.25),
    ("head/head-fat", "decr", "incr", 0.35),
    ("forehead/forehead-temple", "decr", "incr", 0.30),
    ("forehead/forehead-nubian", "decr", "incr", 0.25),
    ("eyebrows/eyebrows-trans", "down", "up", 0.20),
    ("eyebrows/eyebrows-angle", "down", "up", 0.30),
    ("neck/neck-scale-horiz", "decr", "incr", 0.20),
)
_MIRRORED_TARGETS: tuple[tuple[str, str, str, str, float], ...] = (  # folder, stem, two directions, deviation
    ("eyes", "eye-trans", "in", "out", 0.35),
    ("eyes", "eye-corner1", "down", "up", 0.35),
    ("eyes", "eye-corner2", "down", "up", 0.35),
    ("eyes", "eye-eyefold", "down", "up", 0.35),
    ("cheek", "cheek-bones", "decr", "incr", 0.40),
    ("cheek", "cheek-volume", "decr", "incr", 0.40),
    ("ears", "ear-scale", "decr", "incr", 0.30),
    ("ears", "ear-wing", "decr", "incr", 0.30),
)
_HEAD_SHAPES = ("oval", "round", "square", "rectangular", "diamond", "triangular", "invertedtriangular")
_REST_EXPRESSION = (  # the base mesh looks stern at rest, so brows and corners of the mouth are raised a little
    ("browInnerUp", 0.40),
    ("browOuterUpLeft", 0.15),
    ("browOuterUpRight", 0.15),
    ("mouthSmileLeft", 0.14),
    ("mouthSmileRight", 0.14),
)
_MEAN_EYE_SCALE = 0.30
_EYE_OPENING = 0.55  # the base mesh's eyes are narrower than those of a face in conversation


@dataclass(frozen=True, slots=True)
class Person:
    """One identity.

    Args:
        seed: the seed that it was drawn from.
        sex: ``man`` or ``woman``.
        age: macro age, 0.5 (25 years) to 1.0 (90 years).
        weight: 0 (thin) to 1 (heavy).
        muscle: 0 to 1.
        ancestry: weights of the three base shapes (african, asian, caucasian); they add up to 1.
        shape: morph targets of the face with their weights, equal on left and right.
        melanin: 0 (none) to 1.
        skin: color of the skin.
        lips: color of the lips.
        hair_style: one of `HAIR_STYLES`.
        hair_color: one of `HAIR_COLORS`.
        hair_shade: factor on the hair's color, about 1.
        hairline: height of the hairline above the average, decimeters.
        parting: position of the parting, decimeters to the person's left.
        brows: thickness of the eyebrows, decimeters.
        beard: one of `BEARDS`.
        eye_color: one of `EYE_COLORS`.
        glasses: one of `GLASSES`.
        freckles: 0 to 1.
        warmth: redness of cheeks and nose, 0 to 1.
    """

    seed: int
    sex: str
    age: float
    weight: float
    muscle: float
    ancestry: tuple[float, float, float]
    shape: tuple[tuple[str, float], ...]
    melanin: float
    skin: Color
    lips: Color
    hair_style: str
    hair_color: str
    hair_shade: float
    hairline: float
    parting: float
    brows: float
    beard: str
    eye_color: str
    glasses: str
    freckles: float
    warmth: float

    @classmethod
    def from_seed(cls, seed: int) -> Person:
        """Draw a person from a seed; a seed always gives the same person.

        Args:
            seed: 0 or more.
        """
        random = np.random.Generator(np.random.PCG64([_STREAM, seed]))
        sex = "man" if random.random() < 0.5 else "woman"
        age = float(random.choice((0.53, 0.70, 0.90), p=(0.5, 0.3, 0.2)) + random.uniform(-0.05, 0.07))
        african, asian, caucasian = (float(share) for share in random.dirichlet((0.4, 0.4, 0.4)))
        melanin = float(np.clip(0.9 * african + 0.33 * asian + 0.14 * caucasian + 0.08 * random.normal(), 0.0, 1.0))
        skin = tuple(
            float(np.interp(melanin, np.linspace(0, 1, len(_SKIN_COLORS)), [row[k] for row in _SKIN_COLORS]))
            * (1 + 0.02 * float(random.normal()))
            for k in range(3)
        )
        made_up = sex == "woman" and random.random() < 0.4
        lipstick = _LIPSTICK[int(random.integers(len(_LIPSTICK)))]
        natural = (skin[0] * 0.86, skin[1] * 0.66, skin[2] * 0.68)
        odds = np.array(_HAIR_STYLE_ODDS[sex])
        odds[[HAIR_STYLES.index("afro"), HAIR_STYLES.index("curly")]] *= (0.05 + 4 * african, 0.6 + african)
        if age < AGE_GROUPS[0][1]:
            odds[[HAIR_STYLES.index("bald"), HAIR_STYLES.index("receding")]] *= 0.4
        style = HAIR_STYLES[int(random.choice(len(HAIR_STYLES), p=odds / odds.sum()))]
        beard = BEARDS[int(random.choice(len(BEARDS), p=_BEARD_ODDS))] if sex == "man" else "none"
        iris_odds = (0.25, 0.25, 0.12, 0.12, 0.18, 0.08) if caucasian > 0.5 else (0.60, 0.36, 0.02, 0.01, 0.01, 0.0)
        return cls(
            seed=seed,
            sex=sex,
            age=age,
            weight=float(np.clip(0.5 + 0.18 * random.normal(), 0.12, 0.92)),
            muscle=float(np.clip(0.5 + 0.12 * random.normal(), 0.2, 0.9)),
            ancestry=(african, asian, caucasian),
            shape=_draw_face_shape(random),
            melanin=melanin,
            skin=(skin[0], skin[1], skin[2]),
            lips=lipstick if made_up else natural,
            hair_style=style,
            hair_color=_draw_hair_color(random, age, caucasian),
            hair_shade=float(np.clip(1 + 0.12 * random.normal(), 0.75, 1.3)),
            hairline=float(np.clip(0.06 * random.normal(), -0.12, 0.12)),
            parting=float(random.choice((-0.28, 0.0, 0.28))),
            brows=float(np.clip((0.028 if sex == "woman" else 0.042) * (1 + 0.2 * random.normal()), 0.018, 0.062)),
            beard=beard,
            eye_color=tuple(EYE_COLORS)[int(random.choice(len(EYE_COLORS), p=iris_odds))],
            glasses=GLASSES[int(random.choice(len(GLASSES), p=_GLASSES_ODDS))],
            freckles=float(random.uniform(0.5, 1.0)) if melanin < 0.3 and random.random() < 0.25 else 0.0,
            warmth=float(random.uniform(0.3, 1.0)),
        )

    @property
    def attributes(self) -> dict[str, str]:
        """Return the visible attributes in words: name -> value of `PERSON_ATTRIBUTES`."""
        return {
            "sex": self.sex,
            "age group": next(name for name, end in AGE_GROUPS if self.age < end),
            "skin tone": next(name for name, end in SKIN_TONES if self.melanin < end),
            "hair colour": "none" if self.hair_style == "bald" else self.hair_color,
            "hair style": self.hair_style,
            "beard": self.beard,
            "eye colour": self.eye_color,
            "glasses": self.glasses,
            "freckles": "freckles" if self.freckles else "none",
        }

    @property
    def traits(self) -> tuple[object, ...]:
        """Return every attribute of the person except the seed."""
        return tuple(getattr(self, field.name) for field in fields(self) if field.name != "seed")


PERSON_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "sex": ("man", "woman"),
    "age group": tuple(name for name, _ in AGE_GROUPS),
    "skin tone": tuple(name for name, _ in SKIN_TONES),
    "hair colour": (*HAIR_COLORS, "none"),
    "hair style": HAIR_STYLES,
    "beard": BEARDS,
    "eye colour": tuple(EYE_COLORS),
    "glasses": GLASSES,
    "freckles": ("freckles", "none"),
}
"""Attribute of a person -> its possible values."""


def _draw_face_shape(random: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Draw face targets around the average, equal on left and right."""
    shape: dict[str, float] = dict(_REST_EXPRESSION)

    def draw(spread: float) -> float:
        return float(np.clip(spread * random.normal(), -0.85, 0.85))

    for stem, low, high, spread in _TWO_WAY_TARGETS:
        amount = draw(spread)
        shape[f"{stem}-{low if amount < 0 else high}"] = abs(amount)
    for folder, stem, low, high, spread in _MIRRORED_TARGETS:
        amount = draw(spread)
        for side in "lr":
            shape[f"{folder}/{side}-{stem}-{low if amount < 0 else high}"] = abs(amount)
    for side in "lr":
        shape[f"eyes/{side}-eye-height2-incr"] = _EYE_OPENING
        shape[f"eyes/{side}-eye-height1-incr"] = _EYE_OPENING / 2
        shape[f"eyes/{side}-eye-height3-incr"] = _EYE_OPENING / 2
    size = _MEAN_EYE_SCALE + draw(0.22)
    for side in "lr":
        shape[f"eyes/{side}-eye-scale-{'decr' if size < 0 else 'incr'}"] = abs(size)
    head = _HEAD_SHAPES[int(random.integers(len(_HEAD_SHAPES)))]
    shape[f"head/head-{head}"] = float(random.uniform(0.1, 0.6))
    return tuple(shape.items())


def _draw_hair_color(random: np.random.Generator, age: float, caucasian: float) -> str:
    """Draw a hair color: dark by default, lighter with caucasian ancestry, gray and white with age."""
    light = (0.08, 0.17, 0.20, 0.13, 0.13, 0.29, 0.0, 0.0)
    dark = (0.52, 0.28, 0.11, 0.05, 0.01, 0.03, 0.0, 0.0)
    gray = 0.75 if age >= AGE_GROUPS[1][1] else 0.12 if age >= AGE_GROUPS[0][1] else 0.0
    odds = np.array(light if caucasian > 0.45 else dark) * (1 - gray)
    odds[-2:] = gray * 0.55, gray * 0.45
    return tuple(HAIR_COLORS)[int(random.choice(len(odds), p=odds / odds.sum()))]
