"""The nodes: load a model, prepare text, images and audio, sample latents, decode frames."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import ComfyExtension, io

from humo.errors import HuMoError, RequestError
from humo.geometry import FRAMES_PER_SECOND
from humo.loras import MAX_STRENGTH, LoraChoice
from humo.request import parse_request
from humo.request_presets import request_presets

from .fields import description, filled_in, names_widget, widget
from .loras import lora_files
from .progress import progress_bar
from .values import Audio, AudioDict, Latents, Prompts, audio_track, from_audio, from_images, to_audio, to_images

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from humo import HuMoPipeline
    from humo.request import OffloadName, QuantizeName

CATEGORY = "HuMo"
IMAGE_SOCKETS = 4
"""Image sockets of one node; chain nodes for more."""

AUDIO_LENGTH = "the length of the audio"

PipelineModel = io.Custom("HUMO_MODEL")
Prompt = io.Custom("HUMO_TEXT")
ReferenceImages = io.Custom("HUMO_IMAGES")
VoiceAudio = io.Custom("HUMO_AUDIO")
Loras = io.Custom("HUMO_LORAS")
VideoLatents = io.Custom("HUMO_LATENTS")


class LoadModel(io.ComfyNode):
    """Load a pipeline. HUMO_MODEL is a `HuMoPipeline`, which ComfyUI caches like every output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_LoadModel",
            display_name="HuMo Load Model",
            category=CATEGORY,
            description="Loads a model folder that `humo models get` or `humo convert` created.",
            inputs=[
                widget("model", default="the built-in model", placeholder="humo-1.7b, or a folder"),
                widget("device", default="the fastest available"),
                widget("dtype", default="bfloat16 on a GPU, float32 on the CPU"),
                widget("offload", default="none; the clip's size is not known when the model is loaded"),
                widget("quantize", default="none; the clip's size is not known when the model is loaded"),
            ],
            outputs=[PipelineModel.Output("humo_model", display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        from humo.checkpoints.model_folder import find_model_folder, open_model_folder

        try:
            open_model_folder(find_model_folder(model or None))
        except HuMoError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        model: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        offload: str | None = None,
        quantize: str | None = None,
    ) -> str:
        from humo.checkpoints.model_folder import find_model_folder
        from humo.jobs.replay import weights_fingerprint

        return weights_fingerprint(find_model_folder(model or None))

    @classmethod
    def execute(
        cls,
        model: str = "",
        device: str = "auto",
        dtype: str = "auto",
        offload: OffloadName = "auto",
        quantize: QuantizeName = "auto",
    ) -> io.NodeOutput:
        from humo.checkpoints.model_folder import find_model_folder
        from humo.runtime.loading import load_pipeline

        folder = find_model_folder(model or None)
        return io.NodeOutput(load_pipeline(folder, device=device, dtype=dtype, offload=offload, quantize=quantize))


class TextPrompt(io.ComfyNode):
    """Collect prompt and negative prompt. The sampler encodes them, because it has the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_Text",
            display_name="HuMo Text",
            category=CATEGORY,
            inputs=[
                io.String.Input("prompt", multiline=True, default="", tooltip=description("prompt")),
                widget("negative_prompt", multiline=True),
            ],
            outputs=[Prompt.Output("humo_text", display_name="text")],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        return True if prompt is None else _problem({"prompt": prompt})

    @classmethod
    def execute(cls, prompt: str, negative_prompt: str = "") -> io.NodeOutput:
        parse_request({"prompt": prompt, "negative_prompt": negative_prompt})
        return io.NodeOutput(Prompts(prompt, negative_prompt))


class CollectImages(io.ComfyNode):
    """Collect reference images in order. The encoder fits each on white to the video's aspect ratio."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sockets = [
            io.Image.Input(f"image_{number}", optional=number > 1, tooltip=description("images"))
            for number in range(1, IMAGE_SOCKETS + 1)
        ]
        earlier = ReferenceImages.Input("earlier", optional=True, tooltip="images that come before these")
        return io.Schema(
            node_id="HuMo_Images",
            display_name="HuMo Reference Images",
            category=CATEGORY,
            description="Images of the people or objects in the scene, of any size. They are padded with white.",
            inputs=[*sockets, earlier],
            outputs=[ReferenceImages.Output("humo_images", display_name="images")],
        )

    @classmethod
    def execute(cls, earlier: tuple[Image, ...] = (), **images: Tensor | None) -> io.NodeOutput:
        collected = list(earlier)
        for number in range(1, IMAGE_SOCKETS + 1):
            batch = images.get(f"image_{number}")
            if batch is not None:
                collected += from_images(batch, f"image_{number}")
        return io.NodeOutput(tuple(collected))


class PrepareAudio(io.ComfyNode):
    """Prepare audio for the model, and keep it at its own sample rate for the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_Audio",
            display_name="HuMo Audio",
            category=CATEGORY,
            inputs=[io.Audio.Input("audio", tooltip=description("audio"))],
            outputs=[VoiceAudio.Output("humo_audio", display_name="audio")],
        )

    @classmethod
    def execute(cls, audio: AudioDict) -> io.NodeOutput:
        return io.NodeOutput(from_audio(audio))


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
        return io.Schema(
            node_id="HuMo_Sampler",
            display_name="HuMo Sampler",
            category=CATEGORY,
            description="Generates the latents of a clip. Open settings have the model's published defaults.",
            inputs=[
                PipelineModel.Input("model"),
                Prompt.Input("text"),
                ReferenceImages.Input("images", optional=True),
                VoiceAudio.Input("audio", optional=True),
                Loras.Input("loras", optional=True, tooltip=description("loras")),
                names_widget("preset", request_presets(), "none"),
                widget("width"),
                widget("height"),
                widget("frames", default=AUDIO_LENGTH),
                widget("seconds", default=AUDIO_LENGTH),
                widget("steps"),
                widget("seed", control_after_generate=True),
                widget("shift"),
                widget("sampler"),
                widget("spacing"),
                widget("sigmas", default="the steps and the spacing"),
                widget("guidance", default="published"),
                widget("scale_text"),
                widget("scale_audio"),
                widget("scale_image"),
                widget("switch_timestep"),
                widget("mode", default="the mode of the connected inputs"),
                widget("window", default="the length the model was trained on"),
                widget("overlap"),
                widget("speed", default="exact"),
                widget("cache", default="none"),
            ],
            outputs=[VideoLatents.Output("humo_latents", display_name="latents")],
        )

    @classmethod
    def validate_inputs(
        cls,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        seconds: float | None = None,
    ) -> bool | str:
        # ComfyUI checks ranges itself; these fields have further rules
        sizes = filled_in({"width": width, "height": height, "frames": frames, "seconds": seconds})
        return _problem({"prompt": "checked by HuMo Text", **sizes})

    @classmethod
    def execute(
        cls,
        model: HuMoPipeline,
        text: Prompts,
        images: tuple[Image, ...] = (),
        audio: Audio | None = None,
        loras: tuple[str, ...] = (),
        **settings: float | str | None,
    ) -> io.NodeOutput:
        from humo.inference.inputs import check_inputs
        from humo.jobs.loras import locate_loras, preset_with_loras, strengths_of

        files = lora_files()
        options = filled_in({**settings, "negative_prompt": text.negative_prompt}) | {"loras": loras}
        samples = None if audio is None else audio.mono_16k
        preset = preset_with_loras(model.base_preset, loras, files)
        (inputs,) = check_inputs(preset, text.prompt, images or None, samples, None, None, None, options)
        inputs = replace(inputs, plan=locate_loras(inputs.plan, model.transformer_architecture, files))
        model.use_loras(strengths_of(inputs.plan.request))
        latents = model.generate_latents(inputs, progress_bar())
        track = None
        if audio is not None and inputs.audio is not None:
            track = audio_track(audio, inputs.plan.geometry.seconds)
        return io.NodeOutput(Latents(latents, inputs.plan, track))


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
                VideoLatents.Input("latents"),
                io.Boolean.Input(
                    "watermark",
                    optional=True,
                    default=True,
                    tooltip="embed an invisible watermark that marks the frames as AI-generated",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images"),
                io.Audio.Output("audio", display_name="audio", tooltip="the audio, cut to the length of the clip"),
                io.Float.Output("fps", display_name="fps", tooltip="frames per second"),
            ],
        )

    @classmethod
    def execute(cls, model: HuMoPipeline, latents: Latents, watermark: bool = True) -> io.NodeOutput:
        from humo.media.watermark import embed_watermark

        if latents.plan.preset.name != model.preset.name:
            problem = f"is {model.preset.title}, and the latents come from {latents.plan.preset.title}"
            raise RequestError("model", problem, "connect the same model as at the sampler")
        frames = model.decode_frames(latents.samples, progress_bar())
        if watermark:
            frames = embed_watermark(frames, latents_watermark(latents))
        audio = None if latents.track is None else to_audio(latents.track)
        return io.NodeOutput(to_images(frames), audio, float(FRAMES_PER_SECOND))


def latents_watermark(latents: Latents) -> int:
    """Return the watermark's payload, 0 to 65,535, derived from the latents."""
    content = latents.samples.float().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:2], "big")


def _problem(fields: dict[str, Any]) -> bool | str:
    """Return True, or the error of a request's fields in one line."""
    try:
        parse_request(fields)
    except HuMoError as error:
        return str(error)
    return True


class HuMoExtension(ComfyExtension):
    """The nodes of this package."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadModel, TextPrompt, CollectImages, PrepareAudio, AddLora, Sampler, Decode]


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension; ComfyUI calls this when it loads the folder."""
    return HuMoExtension()
