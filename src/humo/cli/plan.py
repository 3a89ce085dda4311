"""``humo plan``: estimate the memory of a video and which placements fit; no weights are needed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humo.cli.options import Parser
from humo.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from humo.checkpoints.architecture import Architecture
    from humo.cli.console import Quiet
    from humo.plan import GenerationPlan
    from humo.runtime.memory_estimate import MemoryEstimate
    from humo.runtime.placement_choice import PlacementEstimate

SUMMARY = "estimate the memory of a video and which placements fit; no weights needed"

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?", re.IGNORECASE)


def add_options(parser: Parser) -> None:
    """Add the options of ``humo plan``."""
    parser.usage = "humo plan [--model NAME] [--width N --height N --frames N] [--memory 24GB] [--host 64GB]"
    parser.add_argument("--model", metavar="NAME", help="humo-17b, humo-1.7b, or a model folder (default: humo-17b)")
    parser.add_argument("--width", metavar="N", help="width in pixels (default: the model's)")
    parser.add_argument("--height", metavar="N", help="height in pixels (default: the model's)")
    parser.add_argument(
        "--frames", metavar="N", help="frames of the video; a long one has windows (default: the model's)"
    )
    parser.add_argument("--seconds", metavar="X", help="length of the video, in place of --frames")
    parser.add_argument("--window", metavar="N", help="frames of a window (default: the model's)")
    parser.add_argument("--lora", metavar="FILE_OR_NAME", action="append", help="LoRA that is used; repeatable")
    parser.add_argument("--preset", metavar="NAME", help="named settings of the video, with their LoRAs")
    parser.add_argument("--device", metavar="{cuda,cpu}", help="default: cuda if available or with --memory")
    quant_types = "fp8, Q8_0, Q4_K ..."
    parser.add_argument(
        "--quantized",
        metavar="TYPE",
        help=f"quantization of the network: {quant_types}, with the text encoder in fp8 (default: as stored)",
    )
    parser.add_argument("--dtype", metavar="{bfloat16,float32}", help="default: bfloat16 on a GPU, float32 on the CPU")
    parser.add_argument("--memory", metavar="SIZE", help="GPU memory, as 24GB or 24GiB (default: what is free here)")
    parser.add_argument("--host", metavar="SIZE", help="memory of the machine (default: what is free here)")


def act(options: argparse.Namespace, rest: list[str], console: Quiet) -> int:
    """Run ``humo plan``.

    Returns:
        the exit code.

    Raises:
        RequestError: no placement fits; all estimates are printed before.
    """
    if rest:
        raise RequestError(rest[0], "is not an option of humo plan", "see humo plan --help")
    device = options.device or ("cuda" if options.memory else None)
    if device not in (None, "cuda", "cpu"):
        raise RequestError("--device", f"{device!r} is not allowed", "give cuda or cpu")
    memory, host = (parse_size(f"--{name}", getattr(options, name)) for name in ("memory", "host"))
    if device == "cpu" and memory is not None and host is not None:
        raise RequestError("--memory", "is the same as --host on a CPU", "give one of them")
    title, preset, architectures, quant_types = _model(options.model or "humo-17b")
    if options.quantized:
        quant_types = parse_quant_type(options.quantized, architectures)
    names = ("width", "height", "frames", "seconds", "window")
    fields = {name: value for name in names if (value := getattr(options, name)) is not None}
    from humo.checkpoints.lora_store import find_lora
    from humo.loras import parse_lora
    from humo.plan import resolve
    from humo.request import parse_request

    fields |= {"prompt": "x", "loras": options.lora or [], "preset": options.preset}
    plan = resolve(parse_request(fields), preset)
    request = plan.request
    files = [find_lora(parse_lora(lora).name) for lora in request.loras]

    import torch

    from humo.runtime.device import available_memory, choose_dtype
    from humo.runtime.memory_estimate import NetworkAdditions, estimate_memory
    from humo.runtime.placement import Choice
    from humo.runtime.placement_choice import (
        estimate_placements,
        estimate_quantized_placements,
        fastest_placement,
        read_lora_sizes,
    )

    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(options.dtype or "auto", kind)
    if dtype not in ("bfloat16", "float32"):
        raise RequestError("--dtype", f"{dtype!r} is not allowed", "give bfloat16 or float32")
    available = available_memory("cpu" if memory is not None else kind)
    sizes = (memory or available[0], host or available[1]) if kind == "cuda" else (0, memory or host or available[1])
    precision, geometry, network = getattr(torch, dtype), plan.window_geometry, architectures["transformer"]
    clip = (architectures, geometry, preset.reference_injection, precision, _passes_per_step(plan))
    additions = NetworkAdditions(loras=read_lora_sizes(files, network))
    estimate = estimate_memory(*clip, additions, quant_types, len(plan.windows))
    quantized = estimate_quantized_placements(estimate, network, geometry, precision, additions)
    choice = Choice(request.offload, request.quantize)
    estimates = estimate_placements(estimate, kind, *sizes, quantized=quantized, choice=choice)
    console.result(f"{title}, {_size(plan)}, {dtype}", {}, kind="plan")
    for line, values in describe_estimate(estimate):
        console.result(line, values, kind="part")
    for estimated in estimates:
        console.result(describe_placement(estimated, kind), _values(estimated), kind="placement")
    best = fastest_placement(estimates, kind, *sizes).placement
    console.result(f"the fastest that fits: {best}, the default of `humo generate`", asdict(best))
    return 0


def _passes_per_step(plan: GenerationPlan) -> int:
    """Return the number of network passes of a step with text, references and audio."""
    from humo.guidance import pass_weights
    from humo.plan import resolve_scales

    return len(pass_weights(plan.preset.guidance["TIA"](resolve_scales(plan.request, plan.preset)).late))


def _size(plan: GenerationPlan) -> str:
    """Return width, height and length of a video, with its windows if it has several."""
    geometry, windows = plan.window_geometry, len(plan.windows)
    length = f"{plan.geometry.frames} frames" + (f" in {windows} windows of {geometry.frames}" if windows > 1 else "")
    return f"{geometry.width}x{geometry.height}, {length}"


SCALED_FP8 = ("F8_E4M3", 1)
"""Type of the public files of scaled fp8, among them the text encoder's, and their number of scales."""

QuantTypes = Mapping[str, Mapping[str, tuple[str, int]]]
"""Component -> quantized weight -> its type and number of scales."""


def _model(name: str) -> tuple[str, Any, Mapping[str, Architecture], QuantTypes]:
    """Return the title, preset, architectures and quantization of a released model or of a model folder."""
    from humo.checkpoints.conversion_plan import quant_types_for
    from humo.checkpoints.hubs.catalog import CATALOG, RELEASED_ARCHITECTURES
    from humo.checkpoints.model_folder import NETWORK, find_model_folder, open_model_folder
    from humo.presets import find_preset

    folder = find_model_folder(name)
    if name in CATALOG and not folder.is_dir():
        entry = CATALOG[name]
        architectures = RELEASED_ARCHITECTURES[entry.family]
        types: dict[str, tuple[str, int]] = {} if entry.quant_type is None else {NETWORK: entry.quant_type}
        types |= {"text_encoder": SCALED_FP8} if entry.is_linked else {}
        quant_types = {component: quant_types_for(architectures[component], *one) for component, one in types.items()}
        return entry.title, find_preset(entry.family), architectures, quant_types
    if not Path(folder).exists():
        raise RequestError(
            "--model", f"{name!r} is neither a model folder nor a known name", did_you_mean(name, CATALOG)
        )
    model = open_model_folder(folder)
    of_components = {name: component.quant_types for name, component in model.components.items()}
    return model.preset.title, model.preset, model.architectures, of_components


def parse_quant_type(name: str, architectures: Mapping[str, Architecture]) -> QuantTypes:
    """Return the quantization of each weight of a model with a quantized network, and with a text encoder in fp8.

    Args:
        name: type of the network, ``fp8`` or a GGML type such as ``Q4_K``.
        architectures: component -> its architecture.

    Raises:
        RequestError: the type is not supported.
    """
    from humo.checkpoints.conversion_plan import quant_types_for
    from humo.quantization.formats import GGML_TYPES

    known = {"fp8": SCALED_FP8, **{ggml_type: (ggml_type, 0) for ggml_type in GGML_TYPES}}
    if name not in known:
        raise RequestError("--quantized", f"{name!r} is not supported", did_you_mean(name, known))
    types = {"transformer": known[name], "text_encoder": SCALED_FP8}
    return {component: quant_types_for(architectures[component], *one) for component, one in types.items()}


def parse_size(field: str, text: str | None) -> int | None:
    """Parse a size like ``24GB`` (10^9) or ``24GiB`` (2^30) to bytes.

    Raises:
        RequestError: it is no size.
    """
    if text is None:
        return None
    match = SIZE.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise RequestError(field, f"{text!r} is not a size", "give a number and a unit, as 24GB or 24GiB")
    if not match[2]:
        raise RequestError(field, f"{text!r} has no unit", f"did you mean {match[1]}GB?")
    return round(float(match[1]) * UNITS[match[2].upper()])


def describe_estimate(estimate: MemoryEstimate) -> list[tuple[str, dict[str, Any]]]:
    """Return a line for each component and each phase."""
    rows = []
    for part, weights in estimate.weights.items():
        values = {"part": part, "weights": weights.total, "block": weights.block, "disk": estimate.stored[part]}
        line = f"  {part:14} weights {_gigabytes(weights.total)}" + (
            f", per block {_gigabytes(weights.block)}" if weights.blocks else ""
        )
        rows.append((line, values))
    if estimate.loras:
        rows.append(
            (f"  {'loras':14} weights {_gigabytes(estimate.loras)}", {"part": "loras", "weights": estimate.loras})
        )
    for phase, size in estimate.phases().items():
        rows.append((f"  {phase:14} activations {_gigabytes(size)}", {"phase": phase, "bytes": size}))
    return rows


def describe_placement(estimated: PlacementEstimate, kind: str) -> str:
    """Return a line for a placement."""
    sizes = (
        _gigabytes(estimated.host)
        if kind == "cpu"
        else f"GPU {_gigabytes(estimated.device)}, host {_gigabytes(estimated.host)}"
    )
    exact = "" if estimated.placement.is_exact else ", not exact"
    fits, placement = "fits" if estimated.fits else "", estimated.placement
    return f"{fits:4}  {placement!s:44} {sizes} (peak in {estimated.phase}): {placement.title}{exact}"


def _values(estimated: PlacementEstimate) -> dict[str, Any]:
    return {
        **asdict(estimated.placement),
        "device": estimated.device,
        "host": estimated.host,
        "phase": estimated.phase,
        "exact": estimated.placement.is_exact,
        "fits": estimated.fits,
    }


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
