"""``humo doctor``: look at an installation and say what it can do, what is wrong with it, and how to mend it.

Each check is a function that yields findings and depends on no other; `CHECKS` is the list of them. A check that fails
in a way nobody thought of is a finding, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo import __version__
from humo.cli.options import Parser
from humo.errors import HuMoError, RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet

SUMMARY = "look at this installation: what it can do, what is wrong, how to mend it"

WELL, ILL = 0, 1
"""Exit codes."""

MARKS = {"good": "ok     ", "warning": "warning", "error": "ERROR  "}

PACKAGE = "humo-video"

LOW_DISK_BYTES = 1_000_000_000
"""Of a disk on which outputs are written, below which it is worth saying."""

LOW_MEMORY_BYTES = 4_000_000_000
"""Of the whole machine, below which it is worth saying; the embedded model takes about one."""

VIDEO_CODEC, AUDIO_CODEC = "libx264", "aac"
"""What our videos are written with."""

UNPACKERS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le")
"""Of videos and sounds that people bring."""

ACCELERATORS = {"flash_attn": "flash-attn", "sageattention": "sageattention", "xformers": "xformers"}
"""Modules of attention kernels that diffusers can use, and their packages; none of them is needed."""


class Severity(StrEnum):
    """How bad a finding is."""

    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Args:
        check: of which check.
        state: how bad it is.
        text: what was found.
        remedy: what to do about it; empty if nothing is to be done.
    """

    check: str
    severity: Severity
    text: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)


Findings = Iterator[tuple[Severity, str, str]]
Check = Callable[[Path | None], Findings]


def add_options(parser: Parser) -> None:
    """The options of ``humo doctor``."""
    parser.usage = "humo doctor [--model FOLDER]"
    parser.add_argument("--model", metavar="FOLDER", help="a model folder to look at, too")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Tell each finding as it comes.

    Returns:
        1 if there is an error among them.
    """
    if rest:
        raise RequestError(rest[0], "is not an option of humo doctor", "see humo doctor --help")
    counts = dict.fromkeys(Severity, 0)
    for one in examine(None if options.model is None else Path(options.model)):
        counts[one.severity] += 1
        line = f"{MARKS[one.severity]}  {one.check:10} {one.text}" + (f" -> {one.remedy}" if one.remedy else "")
        console.result(line, one.as_dict(), kind="finding")
    errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
    text = "this installation is well" if not errors + warnings else f"{errors} errors, {warnings} warnings"
    console.result(text, {"errors": errors, "warnings": warnings})
    return ILL if errors else WELL


def examine(model: Path | None = None) -> Iterator[Finding]:
    """All findings, as they come.

    Args:
        model: a model folder to look at beside the embedded one.
    """
    for name, check in CHECKS.items():
        try:
            for state, text, remedy in check(model):
                yield Finding(name, state, text, remedy)
        except Exception as error:  # noqa: BLE001 - whatever is broken here is what the doctor is for
            yield Finding(name, Severity.ERROR, f"the check failed: {type(error).__name__}: {error}", "report this")


def _python(_model: Path | None) -> Findings:
    yield Severity.GOOD, f"Python {platform.python_version()} on {platform.platform()}, humo {__version__}", ""


def _packages(_model: Path | None) -> Findings:
    """Every requirement of this package against what is installed, the extras' as a list of those that are whole."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield Severity.WARNING, f"{PACKAGE} is not installed, but run from its source", "pip install -e ."
        return
    wrong = [(one, found) for one in needed if _is_core(one) and (found := _mismatch(one)) is not None]
    for one, found in wrong:
        yield Severity.ERROR, f"{one.name} {found}, and {one.name}{one.specifier} is needed", f"pip install '{PACKAGE}'"
    if not wrong:
        yield Severity.GOOD, f"all {sum(map(_is_core, needed))} packages that are needed are there", ""
    extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    whole = [
        extra
        for extra in extras
        if extra != "dev" and all(_mismatch(one) is None for one in needed if _is_of(one, extra))
    ]
    rest = [extra for extra in extras if extra not in (*whole, "dev")]
    text = f"extras installed: {', '.join(whole) or 'none'}"
    yield Severity.GOOD, text + (f"; not (whole): {', '.join(rest)}" if rest else ""), ""


def _is_core(requirement: Any) -> bool:
    return requirement.marker is None or bool(requirement.marker.evaluate({"extra": ""}))


def _is_of(requirement: Any, extra: str) -> bool:
    return not _is_core(requirement) and bool(requirement.marker.evaluate({"extra": extra}))


def _mismatch(requirement: Any) -> str | None:
    """What is wrong with an installed package; None if it is as required."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "is missing"
    return None if requirement.specifier.contains(version, prereleases=True) else f"is {version}"


def _device(_model: Path | None) -> Findings:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation fails in many ways
        yield Severity.ERROR, f"torch does not load: {error}", "install torch again: https://pytorch.org/get-started"
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            free = torch.cuda.mem_get_info(number)[0]
            yield Severity.GOOD, f"{card.name}, {free / 1e9:.1f} of {card.total_memory / 1e9:.1f} GB free", ""
        yield Severity.GOOD, f"torch {torch.__version__} for CUDA {torch.version.cuda}", ""
    elif torch.backends.mps.is_available():
        yield Severity.GOOD, f"torch {torch.__version__} on an Apple GPU (mps), which HuMo was not tried on", ""
    elif shutil.which("nvidia-smi") is not None:
        text = f"there is an NVIDIA driver, but torch {torch.__version__} does not use it"
        yield Severity.WARNING, text, "install torch for your CUDA: https://pytorch.org/get-started"
    else:
        text = f"no GPU; torch {torch.__version__} computes on the CPU with {torch.get_num_threads()} threads: enough"
        yield Severity.GOOD, f"{text} for the embedded model, not for the published ones", ""


def _attention(_model: Path | None) -> Findings:
    there = [package for module, package in ACCELERATORS.items() if find_spec(module) is not None]
    text = "torch's own attention, which is all that is needed"
    yield Severity.GOOD, text + (f"; beside it {', '.join(there)}" if there else ""), ""


def _memory(_model: Path | None) -> Findings:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        yield Severity.GOOD, "how much memory there is cannot be told on this system", ""
        return
    few = total < LOW_MEMORY_BYTES
    text = f"{total / 1e9:.1f} GB of memory, {os.cpu_count()} processors"
    yield (Severity.WARNING, text, "close other programs before generating") if few else (Severity.GOOD, text, "")


def _codecs(_model: Path | None) -> Findings:
    try:
        import av
        import av.codec
    except ImportError as error:
        yield Severity.ERROR, f"PyAV does not load: {error}", "pip install --force-reinstall av"
        return
    missing = [name for name in (VIDEO_CODEC, AUDIO_CODEC) if not _has_codec(name, "w")]
    for name in missing:
        yield Severity.ERROR, f"PyAV {av.__version__} cannot write {name}", "pip install --force-reinstall av"
    deaf = [name for name in UNPACKERS if not _has_codec(name, "r")]
    if deaf:
        yield (
            Severity.WARNING,
            f"PyAV {av.__version__} cannot read {', '.join(deaf)}",
            "pip install --force-reinstall av",
        )
    if not missing and not deaf:
        yield Severity.GOOD, f"PyAV {av.__version__} writes H.264 and AAC, and reads all that people bring", ""


def _has_codec(name: str, mode: Any) -> bool:
    import av.codec

    try:
        av.codec.Codec(name, mode)
    except ValueError:
        return False
    return True


def _disk(_model: Path | None) -> Findings:
    for what, folder in {"this folder": Path.cwd(), "the temporary folder": Path(tempfile.gettempdir())}.items():
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            yield Severity.ERROR, f"{what} ({folder}) cannot be written: {error.strerror}", "write elsewhere"
            continue
        free = shutil.disk_usage(folder).free
        text = f"{free / 1e9:.1f} GB free in {what}"
        yield (Severity.WARNING, text, "free some space") if free < LOW_DISK_BYTES else (Severity.GOOD, text, "")


def _models(model: Path | None) -> Findings:
    from humo.checkpoints.model_folder import find_model_folder, open_model_folder

    for folder in dict.fromkeys((None, model)):
        name = "the embedded model" if folder is None else str(folder)
        try:
            found = open_model_folder(find_model_folder(folder))
        except HuMoError as error:
            yield Severity.ERROR, f"{name}: {error.problem}", error.remedy
            continue
        yield Severity.GOOD, f"{name} is whole: {found.preset.title}, {found.bytes / 1e6:.1f} MB of weights", ""


def _port(_model: Path | None) -> Findings:
    """Where the service listens by default."""
    from humo.environment import DEFAULT_HOST, DEFAULT_PORT

    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((DEFAULT_HOST, DEFAULT_PORT))
        except OSError as error:
            problem = f"port {DEFAULT_PORT} is taken ({error.strerror})"
            yield Severity.WARNING, problem, "if that is not humo serve itself, give another with --port"
            return
    yield Severity.GOOD, f"port {DEFAULT_PORT} is free for humo serve", ""


def _encoding(_model: Path | None) -> Findings:
    """Prompts are written in every language, and a terminal or a log may not be."""
    name = (sys.stdout.encoding or "").lower().replace("-", "")
    if name == "utf8":
        yield Severity.GOOD, "text is written as UTF-8", ""
    else:
        yield Severity.WARNING, f"text is written as {sys.stdout.encoding}", "set PYTHONUTF8=1"


CHECKS: dict[str, Check] = {
    "python": _python,
    "packages": _packages,
    "device": _device,
    "attention": _attention,
    "memory": _memory,
    "codecs": _codecs,
    "disk": _disk,
    "models": _models,
    "port": _port,
    "text": _encoding,
}
"""Name -> check, in the order in which they are made."""
