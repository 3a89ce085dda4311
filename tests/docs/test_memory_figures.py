"""Figures of memory in the README and docs/memory.md are those that `humo plan` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

import humo.runtime.memory_estimate
import humo.runtime.placement_choice
from humo.checkpoints.hubs.catalog import CATALOG
from humo.cli.main import main
from tests.conftest import REPOSITORY

MEMORY = (REPOSITORY / "docs" / "memory.md").read_text()
README = (REPOSITORY / "README.md").read_text()

ROUNDING = 0.02
"""Largest difference in GB between a page and a plan; estimates in torch's versions differ by less."""

Plan = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def estimates() -> dict[Any, Any]:
    """Estimates of the clips that were planned; what is available does not change them."""
    return {}


@pytest.fixture
def plan(
    estimates: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> Plan:
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path))

    def run(model: str, size: str, memory: str, host: str = "32GB") -> list[dict[str, Any]]:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in (
                (humo.runtime.memory_estimate, "estimate_memory"),
                (humo.runtime.placement_choice, "estimate_quantized_placements"),
            ):
                patch.setattr(module, name, once(getattr(module, name), (name, model, size)))
            width, height = re.findall(r"\d+", size)
            arguments = ["plan", "--model", model, "--width", width, "--height", height, "--frames", "97"]
            main([*arguments, "--memory", memory, "--host", host, "--json"])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def once(function: Callable[..., Any], key: Any) -> Callable[..., Any]:
        def recalled(*arguments: Any) -> Any:
            if key not in estimates:
                estimates[key] = function(*arguments)
            return estimates[key]

        return recalled

    return run


def placements(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "placement"]


def rows(heading: str, columns: int) -> list[list[str]]:
    """Return the cells of the table after a line of docs/memory.md; an empty cell repeats the one above."""
    text = MEMORY[MEMORY.index(heading) :]
    table: list[list[str]] = []
    for line in text[text.index("\n|") + 1 :].splitlines():
        if not line.startswith("|"):
            break
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        table.append([cell or (table[-1][number] if table else "") for number, cell in enumerate(cells)])
    assert len(table) > 3
    assert len(table[0]) == columns
    return table[2:]


@pytest.mark.parametrize("row", rows("### What fits", 6), ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_the_table_of_what_fits_is_what_is_planned(row: list[str], plan: Plan) -> None:
    model, size, memory, options, device, host = row
    events = plan(model, size, memory.replace(" ", ""))
    fastest = next(one for one in placements(events) if one["fits"])
    chosen = [f"--offload {fastest['offload']}"]
    chosen += [f"--resident-blocks {fastest['resident_blocks']}"] if fastest["resident_blocks"] else []
    chosen += [f"--tile {fastest['tile']}"] if fastest["tile"] else []
    assert " ".join(chosen) == options
    assert fastest["device"] / 1e9 == pytest.approx(gigabytes(device), abs=ROUNDING)
    assert fastest["host"] / 1e9 == pytest.approx(gigabytes(host), abs=ROUNDING)


def test_the_table_of_tiles_is_what_is_planned(plan: Plan, estimates: dict[Any, Any]) -> None:
    plan("humo-17b-fp8", "832 x 480", "12GB")
    autoencoder = estimates["estimate_memory", "humo-17b-fp8", "832 x 480"]
    for tile, decode, encode in rows("needs for activations:", 3):
        phases = autoencoder.phases(0 if tile == "whole frames" else int(tile), streamed=True)
        assert phases["decode"] / 1e9 == pytest.approx(gigabytes(decode), abs=ROUNDING), tile
        assert phases["image"] / 1e9 == pytest.approx(gigabytes(encode), abs=ROUNDING), tile


def test_the_listing_shows_what_is_planned(plan: Plan) -> None:
    planned = placements(plan("humo-17b-fp8", "832 x 480", "12GB"))
    listed = re.findall(r"--offload (\w+)( --resident-blocks \d+)? +GPU (\S+) GB, host (\S+) GB", MEMORY)
    assert len(listed) == len(planned) == 4
    for (offload, resident, device, host), one in zip(listed, planned, strict=True):
        assert offload == one["offload"]
        assert resident.removeprefix(" --resident-blocks ") == str(one["resident_blocks"] or "")
        assert float(device) == pytest.approx(one["device"] / 1e9, abs=ROUNDING)
        assert float(host) == pytest.approx(one["host"] / 1e9, abs=ROUNDING)


@pytest.mark.parametrize(
    ("pattern", "smallest", "largest", "size"),
    [
        (r"`humo-1.7b` \|.*\| (\d+) to (\d+) GB \|", "humo-1.7b-fp16", "humo-1.7b", "832 x 480"),
        (r"`humo-17b` \|.*\| (\d+) to (\d+) GB \|", "humo-17b-fp8", "humo-17b", "832 x 480"),
        (r"For 1280 x 720, `humo-17b` needs (\d+) to (\d+) GB", "humo-17b-fp8", "humo-17b", "1280 x 720"),
    ],
)
def test_the_range_of_gpus_in_the_readme_is_what_is_planned(
    pattern: str, smallest: str, largest: str, size: str, plan: Plan
) -> None:
    stated = re.search(pattern, README)
    assert stated is not None
    exact = [one for one in placements(plan(smallest, size, "1GB")) if one["exact"]]
    assert round(min(one["device"] for one in exact) / 1e9) == int(stated[1])
    whole = next(one for one in placements(plan(largest, size, "999GB", "999GB")) if one["offload"] == "none")
    assert round(whole["device"] / 1e9) == int(stated[2])


@pytest.mark.parametrize("model", [name for name, entry in CATALOG.items() if entry.is_linked])
def test_the_catalogs_gpu_holds_the_model(model: str, plan: Plan) -> None:
    stated = re.match(r"a GPU of (\d+) GB; ", CATALOG[model].requirements)
    assert stated is not None
    assert any(one["fits"] for one in placements(plan(model, "832 x 480", f"{stated[1]}GB")))


def gigabytes(text: str) -> float:
    """Return the number of a cell such as ``7.40 GB``."""
    return float(text.removesuffix(" GB"))
