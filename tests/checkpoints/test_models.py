"""Models are downloaded, compared, imported, verified and removed; a hub that fails loses nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from humo.checkpoints.hubs import catalog
from humo.checkpoints.hubs.catalog import CATALOG
from humo.checkpoints.model_folder import BUILTIN_MODELS, find_model_folder, open_model_folder
from humo.cli.main import main
from tests.checkpoints import released
from tests.checkpoints.hub_server import Hub, serving

NAME = "humo-1.7b"


@pytest.fixture(scope="module")
def repositories(released_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released files as their repositories hold them."""
    root = tmp_path_factory.mktemp("repositories")
    shutil.copytree(released_tree / "HuMo", root / "bytedance-research" / "HuMo")
    shutil.copytree(released_tree / "Wan2.1-T2V-1.3B", root / "Wan-AI" / "Wan2.1-T2V-1.3B")
    for owner in ("openai", "AI-ModelScope"):
        shutil.copytree(released_tree / "whisper-large-v3", root / owner / "whisper-large-v3")
    return root


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    with serving(repositories) as hub:
        yield hub


MODELSCOPE = ("--source", "modelscope", "--repository", "bytedance-research/HuMo")
HUBS = pytest.mark.parametrize("source", [(), MODELSCOPE], ids=["huggingface", "modelscope"])
"""Options that name each hub."""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, and a catalog whose model is of the width that is served here."""
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    entry = replace(CATALOG[NAME], head_dim=released.HEAD_WIDTH)
    monkeypatch.setattr(catalog, "CATALOG", {NAME: entry})
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def _few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that fails is not asked again and again for half a minute."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    code = main(["models", *arguments, "--json"])
    output = capsys.readouterr()
    return code, [json.loads(line) for line in output.out.splitlines()], output.err


@HUBS
def test_a_model_is_downloaded_compared_and_made_a_folder(
    hub: Hub, models: Path, source: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = say(capsys, "get", NAME, *source, "--endpoint", hub.address)
    assert code == 0
    assert open_model_folder(models / NAME).preset.name == NAME
    assert find_model_folder(NAME) == models / NAME
    assert {line["phase"] for line in lines if line["event"] == "progress"} >= {"download", "transformer", "checksums"}
    got = [line for line in lines if line["event"] == "progress" and line["phase"] == "download"]
    assert got[-1]["done"] == got[-1]["total"]
    assert not (models / ".downloads" / NAME).exists()
    assert say(capsys, "verify", NAME)[0] == 0
    assert "exists already" in say(capsys, "get", NAME, *source, "--endpoint", hub.address)[2]
    [listed] = [line for line in say(capsys, "list")[1] if line.get("name") == NAME]
    assert listed["state"] == "local"
    assert say(capsys, "remove", NAME)[0] == 0
    assert not (models / NAME).exists()


@HUBS
def test_only_what_is_needed_is_downloaded(
    hub: Hub, models: Path, source: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    say(capsys, "get", NAME, *source, "--endpoint", hub.address, "--keep", str(models.parent / "kept"))
    files = {
        path.name for path in (models.parent / "kept").rglob("*") if path.suffix in (".pth", ".safetensors", ".pt")
    }
    assert files == {"ema.pth", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "model.safetensors"}


@HUBS
def test_a_line_that_goes_dead_loses_nothing(
    hub: Hub, models: Path, source: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000
    )  # its client keeps whole ones, and these files are smaller than one chunk
    hub.cut_after = 10_000
    code, _, err = say(capsys, "get", NAME, *source, "--endpoint", hub.address)
    assert code == 2
    assert "which resumes the download" in err
    assert not (models / NAME).exists()
    hub.cut_after = None
    assert say(capsys, "get", NAME, *source, "--endpoint", hub.address)[0] == 0
    assert any(header.startswith("ema.pth bytes=") for header in hub.ranges), "it resumed where it was cut"
    assert say(capsys, "verify", NAME)[0] == 0


@HUBS
def test_a_file_with_a_flipped_bit_is_refused_and_removed(
    hub: Hub, models: Path, source: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.altered.add("Wan2.1_VAE.pth")
    code, _, err = say(capsys, "get", NAME, *source, "--endpoint", hub.address)
    assert code == 2
    assert "Wan2.1_VAE.pth: has another checksum than the hub lists" in err
    assert not list(models.rglob("Wan2.1_VAE.pth"))
    hub.altered.clear()
    assert say(capsys, "get", NAME, *source, "--endpoint", hub.address)[0] == 0


def test_one_flipped_bit_on_the_disk_is_found(
    released_tree: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = say(capsys, "import", str(released_tree / "whisper-large-v3"), "--name", "whisper")
    assert code == 0
    assert say(capsys, "verify", "whisper")[0] == 0
    [path] = (models / "whisper" / "audio_encoder").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (models / "whisper" / "stray.txt").write_text("mine")
    code, lines, _ = say(capsys, "verify", "whisper")
    assert code == 1
    assert lines[-1]["wrong"] == 2
    problems = {line["path"]: line["message"] for line in lines if line["event"] == "error"}
    assert "has another checksum" in problems[f"audio_encoder/{path.name}"]
    assert "not in the manifest" in problems["stray.txt"]


@HUBS
def test_a_hub_that_is_not_there_is_one_line(
    models: Path, source: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = say(capsys, "get", NAME, *source, "--endpoint", "http://127.0.0.1:9")
    assert code == 2
    assert "cannot be downloaded" in err
    assert "--endpoint" in err


@HUBS
def test_offline_is_respected(
    hub: Hub, models: Path, source: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = say(capsys, "get", NAME, *source, "--endpoint", hub.address)
    assert code == 2
    assert "HF_HUB_OFFLINE" in err


@HUBS
def test_a_disk_that_is_too_small_is_reported_before_anything_is_downloaded(
    hub: Hub, models: Path, source: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = shutil.disk_usage

    def full(path: Any) -> Any:
        return real(path)._replace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", full)
    code, _, err = say(capsys, "get", NAME, *source, "--endpoint", hub.address)
    assert code == 2
    assert "GB free, but the model needs" in err
    assert not list(models.rglob("*.pth"))


def test_a_repository_that_is_not_there_is_one_line(hub: Hub, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("get", NAME, "--source", "modelscope", "--repository", "nobody/HuMo", "--endpoint", hub.address)
    code, _, err = say(capsys, *arguments)
    assert code == 2
    assert "nobody/HuMo: cannot be downloaded: the hub has no such repository or file" in err
    assert len(err.splitlines()) == 1


def test_a_repository_cannot_name_files_outside_of_itself(
    hub: Hub, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.strays = ["HuMo-1.7B/../../../../x"]
    code, _, err = say(capsys, "get", NAME, *MODELSCOPE, "--endpoint", hub.address)
    assert code == 2
    assert "which lies outside the repository" in err
    assert not models.exists()


def test_the_hub_may_be_a_setting(
    hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HUMO_HUB", "modelscope")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
    code, _, err = say(capsys, "get", NAME)
    assert code == 2
    assert "--repository: is missing: no copy of bytedance-research/HuMo on ModelScope is known here" in err
    assert "nobody/HuMo: cannot be downloaded" in say(capsys, "get", NAME, "--repository", "nobody/HuMo")[2]
    monkeypatch.setenv("HUMO_HUB", "modelscop")
    assert "HUMO_HUB: 'modelscop' is unknown; did you mean 'modelscope'?" in say(capsys, "get", NAME)[2]
    monkeypatch.delenv("HUMO_HUB")
    arguments = ("get", NAME, "--endpoint", hub.address, "--repository", "bytedance-research/HuMo")
    assert say(capsys, *arguments)[0] == 0, "another repository on the usual hub, too"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("gte", NAME), "did you mean 'get'?"),
        (("get", "humo-1.8b"), "did you mean 'humo-1.7b'?"),
        (("get",), "NAME: is missing"),
        (("remove", "../x"), "'../x' is not allowed"),
        (("remove", "humo-nano"), "is not allowed"),
        (("remove", "nosuch"), "'nosuch' is not a model on this machine"),
        (("verify", "nosuch"), "'nosuch' is not a model on this machine"),
        (("import",), "SOURCE: is missing"),
        (("import", "x"), "--name: is missing"),
        (("list", "all"), "is not an argument of list"),
        (("get", NAME, "--source", "github"), "--source: 'github' is unknown"),
        (("get", NAME, "--repository", "../x"), "--repository: '../x' is not a repository"),
    ],
)
def test_bad_arguments_are_one_line(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    code, _, err = say(capsys, *arguments)
    assert code == 2
    assert problem in err


def test_a_model_that_is_not_here_says_how_to_get_it(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", NAME, "--prompt", "A man."]) == 2
    assert "humo models get humo-1.7b" in capsys.readouterr().err


def test_the_builtin_models_have_names(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_model_folder("humo-nano") == find_model_folder(None)
    listed = {line["name"] for line in say(capsys, "list")[1] if line["event"] == "model" and line["state"] == "local"}
    assert listed == set(BUILTIN_MODELS)
    assert say(capsys, "verify", "humo-nano")[0] == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "humo-nano").mkdir()
    assert find_model_folder("humo-nano") == Path("humo-nano"), "what lies in front of the user comes first"
