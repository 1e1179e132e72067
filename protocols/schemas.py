"""JSON Schema (draft 2020-12): whether a value fits one, and which are taken from outside.

The schema of an answer is part of a request, so whoever asks writes it. A reference that leaves the schema would read
files or call addresses, a regular expression may take for ever, and references that fan out multiply work: none of
them is taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_SCHEMA_BYTES = 32_768
"""As JSON."""
MAX_SCHEMA_DEPTH = 32
"""Nesting, with references followed; a schema that refers to itself has no end and is refused by it."""
MAX_SCHEMA_NODES = 2_000
"""Objects and lists, with references followed."""
REFUSED = (
    *("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems"),
    *("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
)
"""Keywords that are not taken: those that may take very long, and those that let a schema name other schemas."""
_NAMED = ("properties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose keys are names, not keywords."""
_VALUES = ("const", "enum", "default", "examples", "required", "type", "dependentRequired")
"""Keywords whose content is no schema."""


def misfit(value: Any, schema: Mapping[str, Any]) -> tuple[tuple[str | int, ...], str] | None:
    """Where a value does not fit a schema, and why; None if it does."""
    import jsonschema  # noqa: PLC0415  (50 ms, and few processes meet a schema)

    error = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(value)), None)
    return None if error is None else (tuple(error.absolute_path), error.message)


def check_foreign(schema: Mapping[str, Any]) -> None:
    """Raises ValueError, with the place, for what is no schema, or none that is taken from outside."""
    import jsonschema  # noqa: PLC0415  (see above)

    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise ValueError(f"a schema has at most {MAX_SCHEMA_BYTES} bytes as JSON")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path))
        raise ValueError(f"/{where}: {error.message[:200]}") from error
    except RecursionError:
        raise ValueError(f"a schema is nested at most {MAX_SCHEMA_DEPTH} deep") from None
    for count, (node, place) in enumerate(_nodes(schema, schema, "", 0)):
        if count >= MAX_SCHEMA_NODES:
            raise ValueError(f"{place}: a schema has at most {MAX_SCHEMA_NODES} parts, with references followed")
        refused = next((name for name in REFUSED if name in node), None)
        if refused is not None:
            raise ValueError(f"{place}/{refused}: '{refused}' is not taken in a schema from outside")


def _nodes(root: Mapping[str, Any], node: Any, place: str, depth: int) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every schema within a schema, with its place; what a reference leads to counts where it is referred to."""
    if depth > MAX_SCHEMA_DEPTH:
        raise ValueError(f"{place}: a schema is nested at most {MAX_SCHEMA_DEPTH} deep, and may not refer to itself")
    if isinstance(node, list):
        for at, each in enumerate(node):
            yield from _nodes(root, each, f"{place}/{at}", depth + 1)
    if not isinstance(node, Mapping):
        return
    yield node, place
    if "$ref" in node:
        yield from _nodes(root, _target(root, node["$ref"], f"{place}/$ref"), f"{place}/$ref", depth + 1)
    for key, below in node.items():
        if key in _NAMED and isinstance(below, Mapping):
            for name, each in below.items():
                yield from _nodes(root, each, f"{place}/{key}/{name}", depth + 1)
        elif key not in _VALUES:
            yield from _nodes(root, below, f"{place}/{key}", depth + 1)


def _target(root: Mapping[str, Any], reference: Any, place: str) -> Any:
    """What a reference within the schema leads to."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")) or "%" in reference:
        raise ValueError(f"{place}: a reference has to stay within the schema, as in '#/$defs/name'")
    found: Any = root
    for part in reference[2:].split("/") if len(reference) > 1 else ():
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or part not in found:
            raise ValueError(f"{place}: there is no '{reference}'")
        found = found[part]
    if not isinstance(found, Mapping | bool):
        raise ValueError(f"{place}: '{reference}' is no schema")
    return found
