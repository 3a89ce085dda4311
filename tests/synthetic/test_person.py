"""Identities and appearances drawn from seeds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from humo.synthetic.person.appearance import APPEARANCE_ATTRIBUTES, TIGHTEST_FRAMING, WIDEST_FRAMING, Appearance
from humo.synthetic.person.base_mesh import base_mesh, morph_target
from humo.synthetic.person.body import neutral_mesh
from humo.synthetic.person.identity import PERSON_ATTRIBUTES, Person

_SEEDS = 2000


@lru_cache(maxsize=1)
def _people() -> tuple[Person, ...]:
    return tuple(Person.from_seed(seed) for seed in range(_SEEDS))


def test_a_seed_always_gives_the_same_person_and_appearance() -> None:
    assert Person.from_seed(7) == Person.from_seed(7)
    assert Appearance.from_seed(Person.from_seed(7), 3) == Appearance.from_seed(Person.from_seed(7), 3)


def test_all_listed_attributes_of_people_occur_and_no_others() -> None:
    for attribute, allowed in PERSON_ATTRIBUTES.items():
        assert {person.attributes[attribute] for person in _people()} == set(allowed), attribute


def test_all_listed_attributes_of_appearances_occur_and_no_others() -> None:
    appearances = [Appearance.from_seed(person, 0).attributes for person in _people()]
    for attribute, allowed in APPEARANCE_ATTRIBUTES.items():
        assert {attributes[attribute] for attributes in appearances} == set(allowed), attribute


def test_two_thousand_seeds_give_two_thousand_people() -> None:
    assert len({person.traits for person in _people()}) == _SEEDS


def test_attributes_and_coarse_shape_distinguish_two_hundred_people() -> None:
    coarse = {
        (*person.attributes.values(), *(name for name, amount in person.shape if amount > 0.3))
        for person in _people()[:200]
    }
    assert len(coarse) >= 195


def test_appearances_of_a_person_differ_in_clothes_and_background() -> None:
    person = Person.from_seed(11)
    appearances = [Appearance.from_seed(person, seed) for seed in range(8)]
    assert (
        len({(appearance.clothes, appearance.clothes_color, appearance.background) for appearance in appearances}) >= 6
    )


def test_framing_stays_between_tight_and_medium() -> None:
    for person in _people()[:300]:
        appearance = Appearance.from_seed(person, 1)
        assert TIGHTEST_FRAMING <= appearance.framing <= WIDEST_FRAMING
        assert np.isclose(np.square(appearance.light).sum(), 1)


def test_women_have_no_beards_and_young_people_no_gray_hair() -> None:
    for attributes in (person.attributes for person in _people()):
        assert attributes["sex"] == "man" or attributes["beard"] == "none"
        assert attributes["age group"] != "young" or attributes["hair colour"] not in ("grey", "white")


def test_every_morph_target_of_people_exists() -> None:
    for name in {name for person in _people()[:200] for name, _ in person.shape}:
        assert morph_target(name).shape == base_mesh().rest.shape


@pytest.mark.parametrize("seed", range(4))
def test_faces_of_two_people_differ_by_millimeters_and_are_finite(seed: int) -> None:
    one, other = neutral_mesh(Person.from_seed(seed)), neutral_mesh(Person.from_seed(seed + 50))
    assert np.isfinite(one).all()
    face = base_mesh().rest[:, 1] > 6
    assert np.abs(one - other)[face].max() > 0.03
