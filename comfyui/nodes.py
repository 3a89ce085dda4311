"""The nodes: load a model, sample latents from text, images and audio, decode frames."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import ComfyExtension, io

from humo.checkpoints.signatures import ComponentName
from humo.errors import RequestError, did_you_mean
from humo.geometry import FRAMES_PER_SECOND, SIZE_MULTIPLE
from humo.loras import MAX_STRENGTH, LoraChoice
from humo.plan import resolve
from humo.presets import Preset, find_preset
from humo.request import parse_request
from humo.request_presets import request_presets

from .fields import (
    AUTO,
    DEFAULT_PRESET,
    PresetCombo,
    all_preset_values,
    check_fields,
    description,
    filled_in,
    model_presets,
    preset_values,
    widget,
)
from .loading import NO_SETTINGS, check_installed, load
from .loras import lora_files
from .models import COMPANIONS, files, find_model, model_choices, preset_of
from .progress import progress_bar
from .values import AudioDict, LatentDict, cut, from_images, from_latent, mono_16k, to_images, to_latent, to_video

if TYPE_CHECKING:
    from torch import Tensor

    from humo import HuMoPipeline
    from humo.request import OffloadName, QuantizeName

CATEGORY = "HuMo"
IMAGE_SOCKETS = tuple(f"image_{number}" for number in range(1, 5))
"""Image sockets of the sampler; each takes a batch of any number of images."""

AUDIO_LENGTH = "0: as long as the audio, or without audio as the clips of the model's training"

PipelineModel = io.Custom("HUMO_MODEL")
Loras = io.Custom("HUMO_LORAS")
Settings = io.Custom("HUMO_SETTINGS")


class LoadModel(io.ComfyNode):
    """Load a pipeline. HUMO_MODEL is a `HuMoPipeline`, which ComfyUI caches like every output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = model_choices()
        return io.Schema(
            node_id="HuMo_LoadModel",
            display_name="HuMo Load Model",
            category=CATEGORY,
            description="Loads a built-in model, one of `humo models`, or a file of ComfyUI's diffusion_models.",
            inputs=[
                PresetCombo(
                    "model",
                    choices,
                    {name: preset_of(name) for name in choices},
                    default=choices[0],
                    optional=True,
                    tooltip="a built-in model, a model of `humo models`, or a HuMo file in diffusion_models or unet",
                ),
                *(
                    io.Combo.Input(
                        str(component),
                        options=[AUTO, *files(component)],
                        default=AUTO,
                        optional=True,
                        tooltip=f"{title} to use with a file; auto: the smallest that fits",
                    )
                    for component, title in zip(
                        COMPANIONS, ("umT5", "Whisper large-v3", "Wan2.1's autoencoder"), strict=True
                    )
                ),
                widget("device", AUTO, note="auto: the fastest available"),
                widget("dtype", AUTO, note="auto: bfloat16 on a GPU, float32 on the CPU"),
                widget("offload", AUTO, note="auto is none: the clip's size is not known when the model is loaded"),
                widget("quantize", AUTO, note="auto is none: the clip's size is not known when the model is loaded"),
                Settings.Input("settings", optional=True, tooltip="of HuMo Memory and Speed"),
            ],
            outputs=[PipelineModel.Output("humo_model", display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Raise the first error; ComfyUI shows an error that is returned once for each input, and one raised once."""
        check_fields(_without_model(values))
        if values.get("model") is not None:
            find_model(values["model"], _companions(values))
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, **values: Any) -> str:
        from humo.jobs.replay import weights_fingerprint

        return weights_fingerprint(find_model(model or "", _companions(values)))

    @classmethod
    def execute(
        cls,
        model: str = "",
        device: str = AUTO,
        dtype: str = AUTO,
        offload: OffloadName = "auto",
        quantize: QuantizeName = "auto",
        settings: Mapping[str, Any] = NO_SETTINGS,
        **companions: str,
    ) -> io.NodeOutput:
        request = check_fields({**settings, "offload": offload})
        folder = find_model(model, _companions(companions))
        return io.NodeOutput(load(folder, request, device=device, dtype=dtype, quantize=quantize))


class MemoryAndSpeed(io.ComfyNode):
    """Choose how a model is run. HUMO_SETTINGS is a mapping of fields of a request."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_Settings",
            display_name="HuMo Memory and Speed",
            category=CATEGORY,
            description="Settings of HuMo Load Model for large models. A change loads the model again.",
            inputs=[
                widget("tile", 0, note="512, 384 and 256 need less and less memory"),
                widget("resident_blocks", 0, note="`humo plan` prints how many fit"),
                widget("attention", "sdpa"),
                widget("compile", False),
            ],
            outputs=[Settings.Output("humo_settings", display_name="settings")],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Raise the first error; ComfyUI shows an error that is returned once for each input, and one raised once."""
        request = check_fields(values)
        check_installed(request.attention)
        return True

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput({name: value for name, value in values.items() if value is not None})


def _without_model(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "model"}


def _companions(values: dict[str, Any]) -> dict[ComponentName, str]:
    return {component: values.get(str(component)) or AUTO for component in COMPANIONS}


class AddLora(io.ComfyNode):
    """Choose a LoRA; chain nodes for several. HUMO_LORAS is a tuple of `NAME:STRENGTH`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_LoRA",
            display_name="HuMo LoRA",
            category=CATEGORY,
            description="Adds a LoRA of HuMo or of Wan2.1, of ComfyUI's folder or installed with `humo models`.",
            inputs=[
                io.Combo.Input("lora", options=[*lora_files()], tooltip="a LoRA for the network of the chosen model"),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.05,
                    round=0.001,
                    tooltip="multiplies the LoRA's changes; 1 as trained",
                ),
                Loras.Input("earlier", optional=True, tooltip="LoRAs that are used as well"),
            ],
            outputs=[Loras.Output("humo_loras", display_name="loras")],
        )

    @classmethod
    def execute(cls, lora: str, strength: float, earlier: tuple[str, ...] = ()) -> io.NodeOutput:
        return io.NodeOutput((*earlier, str(LoraChoice(lora, strength))))


class Sampler(io.ComfyNode):
    """Resolve a request and generate its latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        values = all_preset_values()
        defaults = values[DEFAULT_PRESET]
        sockets = [io.Image.Input(name, optional=True, tooltip=description("images")) for name in IMAGE_SOCKETS]
        return io.Schema(
            node_id="HuMo_Sampler",
            display_name="HuMo Sampler",
            category=CATEGORY,
            description="Generates the latents of a clip. Choosing a preset fills in its published values.",
            inputs=[
                PipelineModel.Input("model"),
                *sockets,
                io.Audio.Input("audio", optional=True, tooltip=description("audio")),
                Loras.Input("loras", optional=True, tooltip=description("loras")),
                io.String.Input("prompt", multiline=True, default="", tooltip=description("prompt")),
                widget("negative_prompt", defaults["negative_prompt"], multiline=True, note="empty: the preset's"),
                PresetCombo(
                    "preset",
                    list(values),
                    values,
                    default=DEFAULT_PRESET,
                    optional=True,
                    tooltip="values of the widgets below: those of the model, or a preset of requests with its LoRAs",
                ),
                widget("width", defaults["width"], step=SIZE_MULTIPLE),
                widget("height", defaults["height"], step=SIZE_MULTIPLE),
                widget("frames", 0, min=0, note=AUDIO_LENGTH),
                widget("steps", defaults["steps"]),
                widget("seed", model_presets()[DEFAULT_PRESET].seed, control_after_generate=True),
                widget("shift", defaults["shift"]),
                widget("sampler", defaults["sampler"]),
                widget("spacing", defaults["spacing"]),
                widget("sigmas", "", note="if given, they replace steps, shift and spacing"),
                widget("guidance", defaults["guidance"]),
                widget("scale_text", defaults["scale_text"]),
                widget("scale_audio", defaults["scale_audio"]),
                widget("scale_image", defaults["scale_image"]),
                widget("switch_timestep", defaults["switch_timestep"]),
                widget("mode", AUTO, note="auto: what is connected"),
                widget("window", defaults["window"]),
                widget("overlap", defaults["overlap"]),
                widget("speed", "exact"),
                widget("cache", "none"),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="LATENT"),
                io.Audio.Output("clip_audio", display_name="AUDIO", tooltip="the audio, cut to the length of the clip"),
            ],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Raise the first error; ComfyUI shows an error that is returned once for each input, and one raised once.

        A linked input is None here, and is checked when the node runs.
        """
        fields = filled_in({name: value for name, value in values.items() if name not in SOCKETS})
        if values.get("prompt") is None:
            fields["prompt"] = "linked"
        fields["images"] = tuple(name for name in IMAGE_SOCKETS if name in values)
        if "audio" in values:
            fields["audio"] = "linked"
        if (name := values.get("preset")) is not None:
            family, preset_fields = _preset(name)
            request = parse_request(fields | preset_fields)
            if family is not None:
                resolve(request, family)
        else:
            parse_request(fields)
        return True

    @classmethod
    def execute(
        cls,
        model: HuMoPipeline,
        prompt: str,
        preset: str | None = None,
        audio: AudioDict | None = None,
        loras: tuple[str, ...] = (),
        **inputs: Any,
    ) -> io.NodeOutput:
        from humo.inference.inputs import check_inputs
        from humo.jobs.loras import locate_loras, preset_with_loras, strengths_of

        images = [image for name in IMAGE_SOCKETS for image in _images(inputs.pop(name, None), name)]
        values = {name: value for name, value in inputs.items() if value is not None}
        preset_fields: dict[str, str] = {}
        if preset is not None:
            family, preset_fields = _preset(preset)
            if family is not None and family.name != model.preset.name:
                problem = f"{preset!r} is not of the model, which is {model.preset.title}"
                raise RequestError("preset", problem, f"choose {model.preset.name}")
            values = values if preset_fields else preset_values(preset) | values
        options = filled_in(values) | {"loras": loras, **preset_fields}
        samples, files = None if audio is None else mono_16k(audio), lora_files()
        base = preset_with_loras(model.base_preset, loras, files)
        (checked,) = check_inputs(base, prompt, images or None, samples, None, None, None, options)
        checked = replace(checked, plan=locate_loras(checked.plan, model.transformer_architecture, files))
        model.use_loras(strengths_of(checked.plan.request))
        latents = model.generate_latents(checked, progress_bar())
        used = audio is not None and checked.audio is not None
        track = cut(audio, checked.plan.geometry.seconds) if audio is not None and used else None
        return io.NodeOutput(to_latent(latents, model), track)


SOCKETS = ("model", "audio", "loras")
"""Inputs of the sampler that are linked, beside images."""


def _images(batch: Tensor | None, field: str) -> list[Any]:
    return [] if batch is None else from_images(batch, field)


def _preset(name: str) -> tuple[Preset | None, dict[str, str]]:
    """Return the preset of the model that a name stands for, and the fields that it adds to a request.

    The first is None for a preset of requests that is for every model.

    Raises:
        RequestError: there is no such preset, or the user's file of presets is not valid.
    """
    models = model_presets()
    if name in models:
        return models[name], {}
    known = request_presets()
    if name not in known:
        raise RequestError("preset", f"{name!r} is not known", did_you_mean(name, [*models, *known]))
    family = known[name].family
    return None if family is None else find_preset(family), {"preset": name}


class Decode(io.ComfyNode):
    """Decode latents to frames, as the command line writes them to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_Decode",
            display_name="HuMo Decode",
            category=CATEGORY,
            inputs=[
                PipelineModel.Input("model"),
                io.Latent.Input("latent"),
                io.Audio.Input("audio", optional=True, tooltip="audio of the video; the sampler's has its length"),
                io.Boolean.Input(
                    "watermark",
                    optional=True,
                    default=True,
                    tooltip="embed an invisible watermark that marks the frames as AI-generated",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="IMAGE"),
                io.Video.Output("video", display_name="VIDEO", tooltip="frames and audio, 25 frames per second"),
                io.Float.Output("fps", display_name="fps", tooltip="frames per second"),
            ],
        )

    @classmethod
    def execute(
        cls, model: HuMoPipeline, latent: LatentDict, audio: AudioDict | None = None, watermark: bool = True
    ) -> io.NodeOutput:
        from humo.media.watermark import embed_watermark

        frames = model.decode_frames(from_latent(latent, model), progress_bar())
        if watermark:
            frames = embed_watermark(frames, latent_watermark(latent))
        images = to_images(frames)
        return io.NodeOutput(images, to_video(images, audio), float(FRAMES_PER_SECOND))


def latent_watermark(latent: LatentDict) -> int:
    """Return the watermark's payload, 0 to 65,535, derived from the latents."""
    content = latent["samples"].float().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:2], "big")


class HuMoExtension(ComfyExtension):
    """The nodes of this package."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadModel, MemoryAndSpeed, AddLora, Sampler, Decode]


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension; ComfyUI calls this when it loads the folder."""
    return HuMoExtension()
