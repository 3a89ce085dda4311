"""LoRAs are downloaded and compared with the catalog; a hub or file that is wrong leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from humo.checkpoints.hubs.catalog import LORAS
from humo.checkpoints.lora_store import catalog_name, find_lora, installed_loras, read_lora_distillation
from humo.cli.main import main
from humo.errors import CheckpointError, RequestError
from humo.files import hash_file
from tests.checkpoints.hub_server import Hub, serving
from tests.lora_files import write_lora

NAME = "lightx2v"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the LoRA, of another content, which the catalog of the test knows."""
    entry = LORAS[NAME]
    path = write_lora(tmp_path / "hub" / entry.repository.repository / entry.repository.files[0], "humo-17b")
    write_lora(path.with_name("another.safetensors"), "humo-17b", 1)
    known = replace(entry, bytes=path.stat().st_size, sha256=hash_file(path))
    monkeypatch.setitem(dict_of(LORAS), NAME, known)
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving(tmp_path / "hub") as server:
        yield server


def dict_of(table: object) -> dict[str, object]:
    assert isinstance(table, dict)
    return table


def get(hub: Hub, *options: str) -> int:
    return main(["models", "get", NAME, "--endpoint", hub.address, *options])


def test_a_lora_is_downloaded_compared_and_found_by_name(hub: Hub) -> None:
    assert get(hub) == 0
    path = find_lora(NAME)
    assert installed_loras() == {NAME: path}
    assert hash_file(path) == LORAS[NAME].sha256
    assert sorted(one.name for one in path.parents[1].rglob("*") if one.is_file()) == [path.name]
    assert get(hub) == 2


def test_a_file_of_another_content_is_refused(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    write_lora(hub.root / LORAS[NAME].repository.repository / LORAS[NAME].repository.files[0], "humo-17b", 5)
    assert get(hub) == 2
    assert "has another lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors" in capsys.readouterr().err
    assert not installed_loras()


def test_a_flipped_bit_is_found_and_nothing_installed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.altered.add(LORAS[NAME].file)
    assert get(hub) == 2
    assert "has another checksum than the hub lists" in capsys.readouterr().err
    assert not installed_loras()


def test_a_hub_without_the_file_and_one_that_has_no_copy_are_one_line(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub.root / LORAS[NAME].repository.repository / LORAS[NAME].repository.files[0]).unlink()
    assert get(hub) == 2
    assert "has no file lightx2v" in capsys.readouterr().err
    assert get(hub, "--source", "modelscope") == 2
    message = capsys.readouterr().err
    assert "no copy of Kijai/WanVideo_comfy on ModelScope is known here" in message
    assert len(message.strip().splitlines()) == 1


def test_an_imported_file_of_the_catalog_has_its_name(hub: Hub, tmp_path: Path) -> None:
    file = hub.root / LORAS[NAME].repository.repository / LORAS[NAME].repository.files[0]
    assert catalog_name(file) == NAME
    assert main(["models", "import", str(file)]) == 0
    assert list(installed_loras()) == [NAME]
    other = write_lora(tmp_path / "My style.safetensors", "humo-17b", 7)
    assert catalog_name(other) is None
    assert main(["models", "import", str(other)]) == 0
    assert set(installed_loras()) == {NAME, "My style"}


def test_a_served_name_is_never_a_path(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", "humo-17b")
    assert find_lora("style", {"style": str(path)}) == path
    with pytest.raises(RequestError, match="is not served"):
        find_lora(str(path), {"style": str(path)})
    with pytest.raises(RequestError, match="this service has none"):
        find_lora(str(path), {})


def test_an_ordinary_lora_has_no_distillation(tmp_path: Path) -> None:
    assert read_lora_distillation(write_lora(tmp_path / "a.safetensors", "humo-17b")) is None
    (tmp_path / "b.safetensors").write_bytes(b"not a header")
    with pytest.raises(CheckpointError):
        read_lora_distillation(tmp_path / "b.safetensors")
