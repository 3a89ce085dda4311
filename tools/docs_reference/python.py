"""Generate the Python page: public names with their signatures and docstrings, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from itertools import pairwise

import humo
from humo.request import GenerateRequest, describe_limits
from tools.docs_reference.markdown import code, collapse_blank_lines, docstring, plain
from tools.docs_reference.sources import Function, parameters, syntax_tree, top_level_values

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "The pipeline": (
        "inference.pipeline",
        "inference.inputs",
        "conditioning.conditions",
        "progress",
        "inference.lora",
        "jobs.export",
    ),
    "Requests and plans": (
        "request",
        "plan",
        "jobs.generate",
        "geometry",
        "guidance",
        "presets",
        "request_presets",
        "loras",
        "schedule",
    ),
    "Images, audio, video": ("media.image", "media.audio", "media.video", "media.watermark", "media.verification"),
    "Models and weights": (
        "model.transformer",
        "model.audio",
        "model.autoencoder",
        "checkpoints.convert",
        "checkpoints.model_folder",
        "runtime.loading",
    ),
    "Errors": ("errors",),
}
"""Section title -> its modules, in order."""

HEAD = """# Python reference

[Python](../python.md) shows how to use these names. `import humo` provides

{names}

It imports torch and other large libraries only when one of these names is used. Shapes are written (B, C, F, H, W):
batch, channels, frames, height, width.
"""


def page() -> str:
    """Return the page in Markdown."""
    homes = humo._HOMES
    names = "\n".join(f"- `humo.{name}`, from [`{home}`](#{home.replace('.', '')})" for name, home in homes.items())
    parts = [HEAD.format(names=names)]
    for title, members in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_module(name) for name in members]
    return collapse_blank_lines("\n".join(parts))


def _module(name: str) -> str:
    parts = [f"### humo.{name}", "", docstring(ast.get_docstring(syntax_tree(name))), ""]
    for node in syntax_tree(name).body:
        if isinstance(node, ast.ClassDef) and _is_public(node.name):
            parts += _class(name, node)
        elif isinstance(node, Function) and _is_public(node.name):
            parts += [f"#### {node.name}", "", _signature(node), "", docstring(ast.get_docstring(node)), ""]
    constants = [f"- {code(constant)}: {plain(text)}" for constant, text in _documented_constants(name)]
    return "\n".join([*parts, *(["Constants:", "", *constants, ""] if constants else [])])


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
        yield from _request_fields()
        return
    for member in node.body:
        if not isinstance(member, Function) or not (_is_public(member.name) or member.name in ("__init__", "__call__")):
            continue
        decorators = [ast.unparse(one) for one in member.decorator_list]
        if "property" in decorators:
            returns = f" -> {ast.unparse(member.returns)}" if member.returns else ""
            yield from (f"- {code(f'{member.name}{returns}')}: {_first_paragraph(member)}", "")
        else:
            yield from ("", _signature(member, f"{node.name}."), "", docstring(ast.get_docstring(member)), "")


def _first_paragraph(node: Function) -> str:
    return docstring(ast.get_docstring(node)).split("\n\n")[0].replace("\n", " ")


def _request_fields() -> Iterator[str]:
    yield from ("| field | allowed values | description |", "|---|---|---|")
    for name, field in GenerateRequest.model_fields.items():
        required = " (required)" if field.is_required() else ""
        yield f"| {code(name)}{required} | {plain(describe_limits(name))} | {plain(field.description or '')} |"
    yield ""


def _signature(node: Function, owner: str = "") -> str:
    """Format a signature as a code block, with one argument a line if it is longer than 90 characters."""
    named = parameters(node)
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    annotations = {argument.arg: argument.annotation for argument in arguments}
    keywords = {argument.arg for argument in node.args.kwonlyargs}
    texts: list[str] = []
    for name, default in named.items():
        if name in ("self", "cls"):
            continue
        if name in keywords and "*" not in texts:
            texts.append("*")
        annotation = annotations[name]
        text = name + (f": {ast.unparse(annotation)}" if annotation is not None else "")
        texts.append(text if default is None else f"{text} = {ast.unparse(default)}")
    if node.args.vararg is not None:
        texts.insert(0, f"*{node.args.vararg.arg}")
    if node.args.kwarg is not None:
        texts.append(f"**{node.args.kwarg.arg}")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    name = owner.removesuffix(".") if node.name == "__init__" else f"{owner}{node.name}"
    line = f"{name}({', '.join(texts)}){returns}"
    if len(line) > 90:
        inner = "\n".join(f"    {text}," for text in texts)
        line = f"{name}(\n{inner}\n){returns}"
    return f"```python\n{line}\n```"


def _documented_constants(module: str) -> Iterator[tuple[str, str]]:
    """Iterate over the names and docstrings of a module's public constants."""
    body = syntax_tree(module).body
    for node, after in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or not _is_public(target.id) or target.id not in top_level_values(module):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            yield target.id, after.value.value


def _is_public(name: str) -> bool:
    return not name.startswith("_")
