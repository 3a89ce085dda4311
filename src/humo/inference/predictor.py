"""Predictor of the denoising loop: runs the network for the guidance passes of a step.

Shape suffixes: B batch, C latent channels, L latent frames of the whole sequence (references at the end), H, W size.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from humo.conditioning.conditions import Conditions, stack
from humo.errors import RequestError
from humo.geometry import PATCH
from humo.guidance import Rung
from humo.inference.execution import Execution
from humo.model.caches import check_cache, is_compiled, is_hooked
from humo.model.reference import network_input
from humo.model.transformer import CrossAttentionKV, HuMoTransformer3DModel, KVCache
from humo.presets import ReferenceInjection
from humo.request import CacheName

MAX_BATCHED_TOKENS = 512
"""Tokens of a pass up to which the passes of a step run faster as one batch (measured: docs/speed.md)."""


def fits_one_batch(noise_BCLHW: Tensor) -> bool:
    """Return whether a pass over such latents has so few tokens that a step's passes run faster as one batch."""
    batch, _, *grid = noise_BCLHW.shape
    tokens = batch * math.prod(size // patch for size, patch in zip(grid, PATCH, strict=True))
    return tokens <= MAX_BATCHED_TOKENS


def check_execution(transformer: HuMoTransformer3DModel, cache: CacheName, execution: Execution) -> None:
    """Check that a network can use a step cache with the way it is run.

    Raises:
        RequestError: the cache cannot be used with batched passes, several processes, or streamed or compiled blocks.
    """
    blocks = transformer.blocks
    check_cache(
        cache,
        processes=execution.processes,
        batched=execution.batch_passes is True,
        hooked=any(map(is_hooked, blocks)),
        compiled=is_compiled(transformer),
        blocks=len(blocks),
    )


def batch_guidance_passes(
    transformer: HuMoTransformer3DModel, cache: CacheName, execution: Execution, noise_BCLHW: Tensor
) -> bool:
    """Return whether the passes of a step run as one batch.

    Args:
        transformer: the network.
        cache: the request's; a step cache needs the passes one by one.
        execution: its ``batch_passes`` decides, unless it is None.
        noise_BCLHW: the latents' shape.
    """
    if execution.batch_passes is not None:
        return execution.batch_passes
    separable = execution.guidance_parallel.size == 1 and cache == "none" and not transformer.is_cache_enabled
    return separable and fits_one_batch(noise_BCLHW)


class PassInputs(NamedTuple):
    """Everything but the latents and the timestep that one pass of the network takes.

    Args:
        conditions: those that the pass keeps.
        cross_attention_kv: keys and values of text and audio for all timesteps; None where weights are offloaded.
        branch: letters of the kept conditions; a step cache keeps one state for each branch.
        guidance: (1, 3) scales of text, audio and image for a distilled network.
    """

    conditions: Conditions
    cross_attention_kv: CrossAttentionKV | None
    branch: str
    guidance: Tensor | None = None


class VelocityPredictor:
    """Runs the network for the guidance passes of a step.

    Inputs that no timestep changes are prepared once for each combination of conditions, and kept.

    Args:
        transformer: the network.
        conditions: all conditions of the clip; each pass keeps some of them.
        reference_injection: how reference images enter the network's input.
        guidance: (1, 3) scales of text, audio and image for a distilled network, else None.
        execution: how the network is run.
        batch_passes: run the passes of a step as one batch.
    """

    def __init__(
        self,
        transformer: HuMoTransformer3DModel,
        conditions: Conditions,
        reference_injection: ReferenceInjection,
        *,
        guidance: Tensor | None = None,
        execution: Execution | None = None,
        batch_passes: bool = False,
    ) -> None:
        self._transformer, self._conditions = transformer, conditions
        self._reference_injection, self._guidance = reference_injection, guidance
        self._execution = Execution() if execution is None else execution
        self._batch_passes = batch_passes
        self._inputs: dict[tuple[str, ...], PassInputs] = {}
        self._text_kv: dict[tuple[bool, ...], KVCache] = {}
        self._audio_kv: dict[tuple[bool, ...], KVCache] = {}
        self._weights_move = self._execution.streamed is not None or any(
            isinstance(part, FSDPModule) or hasattr(part, "_hf_hook") or is_hooked(part)
            for part in transformer.modules()
        )

    def __call__(self, latents_BCLHW: Tensor, timestep: Tensor, rungs: tuple[Rung, ...]) -> list[Tensor]:
        """Predict the velocity noise - data of each guidance pass, like the latents.

        Args:
            latents_BCLHW: noisy latents.
            timestep: 0..1000, a scalar.
            rungs: one guidance pass each.

        Raises:
            RequestError: the device's memory ran out in a pass with a step cache.
        """
        if self._batch_passes:
            latents = latents_BCLHW.repeat(len(rungs), 1, 1, 1, 1)
            inputs = self.prepare(*(rung.keep for rung in rungs))
            return list(self._run_pass(latents, timestep.expand(len(latents)), inputs).chunk(len(rungs)))
        parallel, velocities = self._execution.guidance_parallel, []
        timesteps = timestep.expand(len(latents_BCLHW))
        for number in parallel.assigned(len(rungs)):
            velocity = self._run_pass(latents_BCLHW, timesteps, self.prepare(rungs[number].keep))
            velocities += parallel.gather_passes(velocity)
        return velocities[: len(rungs)]

    def prepare(self, *branches: str) -> PassInputs:
        """Return the inputs of one pass over a batch of these branches (letters of TIA), prepared once.

        Keys and values of text and audio are computed once per generation unless the weights are offloaded.
        """
        if branches not in self._inputs:
            rungs = [Rung(branch) for branch in branches]
            kept = [self._conditions.keep(text=rung.text, image=rung.image, audio=rung.audio) for rung in rungs]
            conditions = stack(kept)
            kv = None if self._weights_move else self._cross_attention_kv(conditions, rungs)
            guidance = None if self._guidance is None else self._guidance.to(conditions.text.device)
            self._inputs[branches] = PassInputs(conditions, kv, "+".join(branches), guidance)
        return self._inputs[branches]

    def _cross_attention_kv(self, conditions: Conditions, rungs: list[Rung]) -> CrossAttentionKV:
        text, audio = tuple(rung.text for rung in rungs), tuple(rung.audio for rung in rungs)
        dtype = conditions.text.dtype
        if text not in self._text_kv:
            self._text_kv[text] = self._transformer.text_kv(conditions.text)
        if audio not in self._audio_kv:
            self._audio_kv[audio] = self._transformer.audio_kv(conditions.audio, dtype)
        return CrossAttentionKV(self._text_kv[text], self._audio_kv[audio], dtype)

    def _run_pass(self, latents_BCLHW: Tensor, timestep_B: Tensor, inputs: PassInputs) -> Tensor:
        """Run the network once; again, as often as memory can be freed after it ran out."""
        conditions, kv, branch, guidance = inputs
        network, context_parallel = self._transformer, self._execution.context_parallel
        while True:
            try:
                with network.cache_context(branch) if network.is_cache_enabled else nullcontext():
                    velocity: Tensor = network(
                        hidden_states=network_input(self._reference_injection, latents_BCLHW, conditions.image),
                        timestep=timestep_B,
                        encoder_hidden_states=conditions.text if kv is None else None,
                        audio_hidden_states=conditions.audio if kv is None else None,
                        cross_attention_kv=kv,
                        guidance=None if guidance is None else guidance.expand(len(latents_BCLHW), -1),
                        attention_kwargs=None if context_parallel is None else {"context_parallel": context_parallel},
                        return_dict=False,
                    )[0]
                return velocity
            except torch.OutOfMemoryError as failure:
                if network.is_cache_enabled:
                    problem = "the device ran out of memory in a pass with a step cache"
                    remedy = "drop --cache, which lets weights be offloaded during the run"
                    raise RequestError("memory", problem, remedy) from failure
                if not self._execution.on_out_of_memory():
                    raise
