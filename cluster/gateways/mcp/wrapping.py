"""Makes schemas that clients of MCP accept: a plain object at the top, and references that still lead to their targets.

APIs of models refuse a tool whose input has `anyOf`, `oneOf`, `allOf`, `not` or `enum` at the top. They also refuse
every request that lists such a tool. A schema that is not a plain object therefore becomes one property of an object.
Its references are changed to lead to the new place; definitions stay at the top, where clients look for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from ....protocols.json_forms import NOT_FINITE
from ....protocols.schemas import pointed, transformed

_CHOICES = frozenset({"anyOf", "oneOf", "allOf", "not", "enum", "const", "$ref", "$dynamicRef", "if"})
_DEFINITIONS = ("$defs", "definitions")
_ABOUT = frozenset({*_DEFINITIONS, "$schema", "$comment", "title", "description"})


def plain_object(schema: Mapping[str, object]) -> dict[str, object] | None:
    """Return the schema if it takes objects and has no choice at the top, as a tool needs it; otherwise None."""
    opened = _opened(schema)
    return opened if opened.get("type") == "object" and not _CHOICES & set(opened) else None


def wrapped(schema: Mapping[str, object], name: str, others: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return the schema of an object with `schema` as its property `name`, beside `others`."""
    inner, above = _moved(schema, f"#/properties/{name}")
    return {"type": "object", "properties": {**(others or {}), name: inner}, **above}


def given_out(schema: Mapping[str, object]) -> dict[str, object]:
    """Return the schema of a result in its JSON form, in which bytes and numbers that are not finite are texts."""
    loose: dict[str, object] = transformed(schema, _in_json, leaving=("not", "if"))
    return loose


def _in_json(node: dict[str, object]) -> dict[str, object]:
    kinds = node.get("type")
    several = kinds if isinstance(kinds, list) else [kinds]
    if "number" in several and "string" not in several:
        return {**node, "type": [*several, "string"], "pattern": NOT_FINITE}
    if kinds == "string" and node.get("format") == "binary":
        return {**{key: value for key, value in node.items() if key != "format"}, "contentEncoding": "base64"}
    return node


def _opened(schema: Mapping[str, object]) -> dict[str, object]:
    """Replace a top that is only a reference by its target. pydantic gives it to models that contain themselves."""
    opened, seen = dict(schema), set()
    while set(opened) - _ABOUT == {"$ref"} and opened["$ref"] not in seen and "$id" not in opened:
        seen.add(opened["$ref"])
        reference = opened["$ref"]
        target = pointed(schema, reference) if isinstance(reference, str) and reference.startswith("#/") else None
        if not isinstance(target, Mapping) or {"$id", "$schema", *_DEFINITIONS} & set(target):
            break
        opened = {**target, **{key: opened[key] for key in opened if key != "$ref"}}
    return opened


def _moved(schema: Mapping[str, object], place: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return the schema for the place `place` in another schema, and the parts that belong at the top of that one."""
    if "$id" in schema:
        return dict(schema), {}
    at_top = [key for key in _DEFINITIONS if isinstance(schema.get(key), Mapping)]

    def move(node: dict[str, object]) -> dict[str, object]:
        reference = node.get("$ref")
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return node
        if unquote(reference[2:].partition("/")[0]) in at_top:
            return node
        return {**node, "$ref": place + reference[1:]}

    moved = transformed(schema, move)
    above = {key: moved.pop(key) for key in (*at_top, "$schema") if key in moved}
    return moved, above
