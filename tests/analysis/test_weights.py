"""Weights are downloaded on request only, compared with published checksums, and refused before they are loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from humo.analysis import weights
from humo.analysis.weights import WeightFile, Weights, download_weights, load_weights, missing_files, weights_file
from humo.checkpoints.hubs.huggingface import HuggingFace
from humo.cli.main import main
from humo.errors import CheckpointError
from tests.checkpoints.hub_server import serving

CONTENT = {"a.weight": torch.arange(4.0)}


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small networks in the catalog: one for everybody, one under a license that has to be accepted."""
    source = tmp_path / "hub" / "owner" / "name"
    source.mkdir(parents=True)
    torch.save(CONTENT, source / "net.pth")
    digest = hashlib.sha256((source / "net.pth").read_bytes()).hexdigest()
    file = WeightFile("net.pth", "owner/name", "net.pth", (source / "net.pth").stat().st_size, digest)
    entries = {
        "open": Weights("an open network", "MIT", "yes", (file,), "https://example.org"),
        "closed": Weights("another network", "research only", "no", (file,), "https://example.org"),
    }
    monkeypatch.setattr(weights, "WEIGHTS", entries)
    monkeypatch.setenv("HUMO_EVAL_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "hub"


def test_weights_are_downloaded_and_loaded_as_float32(catalog: Path) -> None:
    assert [path.name for path in missing_files("open")] == ["net.pth"]
    with serving(catalog) as hub:
        download_weights("open", HuggingFace(hub.address))
    assert missing_files("open") == []
    assert torch.equal(load_weights("open")["a.weight"], CONTENT["a.weight"])


def test_a_wrong_checksum_is_refused_before_loading(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights.weights_folder() / "open" / "net.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes((catalog / "owner" / "name" / "net.pth").read_bytes()[:-1] + b"\1")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(CheckpointError, match=r"open: 'net.pth' has the checksum \w+\.\.\., not \w+\.\.\.; delete"):
        load_weights("open")


def test_a_damaged_download_is_removed(catalog: Path) -> None:
    with serving(catalog) as hub:
        hub.altered.add("net.pth")
        with pytest.raises(CheckpointError, match="another checksum"):
            download_weights("open", HuggingFace(hub.address))
    assert missing_files("open")


def test_missing_weights_name_the_command_that_gets_them(catalog: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"open: the weights 'net.pth' are not in .*; run `humo evaluate weights get"
    ):
        weights_file("open")


def test_a_file_with_code_is_refused(catalog: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = weights.weights_folder() / "open" / "net.pth"
    path.parent.mkdir(parents=True)
    torch.save({"a": Path("x")}, path)
    file = WeightFile("net.pth", "owner/name", "net.pth")
    monkeypatch.setitem(weights.WEIGHTS, "open", Weights("x", "MIT", "yes", (file,), ""))
    with pytest.raises(CheckpointError, match=r"open: 'net.pth' cannot be loaded"):
        load_weights("open")


def test_a_license_is_asked_for_once(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(catalog) as hub:
        get = ["evaluate", "weights", "get", "closed", "--endpoint", hub.address]
        assert main(get) == 2
        error = capsys.readouterr().err
        assert "closed: its license does not allow commercial use (research only)" in error
        assert "add --accept-license closed" in error
        assert main([*get, "--accept-license", "closed"]) == 0
        weights_file("closed").unlink()
        assert main(get) == 0
    assert main(["evaluate", "weights"]) == 0
    listed = capsys.readouterr().out
    assert "closed           there" in listed
    assert "open             missing" in listed


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["get"], "weights: 'get' is unknown; humo evaluate weights get NAME"),
        (["get", "opne"], "NAME: 'opne' is unknown; did you mean 'open'?"),
        (["get", "motion"], "NAME: 'motion' needs no weights; measure with it right away"),
        (["get", "open", "--accept-license", "x"], "--accept-license: 'x' is unknown; known are closed, open"),
    ],
)
def test_wrong_names_are_one_line(
    arguments: list[str], error: str, catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "weights", *arguments]) == 2
    assert error in capsys.readouterr().err


def test_published_checksums_are_whole() -> None:
    for entry in weights.WEIGHTS.values():
        assert entry.commercial in ("yes", "no", "unclear")
        for file in entry.files:
            assert len(file.sha256) in (0, 64)
            assert file.name == Path(file.name).name
