"""The record inside every video, and a request made again from it."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo import __version__
from humo.checkpoints.model_folder import find_model_folder
from humo.errors import CheckpointError, HuMoError, MediaError
from humo.files import hash_file
from humo.media.provenance import DEVICE_FIELDS, NOT_CONTENT_FIELDS, WEIGHTS_KEY
from humo.request import GenerateRequest, GenerationPlan, parse_request

if TYPE_CHECKING:
    from humo.media.provenance import GenerationRecord

LIBRARIES = ("torch", "diffusers", "transformers")
"""Libraries whose version can change the frames."""

FILE_FIELDS = ("images", "audio", "vocal_separator")
"""Fields of a request that name files which are read."""


def make_record(plan: GenerationPlan, *, keep_paths: bool = True) -> GenerationRecord:
    """How a video is made: enough to make it again anywhere. What it took is added when it is known.

    Args:
        plan: with device and dtype settled.
        keep_paths: files are told by where they lie; otherwise by their names alone, which is nobody's business else.
    """
    from humo.media.provenance import GenerationRecord

    request, geometry = plan.request, plan.geometry
    model = find_model_folder(request.model)
    place = absolute if keep_paths else _file_name
    paths: dict[str, Any] = {"images": [place(path) for path in request.images]}
    paths |= {name: place(path) for name in ("audio", "vocal_separator", "output") if (path := getattr(request, name))}
    if request.model is not None:  # the folder itself: its name means another one tomorrow
        paths["model"] = place(str(model))
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
        inputs={place(path): hash_file(path) for path in _input_files(request)},
        environment={
            "device": request.device,
            "dtype": request.dtype,
            WEIGHTS_KEY: weights_fingerprint(str(model)),
            **{library: importlib.metadata.version(library) for library in LIBRARIES},
        },
    )


def read_request(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the request that a video was made from, for making it again beside it.

    Args:
        path: the video, or its JSON file.
        given: fields that are given anew; their recorded files need not be there.

    Raises:
        MediaError: no record there, or a file that it names is gone or no longer the same.
        RequestError: the record's request is not one this version knows.
        CheckpointError: the model folder is gone or holds other weights.
    """
    from humo.media.provenance import read_record

    record = read_record(path, field="--replay")
    request = parse_request(record.request)
    for name in FILE_FIELDS:
        if name not in given:
            value = getattr(request, name)
            for file in [value] if isinstance(value, str) else value or ():
                _check_unchanged(file, record, path, name)
    if "model" not in given:
        _check_weights(request, record, path)
    fields = request.model_dump(exclude_none=True)
    return {**fields, "output": str(path.with_name(f"{path.stem}-again.mp4"))}


def same_request(output: Path, plan: GenerationPlan) -> bool:
    """Whether a video was made from this request: the same words and numbers, files and weights of the same content.

    Args:
        output: a video; one without a record was not.
        plan: of the request.
    """
    from humo.media.provenance import read_record

    request = plan.request
    try:
        record = read_record(output)
        made = parse_request(record.request)
        if made.model_dump(exclude=set(NOT_CONTENT_FIELDS)) != request.model_dump(exclude=set(NOT_CONTENT_FIELDS)):
            return False
        hashes = [
            [record.inputs.get(absolute(file)) for file in _input_files(made)],
            [hash_file(f) for f in _input_files(request)],
        ]
        places = all(getattr(request, name) in ("auto", getattr(made, name)) for name in DEVICE_FIELDS)
        weights = record.environment.get(WEIGHTS_KEY) == weights_fingerprint(str(find_model_folder(request.model)))
    except HuMoError:
        return False
    return hashes[0] == hashes[1] and places and weights and record.preset == plan.preset.name


def _check_unchanged(file: str, record: GenerationRecord, path: Path, field: str) -> None:
    option = f"give it anew, with --{'image' if field == 'images' else field}"
    if not Path(file).is_file():
        raise MediaError(field, f"{file!r}, of which {path.name} was made, is gone", option)
    if record.inputs.get(absolute(file)) != hash_file(file):
        raise MediaError(field, f"{file!r} is not what it was when {path.name} was made", option)


def _check_weights(request: GenerateRequest, record: GenerationRecord, path: Path) -> None:
    if record.environment.get(WEIGHTS_KEY) != weights_fingerprint(str(find_model_folder(request.model))):
        problem = f"{str(find_model_folder(request.model))!r} holds other weights than when {path.name} was made"
        raise CheckpointError("model", problem, "give the folder anew, with --model")


def weights_fingerprint(folder: str | Path) -> str:
    """What tells one model's weights from another's without reading them: SHA-256 of names, sizes and headers.

    Raises:
        CheckpointError: it is not a model folder.
    """
    from humo.checkpoints.model_folder import open_model_folder

    digest = hashlib.sha256()
    for name, component in sorted(open_model_folder(folder).components.items()):
        for path in component.weights:
            with path.open("rb") as stream:
                length = stream.read(8)  # safetensors: the header's length, then the header
                header = stream.read(int.from_bytes(length, "little"))
            digest.update(f"{name}/{path.name} {path.stat().st_size} ".encode() + header)
    return digest.hexdigest()


def absolute(path: str) -> str:
    """A path that means the same from everywhere."""
    return str(Path(path).absolute())


def _file_name(path: str) -> str:
    return Path(path).name


def _input_files(request: GenerateRequest) -> list[str]:
    given = [request.audio, request.vocal_separator]
    return [*request.images, *(path for path in given if path is not None)]
