"""JSON Schema (draft 2020-12): checks values by schemas, and schemas that come from outside.

The schema of an answer is part of a request, so any client may write it. Refused are references that leave the schema
(they would read files or call addresses), regular expressions (they may take for ever), and references that fan out
(they multiply work).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MAX_SCHEMA_BYTES = 32_768
"""The largest schema from outside, in bytes of its JSON."""
MAX_SCHEMA_DEPTH = 32
"""Deepest nesting, with references followed. A schema that refers to itself has no end, and is refused by this."""
MAX_SCHEMA_NODES = 2_000
"""Most objects and lists of a schema, with references followed."""
REFUSED = (
    *("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems"),
    *("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
)
"""Refused keywords: some may take very long, others let a schema name other schemas."""
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose keys are names, not keywords."""
_VALUES = ("const", "enum", "default", "examples", "required", "type", "dependentRequired")
"""Keywords whose content is no schema."""


def misfit(value: object, schema: Mapping[str, object]) -> tuple[tuple[str | int, ...], str] | None:
    """Return the place where a value does not fit a schema, and the reason; None if it fits.

    Nothing is fetched. A reference that leaves the schema, leads nowhere or goes round for ever is a misfit.
    """
    import jsonschema  # noqa: PLC0415  (50 ms, and few processes meet a schema)
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    try:
        error = next(iter(jsonschema.Draft202012Validator(schema, registry=REGISTRY).iter_errors(value)), None)
    except Unresolvable as wrong:
        return (), f"the schema itself is wrong: '{wrong.ref}' leads nowhere in it"
    except RecursionError:
        return (), "the value or the schema is nested too deeply, or the schema refers to itself without end"
    except re.error as wrong:
        return (), f"the schema itself is wrong: a pattern is no regular expression ({wrong})"
    return None if error is None else (tuple(error.absolute_path), error.message)


def check_own(schema: Any) -> None:
    """Raise ValueError unless `schema` is a JSON Schema whose references within itself lead somewhere."""
    import jsonschema  # noqa: PLC0415  (see above)

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a JSON Schema: {error.message}") from error

    def check(node: dict[str, object]) -> dict[str, object]:
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            pointed(schema, reference)
        return node

    transformed(schema, check)


def pointed(schema: Mapping[str, object], reference: str) -> object:
    """Return the part of a schema to which a pointer such as `#/$defs/name` leads. Raises ValueError without one."""
    found: object = schema
    for part in unquote(reference[2:]).split("/") if len(reference) > 1 else ():
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and part.isdecimal() and int(part[:9]) < len(found):
            found = found[int(part[:9])]
        elif isinstance(found, Mapping) and part in found:
            found = found[part]
        else:
            raise ValueError(f"not a JSON Schema: there is no '{reference}' in it")
    return found


def transformed(
    schema: object, change: Callable[[dict[str, object]], dict[str, object]], leaving: Collection[str] = ()
) -> Any:
    """Return a copy in which `change` has replaced every schema within, inner ones first.

    A part below the top with an `$id` is a document of its own, in which references mean something else. It is left as
    it is. So are the contents of the keywords in `leaving`.
    """
    if isinstance(schema, list):
        return [_below(each, change, leaving) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    copy: dict[str, object] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            copy[key] = {name: _below(each, change, leaving) for name, each in value.items()}
        else:
            copy[key] = value if key in _VALUES or key in leaving else _below(value, change, leaving)
    return change(copy)


def _below(
    schema: object, change: Callable[[dict[str, object]], dict[str, object]], leaving: Collection[str]
) -> object:
    is_document = isinstance(schema, Mapping) and isinstance(schema.get("$id"), str)
    return schema if is_document else transformed(schema, change, leaving)


def check_foreign(schema: Mapping[str, object]) -> None:
    """Raise ValueError, with the place, unless `schema` is a schema that may come from outside."""
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


def _nodes(
    root: Mapping[str, object], node: object, place: str, depth: int
) -> Iterator[tuple[Mapping[str, object], str]]:
    """Yield every schema within a schema, with its place. The target of a reference counts where it is referred to."""
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


def _target(root: Mapping[str, object], reference: object, place: str) -> object:
    """Return the schema that a reference within `root` leads to. Raises ValueError if there is none."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")) or "%" in reference:
        raise ValueError(f"{place}: a reference has to stay within the schema, as in '#/$defs/name'")
    found: object = root
    for part in reference[2:].split("/") if len(reference) > 1 else ():
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or part not in found:
            raise ValueError(f"{place}: there is no '{reference}'")
        found = found[part]
    if not isinstance(found, Mapping | bool):
        raise ValueError(f"{place}: '{reference}' is no schema")
    return found
