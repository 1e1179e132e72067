"""Finds names in the expressions of a tree that can never exist, and inputs that an undo cannot take.

Both would fail only when they are reached, the undo when everything else has failed already. Only certain flaws are
found: a name that does not exist on any way through the tree. An expression that asks first (`has(outputs.x)`,
`"x" in outputs`, `outputs.?x`) may name anything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias, TypeGuard, assert_never

from pydantic import BaseModel

from .binding import input_of
from .protocol import resolve
from .tree import Adaptive, Hierarchy, Node, Parallel, Sequence, Sleep, Step, Wait, takers_back
from .wording import Loc

Found: TypeAlias = "tuple[Loc, str]"
"""The place of a flaw, and the problem."""
_UNDO_INPUT = frozenset({"input", "output"})
_NO_CODE = re.compile(
    r'[rRbB]{0,2}(?:"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')|//[^\n]*',
    re.DOTALL,
)
"""Matches texts and comments, which are no code."""
_PLAIN_TEXT = re.compile(r"([\"'])([A-Za-z_][\w-]*)\1")


def reference_flaws(root: Node) -> Iterator[Found]:
    """Yield every such flaw of a tree whose protocols and expressions are known to be sound."""
    return _flaws(root, ("root",), frozenset())


def _flaws(node: Node, loc: Loc, there: frozenset[str]) -> Iterator[Found]:
    """Yield the flaws of a node and all below it. `there` are the names that `outputs` may have at the node."""
    for part, source in _sources(node):
        yield from _unknown_outputs((*loc, *part), source, there)
    own: frozenset[str] = frozenset()
    match node:
        case Sequence():
            for index, child in enumerate(node.sequence):
                if not _is_silent(child):
                    yield from _flaws(child, (*loc, "sequence", index), there | own)
                own |= {str(child.name)}
        case Parallel():
            for name, child in (node.parallel or {}).items():
                yield from _flaws(child, (*loc, "parallel", name), there)
            if node.each is not None and node.do is not None:
                yield from _unknown_outputs((*loc, "each"), node.each, there)
                yield from _flaws(node.do, (*loc, "do"), there)
        case Hierarchy():  # its members begin with nothing, by a supervisor of their own
            yield from _flaws(node.hierarchy, (*loc, "hierarchy"), frozenset())
            for name, child in node.team.items():
                yield from _flaws(child, (*loc, "team", name), frozenset())
        case Adaptive():
            own = frozenset(node.adaptive)
            for index, rule in enumerate(node.rules):
                yield from _unknown_outputs((*loc, "rules", index, "when"), rule.when, there | own)
            for name, child in node.adaptive.items():
                yield from _flaws(child, (*loc, "adaptive", name), there | own)
        case Wait():
            for loc_below, child in node.own_children():
                yield from _flaws(child, (*loc, *loc_below), there)
        case Step() | Sleep():
            pass
        case _:
            assert_never(node)
    for index, child in enumerate(node.fallback):  # it may see what has ended inside the node that failed
        yield from _flaws(child, (*loc, "fallback", index), there | own)
    for name, step in takers_back(node).items():
        yield from _flaws(step, (*loc, name), frozenset())
        yield from _undo_flaws(step, (*loc, name))


def _is_silent(node: Node) -> bool:
    """Whether a node is a step without references. Most steps are, and long sequences consist of steps."""
    return isinstance(node, Step) and node.with_ is None and not takers_back(node) and not node.fallback


def _sources(node: Node) -> list[tuple[Loc, str]]:
    """Return the expressions of a node that are evaluated when it begins, each with its place."""
    found = _placed("with", node.with_)
    if isinstance(node, Wait):
        found += _placed("show", node.show)
    if isinstance(node, Sleep):
        span = (("for_s", node.sleep.for_s), ("until", node.sleep.until))
        found += [(("sleep", name), source) for name, source in span if isinstance(source, str)]
    return found


def _placed(name: str, given: str | Mapping[str, str] | None) -> list[tuple[Loc, str]]:
    if isinstance(given, str):
        return [((name,), given)]
    return [((name, key), source) for key, source in (given or {}).items()]


def _unknown_outputs(loc: Loc, source: str, there: frozenset[str]) -> Iterator[Found]:
    for name in sorted(fields_of("outputs", source) - there):
        known = f"there may be {', '.join(sorted(there))}" if there else "there are no outputs here"
        yield loc, f"`{source}`: no node '{name}' has ended before this; {known}{_meant(name, there)}"


def _undo_flaws(undo: Step, loc: Loc) -> Iterator[Found]:
    """Yield the flaws of an `undo` or `on_cancel`. It gets {"input", "output"} of its node, or the value of `with`."""
    for part, source in _sources(undo):
        for name in sorted(fields_of("input", source) - _UNDO_INPUT):
            problem = f"the input of an undo has the fields input and output, no '{name}'{_meant(name, _UNDO_INPUT)}"
            yield (*loc, *part), f"`{source}`: {problem}"
    if isinstance(undo.with_, str):
        return
    given = _UNDO_INPUT if undo.with_ is None else frozenset(undo.with_)
    wanted = input_of(resolve(undo.step)).hint
    if wanted in (str, int, float, bool):
        gets = f"and gets a mapping with {', '.join(sorted(given))}"
        yield loc, f"{undo.step} takes {wanted.__name__}, {gets}; pick from it with `with`"
    elif _is_plain_model(wanted):
        yield from _misfits(wanted, given, undo, loc)


def _misfits(model: type[BaseModel], given: frozenset[str], undo: Step, loc: Loc) -> Iterator[Found]:
    place = loc if undo.with_ is None else (*loc, "with")
    known = frozenset(model.model_fields)
    unknown = sorted(given - known)
    lacking = sorted(name for name, field in model.model_fields.items() if field.is_required() and name not in given)
    if lacking:
        instead = f", and not {', '.join(unknown)}" if unknown else ""
        yield place, f"{undo.step} needs {', '.join(lacking)}{instead}: {model.__name__} has {', '.join(sorted(known))}"
    elif unknown and model.model_config.get("extra") == "forbid":
        yield place, f"{undo.step} takes no {', '.join(unknown)}: {model.__name__} has {', '.join(sorted(known))}"


def _is_plain_model(hint: object) -> TypeGuard[type[BaseModel]]:
    """Whether the hint is a model whose fields alone decide: no alias, and no validator that may change the input."""
    if not (isinstance(hint, type) and issubclass(hint, BaseModel)) or hint.__pydantic_root_model__:
        return False
    decorators = hint.__pydantic_decorators__
    is_renamed = any(field.alias or field.validation_alias for field in hint.model_fields.values())
    changes = any(each.info.mode != "after" for each in decorators.model_validators.values())
    return not (is_renamed or changes or decorators.root_validators or hint.model_config.get("alias_generator"))


def fields_of(variable: str, source: str) -> frozenset[str]:
    """Return the fields of a variable that an expression reads without asking whether they exist."""
    if re.search(rf"\(\s*{variable}\s*,", source):
        return frozenset()  # a macro has a variable of that name
    texts: list[str] = []

    def keep(found: re.Match[str]) -> str:
        texts.append(found[0])
        return f" \0{len(texts) - 1}\0 "

    code = _NO_CODE.sub(keep, source)
    read: set[str] = set()
    asked: set[str | None] = set()
    field = r"(?:\.\s*(?P<field>\w+)(?P<call>\s*\()?|\[\s*\0(?P<key>\d+)\0\s*\])"
    for found in re.finditer(rf"(?<!\w)(?P<has>has\s*\(\s*)?{variable}\s*{field}", code):
        name = found["field"] or _plain(texts[int(found["key"])])
        is_other = code[: found.start()].rstrip().endswith((".", ".?"))  # a field of something else
        if not is_other and not found["call"] and name is not None:
            (asked if found["has"] else read).add(name)
    for found in re.finditer(rf"\0(\d+)\0\s*in\s+{variable}\b", code):
        asked.add(_plain(texts[int(found[1])]))
    return frozenset(name for name in read if name not in asked)


def _plain(text: str) -> str | None:
    found = _PLAIN_TEXT.fullmatch(text)
    return found[2] if found else None


def _meant(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean '{close[0]}'?" if close else ""


__all__ = ["fields_of", "reference_flaws"]
