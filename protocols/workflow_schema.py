"""Makes the JSON Schema of workflow files, for editors and for `podium validate`.

The schema allows what `read_workflow` takes, as far as a schema can: a text as a step, one node as `fallback`, one
action in `on_error`, the free names, the settings that go together. A schema cannot express rules on several places of
a file or on code: that names are unique, that rules lead somewhere, that expressions compile, that protocols exist.

`read_workflow` keeps to the schema: pydantic alone would take "5" for a number and "yes" for a boolean, which editors
refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, get_args

from .quantities import MAX_SECONDS, shown
from .recovery import Action
from .tree import NODES, Parallel
from .tree_parts import END, NODE_NAME
from .workflow import Workflow

if TYPE_CHECKING:
    from jsonschema import ValidationError

_BASE = "https://json-schema.org/draft/2020-12/schema"
_END_OF_TEXT = r"(?![\s\S])"
"""`$` of ECMA-262 and of Rust; Python's also matches before a last line break."""
_NAMED_BY = {node.__name__.lower(): node.__name__ for node in NODES if node is not Parallel}
"""The class of each kind of node that has one form, by its key."""
_NODE, _STEP, _STAND_IN = ({"$ref": f"#/$defs/{name}"} for name in ("Node", "StepNode", "StandIn"))
_TAKES_BACK = {"allOf": [_STEP, {"properties": {"undo": {"type": "null"}, "on_cancel": {"type": "null"}}}]}
_BOOLEANS = frozenset({"undo_on_cancel", "needs_tasks", "elicit", "at_most_once", "jitter", "not_starter", "signed"})
_LOOKS_OTHERWISE = re.compile(r"\s*(?:[-+]?[0-9._]+(?:[eE][-+]?[0-9]+)?|true|false|yes|no|on|off|t|f|y|n)\s*", re.I)


@cache
def workflow_schema() -> dict[str, object]:
    """Return the schema of workflow files, in draft 2020-12. Do not change the returned object."""
    schema = _with_nodes(Workflow.model_json_schema(by_alias=True))
    definitions = schema["$defs"]
    for node in NODES:
        _settle_node(definitions[node.__name__]["properties"])
    definitions["Step"]["properties"]["step"]["pattern"] = rf"^[^\s:]+:\S+{_END_OF_TEXT}"
    definitions["Step"]["properties"]["on_error"]["additionalProperties"] = _actions()
    definitions["Hierarchy"]["properties"]["hierarchy"] = _STEP
    definitions["Hierarchy"]["properties"]["team"]["propertyNames"] = _names("lead")
    definitions["Adaptive"]["properties"]["adaptive"]["propertyNames"] = _names(END)
    _settle_parallel(definitions["Parallel"])
    _settle_wait(definitions["Wait"])
    _settle_sleep(definitions)
    schema["properties"]["input"] = {"anyOf": [{"type": "object", "$ref": _BASE}, {"type": "null"}]}
    definitions |= _node_kinds(definitions["Step"]["properties"]["step"]["pattern"])
    return {"$schema": _BASE, **schema}


def unlike_schema(data: object) -> tuple[tuple[str | int, ...], str] | None:
    """Return the place where data that pydantic took breaks the schema, and the reason; None if there is none."""
    if not any(_is_doubtful(key, value) for key, value in _scalars(data)):
        return None  # which spares nearly all files 50 ms for the library
    import jsonschema  # noqa: PLC0415

    errors = jsonschema.Draft202012Validator(workflow_schema()).iter_errors(data)
    error = jsonschema.exceptions.best_match(errors)
    return None if error is None else (tuple(error.absolute_path), _why(error))


def _why(error: ValidationError) -> str:
    """Word an error of the schema: the wanted value, and the given one."""
    choices = error.schema.get("anyOf", [error.schema]) if isinstance(error.schema, dict) else []
    kinds = [each["type"] for each in choices if isinstance(each.get("type"), str) and each["type"] != "null"]
    return f"expected {' or '.join(kinds)}, found {shown(error.instance)}" if kinds else str(error.message)


def _scalars(data: object) -> Iterator[tuple[str, object]]:
    """Yield every scalar, with the key that it or its list is under."""
    ahead = [("", data)]
    while ahead:
        key, value = ahead.pop()
        if isinstance(value, Mapping):
            ahead += value.items()
        elif isinstance(value, list):
            ahead += [(key, item) for item in value]
        else:
            yield key, value


def _is_doubtful(key: str, value: object) -> bool:
    """Whether pydantic may have taken a scalar for another type."""
    if isinstance(value, bool):
        return key not in _BOOLEANS
    if isinstance(value, str):
        return _LOOKS_OTHERWISE.fullmatch(value) is not None
    return key in _BOOLEANS and value is not None


def _with_nodes(schema: object) -> Any:
    """Return the schema with references in the places of nodes, and with patterns that hold to the end of the text."""
    if isinstance(schema, list):
        return [_with_nodes(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "#/$defs/Adaptive" in [each.get("$ref") for each in schema.get("oneOf", ())]:
        return {**{key: value for key, value in schema.items() if key != "oneOf"}, **_NODE}
    changed = {key: _with_nodes(value) for key, value in schema.items()}
    if isinstance(changed.get("pattern"), str):
        changed["pattern"] = changed["pattern"].removesuffix("$") + _END_OF_TEXT
    return changed


def _settle_node(properties: dict[str, Any]) -> None:
    """Settle the schemas of the properties that all kinds of nodes have."""
    properties["with_"] = {**properties["with"], "deprecated": True, "description": "Python's way to write `with`."}
    properties["fallback"] = {
        "description": "What runs instead, one after the other: one node, or several.",
        **_choice(({"type": "array"}, {"type": "array", "items": _STAND_IN}), otherwise=_STAND_IN),
    }
    for name in ("undo", "on_cancel"):
        if name in properties:
            properties[name] = {"anyOf": [_TAKES_BACK, {"type": "null"}]}


def _settle_parallel(parallel: dict[str, Any]) -> None:
    properties = parallel["properties"]
    properties["parallel"] = {**_names_of_branches(properties["parallel"]), "type": "object"}
    properties["each"] = {"type": "string"}
    properties["do"] = {"anyOf": [_NODE, {"type": "null"}]}
    parallel["oneOf"] = [
        {"required": ["parallel"], "properties": {"do": {"type": "null"}, "each": False}},
        {"required": ["each", "do"], "properties": {"do": {"not": {"type": "null"}}, "parallel": False}},
    ]
    is_partial = {"required": ["on_timeout"], "properties": {"on_timeout": {"const": "partial"}}}
    needs = {
        "required": ["timeout_s"],
        "properties": {"timeout_s": {"type": "number"}, "join": {"not": {"const": "any"}}},
    }
    parallel |= {"if": is_partial, "then": needs}


def _settle_wait(wait: dict[str, Any]) -> None:
    properties = wait["properties"]
    properties["schema"] = {"anyOf": [{"type": "object", "$ref": _BASE}, {"type": "null"}]}
    properties["schema_"] = {**properties["schema"], "deprecated": True, "description": "`schema`."}
    is_value = {"propertyNames": {"enum": ["value", "missing"]}}
    late = _choice(({"type": "null"}, True), (is_value, {"$ref": "#/$defs/Constant"}), otherwise=_NODE)
    properties["on_timeout"] = late
    wait["allOf"] = [
        _needs({"on_timeout": {"not": {"type": "null"}}}, {"timeout_s": {"type": "number"}}),
        _needs({"on_refusal": {"enum": ["finish", "go_on"]}}, {"refusal": {"type": "string"}}),
    ]


def _needs(given: dict[str, object], needed: dict[str, object]) -> dict[str, object]:
    """Return the schema of an object in which properties that are so need others that are so."""
    condition = {"required": list(given), "properties": given}
    return {"if": condition, "then": {"required": list(needed), "properties": needed}}


def _settle_sleep(definitions: dict[str, Any]) -> None:
    span = definitions["Span"]
    forms = [("for_s", "until"), ("until", "for_s")]
    span["oneOf"] = [
        {"required": [one], "properties": {one: {"not": {"type": "null"}}, other: {"type": "null"}}}
        for one, other in forms
    ]
    seconds = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SECONDS}
    short = {"anyOf": [seconds, {"type": "string"}]}
    is_short = {"type": ["number", "string"]}
    definitions["Sleep"]["properties"]["sleep"] = _choice((is_short, short), otherwise={"$ref": "#/$defs/Span"})


def _names_of_branches(found: dict[str, Any]) -> dict[str, object]:
    """Return the object's schema of `parallel`, whose schema allows an object or null, with the names of branches."""
    objects = [each for each in found.get("anyOf", [found]) if each.get("type") == "object"]
    return {**objects[0], "propertyNames": _names()}


def _names(*taken: str) -> dict[str, object]:
    names: dict[str, object] = {"pattern": f"^{NODE_NAME.pattern}{_END_OF_TEXT}"}
    return {**names, "not": {"enum": list(taken)}} if taken else names


def _actions() -> dict[str, object]:
    """Return the schema of one action, or several in their order; none follows `park` or `fail`."""
    *first, park, fail = get_args(Action)
    starts = [list(some) for count in range(len(first) + 1) for some in combinations(first, count)]
    lists = [start + end for start in starts for end in ([], [park], [fail]) if start + end]
    return {"anyOf": [{"enum": [*first, park, fail]}, {"enum": lists}]}


def _node_kinds(step_pattern: str) -> dict[str, object]:
    """Return the schema of a node, which tries the kinds one after another, by key. With `anyOf` a validator would look
    at the children of a node six times, and at their children six times again."""
    text: tuple[object, object] = ({"type": "string"}, {"pattern": step_pattern})
    kinds = [({"required": [key]}, {"$ref": f"#/$defs/{name}"}) for key, name in _NAMED_BY.items()]
    parallel = ({"anyOf": [{"required": ["parallel"]}, {"required": ["each"]}]}, {"$ref": "#/$defs/Parallel"})
    keys = [*_NAMED_BY, "parallel", "each"]
    no_node = {"type": ["string", "object"], "anyOf": [{"required": [key]} for key in keys]}
    stand_in = _choice(text, *kinds, parallel, otherwise=no_node)
    lacks_nothing = {"properties": {"missing": {"type": "null"}}}
    return {
        "StandIn": {"description": "A node that runs instead of another one.", **stand_in},
        "Node": {"description": "A text names a step.", "allOf": [_STAND_IN, lacks_nothing]},
        "StepNode": {"allOf": [_choice(text, otherwise={"$ref": "#/$defs/Step"}), lacks_nothing]},
    }


def _choice(*cases: tuple[object, Any], otherwise: Any) -> dict[str, object]:
    """Return a schema that applies the first case whose condition holds. A condition on keys holds for objects only."""
    chain: Any = otherwise
    for condition, then in reversed(cases):
        is_object = {} if "type" in condition else {"type": "object"}
        chain = {"if": {**is_object, **condition}, "then": then, "else": chain}
    found: dict[str, Any] = chain
    return found


__all__ = ["unlike_schema", "workflow_schema"]
