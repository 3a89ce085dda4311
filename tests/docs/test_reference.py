"""The generated reference pages are complete, and their messages are those that the code raises."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import humo
from humo.cli.main import COMMANDS, build_parser
from humo.errors import HuMoError
from humo.request import GenerateRequest
from humo.server.app import ROUTERS
from tools.docs_reference import commands, errors, python, service
from tools.docs_reference.messages import Message, error_classes
from tools.docs_reference.sources import modules, syntax_tree

ROOT = Path(__file__).parents[2]


def test_every_message_has_a_remedy(known_messages: tuple[Message, ...]) -> None:
    assert len(known_messages) > 300
    assert not [f"{message.module}:{message.line}" for message in known_messages if not message.remedy]


def test_no_message_is_missing(known_messages: tuple[Message, ...]) -> None:
    """Every call of an error class is either a message on the page or passes on the text of another error."""
    classes = error_classes()
    raised = {
        (module, node.lineno)
        for module in modules()
        for node in ast.walk(syntax_tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in classes
    }
    passed_on = {
        ("request", "RequestError('frames and seconds'"),
        ("request", "RequestError(str(error['loc'][0]), problem, remedy)"),
        ("training.recipe_file", "RequestError(field, problem, remedy)"),
        ("data.check", "RequestError('FOLDER', error.problem, error.remedy)"),
        ("data.engine", "DependencyError(**parts)"),
        ("data.engine", "StorageError(parts['field'], parts['problem'], remedy)"),
        ("server.upload_sanitizer", "MediaError(field, str(message['problem'])"),
        ("checkpoints.conversion_plan", "CheckpointError(field, f'{error.field} {error.problem}'"),
    }
    for module, line in raised - {(message.module, message.line) for message in known_messages}:
        (call,) = {
            ast.unparse(node)
            for node in ast.walk(syntax_tree(module))
            if isinstance(node, ast.Call) and node.lineno == line and ast.unparse(node.func) in classes
        }
        assert any(module == other and call.startswith(start) for other, start in passed_on), (module, call)


def test_the_page_of_errors_fills_in_choices_constants_and_hints() -> None:
    page = errors.page()
    for title in errors.GROUPS:
        assert f"\n## {title}\n" in page
    assert "**‹field›**: ‹value› is not allowed | allowed: ‹range of the field›" in page
    assert "is Wan2.1 VACE | take HuMo-17B or HuMo-1.7B" in page
    assert "**output**: ‹output› is one of the inputs | give another file name" in page
    assert "numba" in page


def test_a_module_without_a_section_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {title: group for title, group in errors.GROUPS.items() if title != "LoRA"}
    monkeypatch.setattr(errors, "GROUPS", fewer)
    with pytest.raises(LookupError, match=r"add inference\.adapters to GROUPS"):
        errors.page()


@pytest.mark.parametrize(
    "error",
    [
        HuMoError("width", "'90' is not allowed", "allowed: a whole number, 16 to 8192, a multiple of 16"),
        HuMoError("--sed", "is not an option of humo generate", "did you mean '--seed'?"),
        HuMoError("x.txt", "'.txt' is not a supported file type", "known are .csv, .json"),
        HuMoError("stages.0.condition_probs", "the probabilities add up to 0.5", "change them so that the sum is 1"),
    ],
    ids=str,
)
def test_an_error_line_matches_its_message(error: HuMoError, known_messages: tuple[Message, ...]) -> None:
    assert any(message.matches(str(error)) for message in known_messages)


def test_an_unknown_line_matches_no_message(known_messages: tuple[Message, ...]) -> None:
    assert not any(message.matches("width: is a nice number; keep it") for message in known_messages)


def test_every_option_of_every_command_is_listed() -> None:
    page = commands.page()
    for name in COMMANDS:
        assert f"\n## humo {name}\n" in page
        section = page.partition(f"\n## humo {name}\n")[2].partition("\n## ")[0]
        for action in build_parser(name)._actions:
            if action.dest in GenerateRequest.model_fields and name == "batch":
                continue  # listed under generate
            for flag in action.option_strings:
                assert f"`{flag}" in section or flag in ("-h", "--help", "--json", "--quiet", "--debug"), (name, flag)


def test_every_route_field_and_error_code_is_listed() -> None:
    page = service.page()
    for path, methods in service.document()["paths"].items():
        for method in methods:
            assert f"\n## {method.upper()} {path}\n" in page
    assert {route.path for router in ROUTERS for route in router.routes if hasattr(route, "path")} == set(
        service.document()["paths"]
    )
    for name in ("prompt", "num_inference_steps", "input_reference", "extra_params", "seconds_left"):
        assert f"| `{name}`" in page
    assert "| 429 | `too_many_jobs` |" in page
    assert "ValidationError" not in page


def test_every_public_name_is_listed_with_its_signature() -> None:
    page = python.page()
    for name in humo.__all__:
        assert f"humo.{name}" in page or name == "__version__"
    assert "def " not in page
    assert "    num_inference_steps: int | None = None,\n" in page
    assert "prepare_job(\n    request: GenerateRequest," in page
    assert f"| `scale_audio` | a number, 0 to 50 | {GenerateRequest.model_fields['scale_audio'].description} |" in page
