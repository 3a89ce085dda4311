"""Rendered people: images, face masks and mouth curves."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from humo.errors import RequestError
from humo.synthetic.person.appearance import BACKGROUNDS, CLOTHES, WIDEST_FRAMING, Appearance
from humo.synthetic.person.hair import STYLES
from humo.synthetic.person.identity import BEARDS, HAIR_STYLES, Person
from humo.synthetic.person.mouth_curve import mouth_curve
from humo.synthetic.render.render import render_clip, render_still
from humo.synthetic.render.scene import render_background
from humo.synthetic.speech.face_track import FACE_UNIT_INDEX, FACE_UNITS, FaceTrack

_CHECKSUM_PROGRAM = """
import hashlib
from humo.synthetic.person.appearance import Appearance
from humo.synthetic.person.identity import Person
from humo.synthetic.render.render import render_clip
from humo.synthetic.speech.face_track import FaceTrack
person = Person.from_seed(3)
frames, masks = render_clip(person, Appearance.from_seed(person, 1), FaceTrack.at_rest(2), 48)
print(hashlib.sha256(frames.tobytes() + masks.tobytes()).hexdigest())
"""


def _track(**units: float | list[float]) -> FaceTrack:
    """Return a track with as many frames as the longest list of strengths."""
    frames = max((len(value) for value in units.values() if isinstance(value, list)), default=1)
    table = np.zeros((frames, len(FACE_UNITS)), np.float32)
    for name, value in units.items():
        table[:, FACE_UNIT_INDEX[name]] = value
    return FaceTrack(table, np.zeros((frames, 3), np.float32), np.zeros((frames, 2), np.float32))


def test_the_same_seed_gives_the_same_bytes_in_every_process() -> None:
    person = Person.from_seed(3)
    frames, masks = render_clip(person, Appearance.from_seed(person, 1), FaceTrack.at_rest(2), 48)
    checksum = hashlib.sha256(frames.tobytes() + masks.tobytes()).hexdigest()
    repeated = render_clip(person, Appearance.from_seed(person, 1), FaceTrack.at_rest(2), 48)
    assert checksum == hashlib.sha256(repeated[0].tobytes() + repeated[1].tobytes()).hexdigest()
    fresh = subprocess.run([sys.executable, "-c", _CHECKSUM_PROGRAM], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == checksum


def test_different_people_and_appearances_give_different_images() -> None:
    one, other = Person.from_seed(1), Person.from_seed(2)
    images = [
        render_still(one, Appearance.from_seed(one, 0), 32),
        render_still(one, Appearance.from_seed(one, 1), 32),
        render_still(other, Appearance.from_seed(other, 0), 32),
    ]
    assert len({image.tobytes() for image in images}) == 3


@pytest.mark.parametrize("seed", range(0, 40, 8))
def test_the_mask_covers_the_face_but_not_the_corners(seed: int) -> None:
    person = Person.from_seed(seed)
    frames, masks = render_clip(person, Appearance.from_seed(person, 0), FaceTrack.at_rest(1), 64)
    assert frames.shape == (1, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert masks.dtype == np.bool_
    mask = masks[0]
    assert 0.05 < mask.mean() < 0.6
    rows, columns = np.nonzero(mask)
    assert mask[int(rows.mean()), int(columns.mean())]
    assert not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_an_opening_mouth_changes_the_image_only_inside_the_mask() -> None:
    person = replace(Person.from_seed(4), beard="none", hair_style="short")
    appearance = replace(Appearance.from_seed(person, 0), pose=(0.0, 0.0, 0.0), clothes="V-neck sweater")
    frames, masks = render_clip(person, appearance, _track(jawOpen=[0.0, 0.7]), 64)
    changed = np.abs(frames[0].astype(int) - frames[1]).max(-1) > 24
    assert changed.sum() > 15
    assert (changed & (masks[0] | masks[1])).sum() > 0.7 * changed.sum()


@lru_cache
def _rendered(style: str) -> bytes:
    person = Person.from_seed(5)
    return render_still(replace(person, hair_style=style), Appearance.from_seed(person, 0), 32, supersample=1).tobytes()


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_every_hair_style_is_visible(style: str) -> None:
    assert style in STYLES
    assert (_rendered(style) == _rendered("bald")) == (style == "bald")


@pytest.mark.parametrize("beard", BEARDS[1:])
def test_every_beard_darkens_a_light_face(beard: str) -> None:
    person = replace(Person.from_seed(5), hair_color="black", melanin=0.1, skin=(0.93, 0.77, 0.68), glasses="none")
    appearance = replace(Appearance.from_seed(person, 0), pose=(0.0, 0.0, 0.0), turn=0.0, framing=1.2)
    shaved, bearded = (
        render_clip(replace(person, beard=kind), appearance, FaceTrack.at_rest(1), 64) for kind in ("none", beard)
    )
    mask = shaved[1] & bearded[1]
    assert bearded[0][mask].mean() < shaved[0][mask].mean() - 1


@pytest.mark.parametrize("clothes", CLOTHES)
def test_all_clothes_have_their_color(clothes: str) -> None:
    person = replace(Person.from_seed(5), hair_style="short")
    appearance = replace(
        Appearance.from_seed(person, 0), framing=WIDEST_FRAMING, pattern="plain", clothes=clothes, clothes_color="blue"
    )
    chest = render_still(person, appearance, 48)[-6:, 6:18].reshape(-1, 3).mean(0)
    assert chest[2] > chest[0] + 20


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_background_is_in_range(background: str) -> None:
    appearance = replace(Appearance.from_seed(Person.from_seed(5), 0), background=background)
    image = render_background(appearance, 32)
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert 0 <= image.min() < image.max() <= 1


def test_a_size_below_the_minimum_is_an_error() -> None:
    person = Person.from_seed(1)
    with pytest.raises(RequestError, match="size"):
        render_clip(person, Appearance.from_seed(person, 0), FaceTrack.at_rest(1), 8)


@pytest.mark.parametrize("seed", range(5))
def test_the_mouth_curve_rises_with_the_jaw_and_detects_closed_lips(seed: int) -> None:
    person = Person.from_seed(seed)
    curve = mouth_curve(person, _track(jawOpen=[0.0, 0.1, 0.25, 0.5, 0.75, 1.0]))
    assert curve.dtype == np.float32
    assert (np.diff(curve[:, 0]) > 0).all()
    assert 0.12 < curve[-1, 0] < 0.5
    assert (np.diff(curve[:, 1]) <= 0).all()
    assert curve[0, 1] == 1
    assert curve[-1, 1] == 0
    closed = mouth_curve(person, _track(jawOpen=0.5, mouthClose=0.5))
    assert closed[0, 0] < 0.02
    assert closed[0, 1] > 0.7


def test_the_mouth_curve_distinguishes_a_pucker_from_a_smile() -> None:
    person = Person.from_seed(2)
    pucker = mouth_curve(person, _track(mouthPucker=[0.0, 0.5, 1.0]))[:, 2]
    smile = mouth_curve(person, _track(mouthSmileLeft=0.8, mouthSmileRight=0.8))[0, 2]
    assert (np.diff(pucker) > 0).all()
    assert smile < 0 < pucker[-1]


def test_the_mouth_curve_does_not_depend_on_the_head_pose() -> None:
    still, person = _track(jawOpen=[0.3, 0.3]), Person.from_seed(2)
    turned = FaceTrack(still.units, np.array([(0, 0, 0), (0.3, -0.1, 0.1)], np.float32), still.gaze)
    curve = mouth_curve(person, turned)
    assert (curve[0] == curve[1]).all()
