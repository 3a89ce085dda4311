"""Whatever is wrong with what is given: one line that says what, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Humo
from tools.docs_reference.messages import Message

GOOD = ["--model", "MODEL", "--prompt", "a man", "--width", "96", "--height", "64", "--frames", "5", "--steps", "1"]


def text(name: str, content: str | bytes) -> Callable[[], object]:
    return lambda: Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def huge_image() -> None:
    """A PNG whose header says 20000 x 20000 pixels."""
    Image.new("L", (1, 1)).save("huge.png")
    data = Path("huge.png").read_bytes()
    header = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + data[24:29]
    Path("huge.png").write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])


def cut_weights() -> None:
    shutil.copytree("MODEL", "cut")
    weights = next(Path("cut/transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])


def pickled_weights() -> None:
    Path("pickled").mkdir()
    Path("pickled/ema.pth").write_bytes(b"\x80\x04cos\nsystem\n.")


BAD = {
    "a typo in an option": (["generate", *GOOD, "--widht", "96"], "--widht", "did you mean '--width'", None),
    "an option without its value": (["generate", *GOOD, "--seed"], "--seed", "expected one argument", None),
    "a typo in a command": (["genrate"], "genrate", "did you mean 'generate'", None),
    "an unknown option alone": (["--frobnicate"], "--frobnicate", "not an option", None),
    "no prompt": (["generate", "--model", "MODEL"], "prompt", "is missing", None),
    "an empty prompt": (["generate", "--model", "MODEL", "--prompt", ""], "prompt", "not allowed", None),
    "an evaluation of nothing known": (["evaluate", "nan"], "evaluate", "known are benchmark, compare", None),
    "a benchmark without its folder": (["evaluate", "benchmark"], "FOLDER", "0 paths are given", None),
    "a benchmark of no cases": (["evaluate", "benchmark", "b", "--limit", "0"], "--limit", "not allowed", None),
    "an evaluation of nothing": (["evaluate", "run", "none", "out"], "SOURCE", "there is no 'none'", None),
    "a benchmark of a strange size": (["evaluate", "benchmark", "b", "--truth", "x"], "--truth", "not allowed", None),
    "an evaluation of an unknown suite": (["evaluate", "run", ".", "out", "--suite", "x"], "--suite", "unknown", None),
    "an evaluation by nothing": (["evaluate", "run", ".", "out", "--metrics", "x"], "--metrics", "unknown", None),
    "an evaluation with a field": (["evaluate", "run", ".", "out", "shift=3"], "shift=3", "--model NAME", None),
    "an evaluation of no video": (["evaluate", "video"], "FILE", "0 paths are given", None),
    "a video that is not there": (["evaluate", "video", "none.mp4"], "FILE", "there is no file", None),
    "a comparison of nothing": (["evaluate", "compare", "a", "b"], "OUT", "'a' holds no evaluation", None),
    "a report of nothing": (["evaluate", "report", "none"], "OUT", "'none' holds no evaluation", None),
    "weights of nothing": (["evaluate", "weights", "get", "x"], "NAME", "'x' is unknown", None),
    "a part without its recipe": (["train", "vae"], "recipe", "is missing", None),
    "a part's recipe that is not there": (["train", "text", "none.toml"], "none.toml", "", None),
    "a closeness beyond all": (
        ["data", "render", "x", "--clips", "1", "--closeup", "2"],
        "--closeup",
        "from 0 to 1",
        None,
    ),
    "a missing model": (["generate", *GOOD, "--model", "none"], "model", "'none' is not a folder", None),
    "a model that is a file": (["generate", *GOOD, "--model", "face.png"], "model", "'face.png' is not a folder", None),
    "parallel generation in one process": (
        ["generate", *GOOD, "--parallel", "auto"],
        "--parallel",
        "needs several processes, but one is running; run `torchrun ",
        None,
    ),
    "a replay of a text": (["generate", "--replay", "t.mp4"], "--replay", "is not a video", text("t.mp4", "hi")),
    "an evaluation of a text": (["evaluate", "video", "t.mp4"], "video", "is not a video", text("t.mp4", "hi")),
    "a folder without a model": (["generate", *GOOD, "--model", "."], ".", "not a model folder", None),
    "weights cut short": (["generate", *GOOD, "--model", "cut"], "cut", "", cut_weights),
    "a width that is not a multiple": (["generate", *GOOD, "--width", "90"], "width", "a multiple of 16", None),
    "a width that is no number": (["generate", *GOOD, "--width", "wide"], "width", "whole number", None),
    "a huge height": (["generate", *GOOD, "--height", "16000"], "height", "8192", None),
    "no frames": (["generate", *GOOD, "--frames", "0"], "frames", "not allowed", None),
    "frames and seconds": (["generate", *GOOD, "--seconds", "1"], "frames and seconds", "not both", None),
    "NaN": (["generate", *GOOD, "--scale-text", "nan"], "scale_text", "not allowed", None),
    "infinity": (["generate", *GOOD, "--scale-audio", "inf"], "scale_audio", "not allowed", None),
    "an absurd scale": (["generate", *GOOD, "--scale-image", "1e9"], "scale_image", "0 to 50", None),
    "a negative seed": (["generate", *GOOD, "--seed", "-5"], "seed", "not allowed", None),
    "no steps": (["generate", *GOOD, "--steps", "0"], "steps", "1 to 1000", None),
    "an unknown mode": (["generate", *GOOD, "--mode", "TAI"], "mode", "did you mean", None),
    "a mode without its audio": (["generate", *GOOD, "--mode", "TA"], "mode", "needs audio", None),
    "a mode without its image": (["generate", *GOOD, "--mode", "TI"], "mode", "needs images", None),
    "the length of the audio without audio": (["generate", *GOOD, "--frames", "-1"], "frames", "no audio", None),
    "an unknown device": (["generate", *GOOD, "--device", "tpu"], "device", "not known", None),
    "a device that is not there": (["generate", *GOOD, "--device", "mps"], "device", "not available", None),
    "a missing image": (["generate", *GOOD, "--image", "no.png"], "images", "no file", None),
    "an empty image": (["generate", *GOOD, "--image", "e.png"], "images", "is empty", text("e.png", "")),
    "an image that is text": (["generate", *GOOD, "--image", "t.png"], "images", "not an image", text("t.png", "hi")),
    "an image cut short": (
        ["generate", *GOOD, "--image", "cut.png"],
        "images",
        "cannot be decoded",
        lambda: Path("cut.png").write_bytes(Path("face.png").read_bytes()[:90]),
    ),
    "an image that is a folder": (["generate", *GOOD, "--image", "."], "images", "folder", None),
    "an image of 400 megapixels": (["generate", *GOOD, "--image", "huge.png"], "images", "too large", huge_image),
    "missing audio": (["generate", *GOOD, "--audio", "no.wav"], "audio", "no file", None),
    "empty audio": (["generate", *GOOD, "--audio", "e.wav"], "audio", "is empty", text("e.wav", "")),
    "audio that is an image": (["generate", *GOOD, "--audio", "face.png"], "audio", "", None),
    "audio that is text": (["generate", *GOOD, "--audio", "t.mp3"], "audio", "", text("t.mp3", "la la la" * 99)),
    "a separator that is not there": (
        ["generate", *GOOD, "--audio", "a.wav", "--vocal-separator", "no.onnx"],
        "vocal_separator",
        "no file",
        None,
    ),
    "an output that is no video": (["generate", *GOOD, "--output", "out.avi"], "output", ".mp4", None),
    "an output that is a folder": (
        ["generate", *GOOD, "--output", "d.mp4"],
        "output",
        "folder",
        lambda: Path("d.mp4").mkdir(),
    ),
    "an output below a file": (
        ["generate", *GOOD, "--output", "face.png/out.mp4"],
        "output",
        "cannot be written",
        None,
    ),
    "an output nobody may write": (
        ["generate", *GOOD, "--output", "/proc/out.mp4"],
        "output",
        "cannot be written",
        None,
    ),
    "an output that is an input": (
        ["generate", *GOOD, "--audio", "a.mp4", "--output", "a.mp4"],
        "output",
        "one of the inputs",
        lambda: shutil.copy("a.wav", "a.mp4"),
    ),
    "an override without a configuration": (["generate", *GOOD, "seed=1"], "seed=1", "no --config", None),
    "a configuration that is not there": (["generate", "--config", "no.yaml"], "no.yaml", "no such file", None),
    "a typo in a job file": (
        ["generate", "--config", "job.yaml"],
        "job.yaml: promt",
        "did you mean 'prompt'",
        text("job.yaml", "promt: a"),
    ),
    "a job file that runs code": (
        ["generate", "--config", "job.yaml"],
        "job.yaml",
        "not YAML",
        text("job.yaml", "!!python/object/apply:os.system ['true']"),
    ),
    "from a video of somebody else": (["generate", "--replay", "a.wav"], "--replay", "has no generation record", None),
    "from a file that is not there": (["generate", "--replay", "no.mp4"], "--replay", "no file", None),
    "from and configuration": (
        ["generate", "--replay", "a.mp4", "--config", "b.yaml"],
        "--replay",
        "cannot be combined",
        None,
    ),
    "a batch file that is not there": (["batch", "no.json"], "no.json", "no such file", None),
    "a batch without its file": (["batch"], "FILE", "is missing", None),
    "a batch file without rows": (["batch", "rows.json"], "rows.json", "no rows", text("rows.json", "[]")),
    "a batch file of another kind": (["batch", "a.wav"], "a.wav", "not a supported file type", None),
    "a record where a job file is": (
        ["generate", *GOOD, "--output", "job.mp4", "--sidecar"],
        "sidecar",
        "not a generation record",
        text("job.json", "{}"),
    ),
    "a record where a folder is": (
        ["generate", *GOOD, "--output", "videos.mp4", "--sidecar"],
        "sidecar",
        "not a generation record",
        lambda: Path("videos.json").mkdir(),
    ),
    "an output in a new folder, and another fault": (
        ["generate", *GOOD, "--output", "new/folder/a.avi"],
        "output",
        "end in .mp4",
        None,
    ),
    "one output for a batch": (["batch", "rows.json", "--output", "a.mp4"], "--output", "--output-dir", None),
    "an output folder that is a file": (
        ["batch", "rows.json", "--output-dir", "a.wav"],
        "output folder",
        "cannot be created",
        text("rows.json", '[{"prompt": "a"}]'),
    ),
    "a conversion without destination": (["convert", "MODEL"], "DESTINATION", "is missing", None),
    "a conversion of nothing": (["convert", "no", "new"], "no", "", None),
    "a conversion to an unknown type": (["convert", "MODEL", "new", "--dtype", "int4"], "dtype", "", None),
    "a conversion to an unknown layout": (["convert", "MODEL", "new", "--to", "theirs"], "naming", "", None),
    "a conversion with an odd head": (["convert", "MODEL", "new", "--head-dim", "x"], "--head-dim", "whole", None),
    "pickled code": (["convert", "pickled", "new"], "pickled", "", pickled_weights),
}


FOUND_WITH_TORCH = ("a device that is not there",)
"""Errors that only torch can find; what will be generated has been printed by then."""


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_the_page_of_errors_has_and_exit_code_2(
    humo: Humo, desk: Path, tiny_model_folder: Path, name: str, known_messages: tuple[Message, ...]
) -> None:
    arguments, field, problem, make = BAD[name]
    Path("MODEL").symlink_to(tiny_model_folder)
    if make is not None:
        make()
    before = sorted(desk.rglob("*"))
    result = humo(*arguments)
    assert result.code == 2, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    *progress, error = result.err.splitlines()
    assert error.startswith("humo: ")
    assert not progress or name in FOUND_WITH_TORCH
    assert field in error
    assert problem in error
    line = error.removeprefix("humo: ")
    assert any(message.matches(line) for message in known_messages), line
    assert sorted(desk.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [(["serve"], "serve"), (["ui"], "serve"), (["serve", "--ui", "--ray", "local"], "ray")],
)
def test_missing_packages_are_installed_by_one_command(
    humo: Humo, monkeypatch: pytest.MonkeyPatch, arguments: list[str], extras: str
) -> None:
    monkeypatch.setattr("humo.cli.options.importlib.util.find_spec", lambda name: None)
    result = humo(*arguments)
    assert (result.code, result.err) == (2, f"humo: dbos: is not installed; pip install 'humo-video[{extras}]'\n")


def test_bad_input_is_reported_to_programs_in_parts(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    result = humo("generate", "--model", tiny_model_folder, "--prompt", "a", "--width", "90", "--json")
    (error,) = result.events
    assert error == {
        "event": "error",
        "kind": "RequestError",
        "field": "width",
        "problem": "'90' is not allowed",
        "remedy": "allowed: a whole number, 16 to 8192, a multiple of 16",
        "message": result.err.removeprefix("humo: ").strip(),
    }


@pytest.mark.parametrize("arguments", [["generate", "--prompt", "a", "--wdith", "3"], ["batch", "none.csv"], ["frob"]])
def test_the_installed_command_ends_with_2_and_one_line(desk: Path, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "humo", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_an_unexpected_failure_is_one_line_that_says_how_to_see_more(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    """Settings that no pipeline understands pass the look at the folder, and fail in a library."""
    shutil.copytree(tiny_model_folder, "odd")
    path = Path("odd/scheduler/scheduler_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"solver_order": "two"}))
    arguments = ["generate", *GOOD, "--model", "odd"]
    result = humo(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1].startswith("humo: failed: TypeError: ")
    assert "--debug" in result.err
    assert "Traceback" not in result.err
    assert "Traceback" in humo(*arguments, "--debug").err
    assert not list(desk.glob("*.mp4"))
