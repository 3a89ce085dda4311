"""Write the result of a pipeline call as the command line writes its videos: audio, record, credentials, watermark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from humo.checkpoints.model_folder import find_model_folder
from humo.environment import identity_folder
from humo.errors import RequestError
from humo.geometry import FRAMES_PER_SECOND
from humo.jobs.replay import make_record, record_of_components
from humo.media.audio import AudioTrack, decode_audio
from humo.media.credentials import open_identity, sign_record
from humo.media.provenance import to_metadata, watermark_payload
from humo.media.video import Frame, VideoFormat, write_video
from humo.media.watermark import embed_watermark

if TYPE_CHECKING:
    from humo.inference.pipeline import HuMoPipelineOutput

AudioInput = str | Path | tuple[Any, int]
"""An audio file, or samples (n,) or (channels, n) and their rate in Hz."""


def save_video(
    output: HuMoPipelineOutput,
    path: str | Path,
    *,
    audio: AudioInput | None = None,
    index: int = 0,
    provenance: bool = True,
) -> Path:
    """Write a video of a pipeline call as MP4 with its audio.

    The file has the record of its generation, and, unless it is turned off, content credentials (C2PA) and a watermark
    that declare it AI-generated. A video whose inputs were given as files can be generated again from it with
    ``humo generate --replay``.

    Args:
        output: result of `HuMoPipeline.__call__` with ``output_type`` pil, np or pt.
        path: the file; an existing one is replaced.
        audio: the audio that the call was given; None for a silent video.
        index: number of the video in the batch.
        provenance: add credentials and a watermark.

    Returns:
        the path.

    Raises:
        RequestError: there is no such video, or the output holds latents.
        StorageError: the file cannot be written.
    """
    path = Path(path)
    if not 0 <= index < len(output.plans):
        raise RequestError("index", f"{index} is not allowed", f"give 0 to {len(output.plans) - 1}")
    frames = _to_uint8(output.frames[index])
    recorded = {"output": str(path), "provenance": provenance}
    if isinstance(audio, str | Path):
        recorded["audio"] = str(audio)
    plan = output.plans[index]
    plan = replace(plan, request=plan.request.model_copy(update=recorded))
    model = plan.request.model
    is_saved = model is not None and find_model_folder(model).is_dir()
    record = make_record(plan) if is_saved else record_of_components(plan)
    height, width = frames.shape[1:3]
    seconds = len(frames) / FRAMES_PER_SECOND
    pieces: Iterator[Frame] = iter(frames)
    identity = open_identity(identity_folder()) if provenance else None
    if provenance:
        pieces = embed_watermark(pieces, watermark_payload(record))
    write_video(
        path,
        pieces,
        VideoFormat(width, height, FRAMES_PER_SECOND),
        track=None if audio is None else _track(audio).fit(seconds),
        metadata=to_metadata(record),
        sign_file=lambda part: sign_record(part, identity, path.name, record),
    )
    return path


def _to_uint8(frames: Any) -> Frame:
    """Return the frames (F, H, W, 3) of a video given as PIL images, an array or a tensor."""
    if hasattr(frames, "numpy"):  # a tensor (F, 3, H, W)
        if frames.shape[1] != 3:
            raise RequestError("output", "holds latents", 'call the pipeline with output_type="pil"')
        frames = frames.float().cpu().numpy().transpose(0, 2, 3, 1)
    array = np.stack([np.asarray(frame) for frame in frames])
    if array.dtype != np.uint8:
        array = np.clip(array, 0, 1) * np.float32(255)
    return np.asarray(array, np.uint8)


def _track(audio: AudioInput) -> AudioTrack:
    if isinstance(audio, str | Path):
        return decode_audio(audio).track
    samples, rate = audio
    return AudioTrack(np.atleast_2d(np.asarray(samples, np.float32)), rate)
