"""Workflows from YAML and JSON files, with file:line:column in every error.

Read as YAML 1.2 where it matters: only `true` and `false` are booleans (so `on: yes` stays text). Duplicate
keys, aliases and custom tags are refused; size and depth are limited before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml
from pydantic import ValidationError

from .check import Flawed
from .errors import InvalidDefinition
from .tree import explain, real_loc
from .workflow import Workflow

MAX_FILE_BYTES = 1024 * 1024
MAX_FILE_DEPTH = 200
"""Nesting of YAML collections; a tree of MAX_TREE_DEPTH levels needs about three each."""


class _Loader(yaml.CSafeLoader):
    """Safe loader with the boolean words of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in rows if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, rows in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_workflow(text: str, source: str = "<text>") -> Workflow:
    """The workflow in `text` (YAML, or JSON, which is YAML too).

    Args:
        source: what errors call the text, usually the file's path.

    Raises:
        InvalidDefinition: with `where` = source:line:column and `path` in the tree.
    """
    node = _compose(text, source)
    data = _construct(text)
    if not isinstance(data, dict):
        raise InvalidDefinition(
            problem=f"expected a mapping with `name` and `root`, found {type(data).__name__}",
            where=f"{source}:1:1",
        )
    try:
        return Workflow.model_validate(data)
    except Flawed as error:
        raise InvalidDefinition(
            problem=error.problem, path=error.path, where=_position(node, error.loc, source)
        ) from error
    except ValidationError as error:
        first = explain(error, "")
        loc = real_loc(error.errors(include_url=False)[0]["loc"])
        raise InvalidDefinition(problem=first.problem, path=first.path, where=_position(node, loc, source)) from error


def _compose(text: str, source: str) -> yaml.Node:
    if len(text.encode()) > MAX_FILE_BYTES:
        raise InvalidDefinition(problem=f"{len(text.encode())} bytes, the limit is {MAX_FILE_BYTES}", where=source)
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise InvalidDefinition(problem=f"not YAML: {error.problem or error.context}", where=where) from error
    except yaml.YAMLError as error:
        raise InvalidDefinition(problem=f"not YAML: {error}", where=source) from error
    if node is None:
        raise InvalidDefinition(problem="empty", where=source)
    _check_keys(node, source)
    return node


def _check_events(text: str, source: str) -> None:
    """Refuse aliases, tags, further documents and deep nesting before any node is built."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        mark = event.start_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        if isinstance(event, yaml.AliasEvent):
            raise InvalidDefinition(problem=f"aliases are not allowed (*{event.anchor})", where=where)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise InvalidDefinition(problem="a second document; one file holds one workflow", where=where)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_FILE_DEPTH:
                raise InvalidDefinition(problem=f"nested deeper than {MAX_FILE_DEPTH} levels", where=where)
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        tag = getattr(event, "tag", None)
        if tag:
            raise InvalidDefinition(problem=f"tags are not allowed ({tag})", where=where)


def _check_keys(node: yaml.Node, source: str) -> None:
    for mapping in _mappings(node):
        seen: dict[Hashable, yaml.Node] = {}
        for key, _ in mapping.value:
            where = f"{source}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise InvalidDefinition(problem="a key must be a text", where=where)
            if key.value in seen:
                first = seen[key.value].start_mark.line + 1
                raise InvalidDefinition(problem=f"duplicate key '{key.value}' (first in line {first})", where=where)
            seen[key.value] = key


def _mappings(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    ahead = [node]
    while ahead:
        node = ahead.pop()
        if isinstance(node, yaml.MappingNode):
            yield node
            ahead += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            ahead += node.value


def _construct(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _position(node: yaml.Node, loc: tuple[str | int, ...], source: str) -> str:
    """source:line:column of the deepest part of `loc` that is in the file."""
    mark = node.start_mark
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            mark, node = found[0].start_mark, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
    return f"{source}:{mark.line + 1}:{mark.column + 1}"
