"""A model folder that points to single files generates what the converted folder generates, and nothing is copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from humo import HuMoPipeline
from humo.checkpoints.convert import convert
from humo.checkpoints.model_folder import open_model_folder
from humo.errors import CheckpointError
from humo.inference.inputs import check_inputs
from humo.jobs.replay import weights_fingerprint
from humo.request import OffloadName
from humo.runtime.loading import load_pipeline
from tests.calls import tone
from tests.comfyui_files import AUDIO, NETWORK, TEXT, VAE, network_weights, save_comfyui_models
from tests.quantized_files import is_matrix_of_a_block, save_gguf, save_scaled_fp8

Save = Callable[[Path, dict[str, Tensor]], object]


def _gguf(path: Path, weights: dict[str, Tensor]) -> None:
    kinds = {name: "Q4_K" if is_matrix_of_a_block(name, tensor) else "F16" for name, tensor in weights.items()}
    save_gguf(path.with_suffix(".gguf"), weights, kinds.__getitem__, loses_ones=True)


def _torch(path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"ema": weights}, path.with_suffix(".pth"))


def _prefixed(path: Path, weights: dict[str, Tensor]) -> None:
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in weights.items()}, path)


NETWORKS: dict[str, Save] = {
    "fp16": lambda path, weights: save_file({name: one.half() for name, one in weights.items()}, path),
    "prefixed": _prefixed,
    "torch": _torch,
    "Q4_K": _gguf,
    "scaled fp8": lambda path, weights: save_scaled_fp8(path, weights, "kijai", torch.float8_e4m3fn),
    "plain fp8": lambda path, weights: save_scaled_fp8(path, weights, "plain", torch.float8_e4m3fn),
}


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_comfyui_models(tmp_path_factory.mktemp("comfyui") / "models")


def files_with(comfyui: Path, folder: Path, save: Save) -> list[Path]:
    """Return ComfyUI's files with a network that ``save`` wrote."""
    folder.mkdir()
    save(folder / "humo.safetensors", network_weights("humo-1.7b"))
    [network] = folder.iterdir()
    return [network, comfyui / TEXT, comfyui / AUDIO, comfyui / VAE]


def frames(pipeline: HuMoPipeline) -> NDArray[np.uint8]:
    options = {"width": 32, "height": 32, "frames": 5, "steps": 2, "seed": 1}
    (inputs,) = check_inputs(pipeline.preset, "a man talks", None, tone(5), None, None, None, options)
    return np.stack(list(pipeline.generate_frames(inputs)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_linked_model_generates_the_frames_of_the_converted_one(comfyui: Path, tmp_path: Path, kind: str) -> None:
    sources = files_with(comfyui, tmp_path / "network", NETWORKS[kind])
    report = convert(sources, tmp_path / "linked", link=True)
    convert(sources, tmp_path / "converted", keep_quantized=True)
    expected = frames(load_pipeline(tmp_path / "converted", dtype="float32"))
    offloads: tuple[OffloadName, ...] = ("none", "disk")
    for offload in offloads:
        assert np.array_equal(frames(load_pipeline(tmp_path / "linked", dtype="float32", offload=offload)), expected)
    assert report.notes == ()
    written = [path for path in (tmp_path / "linked").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in written if path.suffix != ".model") < 20_000, "nothing was copied"


ROUNDING = 2
"""Levels of 255: a linked text encoder stays in fp8, and a converted one was rounded to bfloat16."""


def test_quantizing_while_loading_works_on_linked_weights(comfyui: Path, tmp_path: Path) -> None:
    convert(comfyui, tmp_path / "linked", link=True)
    convert(comfyui, tmp_path / "converted")
    expected = frames(load_pipeline(tmp_path / "converted", dtype="float32", quantize="int8"))
    linked = frames(load_pipeline(tmp_path / "linked", dtype="float32", quantize="int8"))
    assert np.abs(linked.astype(int) - expected).max() <= ROUNDING  # the text encoder is linked, too


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "audio_encoder", "vae"])
def test_each_component_can_be_linked_alone(comfyui: Path, tmp_path: Path, component: str) -> None:
    convert(comfyui, tmp_path / "linked", link=True)
    convert(comfyui, tmp_path / "mixed")
    expected = frames(load_pipeline(tmp_path / "mixed", dtype="float32"))
    index = json.loads((tmp_path / "mixed" / "model_index.json").read_text())
    linked = json.loads((tmp_path / "linked" / "model_index.json").read_text())["files"][component]
    index["files"] = {component: str(tmp_path / "linked" / linked)}
    (tmp_path / "mixed" / "model_index.json").write_text(json.dumps(index))
    for weights in (tmp_path / "mixed" / component).glob("*.safetensors"):
        weights.unlink()
    mixed = frames(load_pipeline(tmp_path / "mixed", dtype="float32"))
    assert np.abs(mixed.astype(int) - expected).max() <= (ROUNDING if component == "text_encoder" else 0)


def test_links_are_relative_inside_the_folder_of_models_which_can_be_moved(tmp_path: Path) -> None:
    save_comfyui_models(tmp_path / "models" / ".files")
    convert(tmp_path / "models" / ".files", tmp_path / "models" / "humo", link=True)
    shutil.move(tmp_path / "models", tmp_path / "moved")
    assert open_model_folder(tmp_path / "moved" / "humo").preset.name == "humo-1.7b"


def test_a_file_system_without_links_has_paths_in_the_index(
    comfyui: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    convert(comfyui, tmp_path / "linked", link=True)
    files = json.loads((tmp_path / "linked" / "model_index.json").read_text())["files"]
    assert files["transformer"] == str(comfyui / NETWORK)
    assert open_model_folder(tmp_path / "linked").components["vae"].weights == (comfyui / VAE,)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    comfyui = save_comfyui_models(tmp_path / "models")
    convert(comfyui, tmp_path / "linked", link=True)
    before = weights_fingerprint(tmp_path / "linked")
    (comfyui / VAE).rename(comfyui / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"reads its weights from '.*wan_2.1_vae.safetensors', which does not"):
        open_model_folder(tmp_path / "linked")
    (comfyui / "other.safetensors").rename(comfyui / VAE)
    assert weights_fingerprint(tmp_path / "linked") == before
    (comfyui / AUDIO).write_bytes((comfyui / AUDIO).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"whisper.*is truncated"):
        open_model_folder(tmp_path / "linked")


def test_diffusers_alone_is_refused_in_a_line(comfyui: Path, tmp_path: Path) -> None:
    convert(comfyui, tmp_path / "linked", link=True)
    with pytest.raises(CheckpointError, match=r"from a file that diffusers cannot load; use humo\.runtime\.loading"):
        HuMoPipeline.from_pretrained(tmp_path / "linked")


@pytest.mark.parametrize("files", [[], {"vae": 3}])
def test_an_index_that_names_files_in_another_form_is_one_line(comfyui: Path, tmp_path: Path, files: object) -> None:
    convert(comfyui, tmp_path / "linked", link=True)
    index = tmp_path / "linked" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"files": files}))
    with pytest.raises(CheckpointError, match="which is not a table of components and paths"):
        open_model_folder(tmp_path / "linked")
