"""The frozen parts a run needs: autoencoder, text and audio encoders, loaded when first asked for."""

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
from humo.training.config import Model
from humo.training.trainable import matches
from humo.training.training_model import initialise

FROZEN = ("vae", "text_encoder", "tokenizer", "audio_encoder", "feature_extractor")
"""Parts of a model folder that the trainer reads and never changes."""


LEAST_SIGMA_DATA = 0.01
"""Of a channel that hardly varies."""


class Encoders:
    """A recipe's model: its frozen parts, its preset, and the network to start from.

    Args:
        model: of the recipe.
        dtype: of the text encoder; the autoencoder and the audio encoder stay float32, as in inference.
        device: where they compute.

    Raises:
        CheckpointError: a folder is missing or not whole.
    """

    def __init__(self, model: Model, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self._model, self.dtype, self.device = model, dtype, torch.device(device)
        opened = None if model.folder is None else open_model_folder(model.folder)
        self._folders = {} if opened is None else {name: part.folder for name, part in opened.components.items()}
        self.preset: Preset = find_preset(str(model.preset or (opened and opened.preset.name)))
        for name in FROZEN:
            if not self.folder(name).is_dir():
                raise CheckpointError(f"model.{name}", f"there is no folder {str(self.folder(name))!r}", "check it")

        config = self._network_config() if model.network is None else model.network.model_dump()
        self.audio_bands, self.text_length = int(config["audio_bands"]), int(config["text_length"])

    def _network_config(self) -> Mapping[str, Any]:
        """Settings of the folder's network."""
        config: Mapping[str, Any] = HuMoTransformer3DModel.load_config(f"{self._model.folder}/transformer")
        return config

    def folder(self, name: str) -> Path:
        """Where a frozen part lies."""
        own = getattr(self._model, name)
        return Path(own) if own is not None else self._folders[name]

    @cached_property
    def audio_width(self) -> int:
        """Of a row of the audio encoder."""
        return int(WhisperConfig.from_pretrained(str(self.folder("audio_encoder"))).d_model)

    @cached_property
    def vae(self) -> Any:
        """The autoencoder."""
        return self._open("vae", lambda path: open_autoencoder(path).float().to(self.device).eval())

    @cached_property
    def text_encoder(self) -> Any:
        """umT5, computing as in inference."""

        def load(path: str) -> Any:
            encoder = UMT5EncoderModel.from_pretrained(path, dtype=self.dtype).to(self.device).eval()
            encoder.set_attn_implementation("eager")  # as `HuMoPipeline` has it
            return encoder

        return self._open("text_encoder", load)

    @cached_property
    def tokenizer(self) -> Any:
        """Of the text encoder."""
        return self._open("tokenizer", AutoTokenizer.from_pretrained)

    @cached_property
    def audio_encoder(self) -> Any:
        """Whisper's encoder."""
        return self._open(
            "audio_encoder", lambda path: SpeechEncoder.from_pretrained(path).float().to(self.device).eval()
        )

    @cached_property
    def feature_extractor(self) -> Any:
        """Of the audio encoder."""
        return self._open("feature_extractor", WhisperFeatureExtractor.from_pretrained)

    def _open(self, name: str, load: Callable[[str], Any]) -> Any:
        try:
            return load(str(self.folder(name)))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"model.{name}", f"does not load: {error}", "check the folder") from error

    def network(self, seed: int) -> HuMoTransformer3DModel:
        """The network to start from: the folder's in float32, or a new one.

        Args:
            seed: of new weights.
        """
        own = self._model.network
        if own is None:
            loaded: HuMoTransformer3DModel = self._open(
                "folder", lambda _: HuMoTransformer3DModel.from_pretrained(f"{self._model.folder}/transformer")
            )
            loaded.float()
            return self._partly_new(loaded, seed)
        vae = AutoencoderKLWan.load_config(str(self.folder("vae")))
        channels = int(vae["z_dim"])
        settings = own.model_dump(exclude={"sigma_data_share"})
        if own.sigma_data_share is not None:
            settings["sigma_data"] = self._sigma_data(vae, own.sigma_data_share)
        beside = self.preset.reference_injection is ReferenceInjection.CHANNEL_CONCAT
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh: HuMoTransformer3DModel = HuMoTransformer3DModel(
                in_channels=2 * channels + MASK_CHANNELS if beside else channels,
                out_channels=channels,
                text_dim=UMT5Config.from_pretrained(str(self.folder("text_encoder"))).d_model,
                audio_width=self.audio_width,
                **settings,
            )
            initialise(fresh)
        return fresh

    def _sigma_data(self, vae: Mapping[str, Any], share: float) -> list[float]:
        """A share of each latent channel's deviation."""
        deviations = vae.get("channel_std")
        if deviations is None:
            problem = "says nothing of its channels' deviations, and sigma_data_share needs them"
            raise CheckpointError("model.vae", problem, "train it again, or leave sigma_data_share out")
        return [max(LEAST_SIGMA_DATA, share * float(deviation)) for deviation in deviations]

    def _partly_new(self, network: HuMoTransformer3DModel, seed: int) -> HuMoTransformer3DModel:
        """Let the parts begin anew that the recipe calls fresh."""
        fresh = [name for name, _ in network.named_parameters() if matches(f"transformer.{name}", self._model.fresh)]
        if fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                other: HuMoTransformer3DModel = HuMoTransformer3DModel.from_config(network.config)
                initialise(other)
            drawn = other.state_dict()
            network.load_state_dict(network.state_dict() | {name: drawn[name] for name in fresh})
        return network

    def pipeline(self, transformer: HuMoTransformer3DModel) -> HuMoPipeline:
        """The whole model around a network."""
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
