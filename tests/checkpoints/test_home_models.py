"""`humo models get` of the files that ComfyUI's users have, and `humo models import --comfyui`."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from safetensors.torch import save_file

from humo.checkpoints.hubs import catalog
from humo.checkpoints.hubs.catalog import CATALOG, Repository
from humo.checkpoints.model_folder import open_model_folder
from humo.cli.main import main
from humo.plan import resolve
from humo.request import parse_request
from tests.checkpoints.hub_server import Hub, serving
from tests.comfyui_files import AUDIO, NETWORK, TEXT, VAE, network_weights, save_comfyui_models, save_companions
from tests.lora_files import write_lora
from tests.quantized_files import is_matrix_of_a_block, save_gguf, save_scaled_fp8

NAMES = [name for name, entry in CATALOG.items() if entry.is_linked]
SMALL, GGUF = "humo-1.7b-fp16", "humo-17b-q5"

SOURCES = pytest.mark.parametrize("source", ["huggingface", "modelscope"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories with small files under the published names."""
    root = tmp_path_factory.mktemp("hub")
    files = save_comfyui_models(tmp_path_factory.mktemp("files"))

    def put(file: Path, repository: str, name: str) -> None:
        (root / repository / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, root / repository / name)

    put(files / NETWORK, "Comfy-Org/HuMo_ComfyUI", f"split_files/{NETWORK}")
    put(files / AUDIO, "Comfy-Org/HuMo_ComfyUI", "split_files/audio_encoders/whisper_large_v3_fp16.safetensors")
    put(files / AUDIO, "Kijai/WanVideo_comfy", "HuMo/whisper_large_v3_encoder_fp16.safetensors")
    put(files / TEXT, "Comfy-Org/Wan_2.1_ComfyUI_repackaged", f"split_files/{TEXT}")
    put(files / VAE, "Comfy-Org/Wan_2.2_ComfyUI_Repackaged", f"split_files/{VAE}")
    weights = network_weights("humo-17b")
    for quantization, kind in {"Q5_K_M": "Q5_K", "Q4_K_S": "Q4_K", "Q3_K_M": "Q3_K"}.items():
        file = files / f"Wan2_1-HuMo-17B_{quantization}.gguf"
        kinds = {name: kind if is_matrix_of_a_block(name, tensor) else "F16" for name, tensor in weights.items()}
        save_gguf(file, weights, kinds.__getitem__)
        put(file, "VeryAladeen/Wan2_1-HuMo_17B-GGUF", file.name)
    import torch

    for style, repository, name in (
        ("plain", "Comfy-Org/HuMo_ComfyUI", "split_files/diffusion_models/humo_17B_fp8_e4m3fn.safetensors"),
        ("kijai", "Kijai/WanVideo_comfy_fp8_scaled", "HuMo/Wan2_1-HuMo-14B_fp8_e4m3fn_scaled_KJ.safetensors"),
    ):
        save_scaled_fp8(files / "fp8.safetensors", weights, style, torch.float8_e4m3fn)
        put(files / "fp8.safetensors", repository, name)
    return root


@pytest.fixture
def hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(root) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models; the catalog without checksums, because the served files are small ones."""
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def unknown(repository: Repository) -> Repository:
        return replace(repository, known={})

    entries = {
        name: replace(entry, repositories=tuple(map(unknown, entry.repositories))) for name, entry in CATALOG.items()
    }
    monkeypatch.setattr(catalog, "CATALOG", entries)
    return tmp_path / "models"


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    """A ComfyUI folder with HuMo-1.7B."""
    save_comfyui_models(tmp_path / "ComfyUI" / "models")
    return tmp_path / "ComfyUI"


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], list[str]]:
    """Return the exit code, the JSON lines and the lines on stderr of ``humo models``."""
    code = main(["models", *arguments, "--json"])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err.splitlines()


def get(capsys: pytest.CaptureFixture[str], hub: Hub, name: str, *options: str) -> tuple[int, list[str], str]:
    """Return the exit code, the notes, and the error of ``humo models get``."""
    code, lines, errors = say(capsys, "get", name, *options, "--endpoint", hub.address)
    assert len(errors) <= 1, errors
    return code, [line["text"] for line in lines if line["event"] == "note"], "".join(errors)


# -- one command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_the_catalog_is_brought_in_one_command(
    name: str, hub: Hub, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.redirects = True
    code, notes, error = get(capsys, hub, name)
    assert code == 0, error
    model = open_model_folder(models / name)
    assert model.preset.name == CATALOG[name].family
    assert [one.is_mapped for one in model.components.values() if one.files] == [True] * 4
    quantized = {tensor.dtype for tensor in model.components["transformer"].quantized.values()}
    expected = CATALOG[name].quant_type
    assert quantized == (set() if expected is None else {expected[0]})
    sizes = [line for line in notes if "GB  " in line]
    assert len(sizes) == 4, "each file with its size"
    assert "are downloaded" in notes[len(sizes)] or "are downloaded" in notes[-1]
    assert say(capsys, "verify", name)[0] == 0


@SOURCES
def test_both_hubs_have_the_small_model(
    source: str, hub: Hub, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(capsys, hub, SMALL, "--source", source)[0] == 0
    assert open_model_folder(models / SMALL).preset.name == "humo-1.7b"
    [file] = (models / ".files" / "audio_encoders").iterdir()
    assert ("encoder" in file.name) == (source == "huggingface")


def test_companions_are_downloaded_once_and_removed_with_the_last_model(
    hub: Hub, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get(capsys, hub, GGUF)
    hub.downloaded.clear()
    assert get(capsys, hub, "humo-17b-q4")[0] == 0
    assert hub.downloaded == ["Wan2_1-HuMo-17B_Q4_K_S.gguf"]
    stored = {path.name for path in (models / ".files").rglob("*") if path.is_file()}
    assert len(stored) == 5
    assert say(capsys, "remove", GGUF)[0] == 0
    left = {path.name for path in (models / ".files").rglob("*") if path.is_file()}
    assert left == stored - {"Wan2_1-HuMo-17B_Q5_K_M.gguf"}
    assert say(capsys, "verify", "humo-17b-q4")[0] == 0
    say(capsys, "remove", "humo-17b-q4")
    assert not [path for path in (models / ".files").rglob("*") if path.is_file()]


def test_files_that_comfyui_has_are_used_and_the_rest_is_put_beside_them(
    hub: Hub, models: Path, root: Path, comfyui: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (comfyui / "models" / "clip").mkdir()  # the old name of text_encoders
    (comfyui / "models" / TEXT).rename(comfyui / "models" / "clip" / PurePosixPath(TEXT).name)
    code, notes, error = get(capsys, hub, GGUF, "--keep", str(comfyui))
    assert code == 0, error
    assert hub.downloaded == ["Wan2_1-HuMo-17B_Q5_K_M.gguf"]
    assert sum("exists in" in note for note in notes) == 3
    assert (comfyui / "models" / "diffusion_models" / "Wan2_1-HuMo-17B_Q5_K_M.gguf").is_file()
    assert not list(comfyui.rglob(".download")), "nothing is left of the download"
    text_encoder = open_model_folder(models / GGUF).components["text_encoder"]
    assert text_encoder.weights[0].resolve().parent.name == "clip"
    say(capsys, "remove", GGUF)
    assert len([path for path in comfyui.rglob("*") if path.is_file()]) == 5, "files of the user stay"


def test_a_file_of_the_user_is_never_replaced(
    hub: Hub, models: Path, comfyui: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = comfyui / "models" / VAE
    original = file.read_bytes()
    file.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    changed = file.read_bytes()
    code, _, error = get(capsys, hub, SMALL, "--keep", str(comfyui))
    assert (code, file.read_bytes()) == (2, changed)
    assert "wan_2.1_vae.safetensors: has another checksum than the hub lists; move it away" in error
    file.write_bytes(original + b"x")
    code, _, error = get(capsys, hub, SMALL, "--keep", str(comfyui))
    assert (code, file.read_bytes()) == (2, original + b"x")
    assert "wan_2.1_vae.safetensors: exists, but has" in error
    assert not (models / SMALL).exists()


def test_a_hub_whose_file_is_not_the_published_one_is_refused(
    hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalog, "CATALOG", CATALOG)
    code, _, error = get(capsys, hub, SMALL)
    assert code == 2
    assert "humo_1.7B_fp16.safetensors: is another file than the published one" in error
    assert not list(models.rglob("*.safetensors"))


def test_a_name_that_is_not_in_the_catalog_is_answered_with_the_nearest(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = say(capsys, "get", "humo-17b-q6")
    assert code == 2
    [error] = errors
    assert "NAME: 'humo-17b-q6' cannot be downloaded; did you mean 'humo-17b-q" in error


def test_memory_is_estimated_before_the_download(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", GGUF, "--device", "cpu", "--width", "64", "--height", "64", "--frames", "1"]) == 0
    assert "HuMo-17B, Q5_K_M" in capsys.readouterr().out


# -- bad connections --------------------------------------------------------------------------------------------------


@SOURCES
@pytest.mark.parametrize("portal", ["page", "redirect"])
@pytest.mark.parametrize("when", ["list", "file"])
def test_a_captive_portal_is_one_line(
    source: str, portal: str, when: str, hub: Hub, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    if when == "list":
        hub.portal = portal
    else:
        from humo.checkpoints.hubs import download

        plan = download.plan_download

        def then_portal(*arguments: Any, **options: Any) -> Any:
            planned = plan(*arguments, **options)
            hub.portal = portal
            return planned

        monkeypatch.setattr(download, "plan_download", then_portal)
    code, _, error = get(capsys, hub, SMALL, "--source", source)
    assert code == 2
    assert "cannot be downloaded: a web page came in place of the hub's answer; log in to this network" in error
    assert not list(models.rglob("*.safetensors"))


@SOURCES
@pytest.mark.parametrize(
    ("status", "problem"), [(401, "wants an access token (401)"), (403, "the hub refuses access (403)")]
)
def test_a_token_is_asked_for_and_used(
    source: str,
    status: int,
    problem: str,
    hub: Hub,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variable = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}[source]
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    hub.token, hub.refusal, hub.redirects = "secret", status, source == "huggingface"
    code, _, error = get(capsys, hub, SMALL, "--source", source)
    assert code == 2
    assert problem in error
    assert f"set {variable} to" in error
    monkeypatch.setenv(variable, "secret")
    assert get(capsys, hub, SMALL, "--source", source)[0] == 0


@SOURCES
def test_a_short_body_is_one_line_and_the_next_run_completes_it(
    source: str, hub: Hub, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.shortened.add(PurePosixPath(TEXT).name)
    code, _, error = get(capsys, hub, SMALL, "--source", source)
    assert code == 2
    assert "cannot be downloaded" in error
    assert "bytes" in error or "size" in error
    assert not (models / SMALL).exists()
    hub.shortened.clear()
    assert get(capsys, hub, SMALL, "--source", source)[0] == 0
    assert say(capsys, "verify", SMALL)[0] == 0


@SOURCES
def test_an_interrupted_download_is_resumed(
    source: str, hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_after = 20_000
    code, _, error = get(capsys, hub, SMALL, "--source", source)
    assert code == 2
    assert "which resumes the download" in error
    assert not list((models / ".files").glob("*/*.safetensors")), "no half file under a final name"
    hub.cut_after = None
    assert get(capsys, hub, SMALL, "--source", source)[0] == 0
    assert any(one.startswith("humo_1.7B_fp16.safetensors bytes=") for one in hub.ranges)


@SOURCES
@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        ("socks5://127.0.0.1:9", "a SOCKS proxy needs the package socksio; pip install socksio"),
        ("ftp://127.0.0.1:9", "Unknown scheme for proxy URL"),
        ("http://127.0.0.1:9", "onnection refused"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_line(
    source: str,
    proxy: str,
    problem: str,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import close_session

    for variable in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    close_session()
    try:
        code, _, errors = say(capsys, "get", SMALL, "--source", source, "--endpoint", "http://hub.invalid")
    finally:
        monkeypatch.delenv("http_proxy")
        close_session()
    assert code == 2
    [error] = errors
    assert problem in error


# -- a ComfyUI folder -------------------------------------------------------------------------------------------------


def test_the_models_of_a_comfyui_folder_are_imported_and_nothing_is_copied(
    comfyui: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = network_weights("humo-17b")
    kinds = {name: "Q5_K" if is_matrix_of_a_block(name, tensor) else "F16" for name, tensor in weights.items()}
    (comfyui / "models" / "unet").mkdir()
    save_gguf(comfyui / "models" / "unet" / "HuMo-17b-Q5_K_M.gguf", weights, kinds.__getitem__)
    before = sorted((path, path.stat().st_mtime_ns) for path in comfyui.rglob("*"))
    code, lines, errors = say(capsys, "import", "--comfyui", str(comfyui))
    assert code == 0, errors
    assert {line["name"] for line in lines if line.get("state") == "local"} == {GGUF, SMALL}
    assert open_model_folder(models / GGUF).preset.name == "humo-17b"
    assert sorted((path, path.stat().st_mtime_ns) for path in comfyui.rglob("*")) == before
    own = [path for path in models.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in own if path.suffix in (".safetensors", ".gguf")]
    assert say(capsys, "import", "--comfyui", str(comfyui / "models"))[0] == 0, "again: they are there already"
    assert say(capsys, "verify", GGUF)[0] == 0


def test_the_loras_of_presets_are_imported_and_the_others_are_counted(
    comfyui: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = comfyui / "models" / "loras" / "wan" / catalog.LORAS["lightx2v"].file
    write_lora(file, "humo-17b")
    write_lora(comfyui / "models" / "loras" / "style.safetensors", "humo-17b")
    _, lines, _ = say(capsys, "import", "--comfyui", str(comfyui))
    assert not (models / "loras").exists(), "it is for 17B, and there is none"
    assert any("ComfyUI has 1 other LoRA: give the file to --lora" in line.get("text", "") for line in lines)
    large = {name: tensor.half() for name, tensor in network_weights("humo-17b").items()}
    save_file(large, comfyui / "models" / "diffusion_models" / "humo_17B_fp16.safetensors")
    code, lines, errors = say(capsys, "import", "--comfyui", str(comfyui))
    assert code == 0, errors
    assert os.path.samefile(models / "loras" / "lightx2v.safetensors", file), "linked"
    assert say(capsys, "import", "--comfyui", str(comfyui))[0] == 0, "again: it is there already"
    assert say(capsys, "remove", "lightx2v")[0] == 0
    file.write_bytes(file.read_bytes()[:-9])
    code, lines, _ = say(capsys, "import", "--comfyui", str(comfyui))
    assert code == 0
    assert any("is truncated" in line.get("text", "") for line in lines)
    assert not (models / "loras" / "lightx2v.safetensors").exists()


def test_the_paths_of_extra_model_paths_are_searched(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_comfyui_models(tmp_path / "elsewhere")
    for new, old in (("diffusion_models", "unet"), ("text_encoders", "clip")):
        (tmp_path / "elsewhere" / new).rename(tmp_path / "elsewhere" / old)
    (tmp_path / "ComfyUI" / "models" / "vae").mkdir(parents=True)
    text = "mine:\n    base_path: ../elsewhere\n    is_default: true\n    unet: unet\n    clip: clip\n"
    text += "    audio_encoders: |\n        nowhere\n        audio_encoders\nother:\n    vae: ../elsewhere/vae\n"
    (tmp_path / "ComfyUI" / "extra_model_paths.yaml").write_text(text)
    code, _, errors = say(capsys, "import", "--comfyui", str(tmp_path / "ComfyUI"), "--name", "mine")
    assert code == 0, errors
    vae = open_model_folder(models / "mine").components["vae"]
    assert vae.weights[0].resolve() == tmp_path / "elsewhere" / VAE


def test_the_smaller_of_two_text_encoders_is_used_and_the_other_is_named(
    comfyui: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.tiny import tiny_text_encoder

    whole = {name: one.clone() for name, one in tiny_text_encoder().state_dict().items() if "embed_tokens" not in name}
    padding = {"padding": "x" * 10**6}  # at this size a tokenizer is more than half of the other file
    save_file(whole, comfyui / "models" / "text_encoders" / "umt5_xxl_fp32.safetensors", metadata=padding)
    code, lines, _ = say(capsys, "import", "--comfyui", str(comfyui))
    assert code == 0
    assert any("umt5_xxl_fp32.safetensors is not used" in line.get("text", "") for line in lines)
    assert open_model_folder(models / SMALL).components["text_encoder"].weights[0].name == PurePosixPath(TEXT).name


def _without_humo(comfyui: Path) -> None:
    (comfyui / "models" / NETWORK).unlink()


def _without_folders(comfyui: Path) -> None:
    shutil.rmtree(comfyui / "models")


def _without_text_encoder(comfyui: Path) -> None:
    (comfyui / "models" / TEXT).unlink()


def _with_a_truncated_network(comfyui: Path) -> None:
    file = comfyui / "models" / NETWORK
    file.write_bytes(file.read_bytes()[:-10])


def _with_damaged_paths(comfyui: Path) -> None:
    (comfyui / "extra_model_paths.yaml").write_text("- a\n- b\n")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_without_humo, "has no network of HuMo in diffusion_models or unet; run `humo models get humo-17b-q5 --keep"),
        (_without_folders, "has no network of HuMo"),
        (_without_text_encoder, "has humo_1.7B_fp16.safetensors, but no text_encoder in text_encoders"),
        (_with_a_truncated_network, "is truncated"),
        (_with_damaged_paths, "extra_model_paths.yaml: cannot be read as paths of models"),
    ],
)
def test_a_comfyui_folder_that_lacks_something_is_one_line_and_nothing_is_created(
    spoil: Any, problem: str, comfyui: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(comfyui)
    code, _, errors = say(capsys, "import", "--comfyui", str(comfyui))
    assert code == 2
    [error] = errors
    assert problem in error
    assert not models.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--comfyui", "/nowhere"), "--comfyui: '/nowhere' is not a folder"),
        (("a.gguf", "--comfyui", "x"), "a.gguf: is not an argument of import --comfyui"),
    ],
)
def test_wrong_arguments_of_an_import_are_one_line(
    arguments: tuple[str, ...], problem: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = say(capsys, "import", *arguments)
    assert code == 2
    assert [problem in error for error in errors] == [True]


def test_files_are_linked_by_name(comfyui: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(comfyui / "models" / name) for name in (NETWORK, TEXT, AUDIO, VAE)]
    code, _, errors = say(capsys, "import", *files, "--link", "--name", "mine")
    assert code == 0, errors
    model = open_model_folder(models / "mine")
    assert model.components["transformer"].is_mapped
    plan = resolve(parse_request({"prompt": "x"}), model.preset)
    assert plan.preset.name == "humo-1.7b"
    assert os.path.islink(models / "mine" / "vae" / PurePosixPath(VAE).name)


def test_companions_alone_make_no_model(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("diffusion_models", "text_encoders", "audio_encoders", "vae"):
        (tmp_path / "x" / folder).mkdir(parents=True)
    save_companions(tmp_path / "x")
    code, _, errors = say(capsys, "import", "--comfyui", str(tmp_path / "x"), "--family", "humo-1.7b")
    assert code == 2
    assert "has no network of humo-1.7b in diffusion_models or unet; run `humo models get humo-1.7b-fp16" in errors[0]


def test_no_port_is_left_open() -> None:
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9)) != 0, "the proxy tests need a port that nobody listens on"
