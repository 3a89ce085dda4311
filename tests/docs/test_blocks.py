"""Run the code blocks of the documentation on the built-in model or a tiny one, or check them as far as possible.

The blocks of a page run in their order in a folder that holds the files they name. A command that an earlier page had
is not run again. `lines` says how command lines are made small, and which are not run and why.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file

import humo.inference.pipeline
from humo.checkpoints.convert import convert
from humo.checkpoints.keymap import Naming
from humo.cli.main import COMMANDS
from humo.config_files import read_config_file
from humo.errors import HuMoError
from humo.presets import Preset, find_preset
from humo.server.api_keys import ApiKeys
from humo.server.app import make_app
from humo.server.file_store import FileStore
from humo.server.job_queue import JobQueue
from humo.server.service import Service
from humo.server.settings import Settings
from tests.cli.published_files import published_configuration, write_yaml
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, words_of
from tests.docs.lines import CHECKED, HANDLERS, SIDE, check_usage, do, lookup, parser
from tests.lora_files import write_lora
from tests.tiny import save_tiny_model

BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def where(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


# -- a folder with the files that the pages name ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, and their weights in the released layout."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("humo-1.7b", "humo-17b"):
        tiny = save_tiny_model(tmp_path_factory.mktemp("tiny") / name, name)
        convert([tiny], folder / name)
        convert([tiny], folder / f"{name} released", naming=Naming.PUBLISHED)
        shutil.copytree(folder / f"{name} released", folder / "weights", dirs_exist_ok=True)
        shutil.rmtree(folder / f"{name} released")
    return folder


@pytest.fixture
def work_folder(model_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: models, weights, images, audio and request files under the names that the pages use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUMO_MODELS", str(tmp_path / "models here"))
    monkeypatch.setenv("HUMO_PRESETS", str(tmp_path / "presets.toml"))
    write_lora(tmp_path / "models here" / "loras" / "lightx2v.safetensors", "humo-17b")
    shutil.copytree(model_files, tmp_path, dirs_exist_ok=True)
    shutil.copytree(model_files / "weights", tmp_path, dirs_exist_ok=True)
    for name in ("examples", "recipes", "docker"):
        shutil.copytree(ROOT / name, name)
    shutil.copytree("examples", ".", dirs_exist_ok=True)
    for name, source in {"face.png": "woman.png", "coat.png": "man.png", "speech.wav": "woman.wav"}.items():
        shutil.copy(f"examples/{source}", name)
    shutil.copy(ROOT / "docs" / "nano-woman.mp4", "out.mp4")  # by the built-in model, with its provenance
    Image.open("woman.png").convert("RGB").save("singer.jpg")
    shutil.copy("woman.wav", "song.m4a")
    items = json.loads(Path("test_case.json").read_text())
    for path in (Path("test_case.json"), Path("examples/test_case.json")):
        path.write_text(json.dumps({name: items[name] for name in ("woman", "words")}))  # of six, two
    Path("one.json").write_text(json.dumps({"woman": items["woman"]}))
    write_yaml(
        Path("generate_1_7B.yaml"), published_configuration(positive_prompt="one.json", output={"dir": "videos"})
    )
    return tmp_path


# -- a service --------------------------------------------------------------------------------------------------------


class Curl:
    """Send requests to a service without workers, as curl does."""

    def __init__(self, client: TestClient) -> None:
        self._client, self._id = client, ""

    def __call__(self, arguments: list[str], line: str) -> None:
        """Send one request."""
        address = next(word for word in arguments if word.startswith("http"))
        form = [arguments[place + 1].partition("=") for place, word in enumerate(arguments) if word == "-F"]
        path = address.removeprefix("http://127.0.0.1:8848").replace("ID", self._id)
        if not form:
            answer = self._client.get(path)
            waits = path.endswith("/content")  # it would be there, were there a worker
            assert answer.status_code == (404 if waits else 200), answer.text
            assert not waits or "wait until it is completed" in answer.text
            return
        fields = {name: value for name, _, value in form if not value.startswith("@")}
        files = {name: Path(value[1:]).read_bytes() for name, _, value in form if value.startswith("@")}
        answer = self._client.post(path, data=fields, files=files)
        assert answer.status_code == 200, answer.text
        self._id = answer.json()["id"]


@pytest.fixture
def curl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curl]:
    ours = Settings(folder=tmp_path_factory.mktemp("service"))
    store = FileStore(ours.folder)
    store.prepare()
    queue = JobQueue(store.database)
    with TestClient(
        make_app(Service(ours, store, queue), ApiKeys(ours.keys_file)), base_url="http://127.0.0.1"
    ) as client:
        yield Curl(client)
    queue.close()


# -- Python -----------------------------------------------------------------------------------------------------------

NEEDS_A_GPU = frozenset({"enable_model_cpu_offload"})
"""Methods of the pipeline that are looked for, and not called."""


class Smaller(ast.NodeTransformer):
    """Make sizes small and replace a GPU by the CPU."""

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        """Replace ``width=480`` and ``height=832``."""
        self.generic_visit(node)
        if node.arg in ("width", "height") and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(SIDE)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Replace ``"cuda"``."""
        return ast.copy_location(ast.Constant("cpu"), node) if node.value == "cuda" else node


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Callable[[Block], None]:
    """Run blocks in one namespace, with small presets."""

    def small(name: str) -> Preset:
        return replace(find_preset(name), width=SIDE, height=SIDE, trained_frames=5, steps=1)

    monkeypatch.setattr(humo.inference.pipeline, "find_preset", small)
    names: dict[str, Any] = {}

    def run(block: Block) -> None:
        tree = Smaller().visit(ast.parse(block.text))
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & NEEDS_A_GPU
        assert all(hasattr(humo.HuMoPipeline, name) for name in called)
        tree.body = [node for node in tree.body if not any(name in ast.unparse(node) for name in called)]
        exec(compile(ast.fix_missing_locations(tree), where(block), "exec"), names)  # noqa: S102 - our own pages

    return run


def _write_a_lora(path: Path) -> None:
    """Write a LoRA of one layer of the tiny transformer."""
    torch = importlib.import_module("torch")
    layer = "diffusion_model.blocks.0.self_attn.q"
    factors = {f"{layer}.lora_A.weight": torch.ones(2, 48) / 48, f"{layer}.lora_B.weight": torch.ones(48, 2) / 48}
    save_file(factors, path)


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=where)
def test_a_block_is_one_thing(block: Block) -> None:
    assert len(block.kinds) == 1, f"{block.kinds or 'nothing that is known'}; fence it and name its language"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_blocks_of_a_page_work(
    page: Path, work_folder: Path, curl: Curl, python: Callable[[Block], None]
) -> None:
    _write_a_lora(work_folder / "style.safetensors")
    for block in blocks_of(page):
        try:
            match block.kinds:
                case ["commands"]:
                    for line in block.commands:
                        arguments = words_of(line)
                        (curl if arguments[0] == "curl" else HANDLERS[arguments[0]])(arguments, line)
                case ["python"]:
                    python(block)
                case ["settings"]:
                    name = re.match(r"# ([\w.]+)", block.text)
                    path = work_folder / (name[1] if name else f"settings.{block.language}")
                    path.write_text(block.text, encoding="utf-8")
                    assert read_config_file(path)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{where(block)}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("command", ["serve --prot 1", "ui --port x", "train recipes/none.toml", "generate --widht 3"])
def test_a_wrong_option_in_a_page_is_found(command: str, work_folder: Path) -> None:
    checked = lookup(CHECKED, command.split())
    with pytest.raises((HuMoError, AssertionError)):
        do(command.split()) if checked is None else checked.check(command.split())


def test_a_block_of_no_known_kind_is_found() -> None:
    assert Block(ROOT / "README.md", 1, "", "fields -> video\n").kinds == []
    assert Block(ROOT / "README.md", 1, "", "humo ui\n").kinds == ["commands"]
    assert Block(ROOT / "README.md", 1, "", "import humo\n").kinds == ["python"]


def _inline() -> list[tuple[Path, str]]:
    return [(page, code) for page in PAGES for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text())]


def test_commands_and_options_named_in_the_text_exist() -> None:
    known = {flag for name in COMMANDS for flag in parser(name)._option_string_actions}
    known |= {"--help", "--version"}
    benchmarks = {"--rounds", "--threads", "--layers", "--size", "--json", "--dtype", "--family", "--steps"}
    benchmarks |= {"--only", "--cancels"}
    for page, code in _inline():
        if code.startswith("humo ") and (arguments := code.split())[1] in COMMANDS:
            check_usage(code)
        elif code.startswith("humo "):
            assert arguments[1].startswith("-") or arguments[1].isupper(), f"{page}: {code}"
        elif code.startswith("--") and not (page.parent.name == "benchmarks" and code.split()[0] in benchmarks):
            flags = set(re.findall(r"--[a-z][a-z0-9-]*", code))
            assert flags <= known, f"{page}: {code}"


def test_python_names_in_the_text_exist() -> None:
    for page, code in _inline():
        if re.fullmatch(r"humo(\.\w+)+(\(.*\))?", code) and not code.startswith("humo.safetensors"):
            path = code.partition("(")[0].split(".")
            value: Any = None
            for place in range(len(path), 0, -1):
                try:
                    value = importlib.import_module(".".join(path[:place]))
                except ModuleNotFoundError:
                    continue
                break
            for name in path[place:]:
                value = getattr(value, name)
            assert value is not None, f"{page}: {code}"


def test_settings_in_blocks_can_be_read() -> None:
    readers: dict[str, Callable[[str], Any]] = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}
    for block in BLOCKS:
        if block.language in readers:
            assert readers[block.language](block.text), where(block)
