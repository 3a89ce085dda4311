"""Existing videos, random seeds, several variations of a request, and what is said at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from humo.media.provenance import read_record
from humo.progress import Event
from tests.cli.conftest import SMALL, Humo

PROMPT = ["--prompt", "a man speaks"]


def test_an_existing_video_is_replaced_only_if_asked(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    (desk / "out.mp4").write_bytes(b"mine")
    refused = humo("generate", "--model", tiny_model_folder, *PROMPT, *SMALL)
    assert (refused.code, refused.err) == (
        2,
        "humo: output: 'out.mp4' exists; give another --output, or add --overwrite\n",
    )
    assert (desk / "out.mp4").read_bytes() == b"mine"
    assert humo("generate", "--model", tiny_model_folder, *PROMPT, *SMALL, "--dry-run").code == 0
    assert humo("generate", "--model", tiny_model_folder, *PROMPT, *SMALL, "--overwrite").code == 0
    assert (desk / "out.mp4").read_bytes() != b"mine"


def test_variations_have_numbered_files_and_one_seed_after_the_other(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    result = humo("generate", "--model", tiny_model_folder, *PROMPT, *SMALL, "--seed", "7", "--count", "3", "--json")
    assert result.code == 0
    assert [one["path"] for one in result.only("result")] == ["out-1.mp4", "out-2.mp4", "out-3.mp4"]
    assert [read_record(desk / f"out-{number}.mp4").request["seed"] for number in (1, 2, 3)] == [7, 8, 9]
    assert not (desk / "out.mp4").exists()
    refused = humo("generate", "--model", tiny_model_folder, *PROMPT, *SMALL, "--count", "2")
    assert "'out-1.mp4' exists" in refused.err


def test_a_random_seed_is_another_one_each_time_and_is_recorded(
    humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    seeds = []
    for _ in range(2):
        result = humo(
            "generate", "--model", tiny_model_folder, *PROMPT, *SMALL, "--seed", "random", "--dry-run", "--json"
        )
        (plan,) = result.only("plan")
        seeds.append(plan["request"]["seed"])
    assert seeds[0] != seeds[1]


def test_variations_of_a_random_seed_follow_each_other(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    options = ["--seed", "random", "--count", "2", "--json"]
    result = humo("generate", "--model", tiny_model_folder, *PROMPT, *SMALL, *options)
    first, second = (one["seed"] for one in result.only("result"))
    assert second == first + 1
    assert read_record(desk / "out-1.mp4").request["seed"] == first


@pytest.mark.parametrize("options", [["--image", "face.png", "b.png"], ["--image", "face.png", "--image", "b.png"]])
def test_several_images_follow_one_option_or_several(
    humo: Humo, desk: Path, tiny_model_folder: Path, options: list[str]
) -> None:
    (desk / "b.png").write_bytes((desk / "face.png").read_bytes())
    result = humo("generate", "--model", tiny_model_folder, *PROMPT, *SMALL, *options, "--dry-run", "--json")
    (plan,) = result.only("plan")
    assert plan["request"]["images"] == ["face.png", "b.png"]


def test_a_field_of_the_configuration_may_follow_an_image(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    (desk / "job.toml").write_text('prompt = "a"\nframes = 9\n')
    result = humo(
        *("generate", "--model", tiny_model_folder, "--config", "job.toml"),
        *("--image", "face.png", "frames=5", "--dry-run", "--json"),
    )
    (plan,) = result.only("plan")
    assert (plan["request"]["images"], plan["request"]["frames"]) == (["face.png"], 5)


@pytest.mark.parametrize("argv", [[], ["help"], ["help", "generate"], ["data", "build", "--help"], ["models", "-h"]])
def test_help_is_shown_wherever_it_is_asked_for(humo: Humo, argv: list[str]) -> None:
    result = humo(*argv)
    assert (result.code, result.err) == (0, "")
    assert "usage: humo" in result.out


def test_a_web_address_is_no_input(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    result = humo("generate", "--model", tiny_model_folder, *PROMPT, "--image", "https://example.com/a.png")
    assert result.code == 2
    assert "download the file, and give its path" in result.err


def test_a_prompt_without_its_option_is_explained(humo: Humo, desk: Path) -> None:
    refused = humo("generate", "A man speaks.", "-o", "a.mp4")
    assert (refused.code, refused.err) == (
        2,
        "humo: 'A man speaks.': is not an option; to describe the scene: --prompt 'TEXT'\n",
    )


def test_a_models_name_may_be_written_in_other_letters(humo: Humo) -> None:
    assert humo("generate", "--model", "HuMo-Nano", *PROMPT, "--dry-run").code == 0


def test_finished_windows_are_kept_and_said(desk: Path, tiny_model_folder: Path) -> None:
    """Interrupted after a window: what is kept is printed, and the same command prints that it resumes."""
    command = [
        *(sys.executable, "-m", "humo", "generate", "--model", str(tiny_model_folder), *PROMPT, "--frames", "49"),
        *("--window", "13", "--overlap", "4", "--width", "96", "--height", "64", "--steps", "3"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    windows = desk / ".out.mp4.windows"
    deadline = time.monotonic() + 300
    while not list(windows.glob("*.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    text = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "windows are finished and kept: the same command resumes from there" in text
    resumed = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert "windows were finished before; generation resumes from there" in resumed.stderr


def test_progress_of_a_long_clip_never_falls(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    options = ["--frames", "33", "--window", "13", "--overlap", "4", "--width", "96", "--height", "64", "--steps", "2"]
    result = humo("generate", "--model", tiny_model_folder, *PROMPT, *options, "--json")
    events = result.only("progress")
    shares = [event["fraction"] for event in events]
    assert shares == sorted(shares)
    phases = [event["phase"] for event in events]
    assert phases.index("decode") < len(phases) - 1 - phases[::-1].index("denoise"), "windows alternate"
    assert Event("load", 0, 1).fraction == 0
