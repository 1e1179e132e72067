"""Workflows from YAML and JSON files, with file:line:column in every error.

Read as YAML 1.2 (see yaml_core.py), or as JSON if it is JSON. Duplicate keys, aliases and custom tags are refused;
size and depth are limited before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Protocol

import yaml
from pydantic import ValidationError

from .check import Flawed
from .decoding import without_mark
from .errors import InvalidDefinition
from .json_nodes import NotJson, json_nodes
from .wording import Loc, flaws_of, place
from .workflow import Workflow
from .workflow_schema import unlike_schema
from .yaml_core import Loader, Unreadable, value_of

MAX_FILE_BYTES = 1024 * 1024
MAX_FILE_DEPTH = 200
"""Deepest nesting of YAML collections. Each of the MAX_TREE_DEPTH levels of a tree needs about three."""
MAX_JOINED = 1_000
"""Most texts with surrogate pairs in one YAML file."""
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|\\.", re.DOTALL)
"""A surrogate pair as JSON writes it, or any other escape."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class _Mark(Protocol):
    """A place in a file, counted from 0. PyYAML has two classes of them."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


def read_workflow(text: str, source: str = "<text>") -> Workflow:
    """Read a workflow from a text in YAML or JSON.

    Args:
        source: The name by which errors call the text, usually the file's path.

    Raises:
        InvalidDefinition: Something is wrong; `where` is source:line:column, `path` the place in the tree.
    """
    node = _compose(without_mark(text), source)
    data = _value(node, source)
    if not isinstance(data, dict):
        raise InvalidDefinition(
            problem=f"expected a mapping with `name` and `root`, found {type(data).__name__}",
            where=f"{source}:1:1",
        )
    try:
        workflow = Workflow.model_validate(data)
    except Flawed as error:
        raise _refused(node, [(flaw.loc, flaw.problem) for flaw in error.flaws], source) from error
    except ValidationError as error:
        raise _refused(node, flaws_of(error, Workflow), source) from error
    unlike = unlike_schema(data)
    if unlike is not None:
        raise _refused(node, [unlike], source)
    return workflow


def read_mapping(text: str, source: str) -> dict[str, object]:
    """Read a mapping in YAML or JSON, by the rules for workflows. Raises InvalidDefinition with source:line:column."""
    data = _value(_compose(without_mark(text), source), source)
    if not isinstance(data, dict):
        raise InvalidDefinition(problem=f"expected a mapping, found {type(data).__name__}", where=f"{source}:1:1")
    return data


def _refused(node: yaml.Node, flaws: list[tuple[Loc, str]], source: str) -> InvalidDefinition:
    """Return an error with each flaw in its own line, with its place in the file and in the tree."""
    (loc, problem), *others = flaws
    lines = [problem, *(f"{_position(node, each, source)}: {_path(each)}: {said}" for each, said in others)]
    return InvalidDefinition(problem="\n".join(lines), path=_path(loc), where=_position(node, loc, source))


def _path(loc: Loc) -> str:
    return place("", loc).lstrip(".")


def _value(node: yaml.Node, source: str) -> object:
    try:
        return value_of(node)
    except Unreadable as error:
        raise InvalidDefinition(problem=str(error), where=_at(error.mark, source)) from error


def _compose(text: str, source: str) -> yaml.Node:
    size_bytes = len(text.encode(errors="surrogatepass"))
    if size_bytes > MAX_FILE_BYTES:
        raise InvalidDefinition(problem=f"{size_bytes} bytes, the limit is {MAX_FILE_BYTES}", where=source)
    node = _as_json(text, source) if text.lstrip()[:1] in ("{", "[") else None
    if node is None:
        node = _as_yaml(text, source)
    if node is None:
        raise InvalidDefinition(problem="empty", where=source)
    _check_keys(node, source)
    return node


def _as_json(text: str, source: str) -> yaml.Node | None:
    """Return the root node, or None if the text is not JSON. A file named `.json` must be JSON, or at least YAML."""
    try:
        return json_nodes(text, MAX_FILE_DEPTH)
    except NotJson as error:
        if not source.lower().endswith(".json"):
            return None
        try:
            return _as_yaml(text, source)
        except InvalidDefinition:
            raise InvalidDefinition(problem=f"not JSON: {error}", where=_at(error.mark, source)) from error


def _as_yaml(text: str, source: str) -> yaml.Node | None:
    for _ in range(MAX_JOINED + 1):
        try:
            _check_events(text, source)
            return yaml.compose(text, Loader=Loader)
        except yaml.MarkedYAMLError as error:
            joined = _pairs_joined(text, error)
            if joined is None:
                where = _at(error.problem_mark or error.context_mark, source)
                raise InvalidDefinition(problem=f"not YAML: {error.problem or error.context}", where=where) from error
            text = joined
        except yaml.reader.ReaderError as error:
            before = text.encode()[: error.position].decode(errors="ignore")
            where = f"{source}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
            raise InvalidDefinition(problem=f"not YAML: {error.reason}", where=where) from error
        except UnicodeEncodeError as error:
            raise InvalidDefinition(problem="half of a surrogate pair, which is no character", where=source) from error
    raise InvalidDefinition(problem=f"more than {MAX_JOINED} texts with surrogate pairs", where=source)


def _pairs_joined(text: str, error: yaml.MarkedYAMLError) -> str | None:
    """Return the text with each surrogate pair as one escape, in the quoted text that the error is about.

    JSON has surrogate pairs, YAML has not. None if the error is about something else.
    """
    start = error.context_mark.index if error.context_mark else 0
    quoted = _QUOTED.match(text, start)
    if quoted is None:
        return None
    joined = _PAIR.sub(_one_escape, quoted[0])
    return None if joined == quoted[0] else text[:start] + joined + text[quoted.end() :]


def _one_escape(found: re.Match[str]) -> str:
    if not found[1]:
        return found[0]
    high, low = int(found[1], 16), int(found[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"


def _at(mark: _Mark | None, source: str) -> str:
    return f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source


def _check_events(text: str, source: str) -> None:
    """Refuse aliases, tags, further documents and deep nesting before any node is built."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=Loader):
        mark = event.start_mark
        where = _at(mark, source)
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


def _position(node: yaml.Node, loc: tuple[str | int, ...], source: str) -> str:
    """Return source:line:column of the deepest part of `loc` that is in the file."""
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
