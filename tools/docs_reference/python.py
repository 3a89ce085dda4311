"""The page of Python: public names with their signatures and docstrings, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import pairwise

import humo
from humo.request import GenerateRequest, describe_limits
from tools.docs_reference.markdown import code, docstring, plain
from tools.docs_reference.sources import Function, parameters, top, tree

CHAPTERS: Mapping[str, tuple[str, ...]] = {
    "The pipeline": ("inference.pipeline", "inference.inputs", "conditioning.conditions", "progress", "inference.lora"),
    "Requests and plans": ("request", "jobs.generate", "geometry", "guidance", "presets", "schedule"),
    "Pictures, sounds, videos": ("media.image", "media.audio", "media.video", "media.watermark", "media.verification"),
    "Networks and weights": (
        "model.transformer",
        "model.audio",
        "model.autoencoder",
        "checkpoints.convert",
        "checkpoints.model_folder",
        "runtime.device",
    ),
    "Errors": ("errors",),
}
"""Title -> modules, in their order."""

HEAD = """# Python reference

How to work with these: [in Python](../python.md). `import humo` offers

{names}

and imports nothing heavy before one of them is used. Shapes are written (B, C, F, H, W): batch, channels, frames,
height, width.
"""


def page() -> str:
    """The page, in Markdown."""
    homes = humo._HOMES
    names = "\n".join(f"- `humo.{name}`, of [`{home}`](#{home.replace('.', '')})" for name, home in homes.items())
    parts = [HEAD.format(names=names)]
    for title, members in CHAPTERS.items():
        parts.append(f"## {title}\n")
        parts += [_module(name) for name in members]
    return "\n".join(parts)


def _module(name: str) -> str:
    parts = [f"### humo.{name}", "", docstring(ast.get_docstring(tree(name))), ""]
    for node in tree(name).body:
        if isinstance(node, ast.ClassDef) and _is_public(node.name):
            parts += _class(name, node)
        elif isinstance(node, Function) and _is_public(node.name):
            parts += [f"#### {node.name}", "", _signature(node), "", docstring(ast.get_docstring(node)), ""]
    values = [f"- {code(value)}: {plain(text)}" for value, text in _values(name)]
    return "\n".join([*parts, *(["Values:", "", *values, ""] if values else [])])


def _class(module: str, node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield from (
        f"#### {node.name}",
        "",
        f"```python\nclass {node.name}" + (f"({bases})" if bases else "") + "\n```",
        "",
    )
    yield from (docstring(ast.get_docstring(node)), "")
    if (module, node.name) == ("request", "GenerateRequest"):
        yield from _fields()
        return
    for member in node.body:
        if not isinstance(member, Function) or not (_is_public(member.name) or member.name in ("__init__", "__call__")):
            continue
        decorators = [ast.unparse(one) for one in member.decorator_list]
        if "property" in decorators:
            returns = f" -> {ast.unparse(member.returns)}" if member.returns else ""
            yield from (f"- {code(f'{member.name}{returns}')}: {_first(member)}", "")
        else:
            yield from ("", _signature(member, f"{node.name}."), "", docstring(ast.get_docstring(member)), "")


def _first(node: Function) -> str:
    return docstring(ast.get_docstring(node)).split("\n\n")[0].replace("\n", " ")


def _fields() -> Iterator[str]:
    yield from ("| field | takes | means |", "|---|---|---|")
    for name, field in GenerateRequest.model_fields.items():
        needed = " (required)" if field.is_required() else ""
        yield f"| {code(name)}{needed} | {plain(describe_limits(name))} | {plain(field.description or '')} |"
    yield ""


def _signature(node: Function, owner: str = "") -> str:
    """As a block of Python; what does not fit into a line has one for each argument."""
    named = parameters(node)
    notes = {one.arg: one.annotation for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    keywords = {one.arg for one in node.args.kwonlyargs}
    words: list[str] = []
    for name, default in named.items():
        if name in ("self", "cls"):
            continue
        if name in keywords and "*" not in words:
            words.append("*")
        note = notes[name]
        text = name + (f": {ast.unparse(note)}" if note is not None else "")
        words.append(text if default is None else f"{text} = {ast.unparse(default)}")
    if node.args.vararg is not None:
        words.insert(0, f"*{node.args.vararg.arg}")
    if node.args.kwarg is not None:
        words.append(f"**{node.args.kwarg.arg}")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    name = owner.removesuffix(".") if node.name == "__init__" else f"{owner}{node.name}"
    line = f"{name}({', '.join(words)}){returns}"
    if len(line) > 90:
        inner = "\n".join(f"    {word}," if word != "*" else "    *," for word in words)
        line = f"{name}(\n{inner}\n){returns}"
    return f"```python\n{line}\n```"


def _values(module: str) -> Iterator[tuple[str, str]]:
    """Names at a module's top that have words behind them."""
    body = tree(module).body
    for node, after in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or not _is_public(target.id) or target.id not in top(module):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            yield target.id, after.value.value


def _is_public(name: str) -> bool:
    return not name.startswith("_")
