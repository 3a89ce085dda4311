"""What stands in the sources, as syntax: modules, names at their top, what a name is assigned. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "humo"
SOURCE = Path(__file__).resolve().parents[2] / "src"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef


@cache
def modules() -> tuple[str, ...]:
    """The names of all modules, without the package's: ``media.image``."""
    paths = (path.relative_to(SOURCE / PACKAGE).with_suffix("") for path in (SOURCE / PACKAGE).rglob("*.py"))
    return tuple(sorted(".".join(path.parts) for path in paths))


@cache
def tree(module: str) -> ast.Module:
    """The syntax tree of a module, by its name without the package's."""
    return ast.parse((SOURCE / PACKAGE / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8"))


@cache
def top(module: str) -> dict[str, ast.expr]:
    """Names that a module assigns at its top -> the last value."""
    found: dict[str, ast.expr] = {}
    for node in tree(module).body:
        if isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
    return found


@cache
def imported(module: str) -> dict[str, tuple[str, str]]:
    """Names that a module takes from others of the package, anywhere in it -> (module, name there)."""
    return {
        alias.asname or alias.name: (node.module.removeprefix(f"{PACKAGE}."), alias.name)
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(f"{PACKAGE}.")
        for alias in node.names
    }


def constant(module: str, name: str) -> tuple[str, ast.expr] | None:
    """The value of a name in capitals, and the module it stands in, wherever it was imported from."""
    if not name.isupper():
        return None
    if name in top(module):
        return module, top(module)[name]
    if name in imported(module):
        home, original = imported(module)[name]
        return constant(home, original) if home in modules() else None
    return None


def parameters(function: Function) -> dict[str, ast.expr | None]:
    """Names of a function's parameters, in their order -> their defaults."""
    plain = [*function.args.posonlyargs, *function.args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(function.args.defaults))
    named = dict(zip((one.arg for one in plain), [*defaults, *function.args.defaults], strict=True))
    return named | dict(zip((one.arg for one in function.args.kwonlyargs), function.args.kw_defaults, strict=True))


def calls(name: str) -> list[tuple[str, Function | None, ast.Call]]:
    """All calls of what bears a name, with module and function that they stand in."""
    return _calls().get(name, [])


@cache
def _calls() -> dict[str, list[tuple[str, Function | None, ast.Call]]]:
    found: dict[str, list[tuple[str, Function | None, ast.Call]]] = {}
    for module in modules():
        for node, function in walk(tree(module)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                found.setdefault(name, []).append((module, function, node))
    return found


def walk(node: ast.AST, function: Function | None = None) -> Iterator[tuple[ast.AST, Function | None]]:
    """All nodes below one, each with the function that it stands in."""
    for child in ast.iter_child_nodes(node):
        yield child, function
        yield from walk(child, child if isinstance(child, Function) else function)


def assigned(function: Function, name: str, place: ast.expr) -> list[ast.expr]:
    """What a name can hold at a place in a function, of what the function assigns to it before."""
    return _reaching(function.body, name, place, [])


def _reaching(body: list[ast.stmt], name: str, place: ast.expr, before: list[ast.expr]) -> list[ast.expr]:
    found = list(before)
    for statement in body:
        inside = _is_in(place, statement)
        direct = _bound(statement, name)
        if inside:
            found = direct if isinstance(statement, ast.For) and direct else found
            for block in _blocks(statement):
                if block and any(_is_in(place, one) for one in block):
                    return _reaching(block, name, place, found)
            return found
        if isinstance(statement, ast.Assign | ast.AnnAssign) and direct:
            found = direct
        else:  # what may have been done, and goes on
            found += [
                value
                for block in _blocks(statement)
                if block and not isinstance(block[-1], ast.Raise | ast.Return | ast.Continue)
                for one in block
                for inner in ast.walk(one)
                if isinstance(inner, ast.stmt)
                for value in _bound(inner, name)
            ]
    return found


def _is_in(place: ast.expr, statement: ast.stmt) -> bool:
    return any(node is place for node in ast.walk(statement))


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    blocks = [getattr(statement, part, []) for part in ("body", "orelse", "finalbody")]
    return [*blocks, *(handler.body for handler in getattr(statement, "handlers", []))]


def _bound(statement: ast.stmt, name: str) -> list[ast.expr]:
    """What a statement binds a name to, where the sources say it."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            return [found for target in targets for found in _unpacked(target, value, name)]
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            return _unpacked(target, value, name)
        case ast.For(target=target, iter=ast.Tuple(elts=elements)):
            return [found for element in elements for found in _unpacked(target, element, name)]
    return []


def _unpacked(target: ast.expr, value: ast.expr, name: str) -> list[ast.expr]:
    match target, value:
        case ast.Name(id=same), _ if same == name:
            return [value]
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            pairs = zip(targets, values, strict=True)
            return [found for one, inner in pairs for found in _unpacked(one, inner, name)]
    return []


def function_in(module: str, name: str) -> Function | None:
    """A function or method of a module."""
    return next((node for node in ast.walk(tree(module)) if isinstance(node, Function) and node.name == name), None)
