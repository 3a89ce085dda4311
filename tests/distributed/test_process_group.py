"""One clip by several ranks (gloo) is the clip of one: passes, places of the frame and weights divided."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from humo.cli.main import main
from humo.distributed.parallel_generation import ParallelLayout, choose_parallel_layout
from humo.errors import RequestError
from humo.inference.inputs import GenerationInputs
from humo.jobs.loras import strengths_of
from humo.media.video import read_video
from humo.runtime.loading import load_pipeline
from tests.calls import RED
from tests.distributed.work import SAMPLES, plan_of
from tests.lora_files import write_lora
from tests.tiny import save_tiny_model

ROOT = Path(__file__).parents[2]
PRESETS = ("humo-1.7b", "humo-17b")
ODD = {"width": 80, "height": 48, "frames": 13}
"""Fifteen tokens a frame, four latent frames and one of the reference: nothing that two or four divide."""

LONG = ODD | {"frames": 25, "window": 13, "overlap": 4}


def start(world_size: int, arguments: list[str]) -> None:
    """Run a program as so many ranks, with the environment that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "WORLD_SIZE": str(world_size)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world_size)
    ]
    ends = [process.communicate(timeout=240)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, ends


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for preset in PRESETS:
        save_tiny_model(folder / preset, preset)
        write_lora(folder / f"{preset}.safetensors", preset)
    return folder


def alone(models: Path, case: dict[str, Any]) -> torch.Tensor:
    pipeline = load_pipeline(models / case["preset"], device="cpu", dtype=case.get("dtype", "float32"))
    plan = plan_of(case["preset"], case["fields"])
    pipeline.use_loras(strengths_of(plan.request))
    return pipeline.generate_latents(GenerationInputs(plan, [RED], SAMPLES))


def lora_of(models: Path, preset: str) -> dict[str, Any]:
    return {"loras": [f"{models / preset}.safetensors:0.7"]}


@pytest.mark.parametrize(
    ("size", "layouts"),
    [
        (2, ("auto", "1x2", "2x1")),
        pytest.param(4, ("auto", "1x4", "4x1", "2x2"), marks=pytest.mark.soak),  # word kept: pytest's
    ],
    ids=["two ranks", "four ranks"],
)
def test_several_ranks_make_the_clip_of_one(models: Path, size: int, layouts: tuple[str, ...]) -> None:
    cases: list[dict[str, Any]] = [
        {"preset": preset, "parallel": layout, "fields": ODD} for preset in PRESETS for layout in layouts
    ]
    cases += [
        {"preset": "humo-17b", "parallel": f"2x{size // 2}", "fields": LONG},
        {"preset": "humo-1.7b", "parallel": f"2x{size // 2}", "fields": ODD | {"speed": "balanced"}},
        {"preset": "humo-1.7b", "parallel": f"1x{size}", "fields": ODD, "fsdp": True},
        {"preset": "humo-17b", "parallel": f"{size}x1", "fields": ODD, "fsdp": True},
        {"preset": "humo-1.7b", "parallel": f"{size}x1", "fields": ODD, "fsdp": True, "dtype": "bfloat16"},
        {"preset": "humo-17b", "parallel": f"1x{size}", "fields": ODD | lora_of(models, "humo-17b"), "fsdp": True},
        {"preset": "humo-1.7b", "parallel": f"{size}x1", "fields": ODD | lora_of(models, "humo-1.7b")},
        {
            "preset": "humo-1.7b",
            "parallel": "auto" if size == 2 else "1x4",
            "fields": ODD | {"width": 32, "height": 16},
        },
    ]
    start(size, ["tests.distributed.work", str(models), json.dumps(cases)])
    clips = load_file(models / f"clips-{size}.safetensors")
    errors = json.loads((models / f"errors-{size}.json").read_text())
    if size == 4:
        assert errors == {
            str(
                len(cases) - 1
            ): "--parallel: 4 processes cannot divide the 2 tokens of a frame; start fewer processes, generate a "
            "larger video, or assign more processes to guidance"
        }
    assert len(clips) + len(errors) == len(cases)
    for number, latents in clips.items():
        case = cases[int(number)]
        expected = alone(models, case)
        within = 2e-2 if case.get("dtype") == "bfloat16" else 1e-4
        assert torch.allclose(latents, expected, atol=within * float(expected.abs().max())), case


def test_the_command_writes_one_video(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["--prompt", "x", "--seed", "3", "--steps", "2", "--width", "80", "--height", "48", "--frames", "25"]
    arguments = [
        "generate",
        "--sidecar",
        "--model",
        str(models / "humo-17b"),
        *fields,
        "--window",
        "13",
        "--overlap",
        "4",
    ]
    start(2, ["humo", *arguments, "--parallel", "auto", "--output", str(tmp_path / "two.mp4")])
    assert main([*arguments, "--output", str(tmp_path / "one.mp4")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("one", "two") for kind in ("mp4", "json")
    }
    one, two = (read_video(tmp_path / f"{name}.mp4").frames.astype(int) for name in ("one", "two"))
    assert abs(one - two).mean() <= 0.1, "levels of 255: what is left of a rounding once the codec has had it"


@pytest.mark.parametrize(
    ("size", "passes", "layout"),
    [
        (1, 3, (1, 1)),
        (2, 3, (1, 2)),
        (2, 4, (2, 1)),
        (3, 3, (3, 1)),
        (4, 4, (4, 1)),
        (4, 3, (1, 4)),
        (6, 3, (3, 2)),
        (8, 4, (4, 2)),
    ],
)
def test_passes_are_divided_where_no_rank_is_left_waiting(size: int, passes: int, layout: tuple[int, int]) -> None:
    assert choose_parallel_layout("auto", size, passes) == ParallelLayout(*layout)


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ("2x3", "'2x3' needs 6 processes, but 4 are running"),
        ("many", "'many' is not a division of processes; use --parallel auto, or GUIDANCExCONTEXT"),
        ("0x4", "'0x4' is not a division of processes"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(parallel: str, message: str) -> None:
    with pytest.raises(RequestError, match="--parallel: ") as caught:
        choose_parallel_layout(parallel, 4, 3)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("world_size", "arguments", "message"),
    [
        ("1", ["--fsdp"], "--fsdp: needs several processes"),
        ("2", [], "--parallel: is missing, but torchrun started several processes; add --parallel auto"),
    ],
)
def test_half_of_what_is_needed_is_refused(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    world_size: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.setenv("RANK", "0")
    output = tmp_path / "a.mp4"
    model = str(models / "humo-17b")
    assert main(["generate", "--model", model, "--prompt", "x", "--output", str(output), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
