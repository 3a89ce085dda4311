"""``humo train vae``: train a video autoencoder that starts from a linear code.

    start       principal components of pixel blocks, with more weight on faces, mouths and eyes; the linear decoder by
                least squares
    each step   segments of clips; loss = weighted |x - x'| + squared error + gradient error + KL divergence
    end         statistics of the latents, PSNR on held-out people, a folder that `from_pretrained` reads

Shape suffixes: B batch, C latent channels, F frames, H, W size, P values of a block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humo.errors import MediaError
from humo.geometry import VALUES_PER_LATENT
from humo.model.autoencoder import CONTEXT, ShortcutAutoencoder, to_blocks, with_context
from humo.model.seeding import seeded_generator
from humo.progress import Progress
from humo.training.autoencoder_data import read_segment, stack_segments
from humo.training.component_config import AutoencoderLoss, AutoencoderRecipe
from humo.training.dataset import ClipFiles, check_bad_fraction, clips_of_split, no_clips_error, scan_corpus
from humo.training.loop import TrainingRun, train_component, training_run
from humo.training.sampler import ShuffledSampler

MODEL, METRICS_FILE = "vae", "metrics.json"
"""Folder and file in the folder of a run."""

PIXEL_LAYERS = ("linear_encoder.", "linear_decoder.", "encoder.conv_out.", "quant_conv.", "decoder.conv_out.")
"""Prefixes of layers whose outputs are pixels or latents."""

INITIAL_LOG_VARIANCE = -5.0
"""Log variance of the latents before training."""

RIDGE_FACTOR = 1e-5
"""Ridge penalty of the least squares, in units of the diagonal's mean."""

BLOCKS_PER_CLIP = 400
"""Number of blocks of a clip that the principal components are computed from."""

LOSS_NAMES = ("loss", "loss_absolute", "loss_square", "loss_gradient", "loss_kl")
"""Logged losses of a step: the weighted sum that is minimized, and its terms without their weights."""


@dataclass(frozen=True)
class PixelBatch:
    """Inputs of a step in this process.

    Args:
        video: pixels (B, 3, F, H, W) in [-1, 1].
        weight: loss weight of each pixel, (B, F, H, W).
        generator: generator of the latents' noise.
    """

    video: Tensor
    weight: Tensor
    generator: torch.Generator


@training_run
def train_autoencoder(run: TrainingRun[AutoencoderRecipe]) -> Path:
    """Train the autoencoder of a recipe (`humo.training.loop.TrainingFunction`).

    Returns:
        folder of the autoencoder.
    """
    recipe = run.recipe
    run.group.local_slice(recipe.batch_size)
    clips, held_out = _list_clips(recipe)
    if run.is_resumed or recipe.folder is not None:
        network = _open_autoencoder(recipe)
    else:
        network = _build_linear_autoencoder(recipe, clips, run.progress)
    network.to(run.group.device)
    train_component(
        run,
        network,
        lambda step, sampler: _batches(run, clips, step, sampler),
        lambda batch: _losses(run, network, batch),
        LOSS_NAMES,
        lambda averaged: {"psnr": reconstruction_psnr(averaged, held_out)},
        lambda name: lr_scale_of(name, recipe),
    )
    folder = run.folder / MODEL
    if run.group.is_main:
        if recipe.trainable == "all":
            _store_latent_statistics(network, clips[: recipe.init_clips])
        metrics = {"psnr": round(reconstruction_psnr(network, held_out), 2), "steps": recipe.steps}
        network.save_pretrained(str(folder))
        (run.folder / METRICS_FILE).write_text(json.dumps(metrics, indent=1) + "\n")
        run.note(f"PSNR {metrics['psnr']} dB on held-out people")
    run.group.barrier()
    return folder


def lr_scale_of(name: str, recipe: AutoencoderRecipe) -> float:
    """Return the factor of a weight's learning rate: small in layers whose outputs are pixels or latents.

    A step of Adam moves every weight by about the learning rate. In a layer with a thousand inputs this adds noise to
    the output. After a linear start that noise costs more than a step gains, as was measured.
    """
    if recipe.trainable == "decoder" and not name.startswith(("decoder.", "post_quant_conv.", "linear_decoder.")):
        return 0.0
    return recipe.pixel_layer_lr_scale if name.startswith(PIXEL_LAYERS) else 1.0


def check_data(recipe: AutoencoderRecipe) -> dict[str, int]:
    """Check the clips of a recipe and count them.

    Raises:
        RequestError: there are no clips, or too many are bad.
    """
    clips, held_out = _list_clips(recipe)
    return {"clips": len(clips), "held-out clips": len(held_out)}


def _list_clips(recipe: AutoencoderRecipe) -> tuple[Sequence[ClipFiles], Sequence[ClipFiles]]:
    """Return clips to train on, and clips of held-out people."""
    corpus = scan_corpus(recipe.data)
    clips = clips_of_split(corpus, recipe.data.split)[: recipe.data.max_clips]
    check_bad_fraction(corpus.bad, len(clips) + len(corpus.bad), recipe.data.max_bad_fraction)
    if not clips:
        raise no_clips_error(recipe.data)
    return clips, (corpus.clips.get(recipe.validation.split) or clips)[: recipe.validation.loss_clips]


# -- the linear start -------------------------------------------------------------------------------------------------


def _open_autoencoder(recipe: AutoencoderRecipe) -> ShortcutAutoencoder:
    """Open the autoencoder of the recipe's folder, or build one with random weights."""
    if recipe.folder is not None:
        opened: ShortcutAutoencoder = ShortcutAutoencoder.from_pretrained(recipe.folder)
        return opened
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        built: ShortcutAutoencoder = ShortcutAutoencoder(
            **recipe.network.model_dump(),
            latents_mean=[0.0] * recipe.network.z_dim,
            latents_std=[1.0] * recipe.network.z_dim,
        )
    return built


def _build_linear_autoencoder(
    recipe: AutoencoderRecipe, clips: Sequence[ClipFiles], progress: Progress
) -> ShortcutAutoencoder:
    """Build an autoencoder whose linear layers are fitted and whose convolutions output zero."""
    network = _open_autoencoder(recipe)
    components = PrincipalComponents(recipe.network.z_dim, recipe.whitening)
    subset = clips[:: max(1, len(clips) // recipe.init_clips)][: recipe.init_clips]
    for number, clip in enumerate(subset):
        progress("fit encoder", number, len(subset))
        segment = read_segment(clip, recipe.loss)
        generator = seeded_generator(recipe.seed, "components", number)
        components.update(segment.video[None], segment.weight[None], generator)
    components.initialize(network)
    decoder = LinearDecoderFit(network)
    for number, clip in enumerate(subset):
        progress("fit decoder", number, len(subset))
        segment = read_segment(clip, recipe.loss)
        decoder.update(segment.video[None], segment.weight[None])
    decoder.initialize_decoder()
    return network


class PrincipalComponents:
    """Weighted principal components of pixel blocks, accumulated over videos.

    Args:
        count: number of components to keep.
        whitening: exponent 0..1 of the whitening. At 0 a channel has the standard deviation of its component, so that
            a few channels dominate; at 1 all channels have the same.
    """

    def __init__(self, count: int, whitening: float = 0.5) -> None:
        self.count, self.whitening = count, whitening
        self._weight, self._sum, self._products = 0.0, torch.zeros(()), torch.zeros(())

    def update(self, video_BCFHW: Tensor, weight_BFHW: Tensor, generator: torch.Generator) -> None:
        """Add random blocks of a video, each weighted by the mean weight of its pixels."""
        blocks = to_blocks(video_BCFHW).flatten(0, 3).double()
        weights = to_blocks(weight_BFHW[:, None].expand_as(video_BCFHW)).flatten(0, 3).double().mean(dim=1)
        indices = torch.randperm(len(blocks), generator=generator)[:BLOCKS_PER_CLIP]
        blocks, weights = blocks[indices], weights[indices]
        self._weight += float(weights.sum())
        self._sum = self._sum + weights @ blocks
        self._products = self._products + (blocks * weights[:, None]).T @ blocks

    @torch.no_grad()
    def initialize(self, network: ShortcutAutoencoder) -> None:
        """Initialize a network's linear layers with the components, and the output of its convolutions with zero."""
        mean = self._sum / self._weight
        values, vectors = torch.linalg.eigh(self._products / self._weight - torch.outer(mean, mean))
        basis, std = vectors.flip(1)[:, : self.count], values.flip(0)[: self.count].clamp(min=1e-8).sqrt()
        scale = std**-self.whitening
        scale /= (scale * std).square().mean().sqrt()  # root mean square of all channels together: 1
        network.linear_encoder.weight.copy_((basis * scale).T)
        network.linear_encoder.bias.copy_(-(mean @ basis) * scale)
        nn.init.zeros_(network.linear_decoder.weight)
        middle = CONTEXT // 2
        network.linear_decoder.weight[:, :, -1, middle, middle] = (basis / scale).float()
        _bias_of(network.linear_decoder).copy_(mean)
        for layer in (network.encoder.conv_out, network.decoder.conv_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(network.quant_conv.bias)
        network.quant_conv.bias[self.count :] = INITIAL_LOG_VARIANCE


class LinearDecoderFit:
    """Weighted least squares fit of the linear decoder: pixels from latents and their neighbors.

    Args:
        network: autoencoder whose linear encoder computes the latents.
    """

    def __init__(self, network: ShortcutAutoencoder) -> None:
        width = network.linear_encoder.out_features * CONTEXT**3 + 1
        self._network = network
        self._products = torch.zeros(width, width, dtype=torch.float64)
        self._sums = torch.zeros(width, VALUES_PER_LATENT, dtype=torch.float64)

    @torch.no_grad()
    def update(self, video_BCFHW: Tensor, weight_BFHW: Tensor) -> None:
        """Add a video, each block weighted by the mean weight of its pixels."""
        blocks = to_blocks(video_BCFHW)
        latents = self._network.linear_encoder(blocks).movedim(-1, 1)
        context = with_context(latents)
        for axis in (2, 3, 4):
            context = context.unfold(axis, CONTEXT, 1)
        rows = context.movedim(1, 4).flatten(4).flatten(0, 3)  # channel, time, row, column: the order of the weights
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        weights = to_blocks(weight_BFHW[:, None].expand_as(video_BCFHW)).flatten(0, 3).mean(dim=1)
        weighted = (rows * weights[:, None]).T
        self._products += weighted @ rows
        self._sums += weighted @ blocks.flatten(0, 3)

    @torch.no_grad()
    def initialize_decoder(self) -> None:
        """Solve the least squares and copy the solution into the network's linear decoder."""
        ridge = RIDGE_FACTOR * self._products.diagonal().mean()
        solution = torch.linalg.solve(self._products + ridge * torch.eye(len(self._sums)), self._sums).float()
        decoder = self._network.linear_decoder
        decoder.weight.copy_(solution[:-1].T.reshape(decoder.weight.shape))
        _bias_of(decoder).copy_(solution[-1])


def _bias_of(layer: nn.Conv3d) -> Tensor:
    """Return the bias of a layer that has one."""
    assert layer.bias is not None
    return layer.bias


# -- steps ------------------------------------------------------------------------------------------------------------


def _batches(
    run: TrainingRun[AutoencoderRecipe], clips: Sequence[ClipFiles], step: int, sampler: ShuffledSampler
) -> Iterator[PixelBatch]:
    """Yield this process's batch of a step.

    Raises:
        MediaError: a clip cannot be read or is too small.
    """
    recipe = run.recipe
    indices = [sampler.draw("clips", len(clips)) for _ in range(recipe.batch_size)]
    segments = []
    for number in range(recipe.batch_size)[run.group.local_slice(recipe.batch_size)]:
        clip, generator = clips[indices[number]], seeded_generator(recipe.seed, step, number)
        segment = read_segment(clip, recipe.loss, recipe.frames, recipe.crop, generator)
        if segment.video.shape[1:] != (recipe.frames, recipe.crop, recipe.crop):
            problem = f"{clip.video.name} is smaller than {recipe.frames} frames of {recipe.crop} pixels"
            raise MediaError("video", problem, "lower frames or crop in the recipe")
        segments.append(segment)
    yield PixelBatch(*stack_segments(segments), seeded_generator(recipe.seed, step, run.group.rank, "noise"))


def _losses(run: TrainingRun[AutoencoderRecipe], network: ShortcutAutoencoder, batch: PixelBatch) -> list[Tensor]:
    """Return the losses of this process's batch in the order of `LOSS_NAMES`."""
    device, dtype = run.group.device, run.dtype
    with torch.autocast(device.partition(":")[0], dtype, enabled=dtype is not torch.float32):
        return autoencoder_losses(
            network, batch.video.to(device), batch.weight.to(device), run.recipe.loss, batch.generator
        )


def autoencoder_losses(
    network: ShortcutAutoencoder, video: Tensor, weight: Tensor, loss: AutoencoderLoss, generator: torch.Generator
) -> list[Tensor]:
    """Return the losses of a batch in the order of `LOSS_NAMES`.

    Args:
        network: the autoencoder.
        video: pixels (B, 3, F, H, W).
        weight: loss weight of each pixel, (B, F, H, W).
        loss: weights of the terms.
        generator: generator of the latents' noise.
    """
    moments = network._encode(video.contiguous(memory_format=torch.channels_last_3d)).float()
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(-20.0, 5.0)
    std = (0.5 * log_variance).exp()
    if loss.noise:
        channel_std = mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
        is_noisy = torch.rand(len(video), 1, 1, 1, 1, generator=generator) < 0.5
        std = (std.square() + (loss.noise * channel_std * is_noisy.to(channel_std.device)).square()).sqrt()
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    error = network.reconstruct(mean + std * noise).float() - video
    weight = (weight / weight.mean(dim=(1, 2, 3), keepdim=True))[:, None]
    absolute, square = (weight * error.abs()).mean(), (weight * error.square()).mean()
    down, across = error.diff(dim=3).abs(), error.diff(dim=4).abs()
    gradient = (weight[..., 1:, :] * down).mean() + (weight[..., 1:] * across).mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    total = absolute + loss.square * square + loss.gradient * gradient + loss.kl * kl
    return [total, absolute, square, gradient, kl]


# -- metrics ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def reconstruction_psnr(network: Any, clips: Sequence[ClipFiles]) -> float:
    """Return the peak signal-to-noise ratio of reconstructions in dB, from the mean squared error over all clips."""
    errors = []
    for clip in clips:
        video = read_segment(clip, AutoencoderLoss()).video[None].to(network.device)
        decoded = network.decode(network.encode(video).latent_dist.mode()).sample
        errors.append((decoded - video).square().mean() / 4)
    return float(-10 * torch.stack(errors).mean().log10())


@torch.no_grad()
def _store_latent_statistics(network: ShortcutAutoencoder, clips: Sequence[ClipFiles]) -> None:
    """Write statistics of the latents into the configuration.

    ``latents_mean`` has the means of the channels, ``latents_std`` one standard deviation for all channels, and
    ``channel_std`` that of each channel in units of it.
    """
    latents = [
        network.encode(read_segment(clip, AutoencoderLoss()).video[None].to(network.device)).latent_dist.mode()
        for clip in clips
    ]
    values = torch.cat([clip_latents.movedim(1, 0).flatten(1) for clip_latents in latents], dim=1)
    mean, std = values.mean(dim=1), values.var(dim=1).mean().sqrt()
    network.register_to_config(
        latents_mean=mean.tolist(),
        latents_std=[float(std)] * len(mean),
        channel_std=(values.std(dim=1) / std).tolist(),
    )
