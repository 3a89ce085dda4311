"""Requests: the description of a job and its limits. `humo.plan` resolves a request to a plan.

The command line, request files, the HTTP schema, the web form and the metadata inside every video are derived from
`GenerateRequest`.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from humo.errors import RequestError, did_you_mean
from humo.geometry import (
    FRAMES_PER_SECOND,
    SIZE_MULTIPLE,
    TEMPORAL_STRIDE,
)
from humo.guidance import MAX_SCALE, GuidanceName, Mode, SpeedName
from humo.limits import MAX_AUDIO_SECONDS
from humo.loras import parse_lora
from humo.schedule import SamplerName, SpacingName

MAX_SIDE = 8192  # pixels
MAX_BLOCKS = 1000
RANDOM_SEEDS = 2**31
"""Seeds that ``random`` chooses from."""
MAX_FRAMES = int(MAX_AUDIO_SECONDS) * FRAMES_PER_SECOND

ASPECT = r"^[1-9]\d{0,2}:[1-9]\d{0,2}$"
"""Pattern of a shape, width:height."""

Side = Annotated[int, Field(ge=SIZE_MULTIPLE, le=MAX_SIDE, multiple_of=SIZE_MULTIPLE)]
FileName = Annotated[str, Field(min_length=1)]
Paths = Annotated[tuple[FileName, ...], BeforeValidator(lambda paths: (paths,) if isinstance(paths, str) else paths)]
Scale = Annotated[float, Field(ge=0.0, le=MAX_SCALE)]


def _lora_text(text: str) -> str:
    """Return ``NAME:STRENGTH`` of ``NAME[:STRENGTH]``."""
    try:
        return str(parse_lora(text))
    except ValueError as error:
        raise _invalid(str(error)) from None


_LIST_SEPARATOR = re.compile(r"\s*,\s*|\s+")
"""One comma or spaces between numbers; two commas leave an empty number, which is refused."""


def _falling(sigmas: tuple[float, ...]) -> tuple[float, ...]:
    """Check that noise levels fall, and leave out a 0 at the end."""
    if any(after >= before for before, after in itertools.pairwise(sigmas)):
        levels = ", ".join(f"{sigma:g}" for sigma in sigmas)
        raise _invalid(f"{levels} do not fall; each must be lower than the one before it")
    kept = sigmas[:-1] if sigmas and sigmas[-1] == 0 else sigmas
    if not kept:
        raise _invalid("there is no level above 0; give one for each step, such as 1,0.9,0.6")
    return kept


def _seed(value: Any) -> Any:
    """Return a seed drawn at random for ``random``; other values as they are."""
    return secrets.randbelow(RANDOM_SEEDS) if value == "random" else value


def _invalid(message: str) -> PydanticCustomError:
    """Return the error of a value whose message is the problem and the remedy."""
    return PydanticCustomError(ONE_LINE, "{message}", {"message": message})


ONE_LINE = "one_line"
"""Type of pydantic errors whose message is ``problem; remedy``."""

Loras = Annotated[
    tuple[Annotated[FileName, AfterValidator(_lora_text)], ...],
    BeforeValidator(lambda loras: (loras,) if isinstance(loras, str) else loras),
]
Sigmas = Annotated[
    tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...],
    BeforeValidator(lambda sigmas: _LIST_SEPARATOR.split(sigmas.strip()) if isinstance(sigmas, str) else sigmas),
    AfterValidator(_falling),
]

OffloadName = Literal["auto", "none", "model", "group", "disk"]
"""Storage of weights until they are needed: ``none`` on the device, ``disk`` on the disk, the others in the host's
memory. ``model`` loads whole components, ``group`` blocks."""

QuantizeName = Literal["auto", "none", "fp8", "int8", "int4"]
"""Format of the network's blocks in memory; ``none`` as in the model folder."""

CacheName = Literal["none", "first-block", "taylorseer"]

AttentionName = Literal["sdpa", "efficient", "cudnn", "flash", "flash3", "sage", "xformers"]
"""Kernels of attention; ``sdpa`` is torch's choice among its own."""


class GenerateRequest(BaseModel):
    """Fields of a request. A field that is left out gets the preset's published value, or follows from the inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: FileName | None = Field(
        None, description="installed model or model folder (default: the built-in model, HuMo nano)"
    )
    preset: FileName | None = Field(
        None, description="named settings to start from, such as lightx2v; fields of the request replace them"
    )
    loras: Loras = Field(
        (), description="LoRA of HuMo or Wan2.1: a file or an installed name, and :STRENGTH; several are added up"
    )
    prompt: str = Field(
        min_length=1, max_length=10_000, pattern=r"\S", description="text prompt that describes the scene"
    )
    images: Paths = Field((), description="reference image of a person or an object; several are used in order")
    audio: FileName | None = Field(
        None, description="speech or song that the person follows: an audio file, or a video with audio"
    )
    mode: Mode | None = Field(None, description="conditions to use: text, image, audio (default: those given)")
    width: Side | None = Field(None, description="width in pixels")
    height: Side | None = Field(None, description="height in pixels")
    aspect: Annotated[str, Field(pattern=ASPECT)] | None = Field(
        None, description="shape of the video, as 16:9, 9:16, 1:1 or 4:3, with as many pixels as by default"
    )
    frames: int | None = Field(
        None, ge=1, le=MAX_FRAMES, description="number of frames, 25 per second, 4k + 1; default: as long as the audio"
    )
    seconds: float | None = Field(None, ge=1 / FRAMES_PER_SECOND, le=MAX_AUDIO_SECONDS, description="length in seconds")
    window: int | None = Field(
        None,
        ge=1,
        le=MAX_FRAMES,
        description="frames per window, 4k + 1; a longer clip is generated in several windows",
    )
    overlap: int | None = Field(
        None, ge=0, le=MAX_FRAMES, multiple_of=TEMPORAL_STRIDE, description="frames shared by consecutive windows"
    )
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps")
    shift: float | None = Field(None, ge=0.1, le=100.0, description="timestep shift of the flow-matching schedule")
    sampler: SamplerName | None = Field(
        None,
        description="solver of the steps; unipc is the published one, comfy-unipc is ComfyUI's uni_pc, lcm adds new "
        "noise in each step, for few steps",
    )
    spacing: SpacingName | None = Field(
        None, description="spacing of the noise levels; simple is ComfyUI's (default: published)"
    )
    sigmas: Sigmas | None = Field(
        None, description="noise levels of the steps, falling from 1, in place of steps, shift and spacing"
    )
    seed: Annotated[int | None, BeforeValidator(_seed)] = Field(
        None, ge=0, le=2**63 - 1, description="seed of the initial noise; random: another one each time"
    )
    negative_prompt: str | None = Field(None, max_length=10_000, description="text prompt of what to avoid")
    guidance: GuidanceName | None = Field(
        None,
        description="comfy: two passes, one scale, one cropped reference, as ComfyUI's HuMo node (default: published)",
    )
    scale_text: Scale | None = Field(None, description="guidance scale of the text")
    scale_audio: Scale | None = Field(None, description="guidance scale of the audio")
    scale_image: Scale | None = Field(None, description="guidance scale of the images")
    switch_timestep: float | None = Field(
        None, ge=0.0, le=1000.0, description="timestep above which guidance favors the text, which sets the layout"
    )
    speed: SpeedName = Field("exact", description="skip guidance passes, at some cost in quality")
    cache: CacheName = Field("none", description="reuse transformer blocks between steps, at some cost in quality")
    vocal_separator: FileName | None = Field(
        None, description="MDX-Net ONNX file; the network follows the separated vocals"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="device to compute on")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="dtype of the network")
    offload: OffloadName = Field(
        "auto", description="keep weights on the device, load each component or block from the host, or from the disk"
    )
    quantize: QuantizeName = Field(
        "auto", description="store the network's blocks in fewer bits; auto: if nothing fits"
    )
    resident_blocks: int | None = Field(
        None,
        ge=0,
        le=MAX_BLOCKS,
        description="network blocks that stay on the device with offload group or disk (default: as many as fit)",
    )
    tile: int | None = Field(
        None,
        ge=0,
        le=MAX_SIDE,
        multiple_of=SIZE_MULTIPLE,
        description="side in pixels of the tiles in which the autoencoder runs; 0: whole frames (default: if they fit)",
    )
    attention: AttentionName = Field("sdpa", description="attention kernels; `humo doctor` lists those installed")
    compile: bool = Field(False, description="compile the network's blocks: the first step is slow, others are faster")
    tf32: bool = Field(False, description="multiply float32 matrices in TF32 on NVIDIA GPUs: faster, less exact")
    output: str = Field("out.mp4", min_length=1, description="video to write, .mp4")
    sidecar: bool = Field(False, description="write the generation record beside the video as JSON")
    consent: bool = Field(False, description="declare that the people in the inputs have agreed; stored in the record")
    consent_by: Literal["user", "operator"] = Field(
        "user", description="who declares the consent: who asks for the video, or the operator of a service"
    )
    provenance: bool = Field(
        True, description="declare the video AI-generated: content credentials (C2PA) and a watermark"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans of YAML and JSON where a number is expected; Python would treat them as 1 and 0."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("yes or no is neither a number nor text")
        return value

    @model_validator(mode="after")
    def _only_one_size(self) -> GenerateRequest:
        if self.aspect is not None and (self.width is not None or self.height is not None):
            raise ValueError("are both given; give aspect, or width and height")
        return self

    @model_validator(mode="after")
    def _only_one_length(self) -> GenerateRequest:
        if self.frames is not None and self.seconds is not None:
            raise ValueError("are both given; give frames or seconds, not both")
        return self


def parse_request(fields: Mapping[str, Any]) -> GenerateRequest:
    """Create a checked request from plain fields.

    Raises:
        RequestError: the first invalid field, with its value, the allowed values and a remedy.
    """
    try:
        return GenerateRequest.model_validate(dict(fields))
    except ValidationError as failure:
        raise _in_one_line(failure) from None


def _in_one_line(failure: ValidationError) -> RequestError:
    """Convert pydantic's first error to a `RequestError`."""
    error = failure.errors(include_url=False)[0]
    field = ".".join(str(part) for part in error["loc"])
    value, kind = error["input"], error["type"]
    if kind == "extra_forbidden":
        return RequestError(field, "is not a field of a request", did_you_mean(field, GenerateRequest.model_fields))
    if kind == "missing":
        return RequestError(field, "is missing", "give it")
    if kind == ONE_LINE:
        problem, _, remedy = error["msg"].partition("; ")
        return RequestError(str(error["loc"][0]), problem, remedy)
    if kind == "value_error" and not field:
        problem, _, remedy = str(error["ctx"]["error"]).partition("; ")
        return RequestError("frames and seconds", problem, remedy)
    if kind == "literal_error":
        return RequestError(field, f"{value!r} is not known", did_you_mean(str(value), _choices(field)))
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "..."
    return RequestError(field, f"{text} is not allowed", f"allowed: {describe_limits(field.split('.')[0])}")


def field_schema(field: str) -> dict[str, Any]:
    """Return the JSON schema of a field, its description included, without the ``null`` alternative.

    Args:
        field: a field of `GenerateRequest`; of another name the schema is empty.
    """
    schema: dict[str, Any] = _request_schema().get(field, {})
    value = next((option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"), schema)
    return {**value, "description": schema["description"]} if "description" in schema else dict(value)


@cache
def _request_schema() -> dict[str, Any]:
    properties: dict[str, Any] = GenerateRequest.model_json_schema()["properties"]
    return properties


def _choices(field: str) -> list[str]:
    return [str(choice) for choice in field_schema(field).get("enum", [])]


def describe_limits(field: str) -> str:
    """Describe the allowed values of a field in words: range, step, choices.

    Args:
        field: a field of `GenerateRequest`.
    """
    schema = field_schema(field)
    if "enum" in schema:
        return "one of " + ", ".join(_choices(field))
    types = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "array": "falling numbers from 0 to 1" if field == "sigmas" else "a list of names",
        "boolean": "yes or no",
    }
    parts = [types.get(schema.get("type", ""), "")]
    if "minimum" in schema and "maximum" in schema:
        parts.append(
            " to ".join(
                f"{end:g}" if isinstance(end, float) else str(end) for end in (schema["minimum"], schema["maximum"])
            )
        )
    if "multipleOf" in schema:
        parts.append(f"a multiple of {schema['multipleOf']}")
    if "maxLength" in schema:
        parts.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    elif schema.get("minLength") or schema.get("items", {}).get("minLength"):
        parts.append("not empty")
    return ", ".join(part for part in parts if part)
