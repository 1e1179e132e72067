"""The open waits of a task as requests for input, which clients show as forms, and their responses as answers.

A form of MCP is flat: an object whose properties are texts, numbers, booleans or choices. An answer that is such an
object is the form itself. One that is a text, a number, a boolean or a choice is the only field of a form. Any other is
typed as JSON into one field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....protocols.errors import InvalidInput
from ....protocols.json_forms import from_json, to_json
from ....protocols.printable import printable
from ....protocols.values import Value
from ...client.waits import OpenWait

ARGUMENTS = "arguments"
"""Key of the request for arguments that a call leaves out."""
ANSWER = "answer"
"""The only field of the form for an answer that is no flat object."""
DIGEST_CHARS = 16
MAX_SHOWN_CHARS = 4_000
"""Most characters of what an answer is about, in one request."""
_PRIMITIVES = frozenset({"string", "number", "integer", "boolean"})
_FORMATS = frozenset({"email", "uri", "date", "date-time"})
_KEPT = ("type", "title", "description", "minLength", "maxLength", "minimum", "maximum", "enum", "default")


def key_of(wait: OpenWait) -> str:
    """Return the key of a request for input. It is another one if what the answer is about has changed."""
    return f"{wait.name}:{wait.digest[:DIGEST_CHARS]}"


def requests_of(waits: Sequence[OpenWait]) -> dict[str, object]:
    """Return the requests for input of a task, by key."""
    return {key_of(wait): {"method": "elicitation/create", "params": _request(wait)} for wait in waits}


def missing_of(tool: str, schema: Mapping[str, Any], arguments: Mapping[str, object]) -> dict[str, object] | None:
    """Return the request for the required arguments that a call leaves out.

    None if none is left out, or one for which a form has no field.
    """
    properties = schema.get("properties") or {}
    fields = {name: _field(properties.get(name)) for name in schema.get("required", ()) if name not in arguments}
    if not fields or None in fields.values():
        return None
    form = {"type": "object", "properties": fields, "required": list(fields)}
    message = f"'{tool}' needs {', '.join(fields)}"
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": form}}


def facts_of(wait: OpenWait) -> dict[str, object]:
    """Return a wait for clients that do not know requests for input: what `answer_task` takes."""
    facts = {"name": wait.name, "digest": wait.digest, "shown": wait.shown, "schema": wait.schema, "until": wait.until}
    return {key: value for key, value in facts.items() if value is not None}


def answered(wait: OpenWait, response: object) -> tuple[Value] | None:
    """Return the answer in the response of a client, None if the user has given none.

    Raises InvalidInput if what is typed into the form is not what the form asks for.
    """
    said = response if isinstance(response, Mapping) else {}
    if said.get("action") != "accept":
        return None
    content = said.get("content")
    if _is_flat(wait.schema):
        return (content,)
    path = f"inputResponses.{key_of(wait)}.content"
    if not isinstance(content, Mapping) or ANSWER not in content:
        raise InvalidInput(problem=f"the form has one field, '{ANSWER}', and it is needed", path=path)
    typed = content[ANSWER]
    if _field(wait.schema) is not None or not isinstance(typed, str):
        return (typed,)
    try:
        return (from_json(typed),)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(problem=f"not JSON: {error}", path=f"{path}.{ANSWER}") from error


def _request(wait: OpenWait) -> dict[str, object]:
    message = f"'{wait.workflow}' waits for an answer: {wait.name}"
    if wait.shown is not None:
        text = printable(wait.shown if isinstance(wait.shown, str) else to_json(wait.shown))
        message += f"\n{text[:MAX_SHOWN_CHARS]}{'…' if len(text) > MAX_SHOWN_CHARS else ''}"
    return {"mode": "form", "message": message, "requestedSchema": _form(wait.schema)}


def _form(schema: Mapping[str, Any] | None) -> dict[str, object]:
    if schema is not None and _is_flat(schema):
        fields = {name: _field(each) for name, each in schema["properties"].items()}
        needed = [name for name in schema.get("required", ()) if name in fields]
        return {"type": "object", "properties": fields, "required": needed}
    as_json = {"type": "string", "description": f"JSON that fits {to_json(schema)}" if schema else "JSON"}
    return {"type": "object", "properties": {ANSWER: _field(schema) or as_json}, "required": [ANSWER]}


def _is_flat(schema: Mapping[str, Any] | None) -> bool:
    """Whether a form can ask for every property of an answer."""
    if schema is None or schema.get("type") != "object":
        return False
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return False
    return all(_field(each) is not None for each in properties.values())


def _field(schema: object) -> dict[str, object] | None:
    """Return the schema of a field in a form; None if a form has no such field."""
    if not isinstance(schema, Mapping):
        return None
    choices, kind = schema.get("enum"), schema.get("type")
    if choices is not None:
        if not all(isinstance(each, str) for each in choices):
            return None
        kind = "string"
    if not isinstance(kind, str) or kind not in _PRIMITIVES:
        return None
    field = {key: schema[key] for key in _KEPT if key in schema} | {"type": kind}
    return field | ({"format": schema["format"]} if schema.get("format") in _FORMATS else {})
