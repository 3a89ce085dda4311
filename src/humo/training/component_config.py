"""Recipes of a model's parts, autoencoder and text encoder, as frozen values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from humo.geometry import SPATIAL_STRIDE, snap_frames
from humo.training.config import Checkpoints, Compute, Data, Optimiser, Seed, Share, Table, Validation, Weight


class AutoencoderNetwork(Table):
    """Settings of a `humo.model.autoencoder.ShortcutAutoencoder`."""

    base_dim: int = Field(default=32, ge=4, multiple_of=4)
    decoder_base_dim: int | None = Field(default=None, ge=4, multiple_of=4)
    z_dim: int = Field(default=16, ge=1, le=256)
    dim_mult: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 2, 3)
    num_res_blocks: int = Field(default=1, ge=1)
    deblocking: tuple[Annotated[float, Field(ge=0.0)], Annotated[float, Field(gt=0.0, le=2.0)]] | None = None

    @field_validator("deblocking")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"{value[0]} is not below {value[1]}; a small step comes first, a large one after it")
        return value


class AutoencoderLoss(Table):
    """What an autoencoder minimises: weighted |difference| + the terms below.

    Args:
        square: weight of the squared difference.
        gradient: of the difference of differences between neighbouring pixels.
        kl: of the divergence of the latents from a unit normal.
        face, mouth, eyes: added to the weight (1) of a pixel there; where the truth is known.
        noise: deviation, in those of each channel, of noise added to half of the latents before decoding.
    """

    square: Weight = 1.0
    gradient: Weight = 1.0
    kl: Weight = 1e-5
    face: Weight = 0.0
    mouth: Weight = 0.0
    eyes: Weight = 0.0
    noise: Weight = 0.0


class PartRecipe(Table):
    """What the recipes of a model's parts have in common.

    Args:
        steps, learning_rate, warmup, schedule, decay_from: as a stage's.
        batch: clips a step.
    """

    output: str = Field(min_length=1)
    seed: Seed = 0
    data: Data
    steps: int = Field(default=3000, ge=0)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0.0)
    warmup: int = Field(default=50, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    decay_from: float = Field(default=0.0, ge=0.0, lt=1.0)
    optimiser: Optimiser = Optimiser()
    checkpoints: Checkpoints = Checkpoints()
    validation: Validation = Validation()
    compute: Compute = Compute()
    tensorboard: bool = True


class AutoencoderRecipe(PartRecipe):
    """A run of ``humo train vae``: a video autoencoder from a linear start.

    Args:
        folder: of an autoencoder to go on from, in place of ``network``.
        frames, crop: length (4k + 1) and side in pixels of what is cut out of a clip for a step.
        whitening: of the linear start's channels, 0 (deviations as they are) to 1 (all alike): each is divided by this
            power of its own.
        fit_clips: how many clips the linear start and the latents' statistics are taken from.
        trains: the whole of it, or the decoder alone (the latents stay as they are).
        gentle: share of the learning rate for the layers whose outputs are pixels or latents themselves.
    """

    folder: str | None = None
    network: AutoencoderNetwork = AutoencoderNetwork()
    trains: Literal["all", "decoder"] = "all"
    gentle: Share = 0.05
    frames: int = Field(default=9, ge=1)
    crop: Annotated[int, Field(ge=SPATIAL_STRIDE, multiple_of=SPATIAL_STRIDE)] = 64
    whitening: Share = 0.5
    fit_clips: int = Field(default=300, ge=1)
    loss: AutoencoderLoss = AutoencoderLoss()

    @field_validator("frames")
    @classmethod
    def _of_the_form(cls, frames: int) -> int:
        if snap_frames(frames) != frames:
            raise ValueError(f"{frames} frames are not 4k + 1; the nearest below is {snap_frames(frames)}")
        return frames


class TextNetwork(Table):
    """Sizes of a umT5 encoder."""

    d_model: int = Field(default=192, ge=8)
    d_kv: int = Field(default=48, ge=4)
    d_ff: int = Field(default=512, ge=8)
    num_layers: int = Field(default=4, ge=1)
    num_heads: int = Field(default=4, ge=1)


class TextRecipe(PartRecipe):
    """A run of ``humo train text``: a small umT5 encoder and its tokenizer, from captions and what is true.

    Args:
        attributes: columns of truth/attributes.parquet that its embeddings shall tell.
        vocabulary: pieces of the tokenizer, at most.
        length: positions, at most.
        guess: share of words hidden, which the embeddings shall tell all the same.
    """

    network: TextNetwork = TextNetwork()
    attributes: tuple[str, ...] = Field(min_length=1)
    vocabulary: int = Field(default=1000, ge=100)
    length: int = Field(default=96, ge=8)
    guess: Share = 0.1
