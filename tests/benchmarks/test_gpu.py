"""The program for a GPU computes the right results at tiny size on a CPU; no test depends on a time."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TIMES = ("time", "ratio", "one pass", "of the longer of", "one second")
"""Parts of the descriptions of measurements that depend on a time."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


@pytest.mark.parametrize(
    ("check", "measurements"), [("precision", 2), ("attention", 1), ("lora", 1), ("tiles", 8), ("placements", 25)]
)
def test_results_and_memory_are_as_planned(
    gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], check: str, measurements: int
) -> None:
    file = tmp_path / "gpu.json"
    report = gpu.main(["--device", "cpu", "--size", "tiny", "--only", check, "--json", str(file)])
    assert json.loads(file.read_text(encoding="utf-8")) == report
    rows = [row for row in report["rows"] if not any(part in row["what"] for part in TIMES)]
    judged = {row["what"]: row for row in rows if row["passed"] is not None}
    assert len(judged) == measurements
    assert [row for row in judged.values() if not row["passed"]] == []
    printed = capsys.readouterr().out
    assert all(f"| {check} | {what} |" in printed for what in judged)


@pytest.mark.parametrize("check", ["streaming", "quantized", "17b"])
def test_checks_of_times_run(gpu: Any, check: str) -> None:
    report = gpu.main(["--device", "cpu", "--size", "tiny", "--only", check])
    assert len(report["rows"]) >= 6
    assert not [row["what"] for row in report["rows"] if row["what"].startswith(("failed", "skipped"))]


def test_a_check_that_fails_does_not_stop_the_others(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bench: Any) -> Iterator[Any]:
        yield gpu.at_most("first", "a measurement", 2.0, "s", 1.0)
        raise RuntimeError("no kernel\n  for this card")

    def whole(bench: Any) -> Iterator[Any]:
        yield gpu.at_most("second", "a measurement", 1.0, "s", 1.0)

    monkeypatch.setattr(gpu, "CHECKS", {"first": broken, "second": whole})
    rows = list(gpu.run(gpu.Bench("tiny", "cpu"), ["first", "second"], 1.0))
    assert [(row.check, row.what, row.passed) for row in rows] == [
        ("first", "a measurement", False),
        ("first", "failed: RuntimeError: no kernel for this card", False),
        ("second", "a measurement", True),
    ]
    assert gpu.status_rows(rows, "a card")[1].endswith("| run on a card | 1 measurements as expected |")
    assert [row.what for row in gpu.run(gpu.Bench("tiny", "cpu"), ["first"], -1.0)] == ["skipped: no time left"]


def test_without_a_gpu_it_is_one_line(gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "there is no NVIDIA GPU that torch can use; try the program out with --device cpu" in capsys.readouterr().err
