"""``humo train vae``, the whole story: principal components of blocks of pixels, then convolutions beside them.

    start       the linear code: principal components, mouths and eyes counting more; back by least squares
    each step   pieces of clips; loss = weighted |x - x'| + square + gradient terms + KL
    end         the latents' statistics, the fidelity on people never seen, a folder that `from_pretrained` reads

Shape suffixes: B batch, C latent channels, F frames, H, W size, P values of a block.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from humo.distributed.process_group import ProcessGroup, process_group
from humo.errors import MediaError
from humo.geometry import VALUES_PER_LATENT
from humo.model.autoencoder import CONTEXT, ShortcutAutoencoder, to_blocks, with_context
from humo.model.seeding import seeded_generator
from humo.training.autoencoder_data import read_piece, stack_pieces
from humo.training.collate import Decks
from humo.training.component_config import AutoencoderLoss, AutoencoderRecipe
from humo.training.dataset import ClipFiles, no_clips, of_split, refuse_if_bad, scan
from humo.training.loop import Lesson, Note, Progress, has_begun, train_part

MODEL, FIGURES_FILE = "vae", "figures.json"
"""In the folder of a run."""

DIRECT = ("linear_encoder.", "linear_decoder.", "encoder.conv_out.", "quant_conv.", "decoder.conv_out.")
"""Layers whose outputs are pixels or latents themselves."""

FIRST_LOG_VARIANCE = -5.0
"""Of the latents, before training."""

RIDGE = 1e-5
"""Added to the diagonal of the least squares, in its mean."""

BLOCKS_A_CLIP = 400
"""Drawn for the principal components."""

FIGURES = ("loss", "absolute", "square", "gradient", "kl")
"""Of a step: what is minimised, and its parts before weighing."""


def train_autoencoder(
    recipe: AutoencoderRecipe,
    *,
    resume: bool = False,
    progress: Progress = lambda name, done, total: None,
    note: Note = lambda text: None,
) -> Path:
    """Do what a recipe says.

    Args:
        recipe: the whole run.
        resume: go on from the last checkpoint.
        progress: told (phase, done, total).
        note: told what is worth saying.

    Returns:
        the folder of the autoencoder.

    Raises:
        HuMoError: the recipe, the data or a checkpoint is at fault, or the disk is full.
    """
    with process_group(recipe.compute.device) as here:
        if not here.is_main:
            progress, note = (lambda name, done, total: None), (lambda text: None)
        begun = has_begun(recipe, resume)
        here.local_slice(recipe.batch)
        clips, others = _clips(recipe)
        network = _open(recipe) if begun or recipe.folder is not None else _begin(recipe, clips, progress)
        network.to(here.device)
        lesson = Lesson(
            FIGURES,
            lambda step, decks: _losses_of(recipe, here, network, clips, step, decks),
            lambda part: {"psnr": fidelity(part, others)},
            lambda name: share_of(name, recipe),
        )
        train_part(recipe, network, lesson, here, progress, note)
        made = Path(recipe.output) / MODEL
        if here.is_main:
            if recipe.trains == "all":
                _normalise(network, clips[: recipe.fit_clips])
            figures = {"psnr": round(fidelity(network, others), 2), "steps": recipe.steps}
            network.save_pretrained(str(made))
            (Path(recipe.output) / FIGURES_FILE).write_text(json.dumps(figures, indent=1) + "\n")
            note(f"{figures['psnr']} dB on people never seen")
        here.barrier()
        return made


def share_of(name: str, recipe: AutoencoderRecipe) -> float:
    """Of the learning rate, a weight's share: small in layers whose outputs are pixels or latents themselves.

    A step of Adam moves every weight by as much as the learning rate. In a layer of a thousand inputs that is noise in
    its output, and after a linear start such noise is all that is wrong: measured, it costs more than is learnt.
    """
    if recipe.trains == "decoder" and not name.startswith(("decoder.", "post_quant_conv.", "linear_decoder.")):
        return 0.0
    return recipe.gentle if name.startswith(DIRECT) else 1.0


def _clips(recipe: AutoencoderRecipe) -> tuple[Sequence[ClipFiles], Sequence[ClipFiles]]:
    """Clips to train on, and clips of people never seen."""
    folder = scan(recipe.data)
    clips = of_split(folder, recipe.data.split)[: recipe.data.clips]
    refuse_if_bad(folder.bad, len(clips) + len(folder.bad), recipe.data.bad_share)
    if not clips:
        raise no_clips(recipe.data)
    return clips, (folder.clips.get(recipe.validation.split) or clips)[: recipe.validation.loss_clips]


# -- the start --------------------------------------------------------------------------------------------------------


def _open(recipe: AutoencoderRecipe) -> ShortcutAutoencoder:
    """The network with weights that will be replaced, or those of the folder to go on from."""
    if recipe.folder is not None:
        opened: ShortcutAutoencoder = ShortcutAutoencoder.from_pretrained(recipe.folder)
        return opened
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        made: ShortcutAutoencoder = ShortcutAutoencoder(
            **recipe.network.model_dump(),
            latents_mean=[0.0] * recipe.network.z_dim,
            latents_std=[1.0] * recipe.network.z_dim,
        )
    return made


def _begin(recipe: AutoencoderRecipe, clips: Sequence[ClipFiles], progress: Progress) -> ShortcutAutoencoder:
    """The network before its first step: a linear code, its convolutions adding nothing yet."""
    network = _open(recipe)
    components = Components(recipe.network.z_dim, recipe.whitening)
    few = clips[:: max(1, len(clips) // recipe.fit_clips)][: recipe.fit_clips]
    for number, clip in enumerate(few):
        progress("fit", number, len(few))
        piece = read_piece(clip, recipe.loss)
        components.see(piece.video[None], piece.weight[None], seeded_generator(recipe.seed, "components", number))
    components.put_into(network)
    back = LeastSquares(network)
    for number, clip in enumerate(few):
        progress("fit back", number, len(few))
        piece = read_piece(clip, recipe.loss)
        back.see(piece.video[None], piece.weight[None])
    back.put_into_decoder()
    return network


class Components:
    """Principal components of blocks of pixels.

    Args:
        count: how many are kept.
        whitening: 0 leaves the channels' deviations as the components' are, so that a few channels are nearly all; 1
            makes all alike, so that the least of them weigh as much as the first.
    """

    def __init__(self, count: int, whitening: float = 0.5) -> None:
        self.count, self.whitening = count, whitening
        self._weight, self._sum, self._products = 0.0, torch.zeros(()), torch.zeros(())

    def see(self, video_BCFHW: Tensor, weight_BFHW: Tensor, generator: torch.Generator) -> None:
        """Take some blocks of a video in, each as important as its pixels' weights."""
        blocks = to_blocks(video_BCFHW).flatten(0, 3).double()
        weights = to_blocks(weight_BFHW[:, None].expand_as(video_BCFHW)).flatten(0, 3).double().mean(dim=1)
        some = torch.randperm(len(blocks), generator=generator)[:BLOCKS_A_CLIP]
        blocks, weights = blocks[some], weights[some]
        self._weight += float(weights.sum())
        self._sum = self._sum + weights @ blocks
        self._products = self._products + (blocks * weights[:, None]).T @ blocks

    @torch.no_grad()
    def put_into(self, network: ShortcutAutoencoder) -> None:
        """Begin a network's linear layers with them, and its convolutions with nothing."""
        mean = self._sum / self._weight
        values, vectors = torch.linalg.eigh(self._products / self._weight - torch.outer(mean, mean))
        basis, deviation = vectors.flip(1)[:, : self.count], values.flip(0)[: self.count].clamp(min=1e-8).sqrt()
        scale = deviation**-self.whitening
        scale /= (scale * deviation).square().mean().sqrt()  # the channels together of unit size
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
        network.quant_conv.bias[self.count :] = FIRST_LOG_VARIANCE


class LeastSquares:
    """The linear decoder that is nearest to the pixels, from latents and their neighbours.

    Args:
        network: whose linear encoder gives the latents.
    """

    def __init__(self, network: ShortcutAutoencoder) -> None:
        width = network.linear_encoder.out_features * CONTEXT**3 + 1
        self._network = network
        self._products = torch.zeros(width, width, dtype=torch.float64)
        self._sums = torch.zeros(width, VALUES_PER_LATENT, dtype=torch.float64)

    @torch.no_grad()
    def see(self, video_BCFHW: Tensor, weight_BFHW: Tensor) -> None:
        """Take a video in, each block as important as its pixels' weights."""
        blocks = to_blocks(video_BCFHW)
        latents = self._network.linear_encoder(blocks).movedim(-1, 1)
        given = with_context(latents)
        for axis in (2, 3, 4):
            given = given.unfold(axis, CONTEXT, 1)
        rows = given.movedim(1, 4).flatten(4).flatten(0, 3)  # channel, time, row, column: as the weights lie
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        weights = to_blocks(weight_BFHW[:, None].expand_as(video_BCFHW)).flatten(0, 3).mean(dim=1)
        weighted = (rows * weights[:, None]).T
        self._products += weighted @ rows
        self._sums += weighted @ blocks.flatten(0, 3)

    @torch.no_grad()
    def put_into_decoder(self) -> None:
        """Give the network that decoder."""
        ridge = RIDGE * self._products.diagonal().mean()
        solved = torch.linalg.solve(self._products + ridge * torch.eye(len(self._sums)), self._sums).float()
        decoder = self._network.linear_decoder
        decoder.weight.copy_(solved[:-1].T.reshape(decoder.weight.shape))
        _bias_of(decoder).copy_(solved[-1])


def _bias_of(layer: nn.Conv3d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


# -- steps ------------------------------------------------------------------------------------------------------------


def _losses_of(
    recipe: AutoencoderRecipe,
    here: ProcessGroup,
    network: ShortcutAutoencoder,
    clips: Sequence[ClipFiles],
    step: int,
    decks: Decks,
) -> list[Tensor]:
    """The losses of this process's share of a step's batch."""
    cards = [decks.draw("clips", len(clips)) for _ in range(recipe.batch)]
    places = range(recipe.batch)[here.local_slice(recipe.batch)]
    video, weight = _batch(
        recipe, clips, [(cards[place], seeded_generator(recipe.seed, step, place)) for place in places]
    )
    precision = getattr(torch, recipe.compute.precision)
    noise = seeded_generator(recipe.seed, step, here.rank, "noise")
    with torch.autocast(here.device.partition(":")[0], precision, enabled=precision is not torch.float32):
        return losses(network, video.to(here.device), weight.to(here.device), recipe.loss, noise)


def _batch(
    recipe: AutoencoderRecipe, clips: Sequence[ClipFiles], draws: Sequence[tuple[int, torch.Generator]]
) -> tuple[Tensor, Tensor]:
    """Pieces of the drawn clips; a clip that cannot be read is named by the error."""
    pieces = []
    for card, generator in draws:
        piece = read_piece(clips[card], recipe.loss, recipe.frames, recipe.crop, generator)
        if piece.video.shape[1:] != (recipe.frames, recipe.crop, recipe.crop):
            problem = f"is smaller than {recipe.frames} frames of {recipe.crop} pixels"
            raise MediaError("video", f"{clips[card].video.name} {problem}", "lower frames or crop")
        pieces.append(piece)
    return stack_pieces(pieces)


def losses(
    network: ShortcutAutoencoder, video: Tensor, weight: Tensor, loss: AutoencoderLoss, generator: torch.Generator
) -> list[Tensor]:
    """The losses of a batch, in the order of `FIGURES`.

    Args:
        network: under training.
        video: (B, 3, F, H, W).
        weight: (B, F, H, W).
        loss: that weighs.
        generator: of the latents' noise.
    """
    moments = network._encode(video.contiguous(memory_format=torch.channels_last_3d)).float()
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(-20.0, 5.0)
    deviation = (0.5 * log_variance).exp()
    if loss.noise:
        own = mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
        chosen = torch.rand(len(video), 1, 1, 1, 1, generator=generator) < 0.5
        deviation = (deviation.square() + (loss.noise * own * chosen.to(own.device)).square()).sqrt()
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    wrong = network.reconstruct(mean + deviation * noise).float() - video
    weight = (weight / weight.mean(dim=(1, 2, 3), keepdim=True))[:, None]
    absolute, square = (weight * wrong.abs()).mean(), (weight * wrong.square()).mean()
    down, across = wrong.diff(dim=3).abs(), wrong.diff(dim=4).abs()
    gradient = (weight[..., 1:, :] * down).mean() + (weight[..., 1:] * across).mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    total = absolute + loss.square * square + loss.gradient * gradient + loss.kl * kl
    return [total, absolute, square, gradient, kl]


# -- figures ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def fidelity(network: Any, clips: Sequence[ClipFiles]) -> float:
    """Peak signal to noise ratio of the round trip, in dB: of the mean squared error over all clips' pixels, 0..1."""
    errors = []
    for clip in clips:
        video = read_piece(clip, AutoencoderLoss()).video[None].to(network.device)
        again = network.decode(network.encode(video).latent_dist.mode()).sample
        errors.append((again - video).square().mean() / 4)
    return float(-10 * torch.stack(errors).mean().log10())


@torch.no_grad()
def _normalise(network: ShortcutAutoencoder, clips: Sequence[ClipFiles]) -> None:
    """Write the latents' means and one deviation for all channels into the settings, and each one's in units of it."""
    latents = [
        network.encode(read_piece(clip, AutoencoderLoss()).video[None].to(network.device)).latent_dist.mode()
        for clip in clips
    ]
    values = torch.cat([one.movedim(1, 0).flatten(1) for one in latents], dim=1)
    mean, deviation = values.mean(dim=1), values.var(dim=1).mean().sqrt()
    network.register_to_config(
        latents_mean=mean.tolist(),
        latents_std=[float(deviation)] * len(mean),
        channel_std=(values.std(dim=1) / deviation).tolist(),
    )
