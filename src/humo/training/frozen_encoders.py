"""Frozen components of a run (autoencoder, text and audio encoders), and the network to start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel, WhisperConfig, WhisperFeatureExtractor

from humo.checkpoints.layout import scheduler_config
from humo.checkpoints.model_folder import open_model_folder
from humo.errors import CheckpointError
from humo.inference.pipeline import HuMoPipeline
from humo.model.audio import SpeechEncoder
from humo.model.autoencoder import open_autoencoder
from humo.model.reference import MASK_CHANNELS
from humo.model.transformer import HuMoTransformer3DModel
from humo.presets import Preset, ReferenceInjection, find_preset
from humo.training.config import ModelConfig
from humo.training.trainable import in_groups
from humo.training.training_model import initialize_weights

FROZEN_COMPONENTS = ("vae", "text_encoder", "tokenizer", "audio_encoder", "feature_extractor")
"""Components of a model folder that training reads and does not change."""

MIN_SIGMA_DATA = 0.01
"""Smallest sigma_data of a channel."""


class FrozenEncoders:
    """The model of a recipe: its frozen components, loaded at first use, its preset, and the network to start from.

    Args:
        model: model settings of the recipe.
        dtype: data type of the text encoder; autoencoder and audio encoder are float32, as in inference.
        device: device of the components.

    Raises:
        CheckpointError: a folder does not exist or is incomplete.
    """

    def __init__(self, model: ModelConfig, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self._model, self.dtype, self.device = model, dtype, torch.device(device)
        opened = None if model.folder is None else open_model_folder(model.folder)
        self._folders = {} if opened is None else {name: part.folder for name, part in opened.components.items()}
        self.preset: Preset = find_preset(str(model.preset or (opened and opened.preset.name)))
        for name in FROZEN_COMPONENTS:
            if not self.folder(name).is_dir():
                problem = f"{str(self.folder(name))!r} is not a folder"
                raise CheckpointError(f"model.{name}", problem, f"set model.{name} to the component's folder")

        config = self._network_config() if model.network is None else model.network.model_dump()
        self.audio_bands, self.text_length = int(config["audio_bands"]), int(config["text_length"])

    def _network_config(self) -> Mapping[str, Any]:
        """Return the configuration of the folder's network."""
        config: Mapping[str, Any] = HuMoTransformer3DModel.load_config(f"{self._model.folder}/transformer")
        return config

    def folder(self, name: str) -> Path:
        """Return the folder of a frozen component."""
        own = getattr(self._model, name)
        return Path(own) if own is not None else self._folders[name]

    @cached_property
    def audio_width(self) -> int:
        """Width of an audio row."""
        return int(WhisperConfig.from_pretrained(str(self.folder("audio_encoder"))).d_model)

    @cached_property
    def vae(self) -> Any:
        """Autoencoder."""
        return self._open("vae", lambda path: open_autoencoder(path).float().to(self.device).eval())

    @cached_property
    def text_encoder(self) -> Any:
        """umT5 encoder, configured as in inference."""

        def load(path: str) -> Any:
            encoder = UMT5EncoderModel.from_pretrained(path, dtype=self.dtype).to(self.device).eval()
            encoder.set_attn_implementation("eager")  # as `HuMoPipeline` has it
            return encoder

        return self._open("text_encoder", load)

    @cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the text encoder."""
        return self._open("tokenizer", AutoTokenizer.from_pretrained)

    @cached_property
    def audio_encoder(self) -> Any:
        """Whisper encoder."""
        return self._open(
            "audio_encoder", lambda path: SpeechEncoder.from_pretrained(path).float().to(self.device).eval()
        )

    @cached_property
    def feature_extractor(self) -> Any:
        """Feature extractor of the audio encoder."""
        return self._open("feature_extractor", WhisperFeatureExtractor.from_pretrained)

    def _open(self, name: str, load: Callable[[str], Any]) -> Any:
        """Load a component from its folder.

        Raises:
            CheckpointError: the folder does not contain the component.
        """
        try:
            return load(str(self.folder(name)))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            remedy = f"set model.{name} to a complete model folder"
            raise CheckpointError(f"model.{name}", f"cannot be loaded: {error}", remedy) from error

    def build_network(self, seed: int) -> HuMoTransformer3DModel:
        """Return the network to start from in float32: the folder's, or one with initial weights.

        Args:
            seed: seed of initial weights.
        """
        sizes = self._model.network
        if sizes is None:
            loaded: HuMoTransformer3DModel = self._open(
                "folder", lambda _: HuMoTransformer3DModel.from_pretrained(f"{self._model.folder}/transformer")
            )
            loaded.float()
            return self._reinitialize(loaded, seed)
        vae = AutoencoderKLWan.load_config(str(self.folder("vae")))
        channels = int(vae["z_dim"])
        settings = sizes.model_dump(exclude={"sigma_data_ratio"})
        if sizes.sigma_data_ratio is not None:
            settings["sigma_data"] = self._sigma_data(vae, sizes.sigma_data_ratio)
        concatenates = self.preset.reference_injection is ReferenceInjection.CHANNEL_CONCAT
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: HuMoTransformer3DModel = HuMoTransformer3DModel(
                in_channels=2 * channels + MASK_CHANNELS if concatenates else channels,
                out_channels=channels,
                text_dim=UMT5Config.from_pretrained(str(self.folder("text_encoder"))).d_model,
                audio_width=self.audio_width,
                **settings,
            )
            initialize_weights(network)
        return network

    def _sigma_data(self, vae: Mapping[str, Any], ratio: float) -> list[float]:
        """Return sigma_data of each latent channel: its standard deviation times a ratio."""
        channel_std = vae.get("channel_std")
        if channel_std is None:
            problem = "has no channel_std in its config.json, which network.sigma_data_ratio needs"
            raise CheckpointError("model.vae", problem, "train it again, or remove sigma_data_ratio")
        return [max(MIN_SIGMA_DATA, ratio * float(std)) for std in channel_std]

    def _reinitialize(self, network: HuMoTransformer3DModel, seed: int) -> HuMoTransformer3DModel:
        """Initialize the parameter groups that the recipe's ``reinitialize`` names."""
        groups = self._model.reinitialize
        names = [name for name, _ in network.named_parameters() if in_groups(f"transformer.{name}", groups)]
        if names:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                other: HuMoTransformer3DModel = HuMoTransformer3DModel.from_config(network.config)
                initialize_weights(other)
            initial = other.state_dict()
            network.load_state_dict(network.state_dict() | {name: initial[name] for name in names})
        return network

    def build_pipeline(self, transformer: HuMoTransformer3DModel) -> HuMoPipeline:
        """Return a pipeline of a network and the frozen components."""
        pipeline = HuMoPipeline(
            transformer=transformer,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            audio_encoder=self.audio_encoder,
            feature_extractor=self.feature_extractor,
            scheduler=UniPCMultistepScheduler.from_config(scheduler_config()),
            preset=self.preset.name,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline
