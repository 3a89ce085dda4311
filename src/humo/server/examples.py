"""The examples: prompt, image, audio and finished video, in the repository or inside an installed package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from humo.errors import RequestError, did_you_mean

ExamplePart = Literal["image", "audio", "video"]


@dataclass(frozen=True, slots=True)
class Example:
    """A request that a user can start from.

    Args:
        name: its name.
        prompt: text prompt.
        files: image, audio and finished video; an example may lack an image.
    """

    name: str
    prompt: str
    files: Mapping[ExamplePart, Path]


@cache
def read_examples() -> dict[str, Example]:
    """Return the examples by name; none if the package was installed without them."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "assets" / "examples", package.parents[1] / "examples"):
        if (folder / "test_case.json").is_file():
            entries = json.loads((folder / "test_case.json").read_bytes())
            return {name: _read_example(folder, name, entry) for name, entry in entries.items()}
    return {}


def _read_example(folder: Path, name: str, entry: Mapping[str, object]) -> Example:
    """Return an example in the form of the published ``test_case.json``."""
    images = entry["img_paths"]
    assert isinstance(images, list)
    named: dict[ExamplePart, str] = {"audio": str(entry["audio_path"]), "video": f"{name}.mp4"}
    if images:
        named["image"] = str(images[0])
    files = {part: folder / file for part, file in named.items() if (folder / file).is_file()}
    return Example(name, str(entry["prompt"]), files)


def find_example_file(name: str, part: ExamplePart) -> Path:
    """Return a file of an example.

    Raises:
        RequestError: there is no such example, or it has no such file.
    """
    examples = read_examples()
    if name not in examples:
        raise RequestError("example", f"{name[:60]!r} does not exist", did_you_mean(name, examples))
    if part not in examples[name].files:
        raise RequestError("example", f"{name!r} has no {part}", "see GET /v1/examples")
    return examples[name].files[part]
