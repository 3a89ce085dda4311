"""Models of this repository with the golden weights of the published ones, which follow from the tensors' names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from humo import HuMoPipeline, HuMoTransformer3DModel, SpeechEncoder
from humo.checkpoints.architecture import infer_autoencoder, infer_text_encoder, infer_transformer
from humo.checkpoints.keymap import tensor_names
from tests.parity.fill import fill, fill_state_dict, noise

FAMILIES = {"humo_17b": "humo-17b", "humo_1_7b": "humo-1.7b"}


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative L2 distance."""
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


MEASURED: dict[str, tuple[float, float]] = {}
"""Largest distance and bound of each comparison with a golden value."""


def within(bound: float, what: str, ours: Tensor, theirs: Tensor) -> bool:
    """Return whether the relative L2 distance is within a bound, and record it for the summary."""
    measured = distance(ours, theirs)
    MEASURED[what] = max(measured, MEASURED.get(what, (0.0, bound))[0]), bound
    assert measured <= bound, f"{what}: {measured:.2e} is above {bound:.0e}"
    return True


@dataclass(frozen=True)
class Golden:
    """Folder of golden vectors, and the models with which they were computed."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        return content

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a golden file."""
        content: dict[str, Tensor] = load_file(self.folder / f"{name}.safetensors")
        return content

    def noise(self, name: str, *shape: int) -> Tensor:
        """Return the golden input of that name."""
        return noise(name, shape, self.meta["seed"])

    def _load(self, module: nn.Module, shapes: dict[str, Any], names: Any) -> Any:
        weights = fill_state_dict(shapes, self.meta["seed"])
        module.load_state_dict({name.diffusers: weights[name.published] for name in names}, strict=False)
        loaded = {name.diffusers for name in names}
        assert {name for name, _ in module.named_parameters()} <= loaded
        return module.eval()

    def transformer(self, family: str) -> HuMoTransformer3DModel:
        keys = self.meta[family]["keys"]
        architecture = infer_transformer(_shapes(keys), self.meta[family]["config"])
        settings = {name: value for name, value in architecture.config().items() if name != "_class_name"}
        model: HuMoTransformer3DModel = self._load(
            HuMoTransformer3DModel(**settings), keys, list(tensor_names(architecture))
        )
        return model

    @cached_property
    def vae(self) -> AutoencoderKLWan:
        keys = self.meta["vae_keys"]
        architecture = infer_autoencoder(_shapes(keys), {})
        settings = {name: value for name, value in architecture.config().items() if name != "_class_name"}
        return self._load(AutoencoderKLWan(**settings), keys, list(tensor_names(architecture)))

    @cached_property
    def text_encoder(self) -> UMT5EncoderModel:
        keys, sizes = self.meta["text_keys"], self.meta["text"]
        architecture = infer_text_encoder(_shapes(keys), {})
        config = UMT5Config(
            vocab_size=sizes["vocab"],
            d_model=sizes["dim"],
            d_kv=sizes["dim_attn"] // sizes["num_heads"],
            d_ff=sizes["dim_ffn"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            relative_attention_num_buckets=sizes["num_buckets"],
            dropout_rate=0.0,
        )
        return self._load(UMT5EncoderModel(config), keys, list(tensor_names(architecture)))

    @cached_property
    def audio_encoder(self) -> SpeechEncoder:
        """Audio encoder whose weights, except the sinusoidal positions, are filled by name."""
        config = WhisperConfig(**self.meta["whisper"])
        encoder = SpeechEncoder(config)
        encoder.load_state_dict(WhisperModel(config).encoder.state_dict())
        for name, parameter in encoder.named_parameters():
            if name != "embed_positions.weight":
                parameter.data.copy_(fill(name, tuple(parameter.shape), self.meta["seed"]))
        model: SpeechEncoder = encoder.eval()
        return model

    @cached_property
    def feature_extractor(self) -> WhisperFeatureExtractor:
        return WhisperFeatureExtractor(feature_size=self.meta["whisper"]["num_mel_bins"])

    def pipeline(self, family: str) -> HuMoPipeline:
        """Return a pipeline with network and autoencoder; calls provide prompts and audio as embeddings."""
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
        transformer = self.transformer(family)
        pipeline = HuMoPipeline(transformer, self.vae, None, None, None, None, scheduler, FAMILIES[family])
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _shapes(keys: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in keys.items()}
