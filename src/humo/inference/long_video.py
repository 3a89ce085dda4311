"""Long clips: overlapping windows, each held to what the one before it has made, each with its own part of the sound.

    finished                       | shared        | new
    ---------------------- still   | latent frames |                          window k
                           ^ the last finished frame, as the first latent frame that every clip begins with

The still is kept as it is, the shared latent frames less and less from the first to the last, so that one window
passes into the next; a network that was trained to go on from clean latent frames is shown them so, and keeps all;
what it adds has the mean of the first window, as its colours would wander off from window to window.
What a window needs does not grow with the clip: memory and time a second are constant, and the noise of a latent frame
follows from the seed and its place alone.

Shape suffixes: B batch, C latent channels, L latent frames with references, H, W size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from humo.conditioning.conditions import Conditions
from humo.geometry import Window
from humo.inference.denoise import PrefixLatents
from humo.model.seeding import seeded_generator
from humo.request import GenerationPlan

GenerateWindow = Callable[[int, Conditions, Tensor, PrefixLatents | None], tuple[Tensor, bool]]
"""(number of the window, its conditions, its noise, what is known) -> its latents, and whether the clip ends there."""


class WindowCache(Protocol):
    """Where the windows of a clip are kept while it is made."""

    def get(self, number: int) -> Tensor | None:
        """A window's latents (B, C, L, H, W), if it was made before."""

    def put(self, number: int, latents: Tensor) -> None:
        """Keep a window's latents."""


class NoWindowCache:
    """Keeps nothing."""

    def get(self, number: int) -> Tensor | None:
        """Nothing."""
        return None

    def put(self, number: int, latents: Tensor) -> None:
        """It is not kept."""


NO_WINDOW_CACHE = NoWindowCache()


@dataclass
class Segment:
    """A piece of a clip that is finished.

    Args:
        latents: (B, C, k, H, W), those after the pieces before it.
        decode: of the pieces in their order.
    """

    latents: Tensor
    decode: Callable[[Tensor], Tensor]

    @cached_property
    def pixels(self) -> Tensor:
        """(B, 3, 4k, 8 H, 8 W) in [-1, 1]; of the first piece, 3 frames fewer."""
        return self.decode(self.latents)


def generate_windows(
    plan: GenerationPlan,
    conditions: Conditions,
    noise_BCLHW: Tensor,
    seeds: Sequence[tuple[int, int]],
    make: GenerateWindow,
    decode: Callable[[Tensor], Tensor],
    still: Callable[[Tensor], Tensor],
    shelf: WindowCache = NO_WINDOW_CACHE,
    *,
    continues: bool = False,
) -> Iterator[Segment]:
    """The windows of a clip, one after the other; a clip that fits into one is one stretch.

    Args:
        plan: of the clip.
        conditions: the sound of the whole clip, pictures as long as a window.
        noise_BCLHW: of the first window.
        seeds: of further noise, for each of the batch.
        make: makes a window.
        decode: decodes what is finished, in its order.
        still: one frame (B, 3, 1, H, W) -> its latent frame (B, C, 1, H, W).
        shelf: keeps windows, where there are several; those that are on it are not made again.
        continues: the network was trained to go on from clean latent frames.
    """
    windows, slots, held = plan.windows, plan.geometry.reference_slots, None
    shelf = shelf if len(windows) > 1 else NO_WINDOW_CACHE
    level: Tensor | None = None
    for number, window in enumerate(windows):
        made, ends = shelf.get(number), False
        if made is None:
            noise = window_noise(noise_BCLHW, window, slots, seeds)
            made, ends = make(number, conditions.within(window, slots), noise, held)
            if continues and level is not None:
                made = match_mean(made, level, known=1 + window.overlap)
            if not ends:
                shelf.put(number, made)
        made = made.to(noise_BCLHW.device)
        if level is None:
            level = made.mean(dim=(2, 3, 4), keepdim=True)
        following = None if ends or number + 1 == len(windows) else windows[number + 1]
        kept = window.latent_frames if following is None else window.latent_frames - following.overlap
        stretch = Segment(made[:, :, 1 if number else 0 : kept], decode)
        yield stretch
        if following is None:
            return
        known = torch.cat([still(stretch.pixels[:, :, -1:]), made[:, :, kept:]], dim=2)
        weight = torch.ones(known.shape[2]) if continues else overlap_weights(following.overlap)
        held = PrefixLatents(known, weight.to(known), clean_input=continues)


def match_mean(latents_BCLHW: Tensor, mean: Tensor, *, known: int) -> Tensor:
    """Latents whose new ones, those after the known ones, are moved to a mean (B, C, 1, 1, 1)."""
    new = latents_BCLHW[:, :, known:]
    moved = new + mean - new.mean(dim=(2, 3, 4), keepdim=True)
    return torch.cat([latents_BCLHW[:, :, :known], moved], dim=2)


def overlap_weights(shared: int) -> Tensor:
    """(1 + shared,): the still and the first shared latent frame are kept, the others less and less."""
    return torch.cat([torch.ones(1), torch.linspace(1, 0, shared + 1)[:-1]])


def window_noise(first_BCLHW: Tensor, window: Window, slots: int, seeds: Sequence[tuple[int, int]]) -> Tensor:
    """Noise (B, C, L, H, W) of a window: that of a latent frame is the same in every window that has it.

    Args:
        first_BCLHW: of the first window, with reference slots.
        window: of latent frames.
        slots: reference slots.
        seeds: words from which further noise of each of the batch follows.
    """
    drawn = first_BCLHW.shape[2] - slots
    shape = (first_BCLHW.shape[1], 1, *first_BCLHW.shape[3:])
    parts = [first_BCLHW[:, :, window.start : min(window.end, drawn)]] if window.start < drawn else []
    for place in range(max(window.start, drawn), window.end):
        fresh = [torch.randn(shape, generator=seeded_generator("noise", *words, place)) for words in seeds]
        parts.append(torch.stack(fresh).to(first_BCLHW))
    return torch.cat([*parts, first_BCLHW[:, :, drawn:]], dim=2)
