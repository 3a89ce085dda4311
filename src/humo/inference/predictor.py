"""The network as the walk from noise sees it: noisy latents and what a pass is told in, a velocity out."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from humo.conditioning.conditions import Conditions
from humo.errors import RequestError
from humo.geometry import PATCH
from humo.guidance import Rung
from humo.inference.denoise import GuidanceParallel, PrepareConditions
from humo.inference.encoding import EncodingMixin
from humo.model.caches import check_cache, is_compiled, is_hooked
from humo.model.reference import network_input
from humo.model.transformer import Heard, Offered
from humo.progress import never_stop
from humo.request import CacheName

MAX_BATCHED_TOKENS = 512
"""Tokens of a pass up to which a step's passes are faster as one batch (measured: docs/speed.md)."""


def fits_one_batch(noise: Tensor) -> bool:
    """Whether a pass over such latents (B, C, L, H, W) is so short that several are faster as one batch."""
    batch, _, *grid = noise.shape
    return batch * math.prod(size // patch for size, patch in zip(grid, PATCH, strict=True)) <= MAX_BATCHED_TOKENS


class PassInputs(NamedTuple):
    """What a pass is told.

    Args:
        conditions: that it keeps.
        heard: what the network makes of text and sound once for all timesteps; None where its weights are not at hand.
        branch: the letters that are kept: by these a cache tells its states apart.
        scales: (1, 3) of text, audio and image, that a student is told.
    """

    conditions: Conditions
    cross_attention_kv: Heard | None
    branch: str
    guidance: Tensor | None = None


class VelocityMixin(EncodingMixin):
    """How a pipeline runs its network."""

    branches: GuidanceParallel
    let_go: Callable[[], None] | None = None
    """Where the weights of blocks stay on the disk: lets go of what was read ahead."""
    make_room: Callable[[], bool] = staticmethod(never_stop)
    """Called where the device's memory runs out in a pass: whether there is more room now, and it is made again."""

    def batches(self, cache: CacheName, wanted: bool | None = None, noise: Tensor | None = None) -> bool:
        """Whether the passes of a step are made as one batch.

        Args:
            cache: as in a request.
            wanted: None to have it so where a pass is short, by itself, and nothing needs the passes one by one.
            noise: (B, C, L, H, W), from which they set out.

        Raises:
            RequestError: the cache does not go with this, or with how the network lies here.
        """
        blocks, split = self.transformer.blocks, self.transformer.split
        check_cache(
            cache,
            processes=self.branches.size * (1 if split is None else split.size),
            batched=wanted is True,
            hooked=self.let_go is not None or any(map(is_hooked, blocks)),
            compiled=is_compiled(self.transformer),
            blocks=len(blocks),
        )
        if wanted is not None:
            return wanted
        alone = self.branches.size == 1 and cache == "none" and not self.transformer.is_cache_enabled
        return alone and noise is not None and fits_one_batch(noise)

    def ear(self, scales: Tensor | None = None) -> PrepareConditions:
        """Makes of conditions what passes are told; of text and sound once, where the network's weights are at hand.

        Args:
            scales: (1, 3), that a student is told.
        """
        moved = self.let_go is not None or any(
            isinstance(part, FSDPModule) or hasattr(part, "_hf_hook") or is_hooked(part)
            for part in self.transformer.modules()
        )
        texts: dict[tuple[bool, ...], Offered] = {}
        sounds: dict[tuple[bool, ...], Offered] = {}

        def hear(conditions: Conditions, branches: tuple[str, ...]) -> PassInputs:
            heard = None
            if not moved:
                rungs = [Rung(branch) for branch in branches]
                text, sound = tuple(rung.text for rung in rungs), tuple(rung.audio for rung in rungs)
                dtype = conditions.text.dtype
                if text not in texts:
                    texts[text] = self.transformer.hear_text(conditions.text)
                if sound not in sounds:
                    sounds[sound] = self.transformer.hear_sound(conditions.audio, dtype)
                heard = Heard(texts[text], sounds[sound], dtype)
            told = None if scales is None else scales.to(conditions.text.device)
            return PassInputs(conditions, heard, "+".join(branches), told)

        return hear

    def velocity(self, latents: Tensor, timestep: Tensor, seen: PassInputs) -> Tensor:
        """A pass of the network: noise - data, like the latents (B, C, L, H, W).

        Args:
            latents: noisy.
            timestep: (B,).
            seen: by the pass.
        """
        try:
            return self._pass(latents, timestep, seen)
        except torch.OutOfMemoryError as failure:
            if self.transformer.is_cache_enabled:
                remedy = "leave the cache out, and the weights are placed so that they take less"
                raise RequestError("memory", "of the device ran out in a pass with a cache", remedy) from failure
            if not self.make_room():
                raise
        return self.velocity(latents, timestep, seen)

    def _pass(self, latents: Tensor, timestep: Tensor, seen: PassInputs) -> Tensor:
        conditions, heard, branch, scales = seen
        network = self.transformer
        with network.cache_context(branch) if network.is_cache_enabled else nullcontext():
            velocity: Tensor = network(
                hidden_states=network_input(self.preset.reference_injection, latents, conditions.image),
                timestep=timestep,
                encoder_hidden_states=conditions.text if heard is None else None,
                audio_hidden_states=conditions.audio if heard is None else None,
                heard=heard,
                scales=None if scales is None else scales.expand(len(latents), -1),
                return_dict=False,
            )[0]
        return velocity
