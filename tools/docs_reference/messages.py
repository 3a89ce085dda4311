"""Collect every error message from the code that raises it.

``‹word›`` in a message stands for text that is filled in when the message is raised.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from humo.checkpoints.signatures import SIGNATURES
from humo.errors import HuMoError
from humo.server.middleware import error_response
from tools.docs_reference.expression_text import OTHER_MODEL_REMEDY, SUGGESTION, ExpressionReader, is_only_placeholders
from tools.docs_reference.sources import Function, modules, nodes_with_function, syntax_tree

HTTP_ERRORS = (error_response.__name__, "HTTPException")
"""Calls (status, "problem; remedy", code) that answer an HTTP request with an error."""


@dataclass(frozen=True, order=True, slots=True)
class Message:
    """One error message, with every variant that its code can produce.

    Args:
        module: the module that raises it, without the package's name.
        line: line number in that module.
        field: variants of the field at fault.
        problem: variants of what is wrong with the field.
        remedy: variants of what to do.
        kind: name of the error's class; for HTTP errors their code; for findings of the doctor their severity.
    """

    module: str
    line: int
    field: tuple[str, ...]
    problem: tuple[str, ...]
    remedy: tuple[str, ...]
    kind: str

    def matches(self, text: str) -> bool:
        """Return whether this message can produce a line ``field: problem; remedy``."""
        for field, problem, remedy in itertools.product(self.field, self.problem, self.remedy or ("",)):
            endings = remedy.split(" or: ") if remedy == SUGGESTION else [remedy]
            for ending in endings:
                pattern = re.escape(" ".join(f"{field}: {problem}{f'; {ending}' if ending else ''}".split()))
                if re.fullmatch(re.sub("‹[^›]*›", ".*", pattern), text, re.DOTALL):
                    return True
        return False


@cache
def messages() -> tuple[Message, ...]:
    """Return all messages, ordered by module and line."""
    classes = error_classes()
    return tuple(sorted(message for module in modules() for message in _messages_of(module, classes)))


def error_classes() -> frozenset[str]:
    """Return the names of `HuMoError` and of all its subclasses."""
    bases_of = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in modules()
        for node in ast.walk(syntax_tree(module))
        if isinstance(node, ast.ClassDef)
    }
    names = {HuMoError.__name__}
    while subclasses := {name for name, bases in bases_of.items() if bases & names} - names:
        names |= subclasses
    return frozenset(names)


def _messages_of(module: str, classes: frozenset[str]) -> Iterator[Message]:
    for node, function in nodes_with_function(syntax_tree(module)):
        if isinstance(node, ast.Yield) and function is not None:
            yield from _doctor_findings(module, node, function)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        name, reader = node.func.id, ExpressionReader(module, function, node)
        if name in classes:
            yield from _error_messages(module, node, reader)
        elif name == "ValueError" and _is_validator(module, function):
            field = "frames and seconds" if module == "request" else "‹field›"
            halves = _split_halves(reader.variants(node.args[0]))
            yield Message(module, node.lineno, (field,), *halves, "RequestError")
        elif name in HTTP_ERRORS and isinstance(node.args[0], ast.Constant):
            halves = _split_halves(reader.variants(node.args[1]))
            code = reader.variants(node.args[2])[0] if len(node.args) > 2 else "unsupported_media_type"
            field = "HTTP " + "".join(reader.variants(node.args[0]))
            yield Message(module, node.lineno, (field,), *halves, code)


def _error_messages(module: str, call: ast.Call, reader: ExpressionReader) -> Iterator[Message]:
    """Read a call of an error class; a call that only passes on another error's text gives nothing."""
    kind = ast.unparse(call.func)
    arguments = dict(zip(("field", "problem", "remedy"), call.args, strict=False))
    arguments |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    texts = {name: reader.variants(value) for name, value in arguments.items()}
    if "problem" not in texts:  # an error of another process, put together again from its parts
        return
    remedy = tuple(filter(None, texts.get("remedy", ())))
    if remedy == (OTHER_MODEL_REMEDY,):
        for signature in SIGNATURES:
            if not signature.fits:
                problem = (f"is {signature.title}",)
                yield Message(module, call.lineno, texts["field"], problem, (signature.remedy,), kind)
    elif not (is_only_placeholders(texts["problem"]) and is_only_placeholders(remedy)):
        yield Message(module, call.lineno, texts["field"], texts["problem"], remedy, kind)


def _doctor_findings(module: str, node: ast.Yield, function: Function) -> Iterator[Message]:
    """Read the errors and warnings that a check of `humo doctor` yields as (state, text, remedy)."""
    if not module.startswith("cli."):
        return
    values = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
    for value in values:
        match value:
            case ast.Tuple(elts=[ast.Attribute(attr="ERROR" | "WARNING" as state), text, remedy]):
                reader = ExpressionReader(module, function, node)
                field = (function.name.strip("_"),)
                yield Message(module, node.lineno, field, reader.variants(text), reader.variants(remedy), state)


def _split_halves(texts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split texts ``problem; remedy`` into their problems and their remedies."""
    halves = [text.partition("; ") for text in texts]
    return tuple(half[0] for half in halves), tuple(half[2] for half in halves if half[2])


def _is_validator(module: str, function: Function | None) -> bool:
    """Return whether a ValueError here checks a whole request or recipe, so that the user reads its text."""
    if module in ("training.config", "training.component_config"):
        return True
    decorators = [] if function is None else [ast.unparse(one) for one in function.decorator_list]
    return module == "request" and any(text.startswith("model_validator") for text in decorators)
