"""``humo verify``: was this video made here, and has it been changed since."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.options import Parser
from humo.errors import RequestError

if TYPE_CHECKING:
    from humo.cli.console import Quiet
    from humo.media.verification import ProvenanceReport

SUMMARY = "read a video's marks of origin: record, signed credentials, watermark"

INTACT, NOT_INTACT = 0, 1
"""Exit codes."""


def add_options(parser: Parser) -> None:
    """The options of ``humo verify``."""
    parser.usage = "humo verify FILE"
    parser.add_argument("file", metavar="FILE", help="a video, made here or anywhere")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Tell what is found.

    Returns:
        0 if all marks are there and unchanged, 1 if not.
    """
    if rest:
        raise RequestError(rest[0], "is not an option of humo verify", "see humo verify --help")
    from humo.cli.console import table
    from humo.media.verification import read_provenance

    marks = read_provenance(Path(options.file))
    rows, values = _told(marks)
    console.result(table(rows), values)
    return INTACT if marks.is_intact else NOT_INTACT


def _told(marks: ProvenanceReport) -> tuple[dict[str, object], dict[str, Any]]:
    record, signed, water = marks.record, marks.credentials, marks.watermark
    rows: dict[str, object] = {"record": "none", "credentials": "none", "watermark": "none"}
    if record is not None:
        rows["record"] = f"made by {record.model} ({record.preset}) with humo-video {record.code_version}"
        if not record.request.get("provenance", True):
            rows["record"] = f"{rows['record']}, its marks left out by request"
    if signed is not None:
        who = f"by {signed.generator or 'an unknown program'}, certificate of {signed.signer or 'nobody'}"
        changed = "CHANGED since it was signed" if signed.state == "Invalid" else "unchanged since it was signed"
        known = "" if signed.state == "Trusted" else "; who that is, no authority vouches for"
        made = "says that a trained model made it" if signed.is_ai_generated else "does not say that a model made it"
        rows["credentials"] = f"{changed} {who}{known}; {made}"
    if water.payload is not None:
        rows["watermark"] = f"there: {water.payload}, clearness {water.confidence:.0%}"
    rows["together"] = (
        "all three are there, unchanged, and speak of this video"
        if marks.is_intact
        else "made by this program, but not as it left it"
        if marks.is_from_humo
        else "nothing says that this program made it, which does not prove that it did not"
    )
    values = {
        "record": None if record is None else asdict(record),
        "credentials": None if signed is None else asdict(signed),
        "watermark": asdict(water),
        "intact": marks.is_intact,
        "from_humo": marks.is_from_humo,
    }
    return rows, values
