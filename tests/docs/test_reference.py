"""The pages that are made from the code leave nothing out, and what they say of a message is what is said."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import humo
from humo.cli.main import COMMANDS, parser_of
from humo.errors import HuMoError
from humo.request import GenerateRequest
from humo.server.app import router
from tools.docs_reference import commands, errors, python, service
from tools.docs_reference.messages import Message, error_classes
from tools.docs_reference.sources import modules, tree

ROOT = Path(__file__).parents[2]


def test_every_message_says_what_to_do(known_messages: tuple[Message, ...]) -> None:
    assert len(known_messages) > 300
    assert not [f"{one.module}:{one.line}" for one in known_messages if not one.remedy]


def test_no_message_is_missing(known_messages: tuple[Message, ...]) -> None:
    """Counted in another way: wherever an error of ours is made, there is a message, or it hands on another's words."""
    kinds = error_classes()
    made = {
        (module, node.lineno)
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in kinds
    }
    handed_on = {
        ("request", "RequestError('frames and seconds'"),
        ("training.recipe_file", "RequestError(field, problem, remedy)"),
        ("server.upload_sanitizer", "MediaError(field, str(told['problem'])"),
        ("checkpoints.conversion_plan", "CheckpointError(field, f'{error.field} {error.problem}'"),
    }
    for module, line in made - {(one.module, one.line) for one in known_messages}:
        (call,) = {
            ast.unparse(node)
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Call) and node.lineno == line and ast.unparse(node.func) in kinds
        }
        assert any(module == other and call.startswith(begin) for other, begin in handed_on), (module, call)


def test_the_page_of_errors_has_what_users_meet() -> None:
    page = errors.page()
    for title in errors.GROUPS:
        assert f"\n## {title}\n" in page
    assert "**‹field›**: ‹value› is not allowed | allowed: ‹range of the field›" in page
    assert "is Wan2.1 VACE | take HuMo-17B or HuMo-1.7B" in page
    assert "**output**: ‹output› is one of the inputs | name another file" in page
    assert "numba" in page


def test_a_message_that_belongs_nowhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    less = {title: (about, members) for title, (about, members) in errors.GROUPS.items() if title != "LoRA"}
    monkeypatch.setattr(errors, "GROUPS", less)
    with pytest.raises(LookupError, match=r"add inference\.lora to GROUPS"):
        errors.page()


@pytest.mark.parametrize(
    "said",
    [
        HuMoError("width", "'90' is not allowed", "allowed: a whole number, 16 to 8192, a multiple of 16"),
        HuMoError("--sed", "is not an option of humo generate", "did you mean '--seed'?"),
        HuMoError("x.txt", "'.txt' is not a kind of file read here", "known are .csv, .json"),
        HuMoError("stages.0.keep", "the shares add up to 0.5, and must to 1", "change one of them"),
    ],
    ids=str,
)
def test_what_is_said_is_recognised(said: HuMoError, known_messages: tuple[Message, ...]) -> None:
    assert any(message.matches(str(said)) for message in known_messages)


def test_what_is_never_said_is_not_recognised(known_messages: tuple[Message, ...]) -> None:
    assert not any(message.matches("width: is a nice number; keep it") for message in known_messages)


def test_every_option_of_every_command_is_told() -> None:
    page = commands.page()
    for name in COMMANDS:
        assert f"\n## humo {name}\n" in page
        section = page.partition(f"\n## humo {name}\n")[2].partition("\n## ")[0]
        for action in parser_of(name)._actions:
            if action.dest in GenerateRequest.model_fields and name == "batch":
                continue  # told once, at generate
            for flag in action.option_strings:
                assert f"`{flag}" in section or flag in ("-h", "--help", "--json", "--quiet", "--debug"), (name, flag)


def test_every_route_and_field_is_told() -> None:
    page = service.page()
    for path, methods in service.document()["paths"].items():
        for method in methods:
            assert f"\n## {method.upper()} {path}\n" in page
    assert {route.path for route in router.routes if hasattr(route, "path")} == set(service.document()["paths"])
    for name in ("prompt", "num_inference_steps", "input_reference", "extra_params", "seconds_left"):
        assert f"| `{name}`" in page
    assert "| 429 | `too_many_jobs` |" in page
    assert "ValidationError" not in page


def test_every_public_name_is_told_with_its_signature() -> None:
    page = python.page()
    for name in humo.__all__:
        assert f"humo.{name}" in page or name == "__version__"
    assert "def " not in page
    assert "    num_inference_steps: int | None = None,\n" in page
    assert "prepare(request: GenerateRequest" in page
    assert "| `scale_audio` | a number, 0 to 50 | how strongly the sound is followed |" in page
