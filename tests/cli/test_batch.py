"""Batches: each row is generated, skipped or fails on its own, and is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from humo import HuMoPipeline
from humo.jobs.batch import run_batch, run_locally
from humo.jobs.engine import Engine
from humo.jobs.request_files import Row
from humo.media.provenance import read_record
from humo.runtime.loading import load_pipeline
from tests.cli.conftest import SMALL, Humo, write_audio
from tests.cli.published_files import published_configuration

ITEMS = {
    "case_1": {"prompt": '"A_man speaks"', "img_paths": ["face.png"], "audio_path": "a.wav"},
    "case_2": {"prompt": "a_woman", "img_paths": ["face.png"], "audio_path": "a.wav"},
}


def put(name: str, value: object) -> str:
    Path(name).write_text(json.dumps(value), encoding="utf-8")
    return name


def statuses(events: Sequence[dict[str, Any]]) -> dict[int, str]:
    return {event["row"]: event["status"] for event in events if "row" in event}


def test_a_published_test_case_is_made_as_it_is(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    result = humo("batch", put("test_case.json", ITEMS), "--model", tiny_model_folder, *SMALL, "--seed", 3, "--json")
    assert result.code == 0
    assert statuses(result.events) == {1: "generated", 2: "generated"}
    assert result.events[-1] == {
        "event": "summary", "generated": 2, "skipped": 0, "failed": 0, "rows": 2, "exit_code": 0
    }  # fmt: skip
    assert read_record(Path("case_1_seed3.mp4")).request["prompt"] == "A man speaks"
    assert read_record(Path("case_2_seed3.mp4")).request["prompt"] == "a woman"
    loads = [event for event in result.only("progress") if event["phase"] == "load" and event["done"] == 0]
    assert len(loads) == 2, "each row has its own progress"


def test_a_bad_row_is_reported_and_stops_no_other(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    rows = [
        {"name": "good", "prompt": "a"},
        {"name": "odd", "prompt": "a", "width": 90},
        {"name": "typo", "prompt": "a", "sead": 1},
        {"name": "silent", "prompt": "a", "audio": "gone.wav"},
        {"name": "good", "prompt": "b"},
        7,
        {"name": "other", "prompt": "b", "output": "named.mp4"},
    ]
    options = ["batch", put("rows.json", rows), "--model", tiny_model_folder, *SMALL, "--output-dir", "made/here"]
    result = humo(*options, "--json")
    assert result.code == 3
    assert sorted(path.name for path in Path("made/here").iterdir()) == ["good.mp4", "named.mp4"]
    errors = {event["row"]: event for event in result.only("error")}
    assert {row: event["field"] for row, event in errors.items()} == {
        2: "width", 3: "sead", 4: "audio", 5: "output", 6: "row"
    }  # fmt: skip
    assert errors[2]["message"].startswith("row 2 (odd): width: 90 is not allowed")
    assert "did you mean 'seed'" in errors[3]["message"]
    assert result.err.count("\n") == 5
    first_made = next(index for index, event in enumerate(result.events) if event["event"] == "progress")
    assert all(result.events.index(event) < first_made for event in errors.values())


def test_finished_rows_are_skipped_and_others_are_not_taken_for_them(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    options = ["--model", tiny_model_folder, *SMALL, "--json"]
    rows: list[dict[str, object]] = [
        {"name": name, "prompt": "a", "images": ["face.png"], "audio": "a.wav"} for name in ("one", "two")
    ]
    assert humo("batch", put("rows.json", rows[:1]), *options).code == 0
    before = Path("one.mp4").stat().st_mtime_ns
    result = humo("batch", put("rows.json", rows), *options)
    assert (result.code, statuses(result.events)) == (0, {1: "skipped", 2: "generated"})
    assert {event["path"] for event in result.events if event.get("status") in ("skipped", "generated")} == {
        "one.mp4",
        "two.mp4",
    }
    assert Path("one.mp4").stat().st_mtime_ns == before
    assert statuses(humo("batch", "rows.json", *options).events) == {1: "skipped", 2: "skipped"}

    rows[0]["seed"] = 1
    other = humo("batch", put("rows.json", rows), *options)
    assert (other.code, statuses(other.events)) == (3, {1: "failed", 2: "skipped"})
    assert "exists and has another request" in other.err
    write_audio(desk / "a.wav", seconds=1.0, pitch=300.0)
    assert statuses(humo("batch", "rows.json", *options).events) == {1: "failed", 2: "failed"}
    overwritten = humo("batch", "rows.json", *options, "--overwrite")
    assert (overwritten.code, statuses(overwritten.events)) == (0, {1: "generated", 2: "generated"})


def test_a_file_that_is_no_video_of_ours_is_never_taken_for_finished(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    Path("one.mp4").write_bytes(b"half of something")
    result = humo("batch", put("rows.json", [{"name": "one", "prompt": "a"}]), "--model", tiny_model_folder, *SMALL)
    assert result.code == 1
    assert Path("one.mp4").read_bytes() == b"half of something"


def test_all_rows_failing_is_a_failure_and_the_summary_says_why(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    rows = [{"prompt": ""}, {"prompt": "a", "steps": "many"}]
    result = humo("batch", put("rows.json", rows), "--model", tiny_model_folder)
    assert result.code == 1
    assert result.out.splitlines()[-1] == "0 generated, 0 skipped, 2 failed"
    assert "2 rows_0002  failed steps: 'many' is not allowed" in result.out


def test_rows_of_one_model_are_made_together(
    desk: Path, tiny_model_folder: Path, tiny_model_folder_17b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    def counted(folder: Path, **settings: Any) -> HuMoPipeline:
        loads.append(folder)
        return load_pipeline(folder, **settings)

    monkeypatch.setattr("humo.runtime.loading.load_pipeline", counted)
    fields = {"prompt": "a", "width": 96, "height": 64, "frames": 5, "steps": 1}
    models = [tiny_model_folder, tiny_model_folder_17b] * 2
    rows = [Row(number, f"row{number}", {"model": str(model)}) for number, model in enumerate(models, 1)]
    outcomes = run_batch(
        rows,
        defaults=fields,
        run_rows=run_locally(Engine()),
    )
    assert [(outcome.row.number, outcome.status) for outcome in outcomes] == [(n, "generated") for n in (1, 2, 3, 4)]
    assert len(loads) == 2


def test_a_dry_run_of_a_batch_makes_nothing(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    rows = [{"name": "one", "prompt": "a"}, {"prompt": "a", "width": 3}]
    result = humo(
        "batch", put("rows.json", rows), "--model", tiny_model_folder, "--dry-run", "--json", "--output-dir", "new"
    )
    assert (result.code, statuses(result.events)) == (3, {1: "ready", 2: "failed"})
    assert not Path("new").exists()
    assert not list(desk.glob("*.mp4"))


def test_a_published_configuration_makes_all_its_items(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    put("test_case.json", ITEMS)
    values = published_configuration(positive_prompt="test_case.json", height=64, width=96, frames=5)
    Path("generate.yaml").write_text(yaml.safe_dump(values))
    options = ["generation.mode=TA", "generation.seed=11", "generation.scale_t=7.0"]
    options += ["diffusion.timesteps.sampling.steps=1"]
    result = humo("generate", "--config", "generate.yaml", *options, "--model", tiny_model_folder, "--json")
    assert result.code == 0
    assert sorted(path.name for path in Path("output").iterdir()) == ["case_1_seed11.mp4", "case_2_seed11.mp4"]
    request = read_record(Path("output/case_1_seed11.mp4")).request
    assert (request["mode"], request["scale_text"], request["steps"], request["images"]) == ("TA", 7.0, 1, [])
    notes = [event["text"] for event in result.only("note")]
    assert sum("keys without effect" in note for note in notes) == 1
    assert "row 1 (case_1): mode TA: images given but not used" in notes


def test_a_published_configuration_with_a_prompt_makes_one_video(
    humo: Humo, desk: Path, tiny_model_folder_17b: Path
) -> None:
    values = published_configuration(height=64, width=96, frames=5, mode="TA")
    Path("generate.yaml").write_text(yaml.safe_dump(values))
    result = humo(
        *("generate", "--config", "generate.yaml", "--model", tiny_model_folder_17b, "--prompt", "a"),
        *("--audio", "a.wav", "--steps", 1, "--dry-run", "--json"),
    )
    (plan,) = result.only("plan")
    assert Path(plan["request"]["output"]) == Path("output/out.mp4")
    assert any("is for humo-1.7b" in event["text"] for event in result.only("note"))


def test_a_published_configuration_without_a_model_folder_says_how_to_make_one(humo: Humo, desk: Path) -> None:
    Path("generate.yaml").write_text(yaml.safe_dump(published_configuration()))
    result = humo("generate", "--config", "generate.yaml", "--prompt", "a")
    assert result.code == 2
    assert "humo convert" in result.err


@pytest.mark.parametrize("name", ["rows.csv", "rows.yaml", "rows.toml", "rows.jsonl"])
def test_each_kind_of_file_is_made(humo: Humo, desk: Path, tiny_model_folder: Path, name: str) -> None:
    text = {
        "rows.csv": "name,prompt,images,frames,sidecar\none,a man,face.png;face.png,5,yes\n",
        "rows.yaml": "one: {prompt: a man, images: [face.png, face.png], frames: 5, sidecar: true}",
        "rows.toml": '[one]\nprompt = "a man"\nimages = ["face.png", "face.png"]\nframes = 5\nsidecar = true',
        "rows.jsonl": '{"name": "one", "prompt": "a man", "images": ["face.png", "face.png"], "frames": 5, '
        '"sidecar": true}',
    }[name]
    Path(name).write_text(text)
    result = humo("batch", name, "--model", tiny_model_folder, "--width", 96, "--height", 64, "--steps", 1, "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert len(read_record(Path("one.json")).request["images"]) == 2


@pytest.mark.parametrize("output", ["../escaped.mp4", "sub/../../escaped.mp4", "/tmp/escaped.mp4"])
def test_a_row_cannot_write_outside_the_output_folder(
    output: str, humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    rows = put("rows.json", [{"prompt": "a", "output": output}, {"prompt": "b", "output": "sub/inside.mp4"}])
    result = humo(
        "batch", rows, "--model", tiny_model_folder, *SMALL, "--output-dir", "made/here", "--dry-run", "--json"
    )
    assert statuses(result.events) == {1: "failed", 2: "ready"}
    assert any("is outside the output folder" in json.dumps(event) for event in result.events)


def test_a_name_that_is_too_long_for_its_windows_is_refused_before_any_work(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    for length, code in ((242, 0), (243, 2)):
        name = "\u7535" * (length // 3) + "x" * (length % 3) + ".mp4"
        result = humo("generate", "--model", tiny_model_folder, "--prompt", "a", *SMALL, "--output", name, "--dry-run")
        assert result.code == code, result.err
    assert "output: its name has 247 bytes; give a name of at most 246 bytes" in result.err
