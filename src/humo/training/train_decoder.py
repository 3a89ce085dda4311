"""``humo train decoder``: train a convolutional decoder on the imprecise latents that a trained network predicts.

    each step   takes of shards, noise at a random level, the network's prediction of the clean latents, their pixels;
                loss = weighted |x - x'| + gradient error + an adversarial loss from a later step on
    end         a folder with the autoencoder and its new decoder that `from_pretrained` reads

Encoder and linear decoder stay as they are, so latents and networks stay valid. A patch discriminator is trained beside
the decoder, in the same pass: its loss has the decoder's pixels detached, the decoder's has the discriminator's weights
detached.

Shape suffixes: B batch, C latent channels, K latent frames, T video frames, H, W size, h, w token grid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from humo.conditioning.image import decode_video
from humo.errors import RequestError
from humo.geometry import SIZE_MULTIPLE, TEMPORAL_STRIDE
from humo.model.autoencoder import ShortcutAutoencoder
from humo.model.reference import network_input
from humo.model.seeding import seeded_generator
from humo.model.transformer import HuMoTransformer3DModel
from humo.training.collate import Batch
from humo.training.component_config import DecoderLoss, DecoderRecipe
from humo.training.config import Recipe
from humo.training.flow_matching import add_noise, timestep_of_level
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.loop import TrainingRun, train_component, training_run
from humo.training.sampler import ShuffledSampler
from humo.training.shard_preparation import check_shards
from humo.training.stage_model import cast_blocks, set_attention_backend
from humo.training.train import open_source, prepare_shards

MODEL, METRICS_FILE = "vae", "metrics.json"
"""Folder and file in the folder of a run."""

LOSS_NAMES = ("loss", "loss_absolute", "loss_gradient", "loss_adversarial", "loss_discriminator")
"""Logged losses of a step: the weighted sum that is minimized, and its terms without their weights."""

MEASURED_SAMPLES = 32
"""Number of takes that metrics are measured on."""

MINIMUM_WIDTH = 4
"""Width of convolutions that have no effect, in an autoencoder that is stored."""


class PatchDiscriminator(nn.Module):
    """Judges patches of a frame: positive for true ones.

    Args:
        width: channels of the first layer.

    **Source:** Image-to-Image Translation with Conditional Adversarial Networks (arXiv 1611.07004), PatchGAN.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, 1, 1),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return logits (N, 1, h, w) of frames (N, 3, H, W)."""
        logits: Tensor = self.layers(frames)
        return logits


@dataclass(frozen=True)
class DecoderBatch:
    """Inputs of a step in this process.

    Args:
        latents: predicted latents, (B, C, K, H, W).
        video: true pixels (B, 3, T, H, W) in [-1, 1].
        weight: loss weight of each pixel, (B, 1, T, H, W), 1 on average.
        step: index of the step.
    """

    latents: Tensor
    video: Tensor
    weight: Tensor
    step: int


@training_run
def train_decoder(run: TrainingRun[DecoderRecipe]) -> Path:
    """Train the decoder of a recipe (`humo.training.loop.TrainingFunction`).

    Returns:
        folder of the autoencoder with its new decoder.
    """
    recipe = run.recipe
    run.group.local_slice(recipe.batch_size)
    encoders = FrozenEncoders(recipe.model, run.dtype, run.group.device)
    vae = with_decoder(encoders.vae, recipe).to(run.group.device)
    predictor = LatentPredictor(run, encoders)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        discriminator = PatchDiscriminator(recipe.discriminator_width)
    parts = nn.ModuleDict({"decoder": vae.convolutional_decoder, "discriminator": discriminator})
    held_out = predictor.held_out()
    train_component(
        run,
        parts.to(run.group.device),
        predictor.batches,
        lambda batch: _losses(run, vae, discriminator, batch),
        LOSS_NAMES,
        lambda averaged: decoder_metrics(_with_weights(vae, averaged), held_out),
    )
    folder = run.folder / MODEL
    if run.group.is_main:
        metrics = decoder_metrics(vae, held_out)
        vae.save_pretrained(str(folder))
        (run.folder / METRICS_FILE).write_text(json.dumps(metrics, indent=1) + "\n")
        run.note(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    run.group.barrier()
    return folder


def check_data(recipe: DecoderRecipe) -> dict[str, int]:
    """Check the shards of a recipe and count them.

    Raises:
        RequestError: the takes are shorter than the recipe's frames.
        StorageError: the folder has no shards.
    """
    return {"shards": check_shards(recipe.data, [recipe.stage])["shards"]}


def with_decoder(vae: ShortcutAutoencoder, recipe: DecoderRecipe) -> ShortcutAutoencoder:
    """Return an autoencoder with a new convolutional decoder, otherwise equal.

    Convolutions of Wan2.1's architecture that have no effect are built as small as possible.

    Raises:
        RequestError: the autoencoder has no linear decoder.
    """
    if not isinstance(vae, ShortcutAutoencoder):
        problem = f"is an {type(vae).__name__}, whose decoder is complete"
        raise RequestError("model.vae", problem, f"give the folder of a {ShortcutAutoencoder.__name__}")
    config: dict[str, Any] = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    config |= {"decoder_widths": list(recipe.widths), "deblocking": None}
    if not vae.encoder.conv_out.weight.any() and not vae.decoder.conv_out.weight.any():
        config |= {"base_dim": MINIMUM_WIDTH, "decoder_base_dim": MINIMUM_WIDTH}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        built: ShortcutAutoencoder = ShortcutAutoencoder(**config)
    old, weights = vae.state_dict(), built.state_dict()
    for name, weight in weights.items():
        if name in old and old[name].shape == weight.shape:
            weights[name] = old[name]
        elif name.endswith("conv_out.weight") and not name.startswith("convolutional_decoder."):
            weights[name] = torch.zeros_like(weight)
    built.load_state_dict(weights)
    built.requires_grad_(False)
    return built


class LatentPredictor:
    """Draws takes and predicts their latents from noise with the recipe's network.

    Args:
        run: the run.
        encoders: frozen components and the network.
    """

    def __init__(self, run: TrainingRun[DecoderRecipe], encoders: FrozenEncoders) -> None:
        self._run, self._stage = run, run.recipe.stage
        network_run = TrainingRun[Recipe](run.recipe.network_recipe, run.group, run.state, run.progress, run.note)
        data = prepare_shards(network_run, encoders)
        self._injection = data.collate.injection
        self._source = open_source(network_run, data, self._stage)
        network: HuMoTransformer3DModel = encoders.build_network(run.recipe.seed)
        self._network = network.to(run.group.device).eval().requires_grad_(False)
        set_attention_backend(self._network, run.recipe.compute.attention_backend)
        cast_blocks(self._network, run.dtype)

    def batches(self, step: int, sampler: ShuffledSampler) -> Iterator[DecoderBatch]:
        """Yield this process's batch of a step."""
        recipe = self._run.recipe
        bucket, specs = self._source.draw(sampler, self._stage, step, recipe.seed, 0)
        local = self._run.group.local_slice(recipe.batch_size)
        generator = seeded_generator(recipe.seed, step, "decoder noise levels")
        low, high = recipe.noise_levels
        levels = low + (high - low) * torch.rand(recipe.batch_size, generator=generator)
        batch = self._source(bucket, specs[local])
        yield DecoderBatch(self.predict(batch, levels[local]), *self._pixels(batch), step)

    def held_out(self) -> DecoderBatch:
        """Return the batch that metrics are measured on, at the middle noise level; its people may be trained on."""
        recipe = self._run.recipe
        stage = self._stage.model_copy(update={"batch_size": MEASURED_SAMPLES})
        bucket, specs = self._source.draw(ShuffledSampler(0, {}), stage, 1, recipe.seed, "measured")
        batch = self._source(bucket, specs)
        levels = torch.full((MEASURED_SAMPLES,), sum(recipe.noise_levels) / 2)
        return DecoderBatch(self.predict(batch, levels), *self._pixels(batch), 0)

    @torch.no_grad()
    def predict(self, batch: Batch, level_B: Tensor) -> Tensor:
        """Return the latents (B, C, K, H, W) that the network predicts from noisy ones in one pass."""
        device, frames = self._run.group.device, batch.data.shape[2]
        level = level_B.to(device)
        noisy = add_noise(batch.data.to(device), batch.noise.to(device), level[:, None])
        velocity = self._network(
            hidden_states=network_input(self._injection, noisy, batch.conditions.image.to(device)),
            timestep=timestep_of_level(level),
            encoder_hidden_states=batch.conditions.text.to(device, self._run.dtype),
            audio_hidden_states=batch.conditions.audio.to(device),
            return_dict=False,
        )[0]
        clean: Tensor = noisy - level.view(-1, 1, 1, 1, 1) * velocity.float()
        return clean[:, :, :frames]

    def _pixels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return true pixels and their loss weights."""
        assert batch.pixels is not None
        device = self._run.group.device
        return batch.pixels.to(device), pixel_weights(batch, self._run.recipe.loss).to(device)


def pixel_weights(batch: Batch, loss: DecoderLoss) -> Tensor:
    """Return the loss weight of each pixel, (B, 1, T, H, W), 1 on average, from masks of face, mouth and eyes."""
    weight = 1 + loss.face * batch.face_mask + loss.mouth * batch.mouth_mask
    if batch.eye_mask is not None:
        weight = weight + loss.eyes * batch.eye_mask
    frames = torch.cat([weight[:, :1], weight[:, 1:].repeat_interleave(TEMPORAL_STRIDE, dim=1)], dim=1)
    pixels = F.interpolate(frames, scale_factor=SIZE_MULTIPLE, mode="nearest")[:, None]
    return pixels / pixels.mean()


def _losses(
    run: TrainingRun[DecoderRecipe], vae: ShortcutAutoencoder, discriminator: nn.Module, batch: DecoderBatch
) -> list[Tensor]:
    """Return the losses of this process's batch in the order of `LOSS_NAMES`."""
    with torch.autocast(run.group.device.partition(":")[0], run.dtype, enabled=run.dtype is not torch.float32):
        return decoder_losses(vae, discriminator, batch, run.recipe.loss)


def decoder_losses(
    vae: ShortcutAutoencoder, discriminator: nn.Module, batch: DecoderBatch, loss: DecoderLoss
) -> list[Tensor]:
    """Return the losses of a batch in the order of `LOSS_NAMES`.

    The adversarial terms are hinge losses: the discriminator's max(0, 1 - D(x)) + max(0, 1 + D(x')), the decoder's
    -D(x'). Both are zero before ``loss.adversarial_start``.

    Args:
        vae: autoencoder whose convolutional decoder is trained.
        discriminator: the discriminator.
        batch: latents, true pixels, weights and step.
        loss: weights of the terms.
    """
    decoded = decode_video(batch.latents, vae, vae.reconstruct).float()
    error = decoded - batch.video
    absolute = (batch.weight * error.abs()).mean()
    gradient = (batch.weight[..., 1:, :] * error.diff(dim=3).abs()).mean()
    gradient = gradient + (batch.weight[..., 1:] * error.diff(dim=4).abs()).mean()
    adversarial = judged = absolute.new_zeros(())
    if loss.adversarial and batch.step >= loss.adversarial_start:
        fake, true = decoded.movedim(2, 1).flatten(0, 1), batch.video.movedim(2, 1).flatten(0, 1)
        fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
        adversarial = -functional_call(discriminator, fixed, (fake,)).float().mean()
        judged = (
            F.relu(1 - discriminator(true).float()).mean() + F.relu(1 + discriminator(fake.detach()).float()).mean()
        )
    total = absolute + loss.gradient * gradient + loss.adversarial * adversarial + judged
    return [total, absolute, gradient, adversarial, judged]


# -- metrics ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def decoder_metrics(vae: ShortcutAutoencoder, batch: DecoderBatch) -> Mapping[str, float]:
    """Return metrics of a decoder on a batch, where 1 is the value of true pixels.

    Returns:
        ``absolute_error`` in [0, 2]; ``sharpness``: energy of differences between neighboring pixels; ``block_edges``:
        such differences at borders of tokens, in units of those elsewhere.
    """
    decoded = decode_video(batch.latents, vae, vae.reconstruct).float().clamp(-1, 1)
    true_energy, energy = (torch.stack(_edges(video)).square().mean() for video in (batch.video, decoded))
    return {
        "absolute_error": float((decoded - batch.video).abs().mean()),
        "sharpness": float(energy / true_energy),
        "block_edges": block_edges(decoded) / block_edges(batch.video),
    }


def _edges(video: Tensor) -> list[Tensor]:
    """Return absolute differences between neighboring pixels, down and across, both of the same shape."""
    return [video.diff(dim=3)[..., :-1].abs(), video.diff(dim=4)[..., :-1, :].abs()]


def block_edges(video: Tensor) -> float:
    """Return the mean difference between neighbors across borders of tokens, in units of that elsewhere."""
    at_borders, elsewhere = [], []
    for axis in (3, 4):
        steps = video.diff(dim=axis).abs().mean(dim=(0, 1, 2)).mean(dim=4 - axis)
        is_border = torch.arange(1, len(steps) + 1, device=video.device) % SIZE_MULTIPLE == 0
        at_borders.append(steps[is_border])
        elsewhere.append(steps[~is_border])
    return float(torch.cat(at_borders).mean() / torch.cat(elsewhere).mean())


def _with_weights(vae: ShortcutAutoencoder, parts: nn.Module) -> ShortcutAutoencoder:
    """Return the autoencoder as it is after its decoder is replaced by that of ``parts``."""
    built: ShortcutAutoencoder = ShortcutAutoencoder.from_config(vae.config)
    built.load_state_dict(vae.state_dict())
    assert isinstance(parts, nn.ModuleDict)
    assert built.convolutional_decoder is not None
    built.convolutional_decoder.load_state_dict(parts["decoder"].state_dict())
    built.to(vae.device)
    return built
