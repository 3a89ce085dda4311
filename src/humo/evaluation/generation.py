"""Generate the videos of cases with a model, as `humo batch` does, or run true clips through its autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from humo.errors import RequestError
from humo.evaluation.case_sources import CaseSet
from humo.geometry import snap_frames
from humo.inference.pipeline import HuMoPipeline
from humo.jobs.batch import Outcome, run_batch, run_locally
from humo.jobs.engine import Engine
from humo.jobs.request_files import Row
from humo.media.clip_reader import read_clip
from humo.media.image import to_pixels
from humo.media.video import Frame, VideoFormat, write_video
from humo.progress import Progress, ProgressCallback, no_progress


def generate_videos(
    cases: CaseSet,
    folder: Path,
    fields: Mapping[str, Any],
    *,
    seeds: int | None = None,
    callback: ProgressCallback = no_progress,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Generate a video of each case, or of each seed; existing ones of the same request are kept.

    Args:
        cases: the cases.
        folder: where ``ID.mp4`` or ``ID_seedN.mp4`` are written.
        fields: fields of a request for all cases, such as ``model``; those of a case replace them.
        seeds: number of videos of each case, with seeds from 0 on; None for one with the preset's seed.
        callback: progress within a video.
        on_outcome: called with the outcome of each video.
        note: called with decisions that were made for the user.
    """
    rows: list[Row] = []
    for case in cases.cases:
        own: dict[str, Any] = {"prompt": case.prompt, **case.request}
        if case.references:
            own["images"] = [str(path) for path in case.references]
        if case.audio is not None:
            own["audio"] = str(case.audio)
        if seeds is None:
            rows.append(Row(len(rows) + 1, case.id, own))
            continue
        for seed in range(seeds):
            rows.append(Row(len(rows) + 1, f"{case.id}_seed{seed}", {**own, "seed": seed}))
    rows = [Row(row.number, row.name, {**row.fields, **_overrides(fields, row.fields)}) for row in rows]
    engine = Engine(note=note)
    return run_batch(
        rows,
        defaults=fields,
        run_rows=run_locally(engine, callback),
        output_folder=folder,
        on_outcome=on_outcome,
    )


def _overrides(fields: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of all cases that replace a case's own: everything but its seed and inputs."""
    return {name: value for name, value in fields.items() if name in own and name not in ("seed", "images", "audio")}


def reconstruct_videos(cases: CaseSet, folder: Path, pipeline: HuMoPipeline, progress: Progress) -> None:
    """Encode and decode the true clip of each case with a model's autoencoder.

    Args:
        cases: the cases.
        folder: where ``ID.mp4`` are written.
        pipeline: the model.
        progress: called with (phase, done, total).

    Raises:
        RequestError: no case has a true clip.
    """
    with_clip = [(case, path) for case in cases.cases if (path := case.truth_video) is not None]
    if not with_clip:
        raise RequestError("--reconstruct", "no case has a true clip", "give a corpus of `humo data render`")
    for number, (case, path) in enumerate(with_clip):
        progress("reconstruct", number, len(with_clip))
        target = folder / f"{case.id}.mp4"
        if target.exists():
            continue
        clip = read_clip(path, field="truth_video")
        frames = reconstruct(clip.frames, pipeline)
        video_format = VideoFormat(frames.shape[2], frames.shape[1])
        metadata = {"comment": "a true clip, encoded and decoded"}
        write_video(target, frames, video_format, metadata=metadata, track=clip.audio, field="OUT")
    progress("reconstruct", len(with_clip), len(with_clip))


def reconstruct(frames: Frame, pipeline: HuMoPipeline) -> Frame:
    """Encode a clip (F, H, W, 3) with the autoencoder and decode it again; the length becomes 4k + 1."""
    length = snap_frames(len(frames))
    pixels = np.stack([to_pixels(frame) for frame in frames[:length]], axis=1)
    with torch.no_grad():
        latents = pipeline.vae.encode(torch.from_numpy(pixels)[None].to(pipeline.vae.device)).latent_dist.mode()
        video = pipeline.vae.decode(latents).sample[0].clamp(-1, 1)
    decoded: Frame = ((video.movedim(0, -1) + 1) * 127.5).round().byte().cpu().numpy()
    return decoded
