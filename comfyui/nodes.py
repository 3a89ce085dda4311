"""The nodes: a model, words, pictures and a sound in; latents; frames and their sound track out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from comfy_api.latest import ComfyExtension, io

from humo.errors import HuMoError, RequestError
from humo.geometry import FRAMES_PER_SECOND
from humo.request import parse_request

from .fields import description, given, widget
from .progress import progress_bar
from .values import AudioDict, Latents, Sound, Words, pictures_of, sound_of, to_audio, to_images, track_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from humo import HuMoPipeline
    from humo.request import OffloadName, QuantizeName

CATEGORY = "HuMo"
SOCKETS = 4
"""Pictures that one node takes; nodes are chained for more."""

AS_LONG_AS_THE_SOUND = "as long as the sound"

Model = io.Custom("HUMO_MODEL")
Text = io.Custom("HUMO_TEXT")
Pictures = io.Custom("HUMO_PICTURES")
Voice = io.Custom("HUMO_SOUND")
Clip = io.Custom("HUMO_LATENTS")


class LoadModel(io.ComfyNode):
    """HUMO_MODEL is the core's pipeline, which ComfyUI keeps as it keeps every output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_LoadModel",
            display_name="HuMo Load Model",
            category=CATEGORY,
            description="Loads a model folder made by `humo models get` or `humo convert`.",
            inputs=[
                widget("model", otherwise="that small one", placeholder="humo-1.7b, or a folder"),
                widget("device", otherwise="the fastest there is"),
                widget("dtype", otherwise="bfloat16 on a GPU, float32 on the CPU"),
                widget("offload", otherwise="none: memory cannot be estimated before a clip is known"),
                widget("quantize", otherwise="none: memory cannot be estimated before a clip is known"),
            ],
            outputs=[Model.Output("humo_model", display_name="model")],
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
        pipeline = load_pipeline(folder, device=device, dtype=dtype, offload=offload, quantize=quantize)
        return io.NodeOutput(pipeline)


class DescribeScene(io.ComfyNode):
    """The words are encoded by the sampler, which has the model."""

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
            outputs=[Text.Output("humo_text", display_name="text")],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None = None) -> bool | str:
        return True if prompt is None else _problem({"prompt": prompt})

    @classmethod
    def execute(cls, prompt: str, negative_prompt: str = "") -> io.NodeOutput:
        parse_request({"prompt": prompt, "negative_prompt": negative_prompt})
        return io.NodeOutput(Words(prompt, negative_prompt))


class GatherPictures(io.ComfyNode):
    """Pictures in order. The core fits each on white to the video's aspect when it encodes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sockets = [
            io.Image.Input(f"image_{number}", optional=number > 1, tooltip=description("images"))
            for number in range(1, SOCKETS + 1)
        ]
        earlier = Pictures.Input("earlier", optional=True, tooltip="pictures that come before these")
        return io.Schema(
            node_id="HuMo_Pictures",
            display_name="HuMo Pictures",
            category=CATEGORY,
            description="Pictures of who or what is in the scene, of any size: padded white, nothing is cut off.",
            inputs=[*sockets, earlier],
            outputs=[Pictures.Output("humo_pictures", display_name="pictures")],
        )

    @classmethod
    def execute(cls, earlier: tuple[Image, ...] = (), **images: Tensor | None) -> io.NodeOutput:
        gathered = list(earlier)
        for number in range(1, SOCKETS + 1):
            batch = images.get(f"image_{number}")
            if batch is not None:
                gathered += pictures_of(batch, f"image_{number}")
        return io.NodeOutput(tuple(gathered))


class HearSound(io.ComfyNode):
    """A sound at its own rate and as the model hears it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_Sound",
            display_name="HuMo Sound",
            category=CATEGORY,
            inputs=[io.Audio.Input("audio", tooltip="sound to speak or sing")],
            outputs=[Voice.Output("humo_sound", display_name="sound")],
        )

    @classmethod
    def execute(cls, audio: AudioDict) -> io.NodeOutput:
        return io.NodeOutput(sound_of(audio))


class Sample(io.ComfyNode):
    """One request, resolved and denoised by the core."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_Sampler",
            display_name="HuMo Sampler",
            category=CATEGORY,
            description="Makes the latents of a clip. Whatever is left open is the model's published value.",
            inputs=[
                Model.Input("model"),
                Text.Input("text"),
                Pictures.Input("pictures", optional=True),
                Voice.Input("sound", optional=True),
                widget("width"),
                widget("height"),
                widget("frames", otherwise=AS_LONG_AS_THE_SOUND),
                widget("seconds", otherwise=AS_LONG_AS_THE_SOUND),
                widget("steps"),
                widget("seed", control_after_generate=True),
                widget("shift"),
                widget("scale_text"),
                widget("scale_audio"),
                widget("scale_image"),
                widget("switch_timestep"),
                widget("mode", otherwise="that default"),
                widget("window", otherwise="as long as the model knows"),
                widget("overlap"),
                widget("speed", otherwise="exact"),
                widget("cache", otherwise="none"),
            ],
            outputs=[Clip.Output("humo_latents", display_name="latents")],
        )

    @classmethod
    def validate_inputs(
        cls,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        seconds: float | None = None,
    ) -> bool | str:
        # named here is what has more limits than a smallest and a largest value, which ComfyUI checks by itself
        sizes = given({"width": width, "height": height, "frames": frames, "seconds": seconds})
        return _problem({"prompt": "looked at by its own node", **sizes})

    @classmethod
    def execute(
        cls,
        model: HuMoPipeline,
        text: Words,
        pictures: tuple[Image, ...] = (),
        sound: Sound | None = None,
        **settings: float | str | None,
    ) -> io.NodeOutput:
        from humo.inference.inputs import check_inputs

        options = given({**settings, "negative_prompt": text.negative_prompt})
        heard = None if sound is None else sound.heard
        (clip,) = check_inputs(model.preset, text.prompt, pictures or None, heard, None, None, None, options)
        latents = model.generate_latents(clip, progress_bar())
        track = None if sound is None or clip.audio is None else track_of(sound, clip.plan.geometry.seconds)
        return io.NodeOutput(Latents(latents, clip.plan, track))


class Decode(io.ComfyNode):
    """Frames as the core writes them into a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HuMo_Decode",
            display_name="HuMo Decode",
            category=CATEGORY,
            inputs=[
                Model.Input("model"),
                Clip.Input("latents"),
                io.Boolean.Input(
                    "watermark", optional=True, default=True, tooltip="mark the frames, unseen, as made by a machine"
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images"),
                io.Audio.Output("audio", display_name="audio", tooltip="the sound, as long as the clip"),
                io.Float.Output("fps", display_name="fps", tooltip="frames a second"),
            ],
        )

    @classmethod
    def execute(cls, model: HuMoPipeline, latents: Latents, watermark: bool = True) -> io.NodeOutput:
        from humo.media.watermark import embed_watermark

        if latents.plan.preset != model.preset:
            problem = f"is {model.preset.title}, and the latents are of {latents.plan.preset.title}"
            raise RequestError("model", problem, "connect the model that the sampler has")
        frames = model.decode_frames(latents.samples, progress_bar())
        if watermark:
            frames = embed_watermark(frames, mark_of(latents))
        audio = None if latents.track is None else to_audio(latents.track)
        return io.NodeOutput(to_images(frames), audio, float(FRAMES_PER_SECOND))


def mark_of(latents: Latents) -> int:
    """The number that the watermark of a clip carries, 0 to 65,535: the same for the same latents."""
    content = latents.samples.float().cpu().contiguous().numpy().tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:2], "big")


def _problem(fields: dict[str, Any]) -> bool | str:
    """True, or what is wrong with fields of a request, in one line."""
    try:
        parse_request(fields)
    except HuMoError as error:
        return str(error)
    return True


class HuMoExtension(ComfyExtension):
    """These nodes, for ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadModel, DescribeScene, GatherPictures, HearSound, Sample, Decode]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI asks for when it loads this folder."""
    return HuMoExtension()
