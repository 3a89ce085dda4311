"""Clips to make, each with its plan and what it is made from; and the arguments of a pipeline call read as clips."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from humo.errors import RequestError, did_you_mean
from humo.geometry import SAMPLES_PER_FRAME
from humo.media.audio import load_audio
from humo.media.image import load_image
from humo.media.video import to_uint8
from humo.presets import Preset
from humo.request import MAX_FRAMES, GenerationPlan, parse_request, resolve

logger = logging.getLogger(__name__)

AudioSamples = NDArray[np.float32]
OutputType = Literal["pil", "np", "pt", "latent"]
OUTPUT_TYPES: tuple[str, ...] = get_args(OutputType)


@dataclass(frozen=True)
class GenerationInputs:
    """One clip to make: its plan and whatever it is made from, read and decoded.

    Args:
        plan: what to make.
        pictures: RGB, in order.
        sound: (samples,) mono 16 kHz, or None.
        text, no_text: (1, L, D) embeddings of the prompts, where they are already there.
        audio_rows: (T, N, D) encoder rows, where they are already there.
    """

    plan: GenerationPlan
    images: Sequence[Image.Image] = ()
    audio: AudioSamples | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None


def check_inputs(
    preset: Preset,
    prompt: str | list[str] | None,
    images: Any,
    audio: Any,
    text: Tensor | None,
    no_text: Tensor | None,
    audio_rows: Any,
    options: dict[str, Any],
) -> list[GenerationInputs]:
    """The clips that a pipeline call asks for, checked and read; all of one geometry and guidance.

    Args:
        preset: of the pipeline.
        prompt, images, audio, text, no_text, audio_rows: as `HuMoPipeline.__call__` takes them.
        options: further fields of the request; None is left out.

    Raises:
        RequestError, MediaError: an argument, a picture or a sound is at fault.
    """
    if isinstance(prompt, list):
        prompts = prompt
    else:
        prompts = [prompt or ("" if text is None else "given as embeddings")] * (1 if text is None else len(text))
        if len(prompts) == 1:
            images, audio, audio_rows = [images], [audio], [audio_rows]
    if not prompts:
        raise RequestError("prompt", "is an empty list", "give a prompt for each clip")
    for field, embeddings in (("prompt_embeds", text), ("negative_prompt_embeds", no_text)):
        if embeddings is not None and len(embeddings) != len(prompts):
            raise RequestError(field, f"holds {len(embeddings)} for {len(prompts)} clips", "give one a clip")
    given = {name: value for name, value in options.items() if value is not None}
    clips = []
    for index, words in enumerate(prompts):
        pictures = _pictures(_item("images", images, index, len(prompts)))
        rows = _item("audio_embeds", audio_rows, index, len(prompts))
        source = _item("audio", audio, index, len(prompts)) if rows is None else None
        sound = None if source is None else load_audio(source)
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
            GenerationInputs(
                plan=plan,
                images=pictures if plan.request.images else (),
                audio=sound if heard else None,
                prompt_embeds=None if text is None else text[index : index + 1],
                negative_prompt_embeds=None if no_text is None else no_text[index : index + 1],
                audio_embeds=rows if heard else None,
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


def check_tensors(clips: Sequence[GenerationInputs], latents: Tensor | None, config: Any) -> None:
    """Refuse tensors that a pipeline call was given and that do not fit its network.

    Args:
        clips: with the embeddings.
        latents: initial noise, if given.
        config: the transformer's.
    """
    positions = range(1, config.text_length + 1)
    for clip in clips:
        for field, text in (
            ("prompt_embeds", clip.prompt_embeds),
            ("negative_prompt_embeds", clip.negative_prompt_embeds),
        ):
            _check_shape(field, text, (1, positions, config.text_dim))
        _check_shape(
            "audio_embeds", clip.audio_embeds, (range(1, MAX_FRAMES + 1), config.audio_bands, config.audio_width)
        )
    shape = clips[0].plan.window_geometry.latent_shape(config.out_channels)
    _check_shape("latents", latents, (len(clips), *shape))


def _check_shape(field: str, tensor: Tensor | None, allowed: Sequence[int | range]) -> None:
    """A tensor's shape: numbers, or ranges of them."""
    if tensor is None:
        return
    ranges = [size if isinstance(size, range) else range(size, size + 1) for size in allowed]
    if tensor.ndim != len(ranges) or any(size not in fit for size, fit in zip(tensor.shape, ranges, strict=True)):
        sizes = (str(fit[0]) if len(fit) == 1 else f"{fit[0]} to {fit[-1]}" for fit in ranges)
        raise RequestError(
            field, f"has the shape {tuple(tensor.shape)}", f"this model and clip take ({', '.join(sizes)})"
        )


def check_choices(output_type: str, tensors: Iterable[str], known: Sequence[str]) -> None:
    """Refuse an output type, or a tensor asked for by a callback, that is not known."""
    given = [("output_type", output_type, OUTPUT_TYPES)]
    given += [("callback_on_step_end_tensor_inputs", name, tuple(known)) for name in tensors]
    for field, word, choices in given:
        if word not in choices:
            raise RequestError(field, f"{word!r} is not known", did_you_mean(word, choices))


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


def postprocess_video(video_BCFHW: Tensor, output_type: OutputType) -> Any:
    """Pixels in [-1, 1] as the caller wants them."""
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in to_uint8(one)] for one in video_BCFHW.cpu().numpy()]
    unit = (video_BCFHW / 2 + 0.5).transpose(1, 2)
    return unit if output_type == "pt" else unit.permute(0, 1, 3, 4, 2).cpu().numpy()


def to_frames(video_BCFHW: Tensor) -> Iterator[NDArray[np.uint8]]:
    """The frames (H, W, 3) of a batch of one, in [-1, 1], one by one."""
    video = video_BCFHW[0].cpu().numpy()
    return (to_uint8(video[:, frame : frame + 1])[0] for frame in range(video.shape[1]))


def prepare_generators(given: Generator | list[Generator] | None, seed: int, clips: int) -> list[Generator]:
    """One generator a clip; one given for several is drawn from in order, and none is one of the seed for each.

    Raises:
        RequestError: their number is another.
    """
    if given is None:
        return [Generator().manual_seed(seed) for _ in range(clips)]
    if isinstance(given, list):
        if len(given) != clips:
            raise RequestError("generator", f"there are {len(given)} for {clips} clips", "give one a clip")
        return given
    return [given] * clips
