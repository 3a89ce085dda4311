"""Widgets derived from the fields of `GenerateRequest`, which has their limits, descriptions and defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.latest import io

from humo.request import describe_limits, field_schema

AUTO = "auto"
"""Choice that leaves a field open."""

STEP, ROUND = 0.1, 0.01
"""Increment of a number widget's arrows, and its smallest difference between two values."""


def open_value(field: str) -> int | str:
    """Return the value of a widget that leaves its field open.

    It is ``""`` for text and ``auto`` for a choice. A number widget cannot be empty; its value is 0, or -1 if 0 is a
    valid number.

    Args:
        field: a field of `GenerateRequest`.
    """
    schema = field_schema(field)
    if "minimum" in schema:
        return 0 if schema["minimum"] > 0 else -1
    return AUTO if "enum" in schema else ""


def filled_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not left open.

    Args:
        values: values of widgets by field; None if a widget has no value.
    """
    return {field: value for field, value in values.items() if value not in (None, AUTO) and value != open_value(field)}


def widget(field: str, *, default: str = "the model's default", **settings: Any) -> io.Input:
    """Return the widget of a field, which may be left open.

    Args:
        field: a field of `GenerateRequest`: a number, a choice or text.
        default: what applies if it is left open, for the tooltip.
        settings: further arguments of the input.
    """
    schema, empty = field_schema(field), open_value(field)
    settings = {"optional": True, "default": empty, "tooltip": _tooltip(field, default), **settings}
    if "enum" in schema:
        return io.Combo.Input(field, options=list(dict.fromkeys([AUTO, *schema["enum"]])), **settings)
    if schema["type"] == "integer":
        step = schema.get("multipleOf", 1) if empty == 0 else 1  # steps that start at -1 would miss the multiples
        settings |= {"min": empty, "max": schema["maximum"], "step": step}
        return io.Int.Input(field, **settings)
    if schema["type"] == "number":
        settings |= {"default": float(empty), "min": float(empty), "max": schema["maximum"]}
        return io.Float.Input(field, step=STEP, round=ROUND, **settings)
    return io.String.Input(field, **settings)


def names_widget(field: str, names: Iterable[str], default: str) -> io.Input:
    """Return the widget of a field whose values are names; it may be left open.

    Args:
        field: a field of `GenerateRequest`.
        names: its values.
        default: what applies if it is left open, for the tooltip.
    """
    tooltip = f"{description(field)}; {AUTO}: {default}"
    return io.Combo.Input(field, options=[AUTO, *names], default=AUTO, optional=True, tooltip=tooltip)


def description(field: str) -> str:
    """Return the request's description of a field."""
    return str(field_schema(field)["description"])


def _tooltip(field: str, default: str) -> str:
    limits = f" ({describe_limits(field)})" if "minimum" in field_schema(field) else ""
    empty = open_value(field)
    return f"{description(field)}{limits}; {'empty' if empty == '' else empty}: {default}"
