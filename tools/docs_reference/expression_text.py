"""Turn the expressions that build a message into the texts that they can produce.

``‹word›`` in a text stands for a value that is known only when the program runs.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping

from humo.errors import did_you_mean
from humo.files import os_error_text
from humo.request import describe_limits
from tools.docs_reference.sources import (
    Function,
    calls_of,
    find_constant,
    find_function,
    parameters,
    values_reaching,
)

SUGGESTION = "did you mean ‹the nearest›? or: known are ‹all known values›"
"""The two texts of `humo.errors.did_you_mean`."""

OTHER_MODEL_REMEDY = "‹what to take instead›"
"""Stands for the remedy that `SIGNATURES` gives for each model that is not HuMo."""

MAX_VARIANTS = 12
"""Variants that are kept of one message."""

PLACEHOLDERS: Mapping[str, str] = {
    "error": "reason",
    "failure": "reason",
    "failed": "reason",
    "strerror": "reason",
    "problem": "what is wrong",
    "shown": "value",
    "given": "value",
    "values": "value",
    "input": "value",
    "word": "value",
    "keep": "sum",
    "rest": "argument",
    "words": "argument",
    "overrides": "argument",
    "msg": "what it should be",
    "shapes": "shape",
    "names": "names",
    "known": "all known values",
    "last": "reason",
    "returncode": "exit code",
    "signature.remedy": "what to take instead",
    "prog": "command",
    "table": "its columns",
    "found.name": "name",
    "list": "list",
}
"""Names in the code that say little to a user -> the word that a message shows in ``‹›``."""

MESSAGE_PARAMETERS = frozenset({"problem", "remedy", "said", "what"})
"""Parameters that take a piece of a message; their texts are read where the function is called."""

REASON_FUNCTIONS = frozenset({os_error_text.__name__, "getattr", "_words"})
"""Functions that return the text of an exception."""

PASS_THROUGH = frozenset({"str", "repr", "_first_line", "Path"})
"""Functions that return the text of their first argument."""


class ExpressionReader:
    """Reads expressions of one function as texts with placeholders.

    Args:
        module: the module of the expressions, without the package's name.
        function: the function that contains them; None at a module's top level.
        use: an expression inside the function; local names are read as they are where it stands.
    """

    def __init__(self, module: str, function: Function | None, use: ast.expr) -> None:
        self._module, self._function, self._use = module, function, use

    def variants(self, value: ast.expr) -> tuple[str, ...]:
        """Return the texts that an expression can produce, at most `MAX_VARIANTS`."""
        return tuple(dict.fromkeys(itertools.islice(self._read(value), MAX_VARIANTS)))

    def _read(self, value: ast.expr) -> Iterator[str]:
        match value:
            case ast.Constant():
                yield "" if isinstance(value.value, bytes) else str(value.value)
            case ast.JoinedStr():
                parts = [self.variants(part) for part in value.values]
                yield from ("".join(texts) for texts in itertools.product(*parts))
            case ast.FormattedValue():
                yield from self._read(value.value)
            case ast.BinOp() if (number := _number(self._module, value)) is not None:
                yield f"{number:g}"
            case ast.BinOp(op=ast.Add()) if _is_text(value.left) or _is_text(value.right):
                parts = [self.variants(value.left), self.variants(value.right)]
                yield from ("".join(texts) for texts in itertools.product(*parts))
            case ast.BinOp(op=ast.Add(), right=ast.Constant()):
                yield f"‹{ast.unparse(value)}›"
            case ast.BinOp():
                yield from self._read(value.left)
            case ast.IfExp():
                yield from self._read(value.body)
                yield from self._read(value.orelse)
            case ast.BoolOp(op=ast.Or()):
                for operand in value.values:
                    yield from self._read(operand)
            case ast.Name():
                yield from self._read_name(value.id)
            case ast.Call():
                yield from self._read_call(value)
            case _:
                yield _placeholder(_name_of(value))

    def _read_call(self, call: ast.Call) -> Iterator[str]:
        match call.func:
            case ast.Name(id=name) if name == did_you_mean.__name__:
                yield SUGGESTION
            case ast.Name(id=name) if name in PASS_THROUGH:
                yield from self._read(call.args[0])
            case ast.Name(id=name) if name in REASON_FUNCTIONS:
                yield _placeholder("reason")
            case ast.Name(id="len"):
                yield _placeholder("number")
            case ast.Name(id=name) if name == describe_limits.__name__:
                yield _placeholder("range of the field")
            case ast.Attribute(attr="join"):
                known = self._known_words(call.args[0])
                separator = call.func.value.value if isinstance(call.func.value, ast.Constant) else ", "
                yield _placeholder(_name_of(call.args[0])) if known is None else str(separator).join(known)
            case ast.Attribute(attr="get") if isinstance(call.args[0], ast.Constant):
                yield _placeholder(str(call.args[0].value))
            case ast.Attribute(attr="replace" | "strip" | "removeprefix"):
                yield from self._read(call.func.value)
            case ast.Attribute(value=ast.Name(id="self"), attr=name) | ast.Name(id=name):
                yield from self._returned_texts(name) or [_placeholder(_name_of(call))]
            case _:
                yield _placeholder(_name_of(call))

    def _returned_texts(self, name: str) -> list[str]:
        """Return the texts that a function of this module returns."""
        function = find_function(self._module, name)
        if function is None:
            return []
        nodes = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
        values = [node.value for node in nodes if node.value is not None]
        texts = [text for value in values for text in ExpressionReader(self._module, function, value).variants(value)]
        return [] if is_only_placeholders(tuple(texts)) else texts

    def _known_words(self, value: ast.expr) -> list[str] | None:
        """Return the items of a tuple or list, or the keys of a dict, that the sources spell out."""
        if isinstance(value, ast.Name) and (constant := find_constant(self._module, value.id)) is not None:
            value = constant[1]
        if isinstance(value, ast.Dict):
            keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
            return [str(key) for key in keys] if len(keys) == len(value.keys) else None
        if isinstance(value, ast.Tuple | ast.List):
            items = [item.value for item in value.elts if isinstance(item, ast.Constant)]
            return [str(item) for item in items] if len(items) == len(value.elts) else None
        return None

    def _read_name(self, name: str) -> Iterator[str]:
        texts = self._local_texts(name) or self._argument_texts(name)
        if texts:
            yield from texts
        elif (constant := find_constant(self._module, name)) is None:
            yield _placeholder(name)
        elif (number := _number(*constant)) is not None:
            yield f"{number:g}"
        elif isinstance(constant[1], ast.Constant | ast.JoinedStr | ast.BinOp):
            yield from ExpressionReader(constant[0], None, constant[1]).variants(constant[1])
        else:
            yield _placeholder(name.lower())

    def _local_texts(self, name: str) -> list[str]:
        """Return the texts that the function assigns to a name."""
        if self._function is None:
            return []
        values = values_reaching(self._function, name, self._use)
        return [text for value in values if _is_text(value) for text in self._variants_at(value)]

    def _variants_at(self, value: ast.expr) -> tuple[str, ...]:
        return ExpressionReader(self._module, self._function, value).variants(value)

    def _argument_texts(self, name: str) -> list[str]:
        """Return the texts that callers pass for a parameter in `MESSAGE_PARAMETERS`."""
        if name not in MESSAGE_PARAMETERS or self._function is None or name not in parameters(self._function):
            return []
        order = list(parameters(self._function))
        index, default = order.index(name) - (order[0] == "self"), parameters(self._function)[name]
        texts = [] if default is None else [text for text in self._variants_at(default) if text]
        for module, function, call in calls_of(self._function.name):
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            value = keywords.get(name) or (call.args[index] if index < len(call.args) else None)
            if value is not None:
                texts += ExpressionReader(module, function, call).variants(value)
        return texts


def is_only_placeholders(texts: tuple[str, ...]) -> bool:
    """Return whether texts consist of placeholders alone, so that another message supplies the words."""
    return all(re.fullmatch("(‹[^›]*› ?)*", text) for text in texts)


def _is_text(value: ast.expr) -> bool:
    """Return whether an expression is text that the code spells out, rather than a value known at run time."""
    match value:
        case ast.Constant():
            return isinstance(value.value, str)
        case ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add()):
            return _is_text(value.left) or _is_text(value.right)
        case ast.IfExp():
            return _is_text(value.body) or _is_text(value.orelse)
        case ast.Call(func=ast.Name(id=name)):
            return name == did_you_mean.__name__
        case ast.Name():
            return value.id.isupper()
    return False


def _number(module: str, value: ast.expr) -> float | None:
    """Compute an expression of numbers and constants; None if it holds anything else."""
    match value:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name():
            constant = find_constant(module, value.id)
            return None if constant is None else _number(*constant)
        case ast.BinOp():
            left, right = _number(module, value.left), _number(module, value.right)
            return None if left is None or right is None else _calculate(value.op, left, right)
    return None


def _calculate(operator: ast.operator, left: float, right: float) -> float | None:
    match operator:
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.FloorDiv():
            return left // right
        case ast.Pow():
            return float(left**right)
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.RShift():
            return int(left) >> int(right)
    return None


def _name_of(value: ast.expr) -> str:
    """Return one word for the value of an expression."""
    match value:
        case ast.Name():
            return value.id
        case ast.Attribute() if (path := ast.unparse(value)) in PLACEHOLDERS:
            return path
        case ast.Attribute(attr="name" | "value" | "stem", value=owner) if not _is_self(owner):
            return _name_of(owner)
        case ast.Attribute():
            return value.attr
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            return key
        case ast.Subscript():
            return _name_of(value.value)
        case ast.Call(func=ast.Attribute() as method):
            return _name_of(method.value) if not value.args else method.attr
        case ast.Call(func=ast.Name(), args=[first, *_]):
            return _name_of(first)
        case ast.Call(func=ast.Name() as function):
            return function.id
        case ast.BinOp():
            return _name_of(value.left)
        case ast.GeneratorExp() | ast.ListComp():
            return _name_of(value.generators[0].iter)
        case ast.Starred():
            return _name_of(value.value)
        case ast.Tuple() | ast.List() if value.elts:
            return _name_of(value.elts[0])
    return "..."


def _is_self(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id == "self"


def _placeholder(name: str) -> str:
    word = name.strip("_")
    return f"‹{PLACEHOLDERS.get(word, word).replace('_', ' ').lower()}›"
