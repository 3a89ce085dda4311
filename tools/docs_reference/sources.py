"""Read the package's sources as syntax trees: modules, top-level names, assigned values. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "humo"
SOURCE_FOLDER = Path(__file__).resolve().parents[2] / "src"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> tuple[str, ...]:
    """Return the names of all modules without the package's name, such as ``media.image``."""
    root = SOURCE_FOLDER / PACKAGE
    paths = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return tuple(sorted(".".join(path.parts) for path in paths))


@cache
def syntax_tree(module: str) -> ast.Module:
    """Parse a module, named without the package's name."""
    path = (SOURCE_FOLDER / PACKAGE / Path(*module.split("."))).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def top_level_values(module: str) -> dict[str, ast.expr]:
    """Map each name that a module assigns at its top level to the last value assigned."""
    values: dict[str, ast.expr] = {}
    for node in syntax_tree(module).body:
        if isinstance(node, ast.Assign):
            values |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            values[node.target.id] = node.value
    return values


@cache
def imported_names(module: str) -> dict[str, tuple[str, str]]:
    """Map each name that a module imports from this package, anywhere in it, to (module, name in that module)."""
    return {
        alias.asname or alias.name: (node.module.removeprefix(f"{PACKAGE}."), alias.name)
        for node in ast.walk(syntax_tree(module))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(f"{PACKAGE}.")
        for alias in node.names
    }


def find_constant(module: str, name: str) -> tuple[str, ast.expr] | None:
    """Return the module that defines a constant, and its value; None for a name that is not in capitals.

    Imports are followed to the module that assigns the value.
    """
    if not name.isupper():
        return None
    if name in top_level_values(module):
        return module, top_level_values(module)[name]
    if name in imported_names(module):
        home, original = imported_names(module)[name]
        return find_constant(home, original) if home in modules() else None
    return None


def find_function(module: str, name: str) -> Function | None:
    """Return the first function or method of a module that has this name."""
    nodes = ast.walk(syntax_tree(module))
    return next((node for node in nodes if isinstance(node, Function) and node.name == name), None)


def parameters(function: Function) -> dict[str, ast.expr | None]:
    """Map the names of a function's parameters, in order, to their defaults."""
    positional = [*function.args.posonlyargs, *function.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(function.args.defaults))
    named = dict(zip((one.arg for one in positional), [*defaults, *function.args.defaults], strict=True))
    return named | dict(zip((one.arg for one in function.args.kwonlyargs), function.args.kw_defaults, strict=True))


def calls_of(name: str) -> list[tuple[str, Function | None, ast.Call]]:
    """Return every call of a function or method by its name, with the module and the function that contain it."""
    return _calls_by_name().get(name, [])


@cache
def _calls_by_name() -> dict[str, list[tuple[str, Function | None, ast.Call]]]:
    calls: dict[str, list[tuple[str, Function | None, ast.Call]]] = {}
    for module in modules():
        for node, function in nodes_with_function(syntax_tree(module)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                calls.setdefault(name, []).append((module, function, node))
    return calls


def nodes_with_function(node: ast.AST, function: Function | None = None) -> Iterator[tuple[ast.AST, Function | None]]:
    """Iterate over all nodes below a node, each with the innermost function that contains it."""
    for child in ast.iter_child_nodes(node):
        yield child, function
        yield from nodes_with_function(child, child if isinstance(child, Function) else function)


def values_reaching(function: Function, name: str, use: ast.expr) -> list[ast.expr]:
    """Return the values that a local name can have where an expression of the function uses it."""
    return _values_in_body(function.body, name, use, [])


def _values_in_body(body: list[ast.stmt], name: str, use: ast.expr, before: list[ast.expr]) -> list[ast.expr]:
    values = list(before)
    for statement in body:
        bound = _bound_values(statement, name)
        if _contains(statement, use):
            values = bound if isinstance(statement, ast.For) and bound else values
            for block in _blocks(statement):
                if any(_contains(inner, use) for inner in block):
                    return _values_in_body(block, name, use, values)
            return values
        if isinstance(statement, ast.Assign | ast.AnnAssign) and bound:
            values = bound
        else:  # blocks that may have run and let the function continue
            values += [
                value
                for block in _blocks(statement)
                if block and not isinstance(block[-1], ast.Raise | ast.Return | ast.Continue)
                for outer in block
                for inner in ast.walk(outer)
                if isinstance(inner, ast.stmt)
                for value in _bound_values(inner, name)
            ]
    return values


def _contains(statement: ast.stmt, expression: ast.expr) -> bool:
    return any(node is expression for node in ast.walk(statement))


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    blocks = [getattr(statement, attribute, []) for attribute in ("body", "orelse", "finalbody")]
    return [*blocks, *(handler.body for handler in getattr(statement, "handlers", []))]


def _bound_values(statement: ast.stmt, name: str) -> list[ast.expr]:
    """Return the expressions that a statement binds to a name, where the sources show them."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            return [bound for target in targets for bound in _unpacked(target, value, name)]
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            return _unpacked(target, value, name)
        case ast.For(target=target, iter=ast.Tuple(elts=elements)):
            return [bound for element in elements for bound in _unpacked(target, element, name)]
    return []


def _unpacked(target: ast.expr, value: ast.expr, name: str) -> list[ast.expr]:
    match target, value:
        case ast.Name(id=same), _ if same == name:
            return [value]
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            pairs = zip(targets, values, strict=True)
            return [bound for inner, element in pairs for bound in _unpacked(inner, element, name)]
    return []
