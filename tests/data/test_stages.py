"""Inventory and scan on small videos: damage, orientation, tracks, cuts and dissolves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from humo.data.build_recipe import ShotConfig
from humo.data.inventory import inspect_source
from humo.data.scan import scan_unit
from humo.data.stage_process import attempt
from humo.data.tasks import Values
from humo.media.clip_reader import read_clip
from tests.data.raw_videos import DAMAGES, Frames, Reel, Shot, damage, set_rotation, write_raw

SIZE = 96


def _scene(seed: int, count: int) -> Frames:
    """Frames of one scene: colored squares that move by a pixel a frame."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (8, 8 + count // 12 + 1, 3)).astype(np.uint8)
    wide = coarse.repeat(12, axis=0).repeat(12, axis=1)
    return np.stack([wide[:, at : at + SIZE] for at in range(count)])


def _write(path: Path, frames: Frames, *, two_tracks: bool = False) -> Path:
    samples = np.random.default_rng(0).normal(0, 0.1, len(frames) * 640).astype(np.float32)
    write_raw(path, frames, [n / 25 for n in range(len(frames))], samples, two_tracks=two_tracks)
    return path


def test_an_inventory_has_size_length_and_tracks(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mkv", _scene(0, 50), two_tracks=True)
    facts = inspect_source({"path": str(path)})
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts["width"], facts["height"], facts["audio_tracks"]) == (SIZE, SIZE, 2)
    assert facts["seconds"] == pytest.approx(2.0, abs=0.05)
    assert facts["rate"] == pytest.approx(25, abs=0.7)


def test_a_turned_video_has_its_upright_size(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", _scene(0, 30)[:, :64])
    set_rotation(path)
    facts = inspect_source({"path": str(path)})
    assert (facts["width"], facts["height"]) == (64, SIZE)


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    frames = _scene(0, 30)
    shot = Shot("scene", 0, frames, np.zeros(len(frames) * 640, np.float32), False)
    Reel().add(shot).write(tmp_path / "plain.mp4")
    Reel().add(shot).write(tmp_path / "a.mp4", "rotated")
    plain, turned = (read_clip(tmp_path / name).frames.astype(int) for name in ("plain.mp4", "a.mp4"))
    upright, upside_down = (np.abs(each - plain).mean() for each in (turned, turned[:, ::-1, ::-1]))
    assert upright < 10 < 50 < upside_down  # colors are stored at half the resolution, so edges differ


def _payload(path: Path, facts: Values, count: int) -> Values:
    shots = ShotConfig(min_frames=25).model_dump()
    return {"path": str(path), "origin": facts["origin"], "first": 0, "count": count, "shots": shots}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_named_and_not_changed(kind: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.mp4", _scene(0, 100))
    damage(path, kind)
    before = path.read_bytes()
    outcome = attempt("inventory", {"path": str(path)})
    if outcome["ending"] == "done":  # bits that were flipped inside a frame are found when it is decoded
        outcome = attempt("scan", _payload(path, outcome["result"], 100))
    assert outcome["ending"] == "error"
    assert outcome["reason"]
    assert path.read_bytes() == before


def _scan(path: Path, count: int, *, second_look: bool = True) -> Values:
    payload = _payload(path, inspect_source({"path": str(path)}), count)
    payload["shots"]["second_look"] = second_look
    return scan_unit(payload)


def test_cuts_are_found_to_the_frame(tmp_path: Path) -> None:
    frames = np.concatenate([_scene(seed, length) for seed, length in ((1, 40), (2, 33), (3, 50))])
    assert _scan(_write(tmp_path / "a.mp4", frames), len(frames), second_look=False)["cuts"] == [40, 73]


def test_a_dissolve_is_found_by_the_second_look(tmp_path: Path) -> None:
    one, two = _scene(4, 60).astype(float), _scene(5, 60).astype(float)
    weights = np.linspace(0, 1, 14)[1:-1, None, None, None]
    blended = one[-12:] * (1 - weights) + two[:12] * weights
    frames = np.concatenate([one[:-12], blended, two[12:]]).round().astype(np.uint8)
    result = _scan(_write(tmp_path / "a.mp4", frames), len(frames))
    edges = [edge for span in result["transitions"] for edge in span] + result["cuts"]
    assert edges
    assert all(44 <= edge <= 64 for edge in edges)


def test_a_part_reports_only_its_own_cuts(tmp_path: Path) -> None:
    frames = np.concatenate([_scene(seed, 60) for seed in (1, 2, 3)])
    path = _write(tmp_path / "a.mp4", frames)
    facts = inspect_source({"path": str(path)})
    shots = ShotConfig(min_frames=25, second_look=False).model_dump()
    parts = [scan_unit({**_payload(path, facts, 90), "first": first, "shots": shots}) for first in (0, 90)]
    assert [part["cuts"] for part in parts] == [[60], [120]]
    assert [part["end"] for part in parts] == [90, 180]
