"""What is measured is what is there: faces, mouths, people, words, steadiness."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from humo.errors import RequestError
from humo.evaluation.attribute_classifier import ATTRIBUTES, AttributeReader, open_reader, save_reader
from humo.evaluation.benchmark import Case, Eyes, find_cases
from humo.evaluation.face_mesh import FaceMesh
from humo.evaluation.lip_sync import AROUND, BAND, JawFit, features
from humo.evaluation.metrics import correlation, lagged, psnr, unrest, watch
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image


@pytest.fixture(scope="module")
def cases(corpus: Path) -> list[Case]:
    return find_cases(str(corpus), 6, 25)


def test_cases_are_of_both_groups_and_hold_the_truth(cases: list[Case]) -> None:
    assert [case.group for case in cases] == ["seen"] * 3 + ["unseen"] * 3
    for case in cases:
        assert case.frames.shape == (25, 96, 96, 3)
        assert case.jaw.shape == (25,)
        assert set(case.words) == set(ATTRIBUTES)
        assert case.words["glasses"] in ("none", "glasses")


def test_too_few_clips_are_refused_with_the_command_that_makes_more(corpus: Path) -> None:
    with pytest.raises(RequestError, match=r"has 3 clips of test-seen with sound; make more: humo data synth"):
        find_cases(str(corpus), 64, 25)


def test_the_mesh_finds_faces_and_only_faces(cases: list[Case]) -> None:
    mesh = FaceMesh()
    found = [mesh.find(case.frames[12]) for case in cases]
    assert all(face is not None for face in found)
    for face in found:
        assert face is not None
        left, top, right, bottom = face.box
        assert 0 < right - left < 96
        assert 0 < bottom - top < 96
        mouth, eyes = face.points[13], face.points[33]
        assert mouth[1] > eyes[1] + 10, "the mouth is below the eyes"
    assert mesh.find(np.full((96, 96, 3), 128, np.uint8)) is None
    assert mesh.find(np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8)) is None


def test_the_mesh_lies_where_the_face_is_in_pictures_of_other_shape(cases: list[Case]) -> None:
    frame = cases[0].frames[12]
    wide = np.pad(frame, ((0, 0), (60, 20), (0, 0)), mode="edge")
    plain, moved = FaceMesh().find(frame), FaceMesh().find(wide)
    assert plain is not None
    assert moved is not None
    assert np.abs(moved.points - plain.points - (60, 0)).mean() < 2


def test_mouths_follow_the_true_jaw(cases: list[Case]) -> None:
    mesh = FaceMesh()
    own = []
    for case in cases:
        mouth = watch(case.frames, mesh).mouth
        assert mouth is not None
        own.append(correlation(mouth, case.jaw))
    assert np.mean(own) > 0.5


def test_people_are_nearer_to_themselves(cases: list[Case]) -> None:
    who = FaceIdentity()
    clips = [who.embed_all(case.frames, 3) for case in cases]
    pictures = [who.embed(np.asarray(load_image(case.clip.reference))) for case in cases]
    for number, clip in enumerate(clips):
        assert clip is not None
        distances = [float(np.linalg.norm(clip - other)) for other in pictures if other is not None]
        others = [
            distance for case, distance in zip(cases, distances, strict=True) if case.person != cases[number].person
        ]
        assert distances[number] < min(0.4, *others)
    assert who.embed(np.full((96, 96, 3), 128, np.uint8)) is None


def test_figures_of_true_clips_are_those_of_true_clips(cases: list[Case]) -> None:
    eyes = Eyes(cases)
    seen = [eyes.look(case.frames) for case in cases]
    figures = eyes.figures("true", seen, range(len(cases)))
    assert figures["faces"] == 1.0
    assert figures["unrest"] == pytest.approx(1.0)
    assert figures["psnr"] > 80
    assert figures["identity_nearest"] == 1.0
    assert figures["identity_distance"] < 0.4
    assert figures["lips"] > figures["lips_other_sound"] + 0.3
    assert abs(figures["lips_best_lag"]) <= 1
    others = eyes.figures("true", seen[1:] + seen[:1], range(len(cases)))
    assert others["identity_nearest"] < 0.5, "another person's clip is not taken for this one's"
    eyes.cases = [dataclasses.replace(case, jaw=np.zeros_like(case.jaw)) for case in cases]
    silent = eyes.figures("true", seen, range(len(cases)))
    assert "lips" not in silent, "nobody's jaw moves, so that there is nothing to follow"
    assert silent["faces"] == 1.0
    json.dumps(silent, allow_nan=False)


def test_lags_tell_which_is_late() -> None:
    jaw = np.sin(np.arange(60) / 3)
    found = lagged(np.roll(jaw, 2)[2:], jaw[2:])
    assert max(found, key=lambda lag: found[lag]) == 2
    assert correlation(jaw, np.zeros(60)) == 0.0


def test_psnr_and_unrest_are_what_they_say(cases: list[Case]) -> None:
    black = np.zeros((4, 8, 8, 3), np.uint8)
    assert psnr(black, black + 255) == pytest.approx(0)
    frames = cases[0].frames
    flicker = frames.astype(np.int16) + 6 * (np.arange(len(frames)) % 2)[:, None, None, None]
    mesh = FaceMesh()
    calm = unrest(watch(frames, mesh))
    assert unrest(watch(np.clip(flicker, 0, 255).astype(np.uint8), mesh)) > calm + 3


def test_a_reader_is_the_same_after_writing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = AttributeReader(dict.fromkeys(ATTRIBUTES, ("a", "b"))).eval()
    save_reader(reader, tmp_path / "reader.safetensors")
    again = open_reader(tmp_path / "reader.safetensors")
    picture = torch.randn(1, 3, 96, 96)
    for name, logits in reader(picture).items():
        assert torch.allclose(again(picture)[name], logits, atol=1e-2)
    assert again.values == reader.values


def test_a_jaw_that_is_linear_in_the_sound_is_found() -> None:
    rows = torch.randn(400, 5, 6, generator=torch.Generator().manual_seed(0))
    jaw = rows[:, BAND, 1] - 0.5 * rows.roll(1, 0)[:, BAND, 2] + 0.3
    fit = JawFit(features(rows).shape[1])
    fit.see(rows, jaw)
    assert features(rows).shape == (400, (2 * AROUND + 1) * 6 + 1)
    assert correlation((features(rows) @ fit.solve()).numpy(), jaw.numpy()) > 0.99
