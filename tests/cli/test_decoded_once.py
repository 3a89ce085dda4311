"""Each input file is decoded once per job, on every path."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from humo.jobs.batch import run_batch, run_locally
from humo.jobs.engine import Engine
from humo.jobs.generate import build_request, generate, prepare_job
from humo.jobs.request_files import Row
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings
from humo.server.worker import Worker
from tests.cli.conftest import SMALL, Humo

ONCE = {"image": 1, "audio": 1}
FIELDS = {"prompt": "a", "images": ["face.png"], "audio": "a.wav", "width": 96, "height": 64, "steps": 1}


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often an image and an audio file are opened by a decoder; reading a header counts as well."""
    counts: Counter[str] = Counter()
    open_image, open_media = Image.open, av.open

    def count_image(source: Any, *args: Any, **options: Any) -> Any:
        counts["image"] += 1
        return open_image(source, *args, **options)

    def count_media(source: Any, *args: Any, **options: Any) -> Any:
        counts["audio"] += str(source).endswith(".wav")
        return open_media(source, *args, **options)

    monkeypatch.setattr(Image, "open", count_image)
    monkeypatch.setattr(av, "open", count_media)
    return counts


@pytest.mark.parametrize("length", [["--frames", "5"], ["--seconds", "0.2"], [], ["--frames", "-1"]])
def test_the_command_line_decodes_each_input_once(
    humo: Humo, desk: Path, tiny_model_folder: Path, decodings: Counter[str], length: list[str]
) -> None:
    options = ["--prompt", "a", "--image", "face.png", "--audio", "a.wav", "--width", "96", "--height", "64"]
    result = humo("generate", "--model", tiny_model_folder, *options, "--steps", "1", *length)
    assert result.code == 0
    assert decodings == ONCE


def test_a_replay_decodes_each_input_once(
    humo: Humo, desk: Path, tiny_model_folder: Path, decodings: Counter[str]
) -> None:
    options = ["--prompt", "a", "--image", "face.png", "--audio", "a.wav"]
    assert humo("generate", "--model", tiny_model_folder, *options, *SMALL).code == 0
    decodings.clear()
    assert humo("generate", "--replay", "out.mp4").code == 0
    assert decodings == ONCE


def test_a_batch_decodes_the_inputs_of_each_row_once(
    humo: Humo, desk: Path, tiny_model_folder: Path, decodings: Counter[str]
) -> None:
    rows = [{"name": name, "frames": frames, **FIELDS} for name, frames in (("one", 5), ("two", -1), ("three", 9))]
    Path("rows.json").write_text(json.dumps(rows))
    assert humo("batch", "rows.json", "--model", tiny_model_folder).code == 0
    assert decodings == {kind: len(rows) * count for kind, count in ONCE.items()}


def test_inputs_that_a_batch_cannot_keep_are_decoded_when_their_row_is_generated(
    desk: Path, tiny_model_folder: Path, decodings: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("humo.jobs.batch.MAX_INPUT_BYTES", 0)
    rows = [Row(1, "one", {**FIELDS, "frames": 5, "model": str(tiny_model_folder)})]
    (outcome,) = run_batch(rows, defaults={}, run_rows=run_locally(Engine()))
    assert outcome.status == "generated"
    assert decodings == {kind: 2 * count for kind, count in ONCE.items()}


def test_a_job_in_python_decodes_each_input_once(desk: Path, tiny_model_folder: Path, decodings: Counter[str]) -> None:
    job = prepare_job(build_request({**FIELDS, "frames": 5, "model": str(tiny_model_folder)}))
    generate(job, engine=Engine())
    assert decodings == ONCE


def test_the_service_and_its_worker_decode_each_input_once(
    desk: Path, tiny_model_folder: Path, decodings: Counter[str]
) -> None:
    """The gate decodes uploads in a process of its own, which is not counted."""
    settings = Settings(folder=desk / "service", models={"tiny": str(tiny_model_folder)})
    store = FileStore(settings.folder)
    store.prepare()
    queue = JobQueue(store.database)
    service = Service(settings, store, queue)
    fields = [(name, str(value)) for name, value in FIELDS.items() if name not in ("images", "audio")]
    fields += [("frames", "5"), ("consent", "true")]
    files = [("images", Path("face.png").read_bytes()), ("audio", Path("a.wav").read_bytes())]
    video = asyncio.run(service.submit([*fields, *files], "owner"))
    assert not decodings
    job = service.find_job(video.id, "owner")
    result = Worker(store, queue, "cpu").run_job(job.id, job.payload)
    queue.close()
    assert "video" in result
    assert decodings == ONCE
