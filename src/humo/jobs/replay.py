"""Write a job's generation record, and read a request from a record to repeat the job."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo import __version__
from humo.checkpoints.lora_store import installed_loras
from humo.checkpoints.model_folder import find_model_folder
from humo.errors import CheckpointError, HuMoError, MediaError
from humo.files import hash_file
from humo.loras import parse_lora
from humo.media.provenance import DEVICE_FIELDS, MEMORY_FIELDS, NOT_CONTENT_FIELDS, WEIGHTS_KEY
from humo.plan import GenerationPlan
from humo.request import GenerateRequest, parse_request

if TYPE_CHECKING:
    from humo.media.provenance import GenerationRecord

LIBRARIES = ("torch", "diffusers", "transformers")
"""Libraries whose version can change the frames; the record has their versions."""

LONGEST_HEADER_BYTES = 2**26
"""Most bytes of a weights file that its fingerprint covers; only safetensors files state the length of their header."""

FILE_FIELDS = ("images", "audio", "vocal_separator", "loras")
"""Fields of a request that name input files."""

OPTIONS = {"images": "--image", "loras": "--lora"}
"""Field that holds several files -> the option that adds one."""


def make_record(plan: GenerationPlan, *, keep_paths: bool = True) -> GenerationRecord:
    """Return the record of a plan: everything that another machine needs to repeat it. Timings are added later.

    Args:
        plan: with the device and dtype that it runs with.
        keep_paths: record the full paths of files; otherwise their names alone.
    """
    from humo.media.provenance import GenerationRecord

    request, geometry = plan.request, plan.geometry
    model = find_model_folder(request.model)
    shown_path = absolute_path if keep_paths else _file_name
    paths: dict[str, Any] = {"images": [shown_path(path) for path in request.images]}
    paths |= {
        name: shown_path(path) for name in ("audio", "vocal_separator", "output") if (path := getattr(request, name))
    }
    paths["loras"] = [str(replace(lora, name=shown_path(lora.name))) for lora in map(parse_lora, request.loras)]
    if request.model is not None:  # the folder itself, since a name may stand for another folder later
        paths["model"] = shown_path(str(model))
    return GenerationRecord(
        request={**request.model_dump(mode="json", exclude_none=True), **paths},
        model=model.name,
        preset=plan.preset.name,
        code_version=__version__,
        geometry={
            "width": geometry.width,
            "height": geometry.height,
            "frames": geometry.frames,
            "seconds": geometry.seconds,
            "latent_frames": geometry.latent_frames,
            "tokens": geometry.tokens,
        },
        inputs={shown_path(path): hash_file(path) for path in _input_files(request) if Path(path).is_file()},
        environment={
            "device": request.device,
            "dtype": request.dtype,
            WEIGHTS_KEY: weights_fingerprint(str(model)),
            **{library: importlib.metadata.version(library) for library in LIBRARIES},
        },
    )


def record_of_components(plan: GenerationPlan) -> GenerationRecord:
    """Return the record of a pipeline that was built in memory, whose weights have no folder."""
    record = make_record(replace(plan, request=plan.request.model_copy(update={"model": None})))
    environment = {name: value for name, value in record.environment.items() if name != WEIGHTS_KEY}
    return replace(record, model="a pipeline in memory", environment=environment)


def read_request(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the request in a video's record, with an output beside that video.

    Args:
        path: the video, or its JSON file.
        overrides: fields that the user sets; the recorded files of these need not exist.

    Raises:
        MediaError: there is no record, or a file that it names is missing or has changed.
        RequestError: the record's request has fields that this version does not know.
        CheckpointError: the model folder is missing or holds other weights.
    """
    from humo.media.provenance import read_record

    record = read_record(path, field="--replay")
    request = parse_request(record.request)
    for name in FILE_FIELDS:
        if name not in overrides:
            files = _files(request, name)
            for file in files:
                _check_unchanged(file, record, path, name, len(files))
    if "model" not in overrides:
        _check_weights(request, record, path)
    fields = request.model_dump(exclude_none=True, exclude=set(MEMORY_FIELDS))  # this machine's memory decides them
    fields["loras"] = [str(replace(lora, name=_find_again(lora.name))) for lora in map(parse_lora, request.loras)]
    return {**fields, "output": str(path.with_name(f"{path.stem}-again.mp4"))}


def same_request(output: Path, plan: GenerationPlan) -> bool:
    """Return whether a video was generated from this request: equal values, and files and weights of equal content.

    Args:
        output: a video; one without a record was not.
        plan: of the request.
    """
    from humo.media.provenance import read_record

    request = plan.request
    try:
        record = read_record(output)
        recorded = parse_request(record.request)
        if _content_fields(recorded) != _content_fields(request):
            return False
        recorded_hashes = [record.inputs.get(absolute_path(file)) for file in _input_files(recorded)]
        same_files = recorded_hashes == [hash_file(file) for file in _input_files(request)]
        same_device = all(getattr(request, name) in ("auto", getattr(recorded, name)) for name in DEVICE_FIELDS)
        weights = weights_fingerprint(str(find_model_folder(request.model)))
    except HuMoError:
        return False
    same_weights = record.environment.get(WEIGHTS_KEY) == weights
    return same_files and same_device and same_weights and record.preset == plan.preset.name


def _content_fields(request: GenerateRequest) -> dict[str, Any]:
    strengths = [lora.strength for lora in map(parse_lora, request.loras)]
    return {**request.model_dump(exclude=set(NOT_CONTENT_FIELDS)), "loras": strengths}


def _check_unchanged(file: str, record: GenerationRecord, path: Path, field: str, count: int) -> None:
    option = OPTIONS.get(field, "--" + field.replace("_", "-"))
    remedy = f"give the file with {option}" if count == 1 else f"give all {count} files with {option}"
    existing = _find_again(file) if field == "loras" else file
    if not Path(existing).is_file():
        raise MediaError(field, f"{file!r}, an input of {path.name}, is missing", remedy)
    if record.inputs.get(file, record.inputs.get(absolute_path(file))) != hash_file(existing):
        raise MediaError(field, f"{file!r} has changed since {path.name} was generated", remedy)


def _find_again(lora: str) -> str:
    """Return the file of a recorded LoRA: at its place, or installed here under the same name."""
    return lora if Path(lora).is_file() else str(installed_loras().get(Path(lora).stem, lora))


def _check_weights(request: GenerateRequest, record: GenerationRecord, path: Path) -> None:
    folder = str(find_model_folder(request.model))
    if record.environment.get(WEIGHTS_KEY) != weights_fingerprint(folder):
        problem = f"{folder!r} holds other weights than when {path.name} was generated"
        raise CheckpointError("model", problem, "give the folder with --model")


def weights_fingerprint(folder: str | Path) -> str:
    """Return the SHA-256 of the names, sizes and headers of a model's weight files, which are not read whole.

    Raises:
        CheckpointError: it is not a model folder.
    """
    from humo.checkpoints.model_folder import open_model_folder

    digest = hashlib.sha256()
    for name, component in sorted(open_model_folder(folder).components.items()):
        for path in component.weights:
            with path.open("rb") as stream:
                length = 8 + int.from_bytes(stream.read(8), "little")  # safetensors: the header's length, the header
                stream.seek(0)
                header = stream.read(min(length, LONGEST_HEADER_BYTES))
            digest.update(f"{name}/{path.name} {path.stat().st_size} ".encode() + header)
    return digest.hexdigest()


def absolute_path(path: str) -> str:
    """Return the absolute form of a path."""
    return str(Path(path).absolute())


def _file_name(path: str) -> str:
    return Path(path).name


def _input_files(request: GenerateRequest) -> list[str]:
    return [file for field in FILE_FIELDS for file in _files(request, field)]


def _files(request: GenerateRequest, field: str) -> list[str]:
    """Return the files that a field of a request names."""
    value = getattr(request, field)
    if field == "loras":
        return [parse_lora(lora).name for lora in value]
    return [value] if isinstance(value, str) else list(value or ())
