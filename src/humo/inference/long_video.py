"""Long videos: overlapping windows, each continuing the one before it, each with its own part of the audio.

    finished                        | overlap       | new
    ---------------------- anchor   | latent frames |                          window k
                           ^ the last finished frame, encoded as the first latent frame, which stands for one frame

Each window after the first begins with known latent frames, the prefix: the anchor frame and the overlap. The predicted
clean latents of the prefix are blended with the known ones: weight 1 at the anchor frame and the first overlapping
frame, falling linearly to 0. A network that was trained for continuation takes the prefix without noise, and weight 1
throughout. The mean of its new latents is set to that of the first window, so that colors do not drift.

Memory, and time per second of video, do not grow with the length. The noise of a latent frame follows from the seed and
the frame's number alone.

Shape suffixes: B batch, C latent channels, L latent frames with references, H, W size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from humo.conditioning.conditions import Conditions
from humo.geometry import Window
from humo.inference.decoding import SegmentDecoder
from humo.inference.denoise import PrefixLatents
from humo.model.seeding import seeded_generator
from humo.plan import GenerationPlan


@dataclass
class Segment:
    """Finished piece of a clip: a window without the latent frames that the next window generates again.

    Args:
        latents: (B, C, k, H, W), those after the segments before it.
        decode: decodes segments in their order.
        is_last: no segment follows.
    """

    latents: Tensor
    decode: SegmentDecoder
    is_last: bool

    @cached_property
    def pixels(self) -> Tensor:
        """Pixels (B, 3, 4k, 8 H, 8 W) in [-1, 1]; the first segment has 3 frames fewer."""
        return self.decode(self.latents, is_last=self.is_last)


class WindowSequence:
    """Carries what the windows of a clip share from one to the next. A clip that fits into one window is one segment.

    Args:
        plan: of the clip.
        conditions: audio of the whole clip, images as long as a window.
        noise_BCLHW: of the first window.
        seeds: seed of further noise, for each clip of the batch.
        decode: decodes finished latents, in their order.
        encode_anchor: encodes one frame (B, 3, 1, H, W) as a latent frame (B, C, 1, H, W).
        continuation: the network was trained to continue from clean latent frames.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        conditions: Conditions,
        noise_BCLHW: Tensor,
        seeds: Sequence[tuple[int, int]],
        decode: SegmentDecoder,
        encode_anchor: Callable[[Tensor], Tensor],
        *,
        continuation: bool = False,
    ) -> None:
        self._windows, self._slots = plan.windows, plan.geometry.reference_slots
        self._conditions, self._noise, self._seeds = conditions, noise_BCLHW, seeds
        self._decode, self._encode_anchor, self._continuation = decode, encode_anchor, continuation
        self._mean: Tensor | None = None
        self._overlap: Tensor | None = None
        self.prefix: PrefixLatents | None = None
        """Known latent frames of the next window; None for the first one."""

    def inputs(self, window: Window) -> tuple[Conditions, Tensor]:
        """Return the conditions of a window, and its noise (B, C, L, H, W)."""
        noise = window_noise(self._noise, window, self._slots, self._seeds)
        return self._conditions.within(window, self._slots), noise

    def correct_mean(self, latents_BCLHW: Tensor, window: Window) -> Tensor:
        """Return a window's generated latents, of a continuing network with the mean of the first window."""
        if not self._continuation or self._mean is None:
            return latents_BCLHW
        return match_mean(latents_BCLHW, self._mean, known=1 + window.overlap)

    def finish(self, number: int, latents_BCLHW: Tensor, *, is_last: bool) -> Segment:
        """Return the segment of a window.

        Args:
            number: of the window.
            latents_BCLHW: its latents, without references.
            is_last: no window follows.
        """
        latents = latents_BCLHW.to(self._noise.device)
        if self._mean is None:
            self._mean = latents.mean(dim=(2, 3, 4), keepdim=True)
        count = self._windows[number].latent_frames
        end = count if is_last else count - self._windows[number + 1].overlap
        self._overlap = latents[:, :, end:]
        return Segment(latents[:, :, 1 if number else 0 : end], self._decode, is_last)

    def continue_from(self, segment: Segment, window: Window) -> None:
        """Set the prefix of the window that follows a segment."""
        assert self._overlap is not None
        latents = torch.cat([self._encode_anchor(segment.pixels[:, :, -1:]), self._overlap], dim=2)
        weight = torch.ones(latents.shape[2]) if self._continuation else overlap_weights(window.overlap)
        self.prefix = PrefixLatents(latents, weight.to(latents), clean_input=self._continuation)


def match_mean(latents_BCLHW: Tensor, mean: Tensor, *, known: int) -> Tensor:
    """Return latents whose new frames, those after the known ones, are shifted to a mean (B, C, 1, 1, 1)."""
    new = latents_BCLHW[:, :, known:]
    moved = new + mean - new.mean(dim=(2, 3, 4), keepdim=True)
    return torch.cat([latents_BCLHW[:, :, :known], moved], dim=2)


def overlap_weights(overlap: int) -> Tensor:
    """Return blending weights (1 + overlap,): 1 for the anchor and the first overlapping frame, falling towards 0."""
    return torch.cat([torch.ones(1), torch.linspace(1, 0, overlap + 1)[:-1]])


def window_noise(first_BCLHW: Tensor, window: Window, slots: int, seeds: Sequence[tuple[int, int]]) -> Tensor:
    """Return the noise (B, C, L, H, W) of a window: a latent frame has the same noise in every window that has it.

    Args:
        first_BCLHW: noise of the first window, with reference slots.
        window: of latent frames.
        slots: reference slots.
        seeds: seed of further noise, for each clip of the batch.
    """
    drawn = first_BCLHW.shape[2] - slots
    shape = (first_BCLHW.shape[1], 1, *first_BCLHW.shape[3:])
    parts = [first_BCLHW[:, :, window.start : min(window.end, drawn)]] if window.start < drawn else []
    for frame in range(max(window.start, drawn), window.end):
        noise = [torch.randn(shape, generator=seeded_generator("noise", *seed, frame)) for seed in seeds]
        parts.append(torch.stack(noise).to(first_BCLHW))
    return torch.cat([*parts, first_BCLHW[:, :, drawn:]], dim=2)
