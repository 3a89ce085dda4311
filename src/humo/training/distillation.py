"""What a student learns from: its teacher's guided walks from noise to clips, each with its own scales.

A student takes one pass where the teacher takes all those of its ladder, several times over. A step of it is a straight
line between two states of a walk, and that line goes on to its two ends as every sample's does:

    v = (x_i - x_(i+1)) / (s_i - s_(i+1)),   data = x_i - s_i * v,   noise = data + v

So what trains a network on clips trains a student on walks: it is shown data with noise of level s_i, which is x_i, and
should say v.

Shape suffixes: C latent channels, F latent frames of the video, L of the sequence, H, W latent size.

**Source:** Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", 2022, all rounds in one;
the guided teacher as in Meng et al., "On distillation of guided diffusion models", 2022, with its scales as inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from humo.distributed.process_group import ProcessGroup
from humo.errors import RequestError
from humo.guidance import MODES, GuidanceScales, Mode
from humo.inference.denoise import PrefixLatents, denoise, make_scheduler
from humo.inference.pipeline import HuMoPipeline
from humo.inference.predictor import fits_one_batch
from humo.model.seeding import seeded_generator
from humo.presets import SCALE_NAMES, Distillation, Preset
from humo.training.collate import Batch, Bucket, Collator, Decks, Slot, buckets_of, draw_step
from humo.training.config import Distill, Recipe, Stage
from humo.training.frozen_encoders import Encoders
from humo.training.latent_cache import Entry, Progress
from humo.training.tensor_files import Digests, digest, read_tensors, write_tensors

STATES = "states"  # (steps + 1, C, F, H, W) in a walk's file, from noise to the clip's latents


def student_of(settings: Distill, preset: Preset) -> Distillation:
    """What the student of a recipe will have learned.

    Args:
        settings: of the recipe.
        preset: the teacher's.
    """
    scales = {}
    for name in SCALE_NAMES:
        own = getattr(preset.scales, name)
        scales[name] = settings.scales.get(name, (own, own))
    return Distillation(settings.steps, settings.shift or preset.shift, scales)


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk of the teacher.

    Args:
        slot: the sample whose noise and conditions it has.
        scales: of text, audio and image.
        path: of its file.
    """

    slot: Slot
    scales: tuple[float, ...]
    path: Path


@dataclass(frozen=True, slots=True)
class Stride:
    """A step of a walk, from 0 on."""

    walk: Walk
    step: int


class Walks:
    """All walks of a recipe, in a folder of the cache; a source of batches.

    Args:
        recipe: with its ``distill``.
        entries: encoded clips.
        collate: makes their conditions and noise.
        encoders: of the recipe.
    """

    def __init__(self, recipe: Recipe, entries: Sequence[Entry], collate: Collator, encoders: Encoders) -> None:
        assert recipe.distill is not None
        self.settings, self.preset = recipe.distill, encoders.preset
        self.student = student_of(recipe.distill, encoders.preset)
        stage = recipe.stages[0]
        self.collate = replace(collate, keep=stage.keep)
        digests = Digests(recipe.cache / "digests.json")
        teacher = digests.of(Path(str(recipe.model.folder)) / "transformer")
        told = recipe.model_dump(
            mode="json", include={"seed", "data", "distill"}, exclude={"data": {"cache"}, "distill": {"walks"}}
        )
        shown = stage.model_dump(mode="json", include={"frames", "keep", "audio_share"})
        made_from = digest(teacher, told, shown, *(str(path.name) for entry in entries for path in entry.paths))
        folder = recipe.cache / "walks" / made_from[:16]
        self.walks = self._plan(buckets_of(entries, stage), stage, recipe.seed, folder)

    def _plan(
        self, buckets: Mapping[Bucket, Sequence[Entry]], stage: Stage, seed: int, folder: Path
    ) -> dict[Bucket, list[Walk]]:
        """What every walk begins with."""
        one, decks = stage.model_copy(update={"batch": 1, "audio_share": (stage.audio_share[1],) * 2}), Decks(seed)
        found: dict[Bucket, list[Walk]] = {}
        for number in range(self.settings.walks):
            bucket, (slot,) = draw_step(buckets, decks, one, number, seed, "walk")
            chances = torch.rand(len(SCALE_NAMES), generator=seeded_generator(seed, "scales", number)).tolist()
            ranges = (self.student.scales[name] for name in SCALE_NAMES)
            scales = tuple(low + chance * (high - low) for chance, (low, high) in zip(chances, ranges, strict=True))
            walk = Walk(slot, scales, folder / f"{number:06}.safetensors")
            found.setdefault(bucket, []).append(walk)
        return found

    # -- walking ------------------------------------------------------------------------------------------------------

    def fill(self, teacher: HuMoPipeline, here: ProcessGroup, progress: Progress) -> None:
        """Let the teacher take the walks that are not there yet.

        Args:
            teacher: on its device.
            here: this process; each takes a part of the walks.
            progress: told ("walk", those taken, of how many).

        Raises:
            StorageError: the disk is full; what is finished stays.
        """
        every = [(bucket, walk) for bucket, walks in self.walks.items() for walk in walks]
        mine = [(bucket, walk) for bucket, walk in every[here.rank :: here.size] if not walk.path.is_file()]
        for number, (bucket, walk) in enumerate(mine):
            progress("walk", number, len(mine))
            walk.path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(walk.path, {STATES: self._take(teacher, bucket, walk)})
        progress("walk", len(mine), len(mine))
        here.barrier()

    def _take(self, teacher: HuMoPipeline, bucket: Bucket, walk: Walk) -> Tensor:
        """The states (steps + 1, C, F, H, W) of a walk."""
        device, dtype = teacher.transformer.device, teacher.text_encoder.dtype
        batch = self.collate(bucket, [walk.slot])
        frames, known = batch.data.shape[2], int(batch.known[0])
        scales = GuidanceScales(**dict(zip(SCALE_NAMES, walk.scales, strict=True)))
        mode = mode_of(batch.kept[0], hears=walk.slot.hears)
        noise = batch.noise.to(device)
        data = batch.data[:, :, :known].to(device)
        held = PrefixLatents(data, torch.ones(known).to(device), clean_input=True) if known else None
        states = [noise[0, :, :frames]]

        def keep(step: int, timestep: Tensor, latents: Tensor, data: Tensor) -> Tensor:
            if (step + 1) % self.settings.teacher_steps == 0:
                states.append(latents[0, :, :frames])
            return latents

        denoise(
            teacher.velocity,
            batch.conditions.to(device, dtype),
            self.preset.guidance[mode](scales),
            self._scheduler(teacher.scheduler.config, device),
            noise,
            prepare_conditions=teacher.ear(),
            prefix=held,
            batch_passes=fits_one_batch(noise),
            on_step=keep,
        )
        return torch.stack(states)

    def _scheduler(self, config: Any, device: torch.device) -> Any:
        """The teacher's: every so many of its steps are a step of the student."""
        steps = self.student.steps * self.settings.teacher_steps
        return make_scheduler(config, steps, self.student.shift, device)

    # -- a source of batches ------------------------------------------------------------------------------------------

    def draw(self, decks: Decks, stage: Stage, step: int, *words: object) -> tuple[Bucket, list[Stride]]:
        """The bucket of a step, and the strides of its batch.

        Args:
            decks: drawn from; they move on.
            stage, step: whose step it is.
            words: that all draws follow from (seed, stage), the step apart.
        """
        generator = seeded_generator(*words, step, "strides")
        sizes = torch.tensor([float(len(walks)) for walks in self.walks.values()])
        bucket = list(self.walks)[int(torch.multinomial(sizes, 1, generator=generator))]
        walks = self.walks[bucket]
        steps = torch.randint(self.student.steps, (stage.batch,), generator=generator).tolist()
        return bucket, [Stride(walks[decks.draw(f"walks {bucket}", len(walks))], step) for step in steps]

    def __call__(self, bucket: Bucket, strides: Sequence[Stride]) -> Batch:
        """The batch of some strides."""
        batch = self.collate(bucket, [stride.walk.slot for stride in strides])
        levels = self.levels
        ends = [_ends(read_tensors(one.walk.path)[STATES], one.step, levels) for one in strides]
        noise = torch.stack([noise for _, noise in ends])
        return replace(
            batch,
            data=torch.stack([data for data, _ in ends]),
            noise=torch.cat([noise, batch.noise[:, :, noise.shape[2] :]], dim=2),
            level=torch.tensor([levels[one.step] for one in strides]),
            known_level=torch.zeros(len(strides)),
            scales=torch.tensor([one.walk.scales for one in strides]),
        )

    @property
    def levels(self) -> list[float]:
        """Noise levels of the student's steps, and that of a clean clip."""
        scheduler = make_scheduler(None, self.student.steps, self.student.shift, torch.device("cpu"))
        levels: list[float] = scheduler.sigmas.tolist()
        return levels


def _ends(states: Tensor, step: int, levels: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Data and noise (C, F, H, W) between which a stride lies."""
    velocity = (states[step] - states[step + 1]) / (levels[step] - levels[step + 1])
    data = states[step] - levels[step] * velocity
    return data, data + velocity


def mode_of(kept: str, *, hears: bool) -> Mode:
    """The mode of a request that sees just this.

    Args:
        kept: letters of TIA, T among them.
        hears: there is a sound.

    Raises:
        RequestError: there is no such mode.
    """
    letters = kept if hears else kept.replace("A", "")
    for mode in MODES:
        if mode == letters:
            return mode
    raise RequestError("keep", f"{letters!r} is no mode of a request", f"keep {', '.join(MODES)}")
