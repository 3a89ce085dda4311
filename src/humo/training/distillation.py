"""Guidance and step distillation: a student learns from sampling trajectories of its guided teacher.

The student replaces several guided steps of the teacher, each of several passes, by one pass. Its step is a straight
line between two states of a trajectory. The ends of that line, at noise levels 0 and 1, take the place of data and
noise:

    v = (x_i - x_(i+1)) / (s_i - s_(i+1)),   data = x_i - s_i * v,   noise = data + v

So the flow matching objective applies unchanged: the input is data with noise of level s_i, which is x_i, and the
target is v. The guidance scales of a trajectory are inputs of the student.

Shape suffixes: C latent channels, F latent frames of the video, L latent frames of the sequence, H, W latent size.

**Source:** Salimans and Ho, "Progressive distillation for fast sampling of diffusion models" (arXiv 2202.00512), all
rounds in one. Meng et al., "On distillation of guided diffusion models" (arXiv 2210.03142): scales as inputs.
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
from humo.inference.denoise import PrefixLatents, denoise
from humo.inference.pipeline import HuMoPipeline
from humo.inference.predictor import VelocityPredictor, fits_one_batch
from humo.inference.samplers import make_scheduler
from humo.model.seeding import seeded_generator
from humo.presets import SCALE_NAMES, Distillation, Preset
from humo.progress import Progress
from humo.schedule import published_schedule
from humo.training.collate import Batch, Collator
from humo.training.config import DistillConfig, Recipe, Stage
from humo.training.frozen_encoders import FrozenEncoders
from humo.training.latent_cache import CachedClip
from humo.training.sampler import Bucket, SampleSpec, ShuffledSampler, draw_batch, group_into_buckets
from humo.training.tensor_files import FileDigests, digest, read_tensors, write_tensors

STATES = "states"
"""Tensor of a trajectory's file: (steps + 1, C, F, H, W), from noise to clean latents."""


def distillation_of(settings: DistillConfig, preset: Preset) -> Distillation:
    """Return the description of the student that a recipe trains.

    Args:
        settings: distillation settings of the recipe.
        preset: preset of the teacher; a scale without a range is fixed to the preset's.
    """
    scales = {}
    for name in SCALE_NAMES:
        default = getattr(preset.scales, name)
        scales[name] = settings.guidance_ranges.get(name, (default, default))
    return Distillation(settings.steps, settings.shift or preset.shift, scales)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A sampling trajectory of the teacher.

    Args:
        spec: sample that its noise and conditions are drawn from.
        scales: guidance scales of text, audio and image.
        path: its file.
    """

    spec: SampleSpec
    scales: tuple[float, ...]
    path: Path


@dataclass(frozen=True, slots=True)
class TrajectoryStep:
    """A step of the student along a trajectory.

    Args:
        trajectory: the trajectory.
        step: index of the step, from 0.
    """

    trajectory: Trajectory
    step: int


class TrajectoryDataset:
    """All trajectories of a recipe, stored in the cache; a source of batches.

    Args:
        recipe: the run, with distillation settings.
        clips: encoded clips.
        collate: draws conditions and noise of a trajectory.
        encoders: frozen components of the recipe.
    """

    def __init__(
        self, recipe: Recipe, clips: Sequence[CachedClip], collate: Collator, encoders: FrozenEncoders
    ) -> None:
        assert recipe.distill is not None
        self.settings, self.preset = recipe.distill, encoders.preset
        self.student = distillation_of(recipe.distill, encoders.preset)
        stage = recipe.stages[0]
        self.collate = replace(collate, condition_probs=stage.condition_probs)
        digests = FileDigests(recipe.cache / "digests.json")
        teacher = digests.of(Path(str(recipe.model.folder)) / "transformer")
        run_settings = recipe.model_dump(
            mode="json", include={"seed", "data", "distill"}, exclude={"data": {"cache"}, "distill": {"trajectories"}}
        )
        stage_settings = stage.model_dump(mode="json", include={"frames", "condition_probs", "audio_prob"})
        files = (str(path.name) for clip in clips for path in clip.paths)
        folder = recipe.cache / "trajectories" / digest(teacher, run_settings, stage_settings, *files)[:16]
        self.trajectories = self._plan(group_into_buckets(clips, stage), stage, recipe.seed, folder)

    def _plan(
        self, buckets: Mapping[Bucket, Sequence[CachedClip]], stage: Stage, seed: int, folder: Path
    ) -> dict[Bucket, list[Trajectory]]:
        """Draw clip, scales and file of every trajectory."""
        single = stage.model_copy(update={"batch_size": 1, "audio_prob": (stage.audio_prob[1],) * 2})
        sampler = ShuffledSampler(seed)
        trajectories: dict[Bucket, list[Trajectory]] = {}
        for number in range(self.settings.trajectories):
            bucket, (spec,) = draw_batch(buckets, sampler, single, number, seed, "walk")  # word kept: seed
            chances = torch.rand(len(SCALE_NAMES), generator=seeded_generator(seed, "scales", number)).tolist()
            ranges = (self.student.scales[name] for name in SCALE_NAMES)
            scales = tuple(low + chance * (high - low) for chance, (low, high) in zip(chances, ranges, strict=True))
            trajectory = Trajectory(spec, scales, folder / f"{number:06}.safetensors")
            trajectories.setdefault(bucket, []).append(trajectory)
        return trajectories

    # -- sampling of the teacher --------------------------------------------------------------------------------------

    def generate_missing(self, teacher: HuMoPipeline, group: ProcessGroup, progress: Progress) -> None:
        """Sample the trajectories that are not in the cache with the teacher.

        Args:
            teacher: pipeline on its device.
            group: all processes; each samples a part.
            progress: called with ("trajectory", done, total).

        Raises:
            StorageError: the disk is full; files that are written stay.
        """
        planned = [(bucket, trajectory) for bucket, several in self.trajectories.items() for trajectory in several]
        missing = [
            (bucket, trajectory)
            for bucket, trajectory in planned[group.rank :: group.size]
            if not trajectory.path.is_file()
        ]
        for number, (bucket, trajectory) in enumerate(missing):
            progress("trajectory", number, len(missing))
            trajectory.path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(trajectory.path, {STATES: self._sample(teacher, bucket, trajectory)})
        progress("trajectory", len(missing), len(missing))
        group.barrier()

    def _sample(self, teacher: HuMoPipeline, bucket: Bucket, trajectory: Trajectory) -> Tensor:
        """Return the states (steps + 1, C, F, H, W) of a trajectory."""
        device, dtype = teacher.transformer.device, teacher.text_encoder.dtype
        batch = self.collate(bucket, [trajectory.spec])
        frames, prefix_frames = batch.data.shape[2], int(batch.prefix_frames[0])
        scales = GuidanceScales(**dict(zip(SCALE_NAMES, trajectory.scales, strict=True)))
        mode = mode_of_conditions(batch.kept_conditions[0], has_audio=trajectory.spec.has_audio)
        noise = batch.noise.to(device)
        data = batch.data[:, :, :prefix_frames].to(device)
        prefix = PrefixLatents(data, torch.ones(prefix_frames).to(device), clean_input=True) if prefix_frames else None
        states = [noise[0, :, :frames]]

        def save_state(step: int, timestep: Tensor, latents: Tensor, data: Tensor) -> Tensor:
            if (step + 1) % self.settings.teacher_steps_per_step == 0:
                states.append(latents[0, :, :frames])
            return latents

        predictor = VelocityPredictor(
            teacher.transformer,
            batch.conditions.to(device, dtype),
            teacher.preset.reference_injection,
            batch_passes=fits_one_batch(noise),
        )
        denoise(
            predictor,
            self.preset.guidance[mode](scales),
            self._scheduler(teacher.scheduler.config, device),
            noise,
            prefix=prefix,
            on_step=save_state,
        )
        return torch.stack(states)

    def _scheduler(self, config: Any, device: torch.device) -> Any:
        """Return the teacher's scheduler, with ``teacher_steps`` steps for each step of the student."""
        steps = self.student.steps * self.settings.teacher_steps_per_step
        return make_scheduler(config, published_schedule(steps, self.student.shift), device)

    # -- a source of batches ------------------------------------------------------------------------------------------

    def draw(
        self, sampler: ShuffledSampler, stage: Stage, step: int, *key: object
    ) -> tuple[Bucket, list[TrajectoryStep]]:
        """Draw the bucket of a step and the trajectory steps of its batch.

        Args:
            sampler: sampler to draw from; its cursors advance.
            stage: the stage.
            step: index of the step in the stage.
            key: key of the random numbers: seed and index of the stage.
        """
        generator = seeded_generator(*key, step, "strides")  # word kept: seed
        sizes = torch.tensor([float(len(trajectories)) for trajectories in self.trajectories.values()])
        bucket = list(self.trajectories)[int(torch.multinomial(sizes, 1, generator=generator))]
        trajectories = self.trajectories[bucket]
        steps = torch.randint(self.student.steps, (stage.batch_size,), generator=generator).tolist()
        pool = f"walks {bucket}"  # word kept: seed of the shuffling
        return bucket, [TrajectoryStep(trajectories[sampler.draw(pool, len(trajectories))], step) for step in steps]

    def __call__(self, bucket: Bucket, steps: Sequence[TrajectoryStep]) -> Batch:
        """Return the batch of trajectory steps."""
        batch = self.collate(bucket, [step.trajectory.spec for step in steps])
        levels = self.noise_levels
        ends = [_line_ends(read_tensors(step.trajectory.path)[STATES], step.step, levels) for step in steps]
        noise = torch.stack([noise for _, noise in ends])
        return replace(
            batch,
            data=torch.stack([data for data, _ in ends]),
            noise=torch.cat([noise, batch.noise[:, :, noise.shape[2] :]], dim=2),
            noise_level=torch.tensor([levels[step.step] for step in steps]),
            prefix_noise_level=torch.zeros(len(steps)),
            guidance=torch.tensor([step.trajectory.scales for step in steps]),
        )

    @property
    def noise_levels(self) -> list[float]:
        """Noise levels of the student's steps, and 0 for clean latents."""
        return [*published_schedule(self.student.steps, self.student.shift).sigmas, 0.0]


def _line_ends(states: Tensor, step: int, levels: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return data and noise (C, F, H, W), the ends of the line through two states of a trajectory."""
    velocity = (states[step] - states[step + 1]) / (levels[step] - levels[step + 1])
    data = states[step] - levels[step] * velocity
    return data, data + velocity


def mode_of_conditions(kept: str, *, has_audio: bool) -> Mode:
    """Return the generation mode that has exactly these conditions.

    Args:
        kept: letters of TIA, with T.
        has_audio: whether the sample has audio.

    Raises:
        RequestError: there is no such mode.
    """
    letters = kept if has_audio else kept.replace("A", "")
    for mode in MODES:
        if mode == letters:
            return mode
    raise RequestError("stages.condition_probs", f"{letters!r} is not a mode", f"use {', '.join(MODES)}")
