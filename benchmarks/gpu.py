"""Check and measure HuMo on a GPU in at most eight minutes; nothing is downloaded, all weights are random.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --only tiles --only placements
    python benchmarks/gpu.py --device cpu --size tiny          # tries the program out

HuMo-1.7B has its full size, 832 x 480 pixels and 97 frames; so has HuMo-17B in fp8, where memory allows. Each check
compares measurements with what they should be: results with those of the CPU or of the plain way, memory with
`humo plan`, times with the matrix products of the same card. A check that fails does not stop the others. The last
lines are rows for docs/status.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from compute_limit import ComputeLimit
from gpu_models import SIZES, Bench, cast, random_lora
from timing import difference, environment
from torch import Tensor

from humo.errors import HuMoError
from humo.inference.adapters import LoraAdapters
from humo.model.attention_backends import BACKENDS, check_attention, set_attention
from humo.model.tiling import set_tile
from humo.request import QuantizeName
from humo.runtime.acceleration import compile_blocks, run_eagerly
from humo.runtime.offload import adjust_placement, apply_placement
from humo.runtime.placement import Placement
from humo.runtime.placement_choice import CONTEXT_BYTES

MINUTES = 8.0
"""Default limit of the run; checks that have not started when it is over are skipped."""

PEAK_BOUND = 1.05
"""Largest allowed ratio of a measured peak of memory to the planned one."""

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement.

    Args:
        check: name of the check.
        what: what was measured.
        value: the measurement.
        unit: its unit.
        against: what it should be, or be at most; None if nothing is known.
        passed: whether it is; None without ``against``.
    """

    check: str
    what: str
    value: float
    unit: str
    against: float | None = None
    passed: bool | None = None


Rows = Iterator[Row]


def at_most(check: str, what: str, value: float, unit: str, bound: float) -> Row:
    """Return a measurement with the bound that it must not exceed."""
    return Row(check, what, value, unit, bound, value <= bound)


def seconds(bench: Bench, run: Callable[[], object], repeats: int = 2) -> float:
    """Return the shortest time of a function, after one run that is not counted."""
    times = []
    for _ in range(repeats + 1):
        bench.synchronize()
        start = time.perf_counter()
        run()
        bench.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


# -- checks ---------------------------------------------------------------------------------------------------------


def precision(bench: Bench) -> Rows:
    """Two blocks of the network on the device, in float32 and in bfloat16, against float32 on the CPU."""
    clip = bench.clip(5, size=(160, 144))
    network = bench.network(layers=2, dtype=torch.float32)(CPU)
    expected = clip.to(CPU, torch.float32).one_pass(network)
    for dtype, bound in ((torch.float32, 1e-3), (torch.bfloat16, 5e-2)):
        output = clip.to(bench.device, dtype).one_pass(cast(network, dtype).to(bench.device)).cpu()
        what = f"{str(dtype).removeprefix('torch.')} against float32 on the CPU"
        yield at_most("precision", what, difference(output, expected), "", bound)


def pass_time(bench: Bench) -> Rows:
    """One pass of the network, and its matrix products and attention alone."""
    clip, network = bench.clip(), bench.network()(bench.device)
    kv = clip.cross_attention_kv(network)
    whole = seconds(bench, lambda: clip.one_pass(network, kv))
    bare = seconds(bench, ComputeLimit(network, kv, clip.latents))
    yield Row("pass", "one pass", whole, "s")
    yield Row("pass", "its matrix products and attention", bare, "s")
    yield at_most("pass", "ratio", whole / bare, "x", 1.25)


def attention(bench: Bench) -> Rows:
    """A pass with each attention backend that is installed, against torch's own choice."""
    clip, network = bench.clip(), bench.network()(bench.device)
    expected = clip.one_pass(network)
    try:
        for name in BACKENDS:
            try:
                check_attention(name, bench.device.type, "bfloat16")
            except HuMoError:
                continue
            set_attention(network, name)
            yield at_most("attention", f"{name}: difference", difference(clip.one_pass(network), expected), "", 5e-2)
            yield Row("attention", f"{name}: one pass", seconds(bench, lambda: clip.one_pass(network)), "s")
    finally:
        set_attention(network, "sdpa")


def compiled(bench: Bench) -> Rows:
    """A pass with compiled blocks, against the same pass without."""
    clip, network = bench.clip(), bench.network()(bench.device)
    expected = clip.one_pass(network)
    eager = seconds(bench, lambda: clip.one_pass(network))
    compile_blocks(network, bench.compiler)
    try:
        start = time.perf_counter()
        output = clip.one_pass(network)
        bench.synchronize()
        yield Row("compile", "first pass", time.perf_counter() - start, "s")
        yield at_most("compile", "difference", difference(output, expected), "", 5e-2)
        yield at_most("compile", "ratio to eager", seconds(bench, lambda: clip.one_pass(network)) / eager, "x", 1.0)
    finally:
        run_eagerly(network)


def lora(bench: Bench) -> Rows:
    """A pass with a LoRA of rank 64 on every linear layer of the blocks, against the same pass without."""
    clip, network = bench.clip(), bench.network()(bench.device)
    plain = clip.one_pass(network)
    eager = seconds(bench, lambda: clip.one_pass(network))
    adapters = LoraAdapters(network)
    adapters.add("random", random_lora(network, bench.size.architectures["transformer"], rank=64))
    yield Row("lora", "change of the output", difference(clip.one_pass(network), plain), "")
    ratio = seconds(bench, lambda: clip.one_pass(network)) / eager
    yield at_most("lora", "rank 64 on every layer: ratio to none", ratio, "x", 1.2)
    adapters.clear()
    yield at_most("lora", "difference after removal", difference(clip.one_pass(network), plain), "", 0.0)


def tiles(bench: Bench) -> Rows:
    """Decoding and encoding in tiles, against whole frames: seams, time, and memory against the plan."""
    vae, clip = bench.vae(bench.device), bench.clip(bench.size.tile_frames)
    estimate = bench.estimate(clip)
    whole: dict[str, Tensor] = {}
    for tile in bench.size.tiles:
        set_tile(vae, tile)
        planned = estimate.autoencoder(tile)
        for what, run, bound in (("decode", clip.decode, planned.decode), ("encode", clip.encode_blank, planned.image)):
            start = time.perf_counter()
            with bench.activations() as peak:
                output = run(vae)
            took, output = time.perf_counter() - start, output.float().cpu()
            name = f"{what}, {f'tiles of {tile}' if tile else 'whole frames'}"
            yield Row("tiles", f"{name}: time", took, "s")
            yield at_most("tiles", f"{name}: activations of planned", peak.bytes / bound, "x", PEAK_BOUND)
            seams = (output - whole.setdefault(what, output)).abs().max().item() * 127.5
            yield at_most("tiles", f"{name}: seams, of 255", seams, "", 0.5)
    set_tile(vae, 0)


def placements(bench: Bench) -> Rows:
    """Peak memory of every phase in each placement, against the plan; and the result, against all on the device."""
    pipeline, clip = bench.pipeline(CPU), bench.clip()
    estimate, expected = bench.estimate(clip), None
    modules = (pipeline.text_encoder, pipeline.audio_encoder, pipeline.transformer, pipeline.vae)
    blocks = len(pipeline.transformer.blocks)
    for placement in (
        Placement("none"),
        Placement("model"),
        Placement("group", resident_blocks=blocks // 2),
        Placement("group"),
    ):
        planned = placement.device_bytes(estimate)
        if max(planned.values()) + CONTEXT_BYTES > bench.total_device_memory():
            yield Row("placements", f"{placement}: does not fit", max(planned.values()) / 1e9, "GB")
            continue
        if pipeline.execution.streamed is None:
            apply_placement(pipeline, placement, bench.device.type)
        adjust_placement(pipeline, placement)
        for phase, run in clip.phases(pipeline).items():
            pipeline._release_weights()
            bench.empty_cache()
            with bench.device_memory(*modules) as peak:
                output = run()
            what = f"{placement}, {phase}: peak of planned"
            yield at_most("placements", what, peak.bytes / planned[phase], "x", PEAK_BOUND)
            if phase == "denoise":
                expected = output if expected is None else expected
                yield at_most("placements", f"{placement}: difference", difference(output, expected), "", 1e-2)
            del output
    outside = bench.reserved_beside_tensors()
    yield at_most("placements", "memory of CUDA itself", outside, "GB", CONTEXT_BYTES / 1e9)


def streaming(bench: Bench) -> Rows:
    """A pass with blocks streamed from the host, against the longer of copying them and of computing."""
    clip, network = bench.clip(), bench.network()(bench.device)
    computing = seconds(bench, lambda: clip.one_pass(network))
    weights = sum(one.nbytes for one in network.blocks.parameters())
    streams, link = bench.stream(network), bench.link_bandwidth()
    yield Row("streaming", "link, locked host memory", link / 1e9, "GB/s")
    blocks = len(network.blocks)
    for resident in (0, blocks // 2, blocks):
        streams.keep(resident)
        took = seconds(bench, lambda: clip.one_pass(network))
        copying = weights * (1 - resident / blocks) / link
        yield Row("streaming", f"one pass, {resident} of {blocks} blocks on the device", took, "s")
        what = f"{resident} of {blocks}: of the longer of copying and computing"
        yield at_most("streaming", what, took / max(copying, computing), "x", 1.15)


def quantized(bench: Bench) -> Rows:
    """A pass with each quantization on the device, against one without."""
    clip, network = bench.clip(), bench.network()(bench.device)
    plain = seconds(bench, lambda: clip.one_pass(network))
    values: Sequence[QuantizeName] = ("fp8", "int8", "int4")
    for name in values:
        network = bench.network(quantize=name)(bench.device)
        took = seconds(bench, lambda: clip.one_pass(network))  # noqa: B023 - it is called at once
        yield Row("quantized", f"{name}: one pass", took, "s")
        yield at_most("quantized", f"{name}: ratio to unquantized", took / plain, "x", 1.5)


def large_network(bench: Bench) -> Rows:
    """A pass of HuMo-17B in fp8: streamed, half on the device, and all on the device as far as that fits."""
    large = bench.large()
    if large is None:
        yield Row("17B in fp8", "skipped: the host's memory is too small", 0.0, "")
        return
    clip = large.clip()
    estimate = large.estimate(clip, "F8_E4M3")
    network = large.network(quantize="fp8")(CPU)
    streams, blocks = large.stream(network), len(network.blocks)
    outside = estimate.weights["transformer"].outside_blocks
    for resident in (0, blocks // 2, blocks):
        placement = Placement("group", resident_blocks=resident)
        on_device = placement.blocks_on_device("transformer", estimate.weights["transformer"])
        planned = outside + on_device + estimate.streamed_pass
        if planned + CONTEXT_BYTES > large.free_device_memory():
            yield Row("17B in fp8", f"{placement}: does not fit", planned / 1e9, "GB")
            continue
        streams.keep(resident)
        with large.device_memory(network) as peak:
            took = seconds(large, lambda: clip.one_pass(network), repeats=1)
        yield Row("17B in fp8", f"{placement}: one pass", took, "s")
        yield at_most("17B in fp8", f"{placement}: peak of planned", peak.bytes / planned, "x", PEAK_BOUND)
        streams.release()


def nano(bench: Bench) -> Rows:
    """The built-in model at its size: time, and frames against those of the CPU."""
    on_cpu, _ = bench.built_in_clip("cpu")
    frames, took = bench.built_in_clip(bench.device.type)
    yield at_most("nano", "one second of video", took, "s", 1.0)
    worst = max(int(abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(frames, on_cpu, strict=True))
    yield at_most("nano", "largest difference to the CPU, of 255", worst, "", 8)


CHECKS: Mapping[str, Callable[[Bench], Rows]] = {
    "precision": precision,
    "pass": pass_time,
    "attention": attention,
    "lora": lora,
    "tiles": tiles,
    "placements": placements,
    "streaming": streaming,
    "quantized": quantized,
    "17b": large_network,
    "nano": nano,
    "compile": compiled,
}
"""Name -> check, in the order in which they run: those that need the pipeline on the device before `placements`."""


# -- the run --------------------------------------------------------------------------------------------------------


def run(bench: Bench, names: Sequence[str], minutes: float) -> Iterator[Row]:
    """Run checks in their order; yield their measurements, or a row that says why there are none."""
    end = time.monotonic() + 60 * minutes
    for name in names:
        if time.monotonic() > end:
            yield Row(name, "skipped: no time left", 0.0, "")
            continue
        try:
            yield from CHECKS[name](bench)
        except Exception as error:  # noqa: BLE001 - a check on a machine that nobody has tried may raise anything
            yield Row(
                name, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}", 0.0, "", None, False
            )
        gc.collect()
        bench.empty_cache()


TABLE_HEAD = "| check | what | measured | at most | |\n|---|---|---|---|---|"
"""Head of the printed table."""

VERDICTS = {True: "ok", False: "**no**", None: ""}


def table_row(row: Row) -> str:
    """Return a measurement as a row of a Markdown table."""
    bound = "" if row.against is None else f"{row.against:.4g} {row.unit}".strip()
    return f"| {row.check} | {row.what} | {f'{row.value:.4g} {row.unit}'.strip()} | {bound} | {VERDICTS[row.passed]} |"


def status_rows(rows: Sequence[Row], device: str) -> list[str]:
    """Return a row for docs/status.md for each check that measured something."""
    lines = []
    for check in dict.fromkeys(row.check for row in rows):
        of = [row for row in rows if row.check == check]
        judged = [row for row in of if row.passed is not None]
        failed = [row.what for row in judged if not row.passed]
        if judged:
            verdict = f"not as expected: {'; '.join(failed)}" if failed else f"{len(judged)} measurements as expected"
            lines.append(f"| `benchmarks/gpu.py`, {check} | run on {device} | {verdict} |")
    return lines


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark, and return its measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=list(SIZES), default="full", help="tiny only tries the program out")
    parser.add_argument("--only", choices=list(CHECKS), action="append", help="run this check; may be repeated")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"limit of the run (default {MINUTES:g})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no NVIDIA GPU that torch can use; try the program out with --device cpu --size tiny")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU"
    print(f"{device}, " + ", ".join(f"{name} {value}" for name, value in environment().items()) + f"\n\n{TABLE_HEAD}")
    rows = []
    for row in run(Bench(options.size, options.device), options.only or list(CHECKS), options.minutes):
        rows.append(row)
        print(table_row(row), flush=True)
    print("\n" + "\n".join(status_rows(rows, device)))
    result = {
        "benchmark": "gpu",
        "device": device,
        "size": options.size,
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
