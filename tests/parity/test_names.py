"""Every tensor of the released files has a name and a shape in the real classes, at full size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from humo.checkpoints.architecture import (
    Architecture,
    ConfigHints,
    Shapes,
    SpeechEncoderArchitecture,
    infer_autoencoder,
    infer_text_encoder,
    infer_transformer,
)
from humo.checkpoints.keymap import TensorName, tensor_names

FOLDER = Path(__file__).parent / "data" / "tensor_names"


def released(file: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    table = json.loads((FOLDER / file).read_text())
    shapes = table.get("params", table)
    return {name: tuple(shape) for name, shape in shapes.items()}, table.get("config", {})


def assert_same(names: list[TensorName], published: Shapes, module: nn.Module, tied: tuple[str, ...] = ()) -> None:
    """Check that a released file and a class have the same names and shapes."""
    assert {name.published: name.shape for name in names} == dict(published)
    parameters = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if name not in tied}
    assert {name.diffusers: name.shape for name in names} == parameters
    assert len({name.published for name in names}) == len({name.diffusers for name in names}) == len(names)


@pytest.mark.parametrize("file", ["humo_17b_keys.json", "humo_1_7b_keys.json"])
def test_the_released_transformers_are_our_class_under_other_names(file: str) -> None:
    from humo.model.transformer import HuMoTransformer3DModel

    shapes, config = released(file)
    architecture = infer_transformer(shapes, {})
    assert {key: value for key, value in architecture.published_config().items() if key in config} == config
    settings = {key: value for key, value in architecture.config().items() if key != "_class_name"}
    with torch.device("meta"):
        module = HuMoTransformer3DModel(**settings)
    assert_same(list(tensor_names(architecture)), shapes, module)


def test_the_released_autoencoder_is_diffusers_under_other_names() -> None:
    from diffusers import AutoencoderKLWan

    shapes, _ = released("wan2.1_vae_keys.json")
    architecture = infer_autoencoder(shapes, {})
    with torch.device("meta"):
        module = AutoencoderKLWan(
            **{key: value for key, value in architecture.config().items() if key != "_class_name"}
        )
    assert len(shapes) == 194
    assert_same(list(tensor_names(architecture)), shapes, module)


def test_the_released_text_encoder_is_transformers_under_other_names() -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    shapes, _ = released("umt5_xxl_encoder_keys.json")
    architecture = infer_text_encoder(shapes, {})
    with torch.device("meta"):
        module = UMT5EncoderModel(UMT5Config(**architecture.config()))
    assert_same(list(tensor_names(architecture)), shapes, module, tied=("encoder.embed_tokens.weight",))


def test_whisper_large_v3_is_transformers_with_a_prefix() -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    architecture = SpeechEncoderArchitecture(1280, 32, 20, 5120, 128, 1500)
    config = WhisperConfig(**architecture.config(), vocab_size=51866)
    with torch.device("meta"):
        encoder, whole = WhisperEncoder(config), WhisperForConditionalGeneration(config)
    published = {
        name: tuple(tensor.shape) for name, tensor in whole.state_dict().items() if name.startswith("model.encoder.")
    }
    assert_same(list(tensor_names(architecture)), published, encoder)


@pytest.mark.parametrize(
    ("base", "multiples", "blocks", "temporal"),
    [(8, (1, 2, 4, 4), 2, (False, True, True)), (16, (1, 2, 2), 1, (True, False)), (4, (1, 2, 2, 4), 3, (True,) * 3)],
)
def test_an_autoencoder_of_any_size_is_measured_from_either_naming(
    base: int, multiples: tuple[int, ...], blocks: int, temporal: tuple[bool, ...]
) -> None:
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        module = AutoencoderKLWan(
            base_dim=base, dim_mult=list(multiples), num_res_blocks=blocks, temperal_downsample=list(temporal)
        )
    ours = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    names = list(tensor_names(infer_autoencoder(ours, {})))
    published = {name.published: name.shape for name in names}
    assert infer_autoencoder(published, {}) == infer_autoencoder(ours, {})
    assert_same(names, published, module)


@pytest.mark.parametrize("part", ["transformer", "text"])
def test_a_structure_is_the_same_measured_from_either_naming(part: str) -> None:
    cases: dict[str, tuple[str, Callable[[Shapes, ConfigHints], Architecture]]] = {
        "transformer": ("humo_17b_keys.json", infer_transformer),
        "text": ("umt5_xxl_encoder_keys.json", infer_text_encoder),
    }
    file, measure = cases[part]
    shapes, _ = released(file)
    architecture = measure(shapes, {})
    assert measure({name.diffusers: name.shape for name in tensor_names(architecture)}, {}) == architecture
