"""``humo doctor``: check an installation and print what works, what does not, and how to fix it.

Each check is a function that yields findings and depends on no other; `CHECKS` lists them. A check that raises an
unexpected error is reported as a finding too.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo import __version__
from humo.cli.options import Parser
from humo.environment import DEFAULT_HOST, DEFAULT_PORT, identity_folder, models_folder, server_folder
from humo.errors import HuMoError, RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet

SUMMARY = "check this installation: what works, what does not, how to fix it"

HEALTHY, BROKEN = 0, 1
"""Exit codes."""

LABELS = {"good": "ok     ", "warning": "warning", "error": "ERROR  "}

PACKAGE = "humo-video"

LOW_DISK_BYTES = 1_000_000_000
"""Free bytes of a disk for outputs below which a warning is given."""

LOW_MEMORY_BYTES = 4_000_000_000
"""Bytes of the machine's memory below which a warning is given; the built-in model takes about 1 GB."""

VIDEO_CODEC, AUDIO_CODEC = "libx264", "aac"
"""Codecs of the videos that are written."""

UNPACKERS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le")
"""Codecs of common video and audio files."""


OWN_FOLDERS = {
    "HUMO_MODELS": ("models", models_folder),
    "HUMO_IDENTITY": ("keys", identity_folder),
    "HUMO_SERVER": ("the service", server_folder),
}
"""Environment variable -> what is written, and the function that returns its folder."""


class Severity(StrEnum):
    """Severity of a finding."""

    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check.

    Args:
        check: name of the check.
        severity: good, warning or error.
        text: the result.
        remedy: how to fix it; empty if there is nothing to fix.
    """

    check: str
    severity: Severity
    text: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return asdict(self)


Findings = Iterator[tuple[Severity, str, str]]
Check = Callable[[Path | None], Findings]


def add_options(parser: Parser) -> None:
    """Add the options of ``humo doctor``."""
    parser.usage = "humo doctor [--model NAME_OR_FOLDER]"
    parser.add_argument(
        "--model", metavar="NAME_OR_FOLDER", help="an installed model or a model folder to check as well"
    )


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo doctor``.

    Returns:
        1 if a finding is an error.
    """
    if rest:
        raise RequestError(rest[0], "is not an option of humo doctor", "see humo doctor --help")
    counts = dict.fromkeys(Severity, 0)
    for one in examine(None if options.model is None else Path(options.model)):
        counts[one.severity] += 1
        line = f"{LABELS[one.severity]}  {one.check:10} {one.text}" + (f" -> {one.remedy}" if one.remedy else "")
        console.result(line, one.as_dict(), kind="finding")
    errors, warnings = counts[Severity.ERROR], counts[Severity.WARNING]
    counted = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    text = counted if errors + warnings else "this installation is healthy"
    console.result(text, {"errors": errors, "warnings": warnings})
    return BROKEN if errors else HEALTHY


def examine(model: Path | None = None) -> Iterator[Finding]:
    """Run all checks and yield their findings.

    Args:
        model: a model folder to check besides the built-in model.
    """
    for name, check in CHECKS.items():
        try:
            for state, text, remedy in check(model):
                yield Finding(name, state, text, remedy)
        except Exception as error:  # noqa: BLE001 - a check of a broken installation may raise anything
            yield Finding(
                name, Severity.ERROR, f"the check failed: {type(error).__name__}: {error}", "report it as a bug"
            )


def _python(_model: Path | None) -> Findings:
    yield Severity.GOOD, f"Python {platform.python_version()} on {platform.platform()}, humo {__version__}", ""


def _packages(_model: Path | None) -> Findings:
    """Compare the requirements of this package and of its extras with the installed packages."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield Severity.WARNING, f"{PACKAGE} is not installed but run from its source folder", "pip install -e ."
        return
    wrong = [(one, problem) for one in needed if _is_core(one) and (problem := _mismatch(one)) is not None]
    for one, problem in wrong:
        yield (
            Severity.ERROR,
            f"{one.name} {problem}, but {one.name}{one.specifier} is required",
            f"pip install '{PACKAGE}'",
        )
    if not wrong:
        yield Severity.GOOD, f"all {sum(map(_is_core, needed))} required packages are installed", ""
    extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    complete = [
        extra
        for extra in extras
        if extra != "dev" and all(_mismatch(one) is None for one in needed if _is_of(one, extra))
    ]
    rest = [extra for extra in extras if extra not in (*complete, "dev")]
    text = f"extras installed: {', '.join(complete) or 'none'}"
    yield Severity.GOOD, text + (f"; not or partly installed: {', '.join(rest)}" if rest else ""), ""


def _is_core(requirement: Any) -> bool:
    return requirement.marker is None or bool(requirement.marker.evaluate({"extra": ""}))


def _is_of(requirement: Any, extra: str) -> bool:
    return not _is_core(requirement) and bool(requirement.marker.evaluate({"extra": extra}))


def _mismatch(requirement: Any) -> str | None:
    """Return what is wrong with an installed package; None if it meets the requirement."""
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
        yield Severity.GOOD, f"torch {torch.__version__} on an Apple GPU (mps), on which HuMo was not tested", ""
    elif shutil.which("nvidia-smi") is not None:
        text = f"an NVIDIA driver is installed, but torch {torch.__version__} does not use it"
        yield Severity.WARNING, text, "install torch for your CUDA: https://pytorch.org/get-started"
    else:
        text = f"no GPU; torch {torch.__version__} computes on the CPU with {torch.get_num_threads()} threads: enough"
        yield Severity.GOOD, f"{text} for the built-in model, not for the published ones", ""


def _attention(_model: Path | None) -> Findings:
    from humo.model.attention_backends import BACKENDS, is_installed

    installed = [name for name in BACKENDS if is_installed(name)]
    others = [name for name in BACKENDS if name not in installed]
    text = f"--attention {', '.join(installed)}; not installed and not needed: {', '.join(others) or 'none'}"
    yield Severity.GOOD, f"{text}; all but sdpa are for NVIDIA GPUs", ""


def _memory(_model: Path | None) -> Findings:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        yield Severity.GOOD, "the amount of memory is unknown on this system", ""
        return
    few = total < LOW_MEMORY_BYTES
    text = f"{total / 1e9:.1f} GB of memory, {os.cpu_count()} CPU cores"
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
    unreadable = [name for name in UNPACKERS if not _has_codec(name, "r")]
    if unreadable:
        yield (
            Severity.WARNING,
            f"PyAV {av.__version__} cannot read {', '.join(unreadable)}",
            "pip install --force-reinstall av",
        )
    if not missing and not unreadable:
        yield Severity.GOOD, f"PyAV {av.__version__} writes H.264 and AAC, and reads the common formats", ""


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
    unwritable = False
    for variable, (what, find_folder) in OWN_FOLDERS.items():
        folder = find_folder()
        if (reason := _why_unwritable(folder)) is not None:
            unwritable = True
            text = f"the folder of {what} ({folder}) cannot be written: {reason}"
            yield Severity.ERROR, text, f"set {variable} to a folder that can"
    if not unwritable:
        yield Severity.GOOD, f"the folders of {', '.join(what for what, _ in OWN_FOLDERS.values())} can be written", ""


def _why_unwritable(folder: Path) -> str | None:
    """Return why a folder cannot be created or written; None if it can."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        return str(error.strerror)


def _models(model: Path | None) -> Findings:
    from humo.checkpoints.model_folder import find_model_folder, open_model_folder

    for folder in dict.fromkeys((None, model)):
        name = "the built-in model" if folder is None else str(folder)
        try:
            model_folder = open_model_folder(find_model_folder(folder))
        except HuMoError as error:
            yield Severity.ERROR, f"{name}: {error.problem}", error.remedy
            continue
        yield (
            Severity.GOOD,
            f"{name} is complete: {model_folder.preset.title}, {model_folder.bytes / 1e6:.1f} MB of weights",
            "",
        )


def _port(_model: Path | None) -> Findings:
    """Check the default port of ``humo serve``."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((DEFAULT_HOST, DEFAULT_PORT))
        except OSError as error:
            problem = f"port {DEFAULT_PORT} is taken ({error.strerror})"
            yield Severity.WARNING, problem, "unless it is humo serve itself, choose another with --port"
            return
    yield Severity.GOOD, f"port {DEFAULT_PORT} is free for humo serve", ""


def _encoding(_model: Path | None) -> Findings:
    """Check that prompts in any language can be printed."""
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
"""Name -> check, in the order in which they run."""
