"""``humo convert``: convert downloaded weights to a model folder, or a model folder to the published names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from humo.cli.console import BYTES
from humo.cli.exit_codes import DONE
from humo.cli.options import Parser
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet

SUMMARY = "convert downloaded weights to a model folder, or the reverse"


def add_options(parser: Parser) -> None:
    """Add the options of ``humo convert``."""
    parser.usage = "humo convert SOURCE [SOURCE ...] DESTINATION [options]"
    text = "downloaded folders or weight files (published, ComfyUI's, or a model folder), then the folder to write"
    parser.add_argument("paths", nargs="+", metavar="SOURCE ... DESTINATION", help=text)
    parser.add_argument(
        "--to",
        default="diffusers",
        metavar="{diffusers,published}",
        help="names and folder layout to write (default: diffusers)",
    )
    parser.add_argument(
        "--family", metavar="{humo-17b,humo-1.7b}", help="model family to convert, if the source holds both"
    )
    parser.add_argument("--dtype", metavar="{bf16,fp16,fp32}", help="dtype of all weights (default: as stored)")
    parser.add_argument("--head-dim", metavar="N", help="channels per attention head, if no file states it")
    kept = "the network's blocks stay quantized, in the file and in memory (GGUF, fp8); default: made into bf16"
    parser.add_argument("--keep-quantized", action="store_true", help=kept)
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder that is there")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo convert``.

    Returns:
        the exit code.
    """
    from humo.checkpoints.convert import convert
    from humo.cli.report import describe_conversion

    *sources, destination = options.paths + rest
    if not sources:
        raise RequestError("DESTINATION", "is missing", "humo convert SOURCE DESTINATION")
    head_dim = options.head_dim
    if head_dim is not None and not (head_dim.isdecimal() and int(head_dim) > 0):
        raise RequestError("--head-dim", f"{head_dim!r} is not a number of channels", "give a whole number")
    report = convert(
        [Path(source) for source in sources],
        Path(destination),
        family=options.family,
        naming=options.to,
        dtype=options.dtype,
        head_dim=None if head_dim is None else int(head_dim),
        keep_quantized=options.keep_quantized,
        overwrite=options.overwrite,
        progress=lambda part, done, total: console.step(part, done, total, BYTES),
    )
    for note in report.notes:
        console.note(note)
    console.result(*describe_conversion(report))
    return DONE
