"""Recipes of a model's components, autoencoder and text encoder, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from humo.geometry import SPATIAL_STRIDE, snap_frames
from humo.training.config import (
    CONDITION_PROBS,
    CheckpointConfig,
    ComputeConfig,
    ConditionSet,
    DataConfig,
    Fraction,
    LossWeight,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    RecipeTable,
    Seed,
    Stage,
    ValidationConfig,
)

Width = Annotated[int, Field(ge=4, multiple_of=4)]


class AutoencoderConfig(RecipeTable):
    """Sizes of a `humo.model.autoencoder.ShortcutAutoencoder`."""

    base_dim: int = Field(default=32, ge=4, multiple_of=4)
    decoder_base_dim: int | None = Field(default=None, ge=4, multiple_of=4)
    z_dim: int = Field(default=16, ge=1, le=256)
    dim_mult: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 2, 3)
    num_res_blocks: int = Field(default=1, ge=1)
    deblocking: tuple[Annotated[float, Field(ge=0.0)], Annotated[float, Field(gt=0.0, le=2.0)]] | None = None

    @field_validator("deblocking")
    @classmethod
    def _is_increasing(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"{value[0]:g} is not below {value[1]:g}; give the smaller value first")
        return value


class AutoencoderLoss(RecipeTable):
    """Terms of an autoencoder's loss besides the weighted absolute error.

    Args:
        square: weight of the squared error.
        gradient: weight of the absolute error of differences between neighboring pixels.
        kl: weight of the KL divergence of the latents from a unit normal distribution.
        face, mouth, eyes: added to the loss weight (1) of a pixel on a face, on a mouth, in a band at the eyes. Needs
            face masks.
        noise: standard deviation, in units of each channel's, of noise that is added to the latents of half of the
            samples.
    """

    square: LossWeight = 1.0
    gradient: LossWeight = 1.0
    kl: LossWeight = 1e-5
    face: LossWeight = 0.0
    mouth: LossWeight = 0.0
    eyes: LossWeight = 0.0
    noise: LossWeight = 0.0


class ComponentRecipe(RecipeTable):
    """Settings that the recipes of all components have.

    Args:
        steps, batch_size, learning_rate, warmup_steps, lr_scheduler, decay_start: as in `humo.training.config.Stage`.
    """

    output: str = Field(min_length=1)
    seed: Seed = 0
    data: DataConfig
    steps: int = Field(default=3000, ge=0)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    warmup_steps: int = Field(default=50, ge=0)
    lr_scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    decay_start: float = Field(default=0.0, ge=0.0, lt=1.0)
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    compute: ComputeConfig = ComputeConfig()
    tensorboard: bool = True


class AutoencoderRecipe(ComponentRecipe):
    """A run of ``humo train vae``: a video autoencoder that starts from a linear code.

    Args:
        folder: autoencoder to start from, in place of ``network``.
        network: sizes of the autoencoder.
        whitening: exponent 0..1 of the whitening of the linear code's channels. At 0 a channel keeps the standard
            deviation of its principal component; at 1 all channels have the same.
        trainable: train all weights, or the decoder alone, which leaves the latents as they are.
        pixel_layer_lr_scale: factor of the learning rate in layers whose outputs are pixels or latents.
        frames: number of frames of a training segment, 4k + 1.
        crop: side of a training segment in pixels.
        init_clips: number of clips that the linear code and the statistics of the latents are computed from.
    """

    folder: str | None = None
    network: AutoencoderConfig = AutoencoderConfig()
    whitening: Fraction = 0.5
    trainable: Literal["all", "decoder"] = "all"
    pixel_layer_lr_scale: Fraction = 0.05
    frames: int = Field(default=9, ge=1)
    crop: Annotated[int, Field(ge=SPATIAL_STRIDE, multiple_of=SPATIAL_STRIDE)] = 64
    init_clips: int = Field(default=300, ge=1)
    loss: AutoencoderLoss = AutoencoderLoss()

    @field_validator("frames")
    @classmethod
    def _is_4k_plus_1(cls, frames: int) -> int:
        if snap_frames(frames) != frames:
            raise ValueError(f"{frames} is not 4k + 1; give {snap_frames(frames)} or {snap_frames(frames) + 4}")
        return frames


class DecoderLoss(RecipeTable):
    """Terms of a convolutional decoder's loss besides the weighted absolute error.

    Args:
        gradient: weight of the absolute error of differences between neighboring pixels.
        adversarial: weight of the adversarial term; 0 for none.
        adversarial_start: step from which on discriminator and adversarial term are trained.
        face, mouth, eyes: added to the loss weight (1) of a pixel on a face, on a mouth, in a band at the eyes.
    """

    gradient: LossWeight = 1.0
    adversarial: LossWeight = 0.08
    adversarial_start: int = Field(default=1000, ge=0)
    face: LossWeight = 0.0
    mouth: LossWeight = 0.0
    eyes: LossWeight = 0.0


class DecoderRecipe(ComponentRecipe):
    """A run of ``humo train decoder``: a convolutional decoder for the latents that a network predicts.

    Args:
        model: model folder with the network and the autoencoder.
        widths: channels at the three resolutions of the decoder, the coarsest first.
        discriminator_width: channels of the discriminator's first layer.
        noise_levels: range from which the noise level of a sample is drawn.
        audio_prob, condition_probs, frames: as in `humo.training.config.Stage`.
    """

    model: ModelConfig
    widths: tuple[Width, Width, Width] = (96, 64, 32)
    discriminator_width: Width = 32
    noise_levels: tuple[Fraction, Fraction] = (0.05, 0.8)
    audio_prob: Fraction = 0.7
    condition_probs: Mapping[ConditionSet, Fraction] = Field(default_factory=lambda: dict(CONDITION_PROBS))
    frames: tuple[int, ...] = Field(default=(1,), min_length=1)
    loss: DecoderLoss = DecoderLoss()

    @field_validator("noise_levels")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"{value[0]:g} is above {value[1]:g}; give the smaller value first")
        return value

    @property
    def stage(self) -> Stage:
        """Settings that batches are drawn with."""
        return self.network_recipe.stages[0]

    @property
    def network_recipe(self) -> Recipe:
        """Recipe of a network that would be trained on the same data."""
        stage = {
            "name": "decoder",
            "steps": max(1, self.steps),
            "train": "output",
            "audio_prob": (self.audio_prob, self.audio_prob),
            "condition_probs": self.condition_probs,
            "frames": self.frames,
            "batch_size": self.batch_size,
        }
        return Recipe(
            output=self.output,
            seed=self.seed,
            model=self.model,
            data=self.data,
            stages=(Stage.model_validate(stage),),
            compute=self.compute,
        )


class TextEncoderConfig(RecipeTable):
    """Sizes of a umT5 encoder."""

    d_model: int = Field(default=192, ge=8)
    d_kv: int = Field(default=48, ge=4)
    d_ff: int = Field(default=512, ge=8)
    num_layers: int = Field(default=4, ge=1)
    num_heads: int = Field(default=4, ge=1)


class TextEncoderRecipe(ComponentRecipe):
    """A run of ``humo train text``: a small umT5 encoder and its tokenizer, from captions and attributes.

    Args:
        network: sizes of the encoder.
        attributes: columns of truth/attributes.parquet that the embeddings are trained to encode.
        vocab_size: largest number of tokens.
        max_length: largest number of positions.
        mask_prob: probability that a token is masked.
    """

    network: TextEncoderConfig = TextEncoderConfig()
    attributes: tuple[str, ...] = Field(min_length=1)
    vocab_size: int = Field(default=1000, ge=100)
    max_length: int = Field(default=96, ge=8)
    mask_prob: Fraction = 0.1
