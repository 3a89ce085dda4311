"""Every message that tells a user what is wrong, read from the places that raise it.

``‹word›`` in a message stands for what is filled in when it is said.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from humo.checkpoints.signatures import SIGNATURES
from tools.docs_reference.sources import (
    Function,
    assigned,
    calls,
    constant,
    function_in,
    modules,
    parameters,
    tree,
    walk,
)

FAMILY = "HuMoError"
NEAREST = "did you mean ‹the nearest›? or: known are ‹all that there are›"
"""What `humo.errors.did_you_mean` comes to."""

OTHER = "‹what to take instead›"
"""Stands for what `SIGNATURES` says of each other model."""

MOST_READINGS = 12
"""Of one message: alternatives that its places come to."""

WORDS: Mapping[str, str] = {
    "error": "reason",
    "failure": "reason",
    "failed": "reason",
    "strerror": "reason",
    "problem": "what is wrong",
    "shown": "value",
    "told": "value",
    "given": "value",
    "values": "value",
    "input": "value",
    "word": "value",
    "keep": "sum",
    "rest": "word",
    "words": "word",
    "overrides": "word",
    "msg": "what it should be",
    "shapes": "shape",
    "names": "names",
    "known": "all that there are",
    "last": "reason",
    "returncode": "exit code",
    "signature.remedy": "what to take instead",
    "prog": "command",
    "table": "its columns",
    "found.name": "name",
    "list": "list",
}
"""Names in the code that say little outside it -> words."""

TEXTS = frozenset({"problem", "remedy", "said", "what"})
"""Parameters that take a part of a message, to be read where the function is called."""


@dataclass(frozen=True, order=True, slots=True)
class Message:
    """One message.

    Args:
        module: where it is raised, without the package's name.
        line: of that module.
        field: what is at fault, in each reading.
        problem: what is wrong with it, in each reading.
        remedy: what to do, in each reading.
        kind: the error's class; of refusals over HTTP, their code; of the doctor, how bad it is.
    """

    module: str
    line: int
    field: tuple[str, ...]
    problem: tuple[str, ...]
    remedy: tuple[str, ...]
    kind: str

    def matches(self, text: str) -> bool:
        """Whether this is the message that was said so (``field: problem; remedy``)."""
        for field, problem, remedy in itertools.product(self.field, self.problem, self.remedy or ("",)):
            ends = remedy.split(" or: ") if remedy == NEAREST else [remedy]
            for end in ends:
                pattern = re.escape(" ".join(f"{field}: {problem}{f'; {end}' if end else ''}".split()))
                if re.fullmatch(re.sub("‹[^›]*›", ".*", pattern), text, re.DOTALL):
                    return True
        return False


@cache
def messages() -> tuple[Message, ...]:
    """All of them, by module and line."""
    kinds = error_classes()
    return tuple(sorted(message for module in modules() for message in _in_module(module, kinds)))


def error_classes() -> frozenset[str]:
    """The names of `HuMoError` and of all that descend from it."""
    parents = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ClassDef)
    }
    found = {FAMILY}
    while further := {name for name, bases in parents.items() if bases & found} - found:
        found |= further
    return frozenset(found)


def _in_module(module: str, kinds: frozenset[str]) -> Iterator[Message]:
    for node, function in walk(tree(module)):
        if isinstance(node, ast.Yield) and module == "cli.checks" and function is not None:
            yield from _findings(node, function)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        name, read = node.func.id, Reader(module, function, node)
        if name in kinds:
            given = dict(zip(("field", "problem", "remedy"), node.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
            parts = {part: read.readings(value) for part, value in given.items()}
            remedy = tuple(filter(None, parts.get("remedy", ())))
            if remedy == (OTHER,):
                for one in SIGNATURES:
                    if not one.fits:
                        yield Message(module, node.lineno, parts["field"], (f"is {one.title}",), (one.remedy,), name)
            elif not (_is_handed_on(parts["problem"]) and _is_handed_on(remedy)):
                yield Message(module, node.lineno, parts["field"], parts["problem"], remedy, name)
        elif name == "ValueError" and _is_told(module, function):
            field = "frames and seconds" if module == "request" else "‹field›"
            yield Message(module, node.lineno, (field,), *_halves(read.readings(node.args[0])), "RequestError")
        elif name in ("refusal", "HTTPException") and isinstance(node.args[0], ast.Constant):
            halves = _halves(read.readings(node.args[1]))
            code = read.readings(node.args[2])[0] if len(node.args) > 2 else "unsupported_media_type"
            yield Message(module, node.lineno, ("HTTP " + "".join(read.readings(node.args[0])),), *halves, code)


def _findings(node: ast.Yield, function: Function) -> Iterator[Message]:
    """What the doctor finds that is not good."""
    found = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
    for one in found:
        match one:
            case ast.Tuple(elts=[ast.Attribute(attr="ERROR" | "WARNING" as state), text, remedy]):
                read = Reader("cli.checks", function, node)
                field = (function.name.strip("_"),)
                yield Message("cli.checks", node.lineno, field, read.readings(text), read.readings(remedy), state)


def _halves(texts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong, and what to do, of texts that say both."""
    halves = [text.partition("; ") for text in texts]
    return tuple(half[0] for half in halves), tuple(half[2] for half in halves if half[2])


def _is_handed_on(texts: tuple[str, ...]) -> bool:
    """Whether nothing of it is said here."""
    return all(re.fullmatch("(‹[^›]*› ?)*", text) for text in texts)


def _is_told(module: str, function: Function | None) -> bool:
    """Whether a ValueError is a check of a whole request or recipe, whose words are handed to the user."""
    if module in ("training.config", "training.component_config"):
        return True
    decorators = [] if function is None else [ast.unparse(one) for one in function.decorator_list]
    return module == "request" and any(text.startswith("model_validator") for text in decorators)


class Reader:
    """Reads expressions of one function as text, with places to fill in.

    Args:
        module: where they stand, without the package's name.
        function: whose they are.
        place: the expression that is read, which tells what a name holds there.
    """

    def __init__(self, module: str, function: Function | None, place: ast.expr) -> None:
        self._module, self._function, self._place = module, function, place

    def readings(self, value: ast.expr) -> tuple[str, ...]:
        """The texts that an expression can come to."""
        return tuple(dict.fromkeys(itertools.islice(self._read(value), MOST_READINGS)))

    def _read(self, value: ast.expr) -> Iterator[str]:
        match value:
            case ast.Constant():
                yield "" if isinstance(value.value, bytes) else str(value.value)
            case ast.JoinedStr():
                parts = [self.readings(part) for part in value.values]
                yield from ("".join(texts) for texts in itertools.product(*parts))
            case ast.FormattedValue():
                yield from self._read(value.value)
            case ast.BinOp() if (number := _number_in(self._module, value)) is not None:
                yield f"{number:g}"
            case ast.BinOp(op=ast.Add()) if _is_text(value.left) or _is_text(value.right):
                parts = [self.readings(value.left), self.readings(value.right)]
                yield from ("".join(texts) for texts in itertools.product(*parts))
            case ast.BinOp(op=ast.Add(), right=ast.Constant()):
                yield f"‹{ast.unparse(value)}›"
            case ast.BinOp():
                yield from self._read(value.left)
            case ast.IfExp():
                yield from self._read(value.body)
                yield from self._read(value.orelse)
            case ast.BoolOp(op=ast.Or()):
                for one in value.values:
                    yield from self._read(one)
            case ast.Name():
                yield from self._name(value.id)
            case ast.Call(func=ast.Name(id="did_you_mean")):
                yield NEAREST
            case ast.Call():
                yield from self._call(value)
            case _:
                yield _place(_word_of(value))

    def _call(self, value: ast.Call) -> Iterator[str]:
        match value.func:
            case ast.Name(id="str" | "repr" | "_first_line" | "Path"):
                yield from self._read(value.args[0])
            case ast.Name(id="reason" | "getattr" | "_words"):
                yield _place("reason")
            case ast.Name(id="len"):
                yield _place("number")
            case ast.Name(id="allowed"):
                yield _place("range of the field")
            case ast.Attribute(attr="join"):
                known = self._known_list(value.args[0])
                separator = value.func.value.value if isinstance(value.func.value, ast.Constant) else ", "
                yield _place(_word_of(value.args[0])) if known is None else str(separator).join(known)
            case ast.Attribute(attr="get") if isinstance(value.args[0], ast.Constant):
                yield _place(str(value.args[0].value))
            case ast.Attribute(attr="replace" | "strip" | "removeprefix"):
                yield from self._read(value.func.value)
            case ast.Attribute(value=ast.Name(id="self"), attr=name) | ast.Name(id=name):
                yield from self._returned(name) or [_place(_word_of(value))]
            case _:
                yield _place(_word_of(value))

    def _returned(self, name: str) -> list[str]:
        """The texts that a function of this module gives."""
        function = function_in(self._module, name)
        if function is None:
            return []
        given = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
        texts = [text for value in given for text in Reader(self._module, function, value).readings(value)]
        return [] if _is_handed_on(tuple(texts)) else texts

    def _known_list(self, value: ast.expr) -> list[str] | None:
        """The words of a tuple, a list or a table that stands in the sources."""
        if isinstance(value, ast.Name) and (found := constant(self._module, value.id)) is not None:
            value = found[1]
        if isinstance(value, ast.Dict):
            keys = [key.value for key in value.keys if isinstance(key, ast.Constant)]
            return [str(key) for key in keys] if len(keys) == len(value.keys) else None
        if isinstance(value, ast.Tuple | ast.List):
            words = [one.value for one in value.elts if isinstance(one, ast.Constant)]
            return [str(word) for word in words] if len(words) == len(value.elts) else None
        return None

    def _name(self, name: str) -> Iterator[str]:
        texts = self._assigned(name) or self._passed(name)
        if texts:
            yield from texts
        elif (found := constant(self._module, name)) is None:
            yield _place(name)
        elif (number := _number_in(*found)) is not None:
            yield f"{number:g}"
        elif isinstance(found[1], ast.Constant | ast.JoinedStr | ast.BinOp):
            yield from Reader(found[0], None, found[1]).readings(found[1])
        else:
            yield _place(name.lower())

    def _assigned(self, name: str) -> list[str]:
        """What the function gave a name, where that is text of ours."""
        if self._function is None:
            return []
        values = assigned(self._function, name, self._place)
        return [text for value in values if _is_text(value) for text in self._at(value)]

    def _at(self, value: ast.expr) -> tuple[str, ...]:
        return Reader(self._module, self._function, value).readings(value)

    def _passed(self, name: str) -> list[str]:
        """What callers give for a parameter that takes a part of a message."""
        if name not in TEXTS or self._function is None or name not in parameters(self._function):
            return []
        order = list(parameters(self._function))
        place, default = order.index(name) - (order[0] == "self"), parameters(self._function)[name]
        found = [] if default is None else [text for text in self._at(default) if text]
        for module, function, call in calls(self._function.name):
            named = {keyword.arg: keyword.value for keyword in call.keywords}
            value = named.get(name) or (call.args[place] if place < len(call.args) else None)
            if value is not None:
                found += Reader(module, function, call).readings(value)
        return found


def _is_text(value: ast.expr) -> bool:
    """Whether what is assigned is a text of ours, and not a value that was found or given."""
    match value:
        case ast.Constant():
            return isinstance(value.value, str)
        case ast.JoinedStr():
            return True
        case ast.BinOp(op=ast.Add()):
            return _is_text(value.left) or _is_text(value.right)
        case ast.IfExp():
            return _is_text(value.body) or _is_text(value.orelse)
        case ast.Call(func=ast.Name(id="did_you_mean")):
            return True
        case ast.Name():
            return value.id.isupper()
    return False


def _number_in(module: str, value: ast.expr) -> float | None:
    """The number that an expression of constants comes to."""
    match value:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name():
            found = constant(module, value.id)
            return None if found is None else _number_in(*found)
        case ast.BinOp():
            left, right = _number_in(module, value.left), _number_in(module, value.right)
            if left is None or right is None:
                return None
            match value.op:
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


def _word_of(value: ast.expr) -> str:
    """One word for what an expression gives."""
    match value:
        case ast.Name():
            return value.id
        case ast.Attribute() if (told := ast.unparse(value)) in WORDS:
            return told
        case ast.Attribute(attr="name" | "value" | "stem", value=inner) if not _is_self(inner):
            return _word_of(inner)
        case ast.Attribute():
            return value.attr
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            return key
        case ast.Subscript():
            return _word_of(value.value)
        case ast.Call(func=ast.Attribute() as method):
            return _word_of(method.value) if not value.args else method.attr
        case ast.Call(func=ast.Name(), args=[first, *_]):
            return _word_of(first)
        case ast.Call(func=ast.Name() as function):
            return function.id
        case ast.BinOp():
            return _word_of(value.left)
        case ast.GeneratorExp() | ast.ListComp():
            return _word_of(value.generators[0].iter)
        case ast.Starred():
            return _word_of(value.value)
        case ast.Tuple() | ast.List() if value.elts:
            return _word_of(value.elts[0])
    return "..."


def _is_self(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id == "self"


def _place(word: str) -> str:
    word = word.strip("_")
    return f"‹{WORDS.get(word, word).replace('_', ' ').lower()}›"
