"""Checks of diffusers' own suites for every pipeline, names of models, and writing the video."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from humo import HuMoPipeline, save_video
from humo.errors import CheckpointError, RequestError
from humo.inference.model_card import AUTOMATIC_CARD, model_card
from humo.media.provenance import read_record
from humo.media.video import read_video

SMALL: dict[str, Any] = {"width": 96, "height": 64, "num_frames": 5, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipe(tiny_model_folder: Path) -> HuMoPipeline:
    pipeline = HuMoPipeline.from_pretrained(tiny_model_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", ["humo-nano", "HuMo-Nano", "humo-nano-teacher"])
def test_a_name_that_models_lists_is_loaded(name: str) -> None:
    assert HuMoPipeline.from_pretrained(name).transformer is not None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (Path("nowhere"), "is neither a model folder nor a known name"),
        ("humo-nan", "did you mean 'humo-nano'?"),
        ("humo-1.7b", "run `humo models get humo-1.7b`"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(name: Path | str, text: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        HuMoPipeline.from_pretrained(name)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_state_of_a_call_can_be_read(pipe: HuMoPipeline) -> None:
    timesteps = []

    def at_end(pipeline: HuMoPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        assert pipeline.current_timestep is not None
        timesteps.append(float(pipeline.current_timestep))
        assert timesteps[-1] == float(timestep)
        return {}

    pipe("a", **SMALL, attention_kwargs={"scale": 1.0}, callback_on_step_end=at_end)
    assert (pipe.num_timesteps, pipe.current_timestep, pipe.interrupt) == (2, None, False)
    assert pipe.attention_kwargs == {"scale": 1.0}
    assert timesteps == sorted(timesteps, reverse=True)


def test_several_videos_of_a_prompt_are_the_same_as_one_by_one(pipe: HuMoPipeline) -> None:
    together = pipe(["a", "b"], **SMALL, num_videos_per_prompt=2, output_type="np").frames
    seed = pipe.preset.seed
    for number, prompt in enumerate(["a", "a", "b", "b"]):
        generator = torch.Generator().manual_seed(seed + number % 2)
        alone = pipe(prompt, **SMALL, generator=generator, output_type="np").frames[0]
        assert np.abs(together[number] - alone).max() < 1e-4
    assert np.abs(together[0] - together[1]).max() > 1e-2
    with pytest.raises(RequestError, match="num_videos_per_prompt"):
        pipe("a", **SMALL, num_videos_per_prompt=0)


def test_a_prompt_is_encoded_by_the_text_encoder_alone(pipe: HuMoPipeline) -> None:
    parts = {
        name: None for name in inspect.signature(HuMoPipeline.__init__).parameters if name not in ("self", "preset")
    }
    alone = HuMoPipeline(**parts | {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer})  # type: ignore[arg-type]
    assert torch.equal(alone.encode_prompt("a woman"), pipe.encode_prompt("a woman"))


def test_a_pipeline_is_made_of_another_ones_components(pipe: HuMoPipeline) -> None:
    other = HuMoPipeline.from_pipe(pipe)
    assert other.transformer is pipe.transformer
    assert other.vae is pipe.vae
    expected = pipe("a", **SMALL, output_type="np").frames
    assert np.array_equal(other("a", **SMALL, output_type="np").frames, expected)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_one_call_writes_what_the_command_line_writes(pipe: HuMoPipeline, tmp_path: Path, output_type: Any) -> None:
    samples = np.sin(np.arange(16_000 // 5) * 0.2).astype(np.float32)
    output = pipe("a", **SMALL, audio=(samples, 16_000), output_type=output_type)
    path = save_video(output, tmp_path / "out.mp4", audio=(samples, 16_000))
    clip = read_video(path)
    assert clip.frames.shape == (5, 64, 96, 3)
    assert clip.track is not None
    record = read_record(path)
    assert (record.preset, record.request["seed"], record.request["steps"]) == (pipe.preset.name, pipe.preset.seed, 2)
    assert "weights" in record.environment
    from humo.media.credentials import read_credentials

    assert read_credentials(path) is not None
    with pytest.raises(RequestError, match="index"):
        save_video(output, tmp_path / "other.mp4", index=1)


def test_a_video_of_files_is_generated_again_from_its_record(
    pipe: HuMoPipeline, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from humo.cli.main import main

    monkeypatch.chdir(tmp_path)
    save_video(pipe("a woman", **SMALL, output_type="np"), "out.mp4", provenance=False)
    assert main(["generate", "--replay", "out.mp4", "--no-provenance", "--quiet"]) == 0
    first, second = (read_video(tmp_path / name).frames.astype(int) for name in ("out.mp4", "out-again.mp4"))
    assert np.abs(first - second).mean() < 1


def test_a_model_card_is_uploaded(pipe: HuMoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.utils import PushToHubMixin

    uploaded = []
    monkeypatch.setattr(PushToHubMixin, "_upload_folder", lambda self, folder, *_, **__: uploaded.append(folder))
    (tmp_path / "README.md").write_text(f"This card was {AUTOMATIC_CARD}.")
    pipe._upload_folder(tmp_path, "owner/name")
    text = (tmp_path / "README.md").read_text()
    assert text == model_card(pipe.preset)
    assert "license: apache-2.0" in text
    (tmp_path / "README.md").write_text("mine")
    pipe._upload_folder(tmp_path, "owner/name")
    assert (tmp_path / "README.md").read_text() == "mine"
    assert uploaded == [tmp_path, tmp_path]
