"""LoRAs and presets through the command: used, recorded, replayed, installed; what is wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from humo import HuMoPipeline
from humo.files import hash_file
from humo.inference.lora import distillation_tensors
from humo.media.provenance import read_record
from humo.media.video import read_video
from humo.presets import HUMO_17B, Distillation
from tests.cli.conftest import SMALL, Humo
from tests.lora_files import lora_tensors, write_lora
from tests.tiny import tiny_transformer

INPUTS = ["--prompt", "a man speaks", "--image", "face.png", "--audio", "a.wav"]
FEW = ["--width", "96", "--height", "64", "--frames", "5"]


@pytest.fixture(autouse=True)
def _own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models, LoRAs and presets of the test alone."""
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HUMO_PRESETS", str(tmp_path / "presets.toml"))


def frames(path: str | Path) -> np.ndarray:
    return read_video(Path(path)).frames


def test_a_lora_and_its_strength_change_the_video_as_in_python(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    lora = write_lora(desk / "style.safetensors", "humo-1.7b")
    fixed = ["generate", "--model", tiny_model_folder, *INPUTS, *SMALL, "--no-provenance"]
    assert humo(*fixed, "--output", "plain.mp4").code == 0
    result = humo(*fixed, "--lora", "style.safetensors:0.6", "--output", "styled.mp4")
    assert result.code == 0
    assert "style.safetensors: 2 tensors are ignored: the image encoder branch, which HuMo does not have" in result.err
    pipeline = HuMoPipeline.from_pretrained(str(tiny_model_folder))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(lora))
    arguments: dict[str, Any] = {
        "images": "face.png",
        "audio": "a.wav",
        "width": 96,
        "height": 64,
        "num_frames": 5,
        "num_inference_steps": 1,
        "attention_kwargs": {"scale": 0.6},
    }
    generated = pipeline("a man speaks", **arguments).frames[0]
    apart = np.abs(np.stack([np.asarray(one) for one in generated]).astype(int) - frames("styled.mp4").astype(int))
    assert np.median(apart) <= 8  # the file is compressed
    assert not np.array_equal(frames("plain.mp4"), frames("styled.mp4"))


def test_loras_are_recorded_with_checksum_and_replayed(
    humo: Humo, desk: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = write_lora(desk / "style.safetensors", "humo-1.7b")
    loras = ["--lora", "style.safetensors:0.5", "--lora", write_lora(desk / "b.safetensors", "humo-1.7b", 1)]
    assert humo("generate", "--model", tiny_model_folder, *INPUTS, *SMALL, *loras).code == 0
    record = read_record(Path("out.mp4"))
    assert record.request["loras"] == [f"{lora}:0.5", f"{desk / 'b.safetensors'}:1"]
    assert record.inputs[str(lora)] == hash_file(lora)
    (desk / "elsewhere").mkdir()
    monkeypatch.chdir(desk / "elsewhere")
    assert humo("generate", "--replay", "../out.mp4", "--output", "again.mp4").code == 0
    assert np.array_equal(frames("again.mp4"), frames(desk / "out.mp4"))
    lora.rename(desk / "moved.safetensors")
    gone = humo("generate", "--replay", "../out.mp4")
    assert gone.code == 2
    assert gone.err.splitlines()[-1] == (
        f"humo: loras: {str(lora)!r}, an input of out.mp4, is missing; give all 2 files with --lora"
    )
    both = ["--lora", f"{desk / 'moved.safetensors'}:0.5", "--lora", desk / "b.safetensors"]
    replaced = humo("generate", "--replay", "../out.mp4", *both, "--dry-run", "--json")
    assert replaced.only("plan")[0]["request"]["loras"] == [
        f"{desk / 'moved.safetensors'}:0.5",
        f"{desk / 'b.safetensors'}:1",
    ]
    assert humo("models", "import", desk / "moved.safetensors", "--name", "style").code == 0
    assert humo("generate", "--replay", "../out.mp4", "--output", "third.mp4").code == 0
    assert np.array_equal(frames("third.mp4"), frames(desk / "out.mp4"))


def test_a_batch_row_has_loras_of_its_own(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    (desk / "rows").mkdir()
    write_lora(desk / "rows" / "style.safetensors", "humo-1.7b")
    row = {"prompt": "a man", "width": 96, "height": 64, "frames": 5, "steps": 1}
    rows = [
        {**row, "name": "plain"},
        {**row, "name": "styled", "loras": ["style.safetensors:2"]},
        {**row, "name": "plain-again"},
        {**row, "name": "wrong", "loras": "nothing"},
    ]
    Path("rows/jobs.json").write_text(json.dumps(rows))
    result = humo("batch", "rows/jobs.json", "--model", tiny_model_folder, "--json")
    assert result.code == 3
    assert [row["status"] for row in result.only("row") if row["status"] != "started"] == ["generated"] * 3
    assert "'nothing' is neither a file nor a LoRA of this machine" in result.err
    assert np.array_equal(frames("plain.mp4"), frames("plain-again.mp4"))
    assert not np.array_equal(frames("plain.mp4"), frames("styled.mp4"))
    repeated = humo("batch", "rows/jobs.json", "--model", tiny_model_folder, "--json")
    assert [row["status"] for row in repeated.only("row") if row["status"] != "started"] == ["skipped"] * 3


def test_the_preset_lightx2v_runs_six_steps_of_one_pass(humo: Humo, desk: Path, tiny_model_folder_17b: Path) -> None:
    source = write_lora(desk / "any name.safetensors", "humo-17b")
    assert humo("models", "import", source, "--name", "lightx2v").code == 0
    options = ["--model", tiny_model_folder_17b, *INPUTS, *FEW, "--preset", "lightx2v"]
    result = humo("generate", *options, "--dry-run", "--json")
    (plan,) = result.only("plan")
    request = plan["request"]
    assert plan["passes"] == {"steps": 6, "per_step": [1], "total": 6}
    assert (request["steps"], request["shift"], request["sampler"], request["spacing"]) == (
        *(6, 8.0),
        *("comfy-unipc", "simple"),
    )
    assert [request[f"scale_{name}"] for name in ("text", "audio", "image")] == [1.0, 1.0, 1.0]
    assert request["loras"] == [f"{desk / 'models' / 'loras' / 'lightx2v.safetensors'}:1"]
    passes: list[int] = []
    forward = torch.nn.Module.__call__

    def count(self: torch.nn.Module, *args: object, **settings: object) -> object:
        passes.extend([1] * (type(self).__name__ == "HuMoTransformer3DModel"))
        return forward(self, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", count)
        generated = humo("generate", *options)
    assert generated.code == 0
    assert len(passes) == 6


def test_an_option_replaces_a_value_of_the_preset_and_that_is_noted(
    humo: Humo, desk: Path, tiny_model_folder_17b: Path
) -> None:
    write_lora(desk / "models" / "loras" / "lightx2v.safetensors", "humo-17b")
    options = ["--preset", "lightx2v", "--steps", 4, "--lora", "lightx2v:0.8", "--dry-run", "--json"]
    result = humo("generate", "--model", tiny_model_folder_17b, *INPUTS, *FEW, *options)
    (plan,) = result.only("plan")
    assert plan["request"]["steps"] == 4
    assert plan["request"]["loras"][0].endswith("lightx2v.safetensors:0.8")
    notes = [note["text"] for note in result.only("note")]
    assert "steps 4 replaces 6 of the preset lightx2v" in notes
    assert "loras lightx2v:0.8 replaces that of the preset lightx2v" in notes


def test_presets_of_ones_own_are_listed_and_used(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    Path("presets.toml").write_text('[quick]\ndescription = "for a look"\nsteps = 3\nsampler = "dpm++"\n')
    listed = humo("models", "list", "--json")
    presets = {event["name"]: event for event in listed.only("preset")}
    assert presets["quick"]["fields"] == {"steps": 3, "sampler": "dpm++"}
    assert presets["lightx2v"]["family"] == HUMO_17B.name
    result = humo("generate", "--model", tiny_model_folder, *INPUTS, *FEW, "--preset", "quick", "--dry-run", "--json")
    request = result.only("plan")[0]["request"]
    assert (request["steps"], request["sampler"]) == (3, "dpm++")


def test_loras_are_imported_listed_verified_and_removed(humo: Humo, desk: Path) -> None:
    source = write_lora(desk / "some style.safetensors", "humo-1.7b")
    result = humo("models", "import", source, "--name", "style", "--json")
    assert result.code == 0
    target = desk / "models" / "loras" / "style.safetensors"
    assert target.samefile(source), "a link where the file system has them"
    (event,) = [event for event in humo("models", "list", "--json").only("lora") if event["state"] == "local"]
    assert (event["name"], event["file"], event["bytes"]) == ("style", str(target), source.stat().st_size)
    assert humo("models", "import", source, "--name", "style").code == 2
    assert humo("models", "verify", "style").code == 0
    assert humo("models", "remove", "style").code == 0
    assert not target.exists()
    assert source.exists()


def test_a_distilled_lora_brings_its_steps_and_its_single_pass(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    network = tiny_transformer("humo-1.7b")
    scales: dict[Any, tuple[float, float]] = {"text": (1, 5), "audio": (2, 2), "image": (3, 3)}
    distillation = Distillation(3, 5.0, scales)
    network.enable_guidance_embedding({"steps": 3, "shift": 5.0, "scales": scales})
    assert network.guidance_embedder is not None
    further = distillation_tensors(distillation, network.guidance_embedder.state_dict())
    save_file(lora_tensors("humo-1.7b") | further, desk / "student.safetensors")
    options = ["--model", tiny_model_folder, *INPUTS, *FEW, "--lora", "student.safetensors"]
    (plan,) = humo("generate", *options, "--dry-run", "--json").only("plan")
    assert plan["passes"] == {"steps": 3, "per_step": [1], "total": 3}
    assert plan["request"]["sampler"] == "euler"
    assert humo("generate", *options).code == 0
    assert "allowed: 1 to 5" in humo("generate", *options, "--scale-text", "9").err


WRONG = {
    "a name that no catalog has": (["--lora", "lightxv"], "loras: 'lightxv' is neither a file nor a LoRA of"),
    "a LoRA that can be downloaded": (["--lora", "lightx2v"], "run `humo models get lightx2v`, or `humo models import"),
    "a missing file": (["--lora", "gone.safetensors"], "there is no file 'gone.safetensors'"),
    "another network's LoRA": (["--lora", "large.safetensors"], "is for a network of another size"),
    "a LoRA of another architecture": (["--lora", "other.safetensors"], "belong to no layer of this network"),
    "a pickled file": (["--lora", "old.pt"], "is a pickled file"),
    "a damaged file": (["--lora", "cut.safetensors"], "is truncated"),
    "an empty file": (["--lora", "empty.safetensors"], "is not a complete safetensors file; download it again"),
    "a strength out of range": (["--lora", "style.safetensors:1000"], "allowed: -100 to 100"),
    "a strength that is NaN": (["--lora", "style.safetensors:nan"], "allowed: -100 to 100"),
    "an endless strength": (["--lora", "style.safetensors:inf"], "allowed: -100 to 100"),
    "a strength that is text": (
        ["--lora", "style.safetensors:abc"],
        "loras: 'abc' is not a strength of style.safetensors; give a number, as style.safetensors:0.8",
    ),
    "a strength that is left out": (["--lora", "style.safetensors:"], "loras: '' is not a strength of style.safe"),
    "the same file twice": (["--lora", "style.safetensors", "--lora", "./style.safetensors:2"], "given twice"),
    "a preset that nobody knows": (["--preset", "lightxv"], "did you mean 'lightx2v'"),
    "a preset of another family": (["--preset", "lightx2v"], "is for humo-17b, and the model is humo-1.7b"),
    "sigmas that do not fall": (["--sigmas", "1,0.5,0.5"], "sigmas: 1, 0.5, 0.5 do not fall"),
    "sigmas out of range": (["--sigmas", "1.5,0.5"], "1.5' is not allowed"),
    "sigmas that are NaN": (["--sigmas", "nan,0.5"], "sigmas.0: 'nan' is not allowed; allowed: falling numbers"),
    "sigmas that are text": (["--sigmas", "1,a"], "sigmas.1: 'a' is not allowed; allowed: falling numbers"),
    "a level left out": (["--sigmas", "1,,0.5"], "sigmas.1: '' is not allowed; allowed: falling numbers"),
    "no sigmas": (["--sigmas", "0"], "there is no level above 0"),
    "steps that contradict sigmas": (["--sigmas", "1,0.5", "--steps", "3"], "steps: 3 contradicts sigmas"),
    "resident blocks without streaming": (
        ["--offload", "model", "--resident-blocks", "2"],
        "resident_blocks: 2 has no effect with offload 'model', which streams no blocks",
    ),
    "an unknown sampler": (["--sampler", "uni_pc"], "did you mean 'unipc'"),
    "an unknown spacing": (["--spacing", "simpel"], "did you mean 'simple'"),
    "an unknown guidance": (["--guidance", "confy"], "did you mean 'comfy'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    case: str, humo: Humo, desk: Path, tiny_model_folder: Path
) -> None:
    options, problem = WRONG[case]
    style = write_lora(desk / "style.safetensors", "humo-1.7b")
    write_lora(desk / "large.safetensors", "humo-1.7b", num_attention_heads=4)
    (desk / "cut.safetensors").write_bytes(style.read_bytes()[:-50])
    (desk / "old.pt").write_bytes(b"\x80\x02")
    (desk / "empty.safetensors").touch()
    tensors = {"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(2, 4)}
    save_file(tensors, desk / "other.safetensors")
    before = sorted(desk.rglob("*"))
    result = humo("generate", "--model", tiny_model_folder, *INPUTS, *FEW, *options)
    assert result.code == 2
    assert problem in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert sorted(desk.rglob("*")) == before


def test_a_dry_run_prints_explicit_noise_levels(humo: Humo, desk: Path, tiny_model_folder: Path) -> None:
    options = ["--model", tiny_model_folder, *INPUTS, *FEW, "--dry-run"]
    few = humo("generate", *options, "--sigmas", "1,0.94 0.5")
    assert few.code == 0
    assert "1, 0.94, 0.5" in few.out
    assert humo("generate", *options, "--sigmas", "1").code == 0
    assert "face.png, face.png" in humo("generate", *options, "--image", "face.png").out


def test_the_plan_of_a_preset_counts_its_lora_and_its_passes(humo: Humo, desk: Path) -> None:
    options = ["plan", "--model", "humo-17b-q5", "--memory", "12GB", "--host", "32GB", "--frames", "25", "--json"]
    missing = humo(*options, "--preset", "lightx2v")
    assert missing.code == 2
    assert "run `humo models get lightx2v`" in missing.err
    (desk / "presets.toml").write_text('[one]\nscale_text = 1.0\nscale_audio = 1.0\noffload = "disk"\n')
    guided = {one["phase"]: one["bytes"] for one in humo(*options).only("part") if "phase" in one}
    result = humo(*options, "--preset", "one")
    one_pass = {one["phase"]: one["bytes"] for one in result.only("part") if "phase" in one}
    assert one_pass["denoise"] < guided["denoise"], "keys and values of one prompt and one audio"
    assert {placement["offload"] for placement in result.only("placement")} == {"disk"}
