"""Widgets derived from the fields of a request: limits, help and defaults are written there alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from humo.request import GenerateRequest, describe_limits

AUTO = "auto"
"""The word for a choice that is left open."""

STEP, ROUND = 0.1, 0.01
"""Of number fields: what an arrow adds, and the finest value that can be typed."""

_PROPERTIES: Mapping[str, Any] = GenerateRequest.model_json_schema()["properties"]


def left_open(field: str) -> int | str:
    """What a widget left open holds: "", ``auto``; of numbers, which cannot be empty, 0, or -1 where 0 is a value.

    Args:
        field: a field of `GenerateRequest`.
    """
    schema = _schema(field)
    if "minimum" in schema:
        return 0 if schema["minimum"] > 0 else -1
    return AUTO if "enum" in schema else ""


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are filled in, of those of a node.

    Args:
        values: of widgets, by field; None where there is no value at all.
    """
    return {field: value for field, value in values.items() if value is not None and value != left_open(field)}


def widget(field: str, *, otherwise: str = "the model's own", **settings: Any) -> io.Input:
    """The widget of a field, which may be left open.

    Args:
        field: a field of `GenerateRequest`: a number, a choice or text.
        otherwise: what is taken if it is left open.
        settings: further arguments of the input.
    """
    schema, empty = _schema(field), left_open(field)
    settings = {"optional": True, "default": empty, "tooltip": _help(field, otherwise), **settings}
    if "enum" in schema:
        return io.Combo.Input(field, options=list(dict.fromkeys([AUTO, *schema["enum"]])), **settings)
    if schema["type"] == "integer":
        step = schema.get("multipleOf", 1) if empty == 0 else 1  # from -1 on, steps would miss the multiples
        settings |= {"min": empty, "max": schema["maximum"], "step": step}
        return io.Int.Input(field, **settings)
    if schema["type"] == "number":
        settings |= {"default": float(empty), "min": float(empty), "max": schema["maximum"]}
        return io.Float.Input(field, step=STEP, round=ROUND, **settings)
    return io.String.Input(field, **settings)


def description(field: str) -> str:
    """What a field means, in the request's words."""
    return str(_PROPERTIES[field]["description"])


def _help(field: str, otherwise: str) -> str:
    limits = f" ({describe_limits(field)})" if "minimum" in _schema(field) else ""
    empty = left_open(field)
    return f"{description(field)}{limits}; {'empty' if empty == '' else empty}: {otherwise}"


def _schema(field: str) -> Mapping[str, Any]:
    """The field's JSON schema without its ``null`` alternative."""
    schema = _PROPERTIES[field]
    found: Mapping[str, Any] = next((one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"), schema)
    return found
