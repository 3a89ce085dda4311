"""Sampling of a step: its bucket of clips, the clip of each sample, and whether the sample has audio.

Everything random is derived from the recipe's seed, the step and the position in the batch. So a step is the same
whatever the number of processes, and after a restart; the only state is the cursors of `ShuffledSampler`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from humo.errors import RequestError
from humo.model.seeding import seeded_generator
from humo.training.config import Stage
from humo.training.latent_cache import CachedClip

Bucket = tuple[int, int, int]
"""Width and height in pixels, and number of frames; all clips of a batch are of one bucket."""


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """A sample of a batch before its tensors are loaded.

    Args:
        clip: the encoded clip.
        has_audio: whether the sample is conditioned on audio.
        key: key of the sample's random numbers.
    """

    clip: CachedClip
    has_audio: bool
    key: tuple[object, ...]


class ShuffledSampler:
    """Draws clips from pools in shuffled order; every clip of a pool is drawn once before any is drawn again.

    Args:
        seed: seed of the shuffling.
        cursors: pool -> number of clips drawn so far, from an earlier run.
    """

    def __init__(self, seed: int, cursors: Mapping[str, int] | None = None) -> None:
        self._seed = seed
        self.cursors: dict[str, int] = dict(cursors or {})
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def draw(self, pool: str, size: int) -> int:
        """Return the index of the next clip.

        Args:
            pool: name of the pool; the shuffling depends on it.
            size: number of clips in the pool.
        """
        count = self.cursors.get(pool, 0)
        self.cursors[pool] = count + 1
        epoch, position = divmod(count, size)
        if self._orders.get(pool, (-1, []))[0] != epoch:
            generator = seeded_generator(self._seed, "deck", pool, epoch)  # word kept: seed
            self._orders[pool] = epoch, torch.randperm(size, generator=generator).tolist()
        return self._orders[pool][1][position]


def group_into_buckets(clips: Sequence[CachedClip], stage: Stage) -> dict[Bucket, list[CachedClip]]:
    """Return the clips of each bucket of a stage.

    Raises:
        RequestError: no clip is long enough, or the stage needs audio and no clip has any.
    """
    buckets: dict[Bucket, list[CachedClip]] = {}
    for clip in clips:
        for frames in stage.frames:
            if frames <= clip.frames:
                buckets.setdefault((*clip.size, frames), []).append(clip)
    if not buckets:
        problem = f"no clip has {stage.frames[0]} frames"
        raise RequestError(f"stage {stage.name!r}", problem, "lower frames, or use longer clips")
    if max(stage.audio_prob) > 0 and not any(clip.has_audio for in_bucket in buckets.values() for clip in in_bucket):
        problem = f"audio_prob is {stage.audio_prob}, and no clip has audio"
        raise RequestError(f"stage {stage.name!r}", problem, "set audio_prob = [0, 0], or add clips with audio")
    return dict(sorted(buckets.items()))


def audio_prob(stage: Stage, step: int) -> float:
    """Return the probability that a sample of a step has audio; it changes linearly over the stage."""
    start, end = stage.audio_prob
    return start + (end - start) * (step / max(1, stage.steps - 1))


def draw_batch(
    buckets: Mapping[Bucket, Sequence[CachedClip]], sampler: ShuffledSampler, stage: Stage, step: int, *key: object
) -> tuple[Bucket, list[SampleSpec]]:
    """Draw the bucket of a step in proportion to its number of clips, and the samples of its batch.

    Args:
        buckets: clips of the stage.
        sampler: sampler to draw from; its cursors advance.
        stage: the stage.
        step: index of the step in the stage.
        key: key of the random numbers besides the step: seed and index of the stage.
    """
    generator = seeded_generator(*key, step, "bucket")
    sizes = torch.tensor([float(len(clips)) for clips in buckets.values()])
    bucket = list(buckets)[int(torch.multinomial(sizes, 1, generator=generator))]
    clips = buckets[bucket]
    with_audio = [clip for clip in clips if clip.has_audio]
    specs = []
    for number, chance in enumerate(torch.rand(stage.batch_size, generator=generator).tolist()):
        has_audio = bool(with_audio) and chance < audio_prob(stage, step)
        candidates = with_audio if has_audio else clips
        pool = f"{bucket}{' heard' if has_audio else ''}"  # word kept: seed of the shuffling
        specs.append(SampleSpec(candidates[sampler.draw(pool, len(candidates))], has_audio, (*key, step, number)))
    return bucket, specs
