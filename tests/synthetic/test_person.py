"""Identities and looks drawn from seeds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from humo.synthetic.person.appearance import LOOK_ATTRIBUTES, TIGHTEST_FRAMING, WIDEST_FRAMING, Look
from humo.synthetic.person.base_mesh import base_mesh, morph_target
from humo.synthetic.person.body import neutral_mesh
from humo.synthetic.person.identity import PERSON_ATTRIBUTES, Person

_SEEDS = 2000


@lru_cache(maxsize=1)
def _people() -> tuple[Person, ...]:
    return tuple(Person.from_seed(seed) for seed in range(_SEEDS))


def test_a_seed_is_always_the_same_person_and_look() -> None:
    assert Person.from_seed(7) == Person.from_seed(7)
    assert Look.from_seed(Person.from_seed(7), 3) == Look.from_seed(Person.from_seed(7), 3)


def test_every_word_for_a_person_is_reached_and_no_other() -> None:
    for attribute, allowed in PERSON_ATTRIBUTES.items():
        assert {person.attributes[attribute] for person in _people()} == set(allowed), attribute


def test_every_word_for_a_look_is_reached_and_no_other() -> None:
    looks = [Look.from_seed(person, 0).attributes for person in _people()]
    for attribute, allowed in LOOK_ATTRIBUTES.items():
        assert {words[attribute] for words in looks} == set(allowed), attribute


def test_two_thousand_seeds_are_two_thousand_people() -> None:
    assert len({person.traits for person in _people()}) == _SEEDS


def test_words_and_rough_shape_tell_two_hundred_people_apart() -> None:
    coarse = {
        (*person.attributes.values(), *(name for name, amount in person.shape if amount > 0.3))
        for person in _people()[:200]
    }
    assert len(coarse) >= 195


def test_a_person_keeps_identity_and_changes_clothes_from_look_to_look() -> None:
    person = Person.from_seed(11)
    looks = [Look.from_seed(person, seed) for seed in range(8)]
    assert len({(look.clothes, look.clothes_color, look.background) for look in looks}) >= 6


def test_framing_stays_between_tight_and_medium() -> None:
    for person in _people()[:300]:
        look = Look.from_seed(person, 1)
        assert TIGHTEST_FRAMING <= look.framing <= WIDEST_FRAMING
        assert np.isclose(np.square(look.light).sum(), 1)


def test_women_have_no_beards_and_the_young_no_grey_hair() -> None:
    for words in (person.attributes for person in _people()):
        assert words["sex"] == "man" or words["beard"] == "none"
        assert words["age group"] != "young" or words["hair colour"] not in ("grey", "white")


def test_every_target_a_person_may_need_is_in_the_data() -> None:
    for name in {name for person in _people()[:200] for name, _ in person.shape}:
        assert morph_target(name).shape == base_mesh().rest.shape


@pytest.mark.parametrize("seed", range(4))
def test_faces_of_two_people_differ_by_millimetres_and_are_finite(seed: int) -> None:
    one, other = neutral_mesh(Person.from_seed(seed)), neutral_mesh(Person.from_seed(seed + 50))
    assert np.isfinite(one).all()
    face = base_mesh().rest[:, 1] > 6
    assert np.abs(one - other)[face].max() > 0.03
