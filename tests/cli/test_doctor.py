"""`humo doctor`: a healthy installation has no findings; each fault is reported with its remedy."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from humo.cli import doctor
from humo.cli.doctor import CHECKS, OWN_FOLDERS, Finding, Severity, examine
from humo.cli.main import main

Usage = namedtuple("Usage", "total used free")


def findings(check: str, model: Path | None = None) -> list[Finding]:
    return [one for one in examine(model) if one.check == check]


def the_only(check: str, state: Severity, model: Path | None = None) -> Finding:
    [finding] = [one for one in findings(check, model) if one.severity is state]
    if state is not Severity.GOOD:
        assert finding.remedy
    return finding


def test_this_installation_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    *lines, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert {line["check"] for line in lines} == set(CHECKS)
    assert last == {"event": "result", "errors": 0, "warnings": sum(line["severity"] == "warning" for line in lines)}
    assert code == 0
    assert "HuMo nano" in the_only("models", Severity.GOOD).text


def test_a_package_that_is_missing_or_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "soxr":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "av" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    wrong = [one.text for one in findings("packages") if one.severity is Severity.ERROR]
    assert wrong == ["av is 0.1, but av>=14 is required", "soxr is missing, but soxr>=0.4 is required"]


def test_a_gpu_that_torch_does_not_use_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = the_only("device", Severity.WARNING)
    assert "does not use it" in finding.text
    assert "pytorch.org" in finding.remedy


def test_codecs_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "VIDEO_CODEC", "nosuch264")
    monkeypatch.setattr(doctor, "UNPACKERS", ("h264", "nosuch265"))
    assert "cannot write nosuch264" in the_only("codecs", Severity.ERROR).text
    assert "cannot read nosuch265" in the_only("codecs", Severity.WARNING).text


def test_a_disk_that_is_full_or_locked_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10, 9, 1))
    assert [one.severity for one in findings("disk")] == [Severity.WARNING, Severity.WARNING, Severity.GOOD]

    def refuse(dir: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert {one.severity for one in findings("disk")} == {Severity.ERROR}


def test_a_broken_model_is_named_with_its_remedy(tmp_path: Path) -> None:
    finding = the_only("models", Severity.ERROR, tmp_path)
    assert str(tmp_path) in finding.text
    assert "humo convert" in finding.remedy


def test_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    assert "0.0 GB" in the_only("memory", Severity.WARNING).text


def test_a_check_that_breaks_is_a_finding_and_the_others_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(model: Path | None) -> Any:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setitem(CHECKS, "memory", broken)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "ERROR    memory     the check failed: ZeroDivisionError: by nothing -> report it as a bug" in out
    assert "text is written as" in out
    assert "1 error, " in out


@pytest.mark.parametrize("variable", sorted(OWN_FOLDERS))
def test_a_folder_that_cannot_be_written_is_found(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "inside"))
    wrong = [one for one in examine() if one.check == "disk" and one.severity is Severity.ERROR]
    assert [(one.remedy, "cannot be written" in one.text) for one in wrong] == [
        (f"set {variable} to a folder that can", True)
    ]
