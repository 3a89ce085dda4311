"""Clips to make, each with its plan and what it is made from; and the arguments of a pipeline call read as clips."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from humo.errors import RequestError
from humo.geometry import SAMPLES_PER_FRAME
from humo.media.audio import load_sound
from humo.media.image import load_image
from humo.media.video import to_uint8
from humo.presets import Preset
from humo.request import Plan, parse_request, resolve

logger = logging.getLogger(__name__)

Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """One clip to make: its plan and whatever it is made from, read and decoded.

    Args:
        plan: what to make.
        pictures: RGB, in order.
        sound: (samples,) mono 16 kHz, or None.
        text, no_text: (1, L, D) embeddings of the prompts, where they are already there.
        audio_rows: (T, N, D) encoder rows, where they are already there.
    """

    plan: Plan
    pictures: Sequence[Image.Image] = ()
    sound: Sound | None = None
    text: Tensor | None = None
    no_text: Tensor | None = None
    audio_rows: Tensor | None = None


def clips_of_call(
    preset: Preset,
    prompt: str | list[str] | None,
    images: Any,
    audio: Any,
    text: Tensor | None,
    no_text: Tensor | None,
    audio_rows: Any,
    options: dict[str, Any],
) -> list[Clip]:
    """The clips that a pipeline call asks for, checked and read; all of one geometry and guidance.

    Args:
        preset: of the pipeline.
        prompt, images, audio, text, no_text, audio_rows: as `HuMoPipeline.__call__` takes them.
        options: further fields of the request; None is left out.
    """
    if isinstance(prompt, list):
        prompts = prompt
    else:
        prompts = [prompt or ("" if text is None else "given as embeddings")] * (1 if text is None else len(text))
        if len(prompts) == 1:
            images, audio, audio_rows = [images], [audio], [audio_rows]
    given = {name: value for name, value in options.items() if value is not None}
    clips = []
    for index, words in enumerate(prompts):
        pictures = _pictures(_item("images", images, index, len(prompts)))
        rows = _item("audio_embeds", audio_rows, index, len(prompts))
        source = _item("audio", audio, index, len(prompts)) if rows is None else None
        sound = None if source is None else load_sound(source)
        samples = None if sound is None else len(sound)
        if rows is not None:
            samples = len(rows) * SAMPLES_PER_FRAME
        named = {
            "prompt": words,
            "images": [f"picture {number}" for number in range(len(pictures))],
            "audio": None if samples is None else "sound",
        }
        plan = resolve(parse_request(given | named), preset, samples)
        for note in plan.notes:
            logger.warning("%s", note)
        heard = plan.request.audio is not None
        clips.append(
            Clip(
                plan=plan,
                pictures=pictures if plan.request.images else (),
                sound=sound if heard else None,
                text=None if text is None else text[index : index + 1],
                no_text=None if no_text is None else no_text[index : index + 1],
                audio_rows=rows if heard else None,
            )
        )
    first = clips[0].plan
    for clip in clips:
        if (clip.plan.geometry, clip.plan.guidance) != (first.geometry, first.guidance):
            raise RequestError(
                "prompt",
                f"the clips of one batch must be alike, and there are {first.geometry} and {clip.plan.geometry}",
                "give num_frames, and each clip as many pictures",
            )
    return clips


def _item(name: str, given: Any, index: int, size: int) -> Any:
    """The part of a batch's argument that belongs to one clip."""
    if given is None:
        return None
    if not isinstance(given, list | tuple) or len(given) != size:
        raise RequestError(name, f"does not hold one for each of {size} prompts", "give a list as long as the prompts")
    return given[index]


def _pictures(given: Any) -> list[Image.Image]:
    """One picture or several, read."""
    if given is None:
        return []
    several = given if isinstance(given, list | tuple) else [given]
    return [load_image(picture, field=f"images[{index}]") for index, picture in enumerate(several)]


def as_frames(video_BCFHW: Tensor, output_type: str) -> Any:
    """Pixels in [-1, 1] as the caller wants them."""
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in to_uint8(one)] for one in video_BCFHW.cpu().numpy()]
    unit = (video_BCFHW / 2 + 0.5).transpose(1, 2)
    return unit if output_type == "pt" else unit.permute(0, 1, 3, 4, 2).cpu().numpy()
