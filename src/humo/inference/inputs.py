"""Inputs of a clip to generate: its plan, images and audio; checks of the arguments of a pipeline call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from humo.errors import RequestError, did_you_mean
from humo.geometry import SAMPLES_PER_FRAME
from humo.media.audio import AudioSamples, load_audio
from humo.media.image import load_image
from humo.media.video import to_uint8
from humo.plan import GenerationPlan, resolve
from humo.presets import Preset
from humo.request import MAX_FRAMES, parse_request

logger = logging.getLogger(__name__)

OutputType = Literal["pil", "np", "pt", "latent"]
OUTPUT_TYPES: tuple[str, ...] = get_args(OutputType)

EMBEDDED_PROMPT = "given as embeddings"
"""Prompt in the request of a clip whose prompt is given as embeddings."""


@dataclass(frozen=True)
class GenerationInputs:
    """Decoded inputs of one clip.

    Args:
        plan: the resolved request.
        images: reference images, RGB, in order.
        audio: (samples,) mono 16 kHz, or None.
        prompt_embeds, negative_prompt_embeds: (1, L, D) embeddings that replace the prompts, or None.
        audio_embeds: (T, N, D) encoder rows that replace the audio, or None.
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
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
    audio_embeds: Any,
    options: dict[str, Any],
) -> list[GenerationInputs]:
    """Check and decode the arguments of a pipeline call; return the inputs of each clip of the batch.

    Args:
        preset: of the pipeline.
        prompt, images, audio, prompt_embeds, negative_prompt_embeds, audio_embeds: as in `HuMoPipeline.__call__`.
        options: further fields of the request; a field that is None keeps its default.

    Raises:
        RequestError, MediaError: an argument, an image or an audio track is wrong, or the clips of the batch differ in
            size, length or guidance.
    """
    if isinstance(prompt, list):
        prompts = prompt
    else:
        default = "" if prompt_embeds is None else EMBEDDED_PROMPT
        prompts = [prompt or default] * (1 if prompt_embeds is None else len(prompt_embeds))
        if len(prompts) == 1:
            images, audio, audio_embeds = [images], [audio], [audio_embeds]
    if not prompts:
        raise RequestError("prompt", "the list is empty", "give one prompt per clip")
    for field, embeddings in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
        if embeddings is not None and len(embeddings) != len(prompts):
            problem = f"{len(embeddings)} embeddings do not fit a batch of {len(prompts)} clips"
            raise RequestError(field, problem, "give one per clip")
    fields = {name: value for name, value in options.items() if value is not None}
    batch = []
    for index, text in enumerate(prompts):
        rows = _item("audio_embeds", audio_embeds, index, len(prompts))
        track = _item("audio", audio, index, len(prompts)) if rows is None else None
        references = _item("images", images, index, len(prompts))
        inputs = _clip_inputs(preset, fields | {"prompt": text}, references, track, rows)
        positive, negative = (
            None if embeddings is None else embeddings[index : index + 1]
            for embeddings in (prompt_embeds, negative_prompt_embeds)
        )
        batch.append(replace(inputs, prompt_embeds=positive, negative_prompt_embeds=negative))
    _check_batch(batch)
    return batch


def repeat_inputs(batch: list[GenerationInputs], count: int) -> list[GenerationInputs]:
    """Return a batch with each clip several times in a row.

    Raises:
        RequestError: the number is below 1.
    """
    if count < 1:
        raise RequestError("num_videos_per_prompt", f"{count} is not allowed", "give 1 or more")
    return [inputs for inputs in batch for _ in range(count)]


def _clip_inputs(
    preset: Preset, fields: dict[str, Any], images: Any, audio: Any, audio_embeds: Tensor | None
) -> GenerationInputs:
    """Decode the images and the audio of one clip, and resolve its request; audio embeddings replace the audio."""
    decoded = _load_images(images)
    track = None if audio is None else load_audio(_as_array(audio))
    if audio_embeds is not None:
        samples: int | None = len(audio_embeds) * SAMPLES_PER_FRAME
    else:
        samples = None if track is None else len(track)
    names = {
        "images": [f"image {number}" for number in range(len(decoded))],
        "audio": None if samples is None else "audio",
    }
    plan = resolve(parse_request(fields | names), preset, samples)
    for note in plan.notes:
        logger.warning("%s", note)
    has_audio = plan.request.audio is not None
    return GenerationInputs(
        plan=plan,
        images=decoded if plan.request.images else (),
        audio=track if has_audio else None,
        audio_embeds=audio_embeds if has_audio else None,
    )


def _check_batch(batch: Sequence[GenerationInputs]) -> None:
    """Refuse clips that differ in size, length or guidance."""
    first = batch[0].plan
    for inputs in batch:
        if (inputs.plan.geometry, inputs.plan.guidance) != (first.geometry, first.guidance):
            problem = f"the clips of a batch must be alike, and there are {first.geometry} and {inputs.plan.geometry}"
            raise RequestError("prompt", problem, "give num_frames, and the same number of images for each clip")


def check_tensors(batch: Sequence[GenerationInputs], latents: Tensor | None, config: Any) -> None:
    """Check that the embeddings and the initial noise of a pipeline call fit its network.

    Args:
        batch: inputs of each clip, with the embeddings.
        latents: initial noise, or None.
        config: configuration of the transformer.

    Raises:
        RequestError: a tensor has another shape.
    """
    positions = range(1, config.text_length + 1)
    rows = range(1, MAX_FRAMES + 1)
    for inputs in batch:
        _check_shape("prompt_embeds", inputs.prompt_embeds, (1, positions, config.text_dim))
        _check_shape("negative_prompt_embeds", inputs.negative_prompt_embeds, (1, positions, config.text_dim))
        _check_shape("audio_embeds", inputs.audio_embeds, (rows, config.audio_bands, config.audio_width))
    shape = batch[0].plan.window_geometry.latent_shape(config.out_channels)
    _check_shape("latents", latents, (len(batch), *shape))


def _check_shape(field: str, tensor: Tensor | None, allowed: Sequence[int | range]) -> None:
    """Check the shape of a tensor, if there is one; ``allowed`` has a size or a range of sizes per dimension."""
    if tensor is None:
        return
    ranges = [size if isinstance(size, range) else range(size, size + 1) for size in allowed]
    if tensor.ndim != len(ranges) or any(size not in fit for size, fit in zip(tensor.shape, ranges, strict=True)):
        sizes = (str(fit[0]) if len(fit) == 1 else f"{fit[0]} to {fit[-1]}" for fit in ranges)
        problem = f"the shape {tuple(tensor.shape)} does not fit this model and clip"
        raise RequestError(field, problem, f"give ({', '.join(sizes)})")


def check_choices(output_type: str, tensors: Iterable[str], known: Sequence[str]) -> None:
    """Check the output type and the names of the tensors that a step callback is called with.

    Args:
        output_type: one of `OUTPUT_TYPES`.
        tensors: names of tensors.
        known: names that the pipeline has.

    Raises:
        RequestError: a name is not known.
    """
    names = [("output_type", output_type, OUTPUT_TYPES)]
    names += [("callback_on_step_end_tensor_inputs", name, tuple(known)) for name in tensors]
    for field, name, choices in names:
        if name not in choices:
            raise RequestError(field, f"{name!r} is not known", did_you_mean(name, choices))


def _item(field: str, items: Any, index: int, size: int) -> Any:
    """Return the value for one clip of an argument that has one for each of ``size`` clips; None stays None."""
    if items is None:
        return None
    is_single_audio = isinstance(items, tuple) and size > 1 and len(items) > 1 and isinstance(items[1], int)
    if not isinstance(items, list | tuple) or len(items) != size or is_single_audio:
        raise RequestError(field, f"there is not one for each of {size} prompts", "give a list as long as the prompts")
    return items[index]


def _as_array(audio: Any) -> Any:
    """Return an audio source with NumPy arrays in place of tensors, alone or with their sample rate."""
    if isinstance(audio, Tensor):
        return audio.detach().cpu().float().numpy() if audio.is_floating_point() else audio.cpu().numpy()
    if isinstance(audio, tuple) and len(audio) == 2:
        return _as_array(audio[0]), audio[1]
    return audio


def _load_images(images: Any) -> list[Image.Image]:
    """Decode one image, several images, or none."""
    if images is None:
        return []
    sources = images if isinstance(images, list | tuple) else [images]
    return [load_image(source, field=f"images[{index}]") for index, source in enumerate(sources)]


def postprocess_video(video_BCFHW: Tensor, output_type: OutputType) -> Any:
    """Convert pixels (B, 3, F, H, W) in [-1, 1] to the output type of a pipeline call.

    Returns:
        ``pil``: a list of PIL images per clip; ``np``: (B, F, H, W, 3) in [0, 1]; ``pt``: (B, F, 3, H, W) in [0, 1].
    """
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in to_uint8(video)] for video in video_BCFHW.cpu().numpy()]
    unit = (video_BCFHW / 2 + 0.5).transpose(1, 2)
    return unit if output_type == "pt" else unit.permute(0, 1, 3, 4, 2).cpu().numpy()


def to_frames(video_BCFHW: Tensor) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (H, W, 3), 8 bits a color, of pixels (1, 3, F, H, W) in [-1, 1]."""
    video = video_BCFHW[0].cpu().numpy()
    return (to_uint8(video[:, frame : frame + 1])[0] for frame in range(video.shape[1]))


def prepare_generators(
    generator: Generator | list[Generator] | None, seed: int, clips: int, variations: int = 1
) -> list[Generator]:
    """Return one random generator per clip.

    Args:
        generator: a list of them; or one, from which all clips draw in order; or None for one of the seed per clip.
        seed: of the generators, if there are none.
        clips: number of clips.
        variations: number of clips in a row of one prompt; without generators each has the next seed.

    Raises:
        RequestError: the length of the list is not the number of clips.
    """
    if generator is None:
        return [Generator().manual_seed(seed + number % variations) for number in range(clips)]
    if isinstance(generator, list):
        if len(generator) != clips:
            problem = f"{len(generator)} generators do not fit a batch of {clips} clips"
            raise RequestError("generator", problem, "give one per clip")
        return generator
    return [generator] * clips
