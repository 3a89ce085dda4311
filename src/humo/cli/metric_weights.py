"""``humo evaluate weights``: list or download the weights of metrics."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from humo.cli.exit_codes import DONE
from humo.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.cli.console import Quiet


def run_weights(options: argparse.Namespace, console: Quiet) -> int:
    """List the weights of metrics, or download some."""
    if not options.paths:
        return _list_weights(console)
    verb, *names = options.paths
    if verb != "get" or not names:
        raise RequestError("weights", f"{' '.join(options.paths)!r} is unknown", "humo evaluate weights get NAME")
    from humo.analysis.weights import (
        WEIGHTS,
        accept_license,
        accepted_licenses,
        download_weights,
        missing_files,
        weights_file,
    )
    from humo.checkpoints.hubs.huggingface import HuggingFace

    for name in options.accept_license or ():
        if name not in WEIGHTS:
            raise RequestError("--accept-license", f"{name!r} is unknown", did_you_mean(name, WEIGHTS))
        accept_license(name)
    wanted = _wanted_weights(names)
    accepted = accepted_licenses()
    for name in wanted:
        entry = WEIGHTS[name]
        if entry.commercial == "no" and name not in accepted:
            problem = f"its license does not allow commercial use ({entry.license})"
            raise RequestError(name, problem, f"if that fits, add --accept-license {name}")
    hub = HuggingFace(options.endpoint)
    for name in wanted:
        if missing_files(name):
            console.note(f"{name}: {WEIGHTS[name].title}, {WEIGHTS[name].bytes / 1e6:.0f} MB; {WEIGHTS[name].license}")
            download_weights(name, hub, partial(_show_bytes, console, name))
        path = weights_file(name)
        console.result(f"{name}: {path}", {"name": name, "path": str(path)}, kind="weights")
    return DONE


def _show_bytes(console: Quiet, name: str, done: int, total: int) -> None:
    console.step(name, done, total, "bytes")


def _wanted_weights(names: Sequence[str]) -> list[str]:
    """Return the names of weights for names of metrics or of weights."""
    from humo.analysis.weights import WEIGHTS
    from humo.evaluation.registry import METRICS

    wanted: dict[str, None] = {}
    for name in names:
        if name in WEIGHTS:
            wanted[name] = None
        elif name in METRICS:
            if not METRICS[name].weights:
                raise RequestError("NAME", f"{name!r} needs no weights", "measure with it right away")
            wanted |= dict.fromkeys(METRICS[name].weights)
        else:
            choices = [*WEIGHTS, *(metric for metric, one in METRICS.items() if one.weights)]
            raise RequestError("NAME", f"{name!r} is unknown", did_you_mean(name, choices))
    return list(wanted)


def _list_weights(console: Quiet) -> int:
    from humo.analysis.weights import WEIGHTS, missing_files, weights_folder
    from humo.evaluation.registry import METRICS

    for name, entry in WEIGHTS.items():
        state = "missing" if missing_files(name) else "there"
        users = [metric for metric, one in METRICS.items() if name in one.weights]
        text = f"{name:16} {state:8} {entry.bytes / 1e6:6.0f} MB  commercial use: {entry.commercial:8} {entry.title}"
        checksum = f"; SHA-256 {entry.files[0].sha256[:16]}..." if entry.files[0].sha256 else ""
        text += f"; license: {entry.license}{checksum}"
        values = {
            "name": name,
            "state": state,
            "bytes": entry.bytes,
            "sha256": entry.files[0].sha256,
            "license": entry.license,
            "commercial": entry.commercial,
            "metrics": users,
        }
        console.result(f"{text}; for {', '.join(users) or 'no metric'}", values, kind="weights")
    console.result(f"weights are in {weights_folder()}", {"folder": str(weights_folder())})
    return DONE
