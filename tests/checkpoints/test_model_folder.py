"""A model folder opens without torch, is checked as a whole, and loads into the real classes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Tokenizer, UMT5EncoderModel, WhisperFeatureExtractor

from humo.checkpoints.architecture import Architecture, infer_autoencoder, infer_text_encoder
from humo.checkpoints.convert import convert
from humo.checkpoints.keymap import tensor_names
from humo.checkpoints.layout import COMPONENTS
from humo.checkpoints.model_folder import open_model_folder
from humo.errors import CheckpointError
from humo.request import OffloadName, QuantizeName
from humo.runtime.loading import load_pipeline
from tests.checkpoints import released


@pytest.fixture(scope="module")
def converted(released_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "humo-17b"
    convert(released_tree, folder, family="humo-17b", shard_bytes=1_000_000)
    return folder


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(converted, tmp_path / "model")
    return tmp_path / "model"


def test_a_converted_folder_opens_with_family_parts_and_sizes(converted: Path) -> None:
    model = open_model_folder(converted)
    assert model.preset.name == "humo-17b"
    assert tuple(model.components) == tuple(COMPONENTS)
    transformer = model.components["transformer"]
    assert len(transformer.weights) > 1
    assert transformer.config["num_attention_heads"] == 4
    assert transformer.bytes == sum(4 * tensor.numel() for tensor in released.transformer_weights("humo-17b").values())
    assert model.bytes > transformer.bytes
    assert model.components["scheduler"].weights == ()


@pytest.mark.parametrize("fixture", ["tiny_model_folder", "tiny_model_folder_17b"])
def test_a_folder_that_the_pipeline_saved_opens_as_well(fixture: str, request: pytest.FixtureRequest) -> None:
    model = open_model_folder(request.getfixturevalue(fixture))
    assert set(model.components) == set(COMPONENTS)


def test_opening_a_folder_imports_no_torch(converted: Path) -> None:
    code = "import sys; from humo.checkpoints.model_folder import open_model_folder; open_model_folder(sys.argv[1]); "
    code += "print([name for name in ('torch', 'numpy', 'diffusers', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(converted)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("component", list(COMPONENTS))
def test_a_missing_component_is_named(component: str, folder: Path) -> None:
    shutil.rmtree(folder / component)
    with pytest.raises(CheckpointError, match=f"lacks the folder {component}"):
        open_model_folder(folder)


@pytest.mark.parametrize(
    "component", ["vae", "text_encoder", "audio_encoder", "tokenizer", "feature_extractor", "scheduler"]
)
def test_a_component_without_its_files_is_named(component: str, folder: Path) -> None:
    for path in (folder / component).iterdir():
        if path.name != "config.json":
            path.unlink()
    with pytest.raises(CheckpointError, match=rf"{component}: lacks "):
        open_model_folder(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = sorted((folder / "transformer").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        open_model_folder(folder)


def test_weights_cut_short_are_noticed(folder: Path) -> None:
    path = folder / "audio_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is truncated"):
        open_model_folder(folder)


def test_an_unknown_family_is_answered_with_the_nearest(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text()) | {"preset": "humo-17"}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="did you mean 'humo-17b'"):
        open_model_folder(folder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "is not JSON"), ("[]", "not a JSON object"), ('{"preset": "humo-17b"}', "does not list the")],
)
def test_a_damaged_index_is_an_error(text: str, problem: str, folder: Path) -> None:
    (folder / "model_index.json").write_text(text)
    with pytest.raises(CheckpointError, match=problem):
        open_model_folder(folder)


def test_no_folder_and_an_unknown_folder_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_model_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no model_index\.json"):
        open_model_folder(tmp_path)


def test_released_weights_are_answered_with_the_command_that_converts_them(released_tree: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"run `humo convert {released_tree} {released_tree}-converted`"):
        open_model_folder(released_tree)


def test_all_weights_load_into_the_real_classes_unchanged(converted: Path) -> None:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler

    from humo import HuMoTransformer3DModel, SpeechEncoder

    autoencoder, text, speech = released.autoencoder_weights(), released.text_weights(), released.speech_weights()
    autoencoder_shapes = {name: tuple(tensor.shape) for name, tensor in autoencoder.items()}
    text_shapes = {name: tuple(tensor.shape) for name, tensor in text.items()}
    pairs: list[tuple[Any, str, Architecture, dict[str, torch.Tensor]]] = [
        (
            HuMoTransformer3DModel,
            "transformer",
            released.transformer("humo-17b"),
            released.transformer_weights("humo-17b"),
        ),
        (AutoencoderKLWan, "vae", infer_autoencoder(autoencoder_shapes, {}), autoencoder),
        (UMT5EncoderModel, "text_encoder", infer_text_encoder(text_shapes, {}), text),
        (SpeechEncoder, "audio_encoder", released.SPEECH, speech),
    ]
    for class_, component, architecture, weights in pairs:
        library = {"torch_dtype": "auto"} if component in ("text_encoder", "audio_encoder") else {}
        model, info = class_.from_pretrained(str(converted / component), output_loading_info=True, **library)
        assert not any(info.values()), (component, info)
        parameters = model.state_dict()
        for name in tensor_names(architecture):
            assert torch.equal(parameters[name.diffusers], weights[name.published]), name
    assert model.config.encoder_attention_heads == 2
    loaded = dict(UniPCMultistepScheduler.from_pretrained(str(converted / "scheduler")).config)
    expected = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0).config
    assert {key: loaded[key] for key in expected if key[0] != "_"} == {
        key: expected[key] for key in expected if key[0] != "_"
    }
    assert WhisperFeatureExtractor.from_pretrained(str(converted / "feature_extractor")).feature_size == 128


def test_the_pipeline_loads_a_converted_folder_and_makes_a_video(converted: Path) -> None:
    pipeline = load_pipeline(converted, device="cpu")
    pipeline.set_progress_bar_config(disable=True)
    samples = np.zeros(3200, np.float32)
    output = pipeline("the girl sings", audio=samples, width=64, height=64, num_inference_steps=1, output_type="np")
    assert output.frames.shape == (1, 5, 64, 64, 3)
    index = json.loads((converted / "model_index.json").read_text())
    assert {name: list(pipeline.config[name]) for name in COMPONENTS} == {name: index[name] for name in COMPONENTS}


@pytest.mark.parametrize(
    "file",
    [
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
@pytest.mark.parametrize(("text", "problem"), [("{", "is not JSON"), ("[]", "is not a JSON object")])
def test_settings_that_are_not_settings_are_named(folder: Path, file: str, text: str, problem: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=problem) as caught:
        open_model_folder(folder)
    assert caught.value.field == str(folder / file)


def test_a_tokenizer_of_pieces_alone_reads_as_sentencepiece_does(converted: Path) -> None:
    import sentencepiece

    tokenizer = T5Tokenizer.from_pretrained(str(converted / "tokenizer"))
    pieces = sentencepiece.SentencePieceProcessor(model_proto=released.sentence_pieces())
    text = "the person sings in the rain"
    assert tokenizer(text).input_ids == [*pieces.encode(text), pieces.eos_id()]


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """A weights file with its tensors changed."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("component", "change", "problem"),
    [
        ("transformer", lambda tensors: tensors.pop("blocks.1.attn_audio.to_k.weight"), "lacks blocks.1.attn_audio"),
        ("transformer", lambda tensors: tensors.update(extra=torch.ones(1)), "has the unknown tensor extra"),
        (
            "vae",
            lambda tensors: tensors.update({"decoder.conv_out.bias": torch.ones(4)}),
            "has decoder.conv_out.bias",
        ),
        ("audio_encoder", lambda tensors: tensors.pop("layers.3.fc2.bias"), "lacks layers.3.fc2.bias"),
    ],
)
def test_weights_that_do_not_fit_their_class_are_named_before_they_are_loaded(
    component: str,
    change: Callable[[dict[str, torch.Tensor]], object],
    problem: str,
    tiny_model_folder: Path,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "damaged")
    rewrite(next((folder / component).glob("*.safetensors")), change)
    with pytest.raises(CheckpointError, match=problem):
        open_model_folder(folder)


def test_a_configuration_that_its_weights_contradict_is_named(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "damaged")
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 3}))
    with pytest.raises(CheckpointError, match=r"sets num_layers = 3 in config\.json, but the weights have 2"):
        open_model_folder(folder)


def test_a_network_of_the_other_family_is_refused(
    tiny_model_folder: Path, tiny_model_folder_17b: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_folder_17b, tmp_path / "mixed")
    shutil.rmtree(folder / "transformer")
    shutil.copytree(tiny_model_folder / "transformer", folder / "transformer")
    with pytest.raises(CheckpointError, match="takes 16 input channels, which HuMo-17B does not"):
        open_model_folder(folder)


def test_a_sampler_of_another_kind_of_model_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "other")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "UniPCMultistepScheduler"}))
    with pytest.raises(CheckpointError, match="use_flow_sigmas"):
        open_model_folder(folder)


def test_a_folder_is_read_again_once_a_file_of_it_has_changed(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    opened = open_model_folder(folder)
    assert open_model_folder(folder) is opened
    os.utime(folder / "transformer" / "config.json", ns=(0, 0))
    assert open_model_folder(folder) is not opened
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        open_model_folder(folder)


# -- folders that lean on another ------------------------------------------------------------------------------------


@pytest.fixture
def leaning(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A folder with a network of its own; the rest is beside it."""
    shutil.copytree(tiny_model_folder, tmp_path / "whole")
    folder = tmp_path / "leaning"
    shutil.copytree(tiny_model_folder / "transformer", folder / "transformer")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: 1.01 * tensor for name, tensor in load_file(weights).items()}, weights)
    index = json.loads((tiny_model_folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "base": "../whole"}))
    return folder


@pytest.mark.parametrize(("offload", "quantize"), [("none", "none"), ("disk", "none"), ("none", "int8")])
def test_a_leaning_folder_has_its_own_network_and_the_other_parts_of_its_base(
    leaning: Path, offload: OffloadName, quantize: QuantizeName
) -> None:
    def latents(pipeline: Any) -> torch.Tensor:
        random = torch.Generator().manual_seed(1)
        result: torch.Tensor = pipeline(
            "a man talks",
            width=32,
            height=32,
            num_frames=5,
            num_inference_steps=1,
            generator=random,
            output_type="latent",
        ).frames
        return result

    model = open_model_folder(leaning)
    homes = {name: component.folder.parent for name, component in model.components.items()}
    assert homes.pop("transformer") == leaning
    assert {home.resolve() for home in homes.values()} == {leaning.parent / "whole"}

    generated = latents(load_pipeline(leaning, offload=offload, quantize=quantize))
    whole = leaning.parent / "whole"
    assert not torch.equal(generated, latents(load_pipeline(whole, offload=offload, quantize=quantize)))
    shutil.copytree(leaning / "transformer", whole / "transformer", dirs_exist_ok=True)
    assert torch.equal(generated, latents(load_pipeline(whole, offload=offload, quantize=quantize)))


def test_a_base_is_read_again_once_it_has_changed(leaning: Path) -> None:
    assert open_model_folder(leaning) is open_model_folder(leaning)
    (leaning.parent / "whole" / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_model_folder(leaning)


@pytest.mark.parametrize("base", ["../nowhere", "../leaning"])
def test_a_base_that_is_no_whole_folder_is_refused(leaning: Path, base: str) -> None:
    index = json.loads((leaning / "model_index.json").read_text())
    (leaning / "model_index.json").write_text(json.dumps({**index, "base": base}))
    with pytest.raises(CheckpointError, match=f"names the base '{base}', which is not a complete model folder"):
        open_model_folder(leaning)
