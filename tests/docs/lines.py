"""Command lines of the documentation: run at small sizes (`SMALLER`), or checked and not run (`CHECKED`)."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from humo.cli.main import build_parser, main
from humo.cli.serve import _settings
from humo.cli.train import DISTILL
from humo.training.component_config import AutoencoderRecipe, ComponentRecipe, DecoderRecipe, TextEncoderRecipe
from humo.training.config import Recipe
from humo.training.recipe_file import read_table
from tests.docs.blocks import ROOT, is_usage

SIDE = 96
"""Width and height in pixels of generated videos."""

SMALL = ["--width", str(SIDE), "--height", str(SIDE), "--frames", "5", "--steps", "1"]


def _at_small_size(arguments: list[str]) -> list[str]:
    """Generate a small video, in place of that of an earlier block."""
    arguments = [*arguments, *([] if "--overwrite" in arguments else ["--overwrite"])]
    return arguments if "--replay" in arguments else [*arguments, *SMALL]


def _with_tiny_heads(arguments: list[str]) -> list[str]:
    """Add the head width of the tiny models, and replace the folders, which exist already."""
    return [*arguments, "--head-dim", "24", *([] if "--to" in arguments else ["--overwrite"])]


def _captions_of_one_clip(arguments: list[str]) -> list[str]:
    """Write captions of one clip with the same options instead of rendering."""
    arguments = ["data", "captions", *arguments[2:]]
    arguments[arguments.index("--clips") + 1] = "1"
    return [word.replace("people", "captions") for word in arguments]


def _of_an_existing_clip(arguments: list[str]) -> list[str]:
    return [str(ROOT / "docs" / "nano-woman.mp4") if word == "out.mp4" else word for word in arguments]


def _from_a_folder(arguments: list[str]) -> list[str]:
    """Import a folder, which has the head width; files alone are taken for the published width."""
    return ["humo-1.7b" if word == "weights" else word for word in arguments]


SMALLER: Mapping[tuple[str, ...], Callable[[list[str]], list[str]]] = {
    ("generate",): _at_small_size,
    ("batch",): _at_small_size,
    ("convert",): _with_tiny_heads,
    ("data", "render"): _captions_of_one_clip,
    ("data", "captions"): lambda arguments: [*arguments[:-1], "1"],
    ("evaluate", "video"): _of_an_existing_clip,
    ("evaluate", "weights"): list,
    ("verify",): list,
    ("doctor",): list,
    ("plan",): lambda arguments: [*arguments, "--width", "64", "--height", "64", "--frames", "5"],
    ("models", "import"): _from_a_folder,
    ("models",): list,
}
"""Commands that are run, and the function that makes each one fast."""


def _reads_its_recipe(arguments: list[str]) -> None:
    options, rest = build_parser("train").parse_with_rest(arguments[1:])
    values = [*options.recipe, *rest]
    kinds: dict[str, type[Recipe | ComponentRecipe]] = {
        "vae": AutoencoderRecipe,
        "decoder": DecoderRecipe,
        "text": TextEncoderRecipe,
    }
    kind = kinds.get(values[0], Recipe)
    recipe, *changes = values[values[0] in (*kinds, DISTILL) :]
    read_table(Path(recipe), kind, changes)


def _has_its_settings(arguments: list[str]) -> None:
    options, rest = build_parser(arguments[0]).parse_with_rest(arguments[1:])
    assert not rest
    _settings(options, page=arguments[0] == "ui")


def _is_parsed(arguments: list[str]) -> None:
    _, rest = build_parser(arguments[0]).parse_with_rest(arguments[1:])
    assert not [word for word in rest if "=" not in word]


@dataclass(frozen=True)
class Checked:
    """The reason why a command is not run, and the function that checks it."""

    reason: str
    check: Callable[[list[str]], None]


CHECKED: Mapping[tuple[str, ...], Checked] = {
    ("serve",): Checked("runs until it is stopped; tests/server starts it", _has_its_settings),
    ("ui",): Checked("runs until it is stopped; tests/server starts it", _has_its_settings),
    ("train",): Checked("needs a corpus and hours; tests/training runs it", _reads_its_recipe),
    ("evaluate", "run"): Checked("minutes; tests/evaluation runs it", _is_parsed),
    ("evaluate", "compare"): Checked("needs two evaluations; tests/evaluation runs it", _is_parsed),
    ("evaluate", "report"): Checked("needs an evaluation; tests/evaluation runs it", _is_parsed),
    ("evaluate", "weights", "get"): Checked("downloads; tests/analysis runs it against a hub of its own", _is_parsed),
    ("evaluate", "benchmark"): Checked("renders for minutes; tests/evaluation runs some", _is_parsed),
    ("data", "render", "people-shards"): Checked("days; tests/synthetic/test_shards renders some", _is_parsed),
    ("data", "build"): Checked("needs videos; tests/data builds a dataset", _is_parsed),
    ("data", "refilter"): Checked("needs a dataset; tests/data filters one", _is_parsed),
    ("data", "check"): Checked("needs a dataset; tests/data checks some", _is_parsed),
    ("models", "get"): Checked("22 GB; tests/checkpoints runs it against a hub of its own", _is_parsed),
    ("models", "import", "--comfyui"): Checked("tests/checkpoints/test_home_models runs it", _is_parsed),
    ("models", "import", "humo-17B-Q5_K_M.gguf"): Checked("tests/checkpoints/test_links runs it", _is_parsed),
    ("convert", "ComfyUI/models"): Checked("tests/checkpoints/test_comfyui runs it", _is_parsed),
    ("convert", "humo-17B-Q4_K_M.gguf"): Checked("tests/quantization/test_quantized runs it", _is_parsed),
    ("convert", "Wan2_1-HuMo-14B_fp8_e4m3fn_scaled_KJ.safetensors"): Checked(
        "tests/quantization/test_quantized runs it", _is_parsed
    ),
    ("convert", "humo.safetensors"): Checked("tests/checkpoints/test_comfyui runs it", _is_parsed),
}


_DONE: set[tuple[str, ...]] = set()
"""Commands that were run for an earlier page."""

_ALONE = frozenset({"out.mp4", "humo-1.7b", "humo-17b", "mine"})
"""Arguments of commands that read or write files which other commands of the page need."""


def lookup(table: Mapping[tuple[str, ...], Any], arguments: list[str]) -> Any:
    return next((table[key] for length in (3, 2, 1) if (key := tuple(arguments[:length])) in table), None)


def do(arguments: list[str]) -> None:
    """Run ``humo`` with arguments, or check them."""
    checked, smaller = lookup(CHECKED, arguments), lookup(SMALLER, arguments)
    if checked is not None:
        checked.check(arguments)
        return
    if tuple(arguments) in _DONE:
        return
    assert smaller is not None, f"SMALLER, CHECKED: neither has humo {' '.join(arguments[:2])}"
    assert main([*smaller(arguments), "--quiet"]) == 0, arguments
    if _ALONE.isdisjoint(arguments):
        _DONE.add(tuple(arguments))


parser = cache(build_parser)


def check_usage(line: str) -> None:
    """Check that the command of a usage line and its options exist."""
    arguments = line.partition("#")[0].split()
    known = parser(arguments[1])._option_string_actions
    for flag in re.findall(r"--[a-z][a-z0-9-]*", " ".join(arguments)):
        assert flag in known, flag


def _humo(arguments: list[str], line: str) -> None:
    if is_usage(line):
        check_usage(line)
    else:
        do(arguments[1:])


def _pip(arguments: list[str], line: str) -> None:
    """Check that packages are ours and their extras exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert arguments[1] == "install"
    for word in arguments[2:]:
        if word.startswith("-") or word.endswith("requirements.txt"):
            continue
        requirement = Requirement(word.replace(".", "humo-video", 1) if word.startswith(".") else word)
        assert requirement.name == project["name"]
        assert requirement.extras <= project["optional-dependencies"].keys()


def _make(arguments: list[str], line: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(arguments[1:]) <= set(targets)


def _python(arguments: list[str], line: str) -> None:
    """Check that the program exists."""
    if arguments[1:3] == ["-m", "pip"]:
        _pip(arguments[2:], line)
    elif arguments[1] == "-m":
        assert importlib.util.find_spec(arguments[2]) is not None
        assert all((ROOT / word).exists() for word in arguments[3:])
    elif not arguments[1].endswith(".pyz"):  # archives are written by commands above them
        assert (ROOT / arguments[1]).is_file()


def _torchrun(arguments: list[str], line: str) -> None:
    """Check a command of several processes; tests/distributed and tests/training start some."""
    after = arguments[arguments.index("humo") + 1 :]
    if after[0] == "train":
        do(after)
    else:
        _is_parsed(after)


def _docker(arguments: list[str], line: str) -> None:
    """Check that the file exists and that the container runs a command of ours."""
    if arguments[1] == "build":
        assert Path(arguments[arguments.index("-f") + 1]).is_file()
        return
    assert arguments[1] == "run"
    inside = arguments[max(place for place, word in enumerate(arguments) if word == "humo") + 1 :]
    if inside:
        do(inside)


def _ray(arguments: list[str], line: str) -> None:
    """Check the start of a head or of a machine that joins one."""
    assert arguments[1] == "start"
    assert arguments[2] in ("--head", "--address")


def _cp(arguments: list[str], line: str) -> None:
    assert (ROOT / arguments[-2]).exists()


HANDLERS: Mapping[str, Callable[[list[str], str], None]] = {
    "humo": _humo,
    "pip": _pip,
    "make": _make,
    "python": _python,
    "torchrun": _torchrun,
    "docker": _docker,
    "cp": _cp,
    "ray": _ray,
}
