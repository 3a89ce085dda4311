"""Metrics of rendered clips: faces, mouths, identities, attributes, temporal flicker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from humo.analysis.face_mesh import FaceMesh
from humo.analysis.lip_sync import (
    AUDIO_BAND,
    CONTEXT_ROWS,
    JawRegression,
    audio_features,
    correlation,
    correlation_by_lag,
)
from humo.analysis.mesh_track import track_faces
from humo.analysis.stability import temporal_flicker
from humo.evaluation.attribute_classifier import ATTRIBUTES, AttributeClassifier, load_classifier, save_classifier
from humo.evaluation.case_sources import read_source
from humo.evaluation.cases import Case
from humo.evaluation.metrics.ground_truth import psnr
from humo.media.clip_reader import read_clip
from humo.media.face_identity import FaceIdentity
from humo.media.image import load_image
from humo.training.dataset import read_truth


@dataclass(frozen=True, eq=False)
class Sample:
    """A true clip with its jaw curve."""

    case: Case
    frames: NDArray[np.uint8]
    jaw: NDArray[np.float64]


@pytest.fixture(scope="module")
def samples(corpus: Path) -> list[Sample]:
    loaded = []
    for case in read_source(corpus).cases:
        assert case.truth is not None
        assert case.truth_video is not None
        curve = read_truth(case.truth).mouth
        assert curve is not None
        loaded.append(Sample(case, read_clip(case.truth_video).frames, curve[:, 0].astype(np.float64)))
    return loaded


def test_the_mesh_detects_faces_and_only_faces(samples: list[Sample]) -> None:
    mesh = FaceMesh()
    meshes = [mesh.detect(sample.frames[12]) for sample in samples]
    assert all(face is not None for face in meshes)
    for face in meshes:
        assert face is not None
        left, top, right, bottom = face.box
        assert 0 < right - left < 96
        assert 0 < bottom - top < 96
        mouth, eyes = face.points[13], face.points[33]
        assert mouth[1] > eyes[1] + 10, "the mouth is below the eyes"
    assert mesh.detect(np.full((96, 96, 3), 128, np.uint8)) is None
    assert mesh.detect(np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8)) is None


def test_mesh_points_lie_on_the_face_in_frames_of_another_aspect(samples: list[Sample]) -> None:
    frame = samples[0].frames[12]
    wide = np.pad(frame, ((0, 0), (60, 20), (0, 0)), mode="edge")
    plain, moved = FaceMesh().detect(frame), FaceMesh().detect(wide)
    assert plain is not None
    assert moved is not None
    assert np.abs(moved.points - plain.points - (60, 0)).mean() < 2


def test_mouths_follow_the_true_jaw(samples: list[Sample]) -> None:
    mesh = FaceMesh()
    own = []
    for sample in samples:
        mouth = track_faces(sample.frames, mesh).mouth_aspect
        assert mouth is not None
        own.append(correlation(mouth, sample.jaw))
    assert np.mean(own) > 0.5


def test_a_clip_is_nearest_to_its_own_reference(samples: list[Sample]) -> None:
    recognizer = FaceIdentity()
    clips = [recognizer.embed_all(sample.frames, 3) for sample in samples]
    references = [recognizer.embed(np.asarray(load_image(sample.case.references[0]))) for sample in samples]
    for number, clip in enumerate(clips):
        assert clip is not None
        distances = [float(np.linalg.norm(clip - other)) for other in references if other is not None]
        others = [
            distance
            for sample, distance in zip(samples, distances, strict=True)
            if sample.case.person != samples[number].case.person
        ]
        assert distances[number] < min(0.4, *others)
    assert recognizer.embed(np.full((96, 96, 3), 128, np.uint8)) is None


def test_the_best_lag_is_positive_where_the_mouth_is_late() -> None:
    jaw = np.sin(np.arange(60) / 3)
    correlations = correlation_by_lag(np.roll(jaw, 2)[2:], jaw[2:])
    assert max(correlations, key=lambda lag: correlations[lag]) == 2
    assert correlation(jaw, np.zeros(60)) == 0.0


def test_psnr_and_temporal_flicker_match_their_definitions(samples: list[Sample]) -> None:
    black = np.zeros((4, 8, 8, 3), np.uint8)
    assert psnr(black, black + 255) == pytest.approx(0)
    frames = samples[0].frames
    flicker = frames.astype(np.int16) + 6 * (np.arange(len(frames)) % 2)[:, None, None, None]
    mesh = FaceMesh()
    still = temporal_flicker(track_faces(frames, mesh))
    assert temporal_flicker(track_faces(np.clip(flicker, 0, 255).astype(np.uint8), mesh)) > still + 3


def test_a_classifier_survives_writing_and_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = AttributeClassifier(dict.fromkeys(ATTRIBUTES, ("a", "b"))).eval()
    save_classifier(classifier, tmp_path / "classifier.safetensors")
    loaded = load_classifier(tmp_path / "classifier.safetensors")
    image = torch.randn(1, 3, 96, 96)
    for name, logits in classifier(image).items():
        assert torch.allclose(loaded(image)[name], logits, atol=1e-2)
    assert loaded.values == classifier.values


def test_a_jaw_that_is_linear_in_the_audio_features_is_recovered() -> None:
    rows = torch.randn(400, 5, 6, generator=torch.Generator().manual_seed(0))
    jaw = rows[:, AUDIO_BAND, 1] - 0.5 * rows.roll(1, 0)[:, AUDIO_BAND, 2] + 0.3
    fit = JawRegression(audio_features(rows).shape[1])
    fit.update(rows, jaw)
    assert audio_features(rows).shape == (400, (2 * CONTEXT_ROWS + 1) * 6 + 1)
    assert correlation((audio_features(rows) @ fit.solve()).numpy(), jaw.numpy()) > 0.99
