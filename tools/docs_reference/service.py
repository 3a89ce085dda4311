"""The page of the HTTP service: every route, field and answer, from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from humo import __version__
from humo.server.app import CODES, router
from tools.docs_reference.markdown import code, docstring, plain
from tools.docs_reference.messages import messages

Json = Mapping[str, Any]

UNUSED = "422"
"""FastAPI describes it, and the service answers 400 in its stead."""

REFUSAL = "[Refusal](#refusal)"

HEAD = """# HTTP reference

The service of `humo serve` at `http://127.0.0.1:8848`, as its own `GET /openapi.json` describes it. How it is started
and what it promises: [serving](../serving.md).
"""


def document() -> dict[str, Any]:
    """The OpenAPI document of the service's routes."""
    app = FastAPI(title="HuMo", version=__version__)
    app.include_router(router)
    return app.openapi()


def page() -> str:
    """The page, in Markdown."""
    told = document()
    parts = [HEAD]
    for path, methods in told["paths"].items():
        for method, route in methods.items():
            parts.append(_route(method.upper(), path, route))
    parts.append(_codes())
    parts.append("## What the answers hold\n")
    parts += [_schema(name, one) for name, one in told["components"]["schemas"].items() if "Validation" not in name]
    return "\n".join(parts)


def _route(method: str, path: str, route: Json) -> str:
    lines = [f"## {method} {path}", "", f"**{plain(route['summary'])}.** {docstring(route.get('description'))}", ""]
    if asked := route.get("parameters"):
        lines += ["| parameter | means |", "|---|---|"]
        for one in asked:
            lines.append(_row(one["name"], f" in the {one['in']}", _given(one["schema"]), one.get("description", "")))
        lines.append("")
    if body := route.get("requestBody"):
        lines += _body(body["content"])
    answers = {status: one for status, one in sorted(route["responses"].items()) if status != UNUSED}
    refused = [status for status, one in answers.items() if _answer(one) == REFUSAL]
    lines += [f"- **{status}**: {_answer(one)}" for status, one in answers.items() if status not in refused]
    lines += [f"- {', '.join(refused)}: {REFUSAL}"] if refused else []
    return "\n".join(lines) + "\n"


def _row(name: str, more: str, takes: str, means: str) -> str:
    return f"| {code(name)}{more} | {'<br>'.join(filter(None, (plain(means), takes)))} |"


def _body(content: Json) -> list[str]:
    """Fields of a body; those that a form and JSON take in different ways have both told."""
    kinds = {kind.split("/")[-1]: one["schema"] for kind, one in content.items()}
    first = next(iter(kinds.values()))
    told = " or ".join(code(kind) for kind in content)
    lines = [f"The body is {told}. All fields but those marked may be left out.", "", "| field | means |", "|---|---|"]
    for name in first["properties"]:
        types = {kind: _given(schema["properties"][name]) for kind, schema in kinds.items()}
        same = len(set(types.values())) == 1
        takes = next(iter(types.values())) if same else "; ".join(f"{kind}: {type_}" for kind, type_ in types.items())
        needed = " (required)" if name in first.get("required", ()) else ""
        lines.append(_row(name, needed, takes, first["properties"][name].get("description", "")))
    return [*lines, ""]


def _given(schema: Json) -> str:
    """What a field that may be left out takes."""
    return _type(schema).removesuffix(" or null")


def _answer(answer: Json) -> str:
    found = [_type(one["schema"]) for one in answer.get("content", {}).values() if one.get("schema")]
    kinds = [kind for kind, one in answer.get("content", {}).items() if not one.get("schema")]
    said = answer["description"] if answer["description"] not in ("Successful Response", "Validation Error") else ""
    parts = [*found, *map(code, kinds), *([plain(said)] if said and not found else [])]
    return ", ".join(parts) or plain(answer["description"])


def _schema(name: str, schema: Json) -> str:
    lines = [f"### {name}", "", docstring(schema.get("description")), ""]
    if "properties" in schema:
        lines += ["| field | means |", "|---|---|"]
        for field, one in schema["properties"].items():
            lines.append(_row(field, "", _type(one), one.get("description", "")))
    else:
        lines.append(_type(schema))
    return "\n".join(lines) + "\n"


def _type(schema: Json) -> str:
    """What a value may be, in words; names of answers as links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(code(str(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}
    word = words.get(schema.get("type", ""), schema.get("type", "anything"))
    if schema.get("format") == "binary" or schema.get("contentMediaType") == "application/octet-stream":
        word = "file"
    if str(schema.get("pattern", "")).startswith("^data:"):
        word = "`data:...;base64,...`"
    low, high = schema.get("minimum"), schema.get("maximum")
    parts = [str(word)]
    if low is not None or high is not None:
        ends = (f"{end:g}" if isinstance(end, float) else str(end) for end in (low, high) if end is not None)
        parts.append(" to ".join(ends))
    if "multipleOf" in schema:
        parts.append(f"a multiple of {schema['multipleOf']}")
    if "maxLength" in schema:
        parts.append(f"up to {schema['maxLength']} characters")
    return ", ".join(parts)


def _codes() -> str:
    """The table of refusals."""
    rows = [(status, name, "") for status, name in CODES.values()]
    rows += [
        (int(message.field[0].removeprefix("HTTP ")), message.kind, "; ".join((*message.problem, *message.remedy)))
        for message in messages()
        if message.field[0].startswith("HTTP ")
    ]
    rows += [(404, "not_found", ""), (405, "method_not_allowed", "")]
    about = {name: text for _, name, text in rows if text}
    told = {
        "invalid_request": "a field is at fault, `error.param` says which",
        "not_found": "no such address, no such video, or not yet",
        "idempotency_key_reused": "the key stands for another request already",
        "too_many_jobs": "as many jobs are waiting as are taken",
        "storage": "the service's disk is full or cannot be written",
        "method_not_allowed": "the address knows other methods",
    }
    lines = sorted({(status, name) for status, name, _ in rows})
    table = [f"| {status} | {code(name)} | {told.get(name) or plain(about[name])} |" for status, name in lines]
    head = "## Refusals\n\nEvery one is a [Refusal](#refusal). [All messages](errors.md#the-service-and-its-page).\n"
    return head + "\n| status | `code` | means |\n|---|---|---|\n" + "\n".join(table) + "\n"
