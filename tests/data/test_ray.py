"""Workers in a Ray cluster of two machines, one of which is lost. With ``make soak``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.raw_videos import Reel, Shot
from tests.data.test_build import QUICK, checksums
from tests.server.raynodes import is_installed, nodes

VIDEOS = 12
"""Videos of noise, each with one inventory and one scan."""

WAIT_SECONDS = 600.0
"""Elapsed seconds that a run may take on a busy machine."""


@pytest.mark.soak
@pytest.mark.skipif(not is_installed(), reason="Ray is not installed")
def test_a_lost_machine_changes_no_byte(tmp_path: Path) -> None:
    videos, recipe = tmp_path / "videos", tmp_path / "quick.toml"
    videos.mkdir()
    recipe.write_text(QUICK)
    random = np.random.default_rng(0)
    for number in range(VIDEOS):
        frames = random.integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
        Reel().add(Shot("noise", 0, frames, np.zeros(40 * 640, np.float32), False)).write(videos / f"{number}.mp4")
    command = [sys.executable, "-m", "humo", "data", "build", str(videos)]
    options = ["--recipe", str(recipe), "--quiet"]
    subprocess.run([*command, str(tmp_path / "local"), *options, "--workers", "1"], check=True)
    journal = tmp_path / "ray" / "work" / "journal.jsonl"
    with nodes() as cluster:
        run = subprocess.Popen([*command, str(tmp_path / "ray"), *options, "--ray", cluster.address], env=os.environ)
        deadline = time.monotonic() + WAIT_SECONDS
        while run.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert run.poll() is None, "the run must still work when the machine is lost"
        cluster.send("kill")
        assert run.wait(WAIT_SECONDS) == 0
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    keys = [(line["stage"], line["key"]) for line in lines]
    assert len(keys) == len(set(keys)) == 2 * VIDEOS
    assert not [line for line in lines if "fault" in line]
    assert checksums(tmp_path / "ray") == checksums(tmp_path / "local")
