"""Generate the page of the HTTP service: every route, field and response, read from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from humo import __version__
from humo.server.app import ERROR_CODES, ROUTERS
from humo.server.schemas import ErrorResponse
from tools.docs_reference.markdown import code, docstring, plain
from tools.docs_reference.messages import messages

Json = Mapping[str, Any]

UNUSED_STATUS = "422"
"""FastAPI documents this status; the service answers 400 instead."""

ERROR_LINK = f"[{ErrorResponse.__name__}](#{ErrorResponse.__name__.lower()})"

HEAD = """# HTTP reference

`humo serve` listens at `http://127.0.0.1:8848` by default. This page lists what its `GET /openapi.json` describes.
[Serving](../serving.md) explains how to start it and what it guarantees.
"""


def document() -> dict[str, Any]:
    """Return the OpenAPI document of the service's routes."""
    app = FastAPI(title="HuMo", version=__version__)
    for router in ROUTERS:
        app.include_router(router)
    return app.openapi()


def page() -> str:
    """Return the page in Markdown."""
    api = document()
    parts = [HEAD]
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            parts.append(_route(method.upper(), path, route, api["components"]["schemas"]))
    parts.append(_error_codes())
    parts.append("## Schemas\n")
    parts += [_schema(name, one) for name, one in api["components"]["schemas"].items() if "Validation" not in name]
    return "\n".join(parts)


def _route(method: str, path: str, route: Json, components: Json) -> str:
    lines = [f"## {method} {path}", "", f"**{plain(route['summary'])}.** {docstring(route.get('description'))}", ""]
    if parameters := route.get("parameters"):
        lines += ["| parameter | description |", "|---|---|"]
        for parameter in parameters:
            location, type_ = f" in the {parameter['in']}", _type_if_given(parameter["schema"])
            lines.append(_row(parameter["name"], location, type_, parameter.get("description", "")))
        lines.append("")
    if body := route.get("requestBody"):
        lines += _body(body["content"], components)
    responses = {
        status: _response(one) for status, one in sorted(route["responses"].items()) if status != UNUSED_STATUS
    }
    errors = [status for status, text in responses.items() if text == ERROR_LINK]
    lines += [f"- **{status}**: {text}" for status, text in responses.items() if status not in errors]
    lines += [f"- {', '.join(errors)}: {ERROR_LINK}"] if errors else []
    return "\n".join(lines) + "\n"


def _row(name: str, suffix: str, type_: str, description: str) -> str:
    return f"| {code(name)}{suffix} | {'<br>'.join(filter(None, (plain(description), type_)))} |"


def _body(content: Json, components: Json) -> list[str]:
    """List the fields of a body. Where a form and JSON take different types, both are listed."""
    schemas = {kind.split("/")[-1]: _resolved(one["schema"], components) for kind, one in content.items()}
    first = next(iter(schemas.values()))
    content_types = " or ".join(code(kind) for kind in content)
    lines = [f"The body is {content_types}. Fields are optional unless marked as required.", ""]
    lines += ["| field | description |", "|---|---|"]
    for name in first["properties"]:
        types = {kind: _type_if_given(schema["properties"][name]) for kind, schema in schemas.items()}
        same = len(set(types.values())) == 1
        text = next(iter(types.values())) if same else "; ".join(f"{kind}: {type_}" for kind, type_ in types.items())
        required = " (required)" if name in first.get("required", ()) else ""
        lines.append(_row(name, required, text, first["properties"][name].get("description", "")))
    return [*lines, ""]


def _resolved(schema: Json, components: Json) -> Json:
    """Return a schema, or the one of `components` that it refers to."""
    resolved: Json = components[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
    return resolved


def _type_if_given(schema: Json) -> str:
    """Return the type of an optional field, without the null that stands for its absence."""
    return _type(schema).removesuffix(" or null")


def _response(response: Json) -> str:
    content = response.get("content", {})
    types = [_type(one["schema"]) for one in content.values() if one.get("schema")]
    content_types = [code(kind) for kind, one in content.items() if not one.get("schema")]
    description = response["description"]
    is_default = description in ("Successful Response", "Validation Error")
    own_text = [] if is_default or types else [plain(description)]
    return ", ".join([*types, *content_types, *own_text]) or plain(description)


def _schema(name: str, schema: Json) -> str:
    lines = [f"### {name}", "", docstring(schema.get("description")), ""]
    if "properties" in schema:
        lines += ["| field | description |", "|---|---|"]
        for field, one in schema["properties"].items():
            lines.append(_row(field, "", _type(one), one.get("description", "")))
    else:
        lines.append(_type(schema))
    return "\n".join(lines) + "\n"


def _type(schema: Json) -> str:
    """Describe the type and range of a value in words; schemas become links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(code(str(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    names = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}
    name = names.get(schema.get("type", ""), schema.get("type", "anything"))
    if schema.get("format") == "binary" or schema.get("contentMediaType") == "application/octet-stream":
        name = "file"
    if str(schema.get("pattern", "")).startswith("^data:"):
        name = "`data:...;base64,...`"
    low, high = schema.get("minimum"), schema.get("maximum")
    parts = [str(name)]
    if low is not None or high is not None:
        ends = (f"{end:g}" if isinstance(end, float) else str(end) for end in (low, high) if end is not None)
        parts.append(" to ".join(ends))
    if "multipleOf" in schema:
        parts.append(f"a multiple of {schema['multipleOf']}")
    if "maxLength" in schema:
        parts.append(f"up to {schema['maxLength']} characters")
    return ", ".join(parts)


def _error_codes() -> str:
    """Return the table of HTTP error codes."""
    rows = [(status, name, "") for status, name in ERROR_CODES.values()]
    rows += [
        (int(message.field[0].removeprefix("HTTP ")), message.kind, "; ".join((*message.problem, *message.remedy)))
        for message in messages()
        if message.field[0].startswith("HTTP ")
    ]
    rows += [(404, "not_found", ""), (405, "method_not_allowed", "")]
    texts = {name: text for _, name, text in rows if text}
    descriptions = {
        "invalid_request": "a field is wrong; `error.param` names it",
        "not_found": "the address or the video does not exist, or the video is not finished",
        "idempotency_key_reused": "the key was already used for a different request",
        "too_many_jobs": "the queue is full",
        "storage": "the service's disk is full or not writable",
        "method_not_allowed": "the address does not support this method",
    }
    lines = sorted({(status, name) for status, name, _ in rows})
    table = [f"| {status} | {code(name)} | {descriptions.get(name) or plain(texts[name])} |" for status, name in lines]
    errors_page = "errors.md#the-service-and-the-web-page"
    head = f"## Error codes\n\nEvery error response has the form {ERROR_LINK}. [All messages]({errors_page}).\n"
    return head + "\n| status | `code` | description |\n|---|---|---|\n" + "\n".join(table) + "\n"
