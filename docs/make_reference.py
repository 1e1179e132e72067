"""Writes docs/reference.md from the signatures and docstrings of the public API: python docs/make_reference.py

A test compares the page with what this writes. Docstrings of fields are texts below them, which Python does not keep,
so everything is read from the source.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import podium
from podium import errors, status, testing, verdict
from podium.cluster.client.deployed import DeployedWorkflow
from podium.cluster.client.request_state import RequestState
from podium.cluster.simulation.scene import Scene
from podium.protocols import outcomes, policy, recovery, tree
from podium.protocols.protocol import Declaration
from podium.protocols.requests import request
from podium.supervisors.figures.status import WorkflowState

PAGE = Path(__file__).parent / "reference.md"
HEAD = """# Reference

Every public class and function, made from the docstrings by `docs/make_reference.py`. Everything is in `podium`, unless
a heading says otherwise. How things work together is in [workflows.md](workflows.md); the settings are in
[settings.md](settings.md). Times are in seconds, points in time in UTC seconds since 1970.
"""
BOUNDS = {"gt": "above {}", "ge": "{} or more", "lt": "below {}", "le": "at most {}", "min_length": "not empty"}
SECTIONS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("Connecting", "", (podium.connect, podium.connect_async, podium.Settings)),
    ("Engines", "", (podium.Engine, podium.AsyncEngine, DeployedWorkflow)),
    ("Status", "podium.status", (status.ClusterStatus, status.WorkflowStatus, status.PoolStatus, status.NestedStatus,
                                 status.VersionStatus, status.Counts, status.StepDurations, status.StateChanges,
                                 status.Durations, status.LimitUse, status.BreakerStatus, status.ThrottleStatus,
                                 status.ThrottleChange, status.Load, status.Alert)),
    ("Tasks", "", (podium.Task, podium.AsyncTask, podium.TaskRecord, podium.TaskEvent, podium.Failure,
                   podium.DeadLetter, podium.OpenWait, podium.AnswerReceipt, RequestState)),
    ("Protocols", "", (podium.protocol, podium.Protocol, podium.Context, podium.Ask, podium.Answer, podium.Retry,
                       podium.Breaker)),
    ("Values", "", (podium.codec, podium.decoded, podium.File, podium.Lazy, podium.Secret)),
    ("Workflows", "", (podium.Workflow, *tree.NODES, podium.Rule, podium.Constant, podium.Supervision, podium.quorum,
                       podium.Goto, podium.load_workflow, podium.read_workflow)),
    ("Verdicts", "podium.verdict", tuple(getattr(verdict, name) for name in verdict.__all__ if name != "Goto")),
    ("Requests", "", (podium.Request,)),
    ("Errors", "podium.errors", tuple(getattr(errors, name) for name in errors.__all__)),
    ("Testing", "podium.testing", (testing.simulate, testing.Simulation, testing.Faults)),
)  # fmt: skip
LITERALS = {
    "TaskStatus": outcomes.TaskStatus,
    "Criticality": outcomes.Criticality,
    "Category": recovery.Category,
    "Action": recovery.Action,
    "Strategy": policy.Strategy,
    "WorkflowState": WorkflowState,
    "RequestType": request.RequestType,
    "Source": request.Source,
}
NOT_HERE = (
    "to_wire", "from_wire", "from_trusted", "core", "at", "ended", "timed_out", "submit_to", "definitions",
    "ask_workflow", "quorum", "plain", "note", "note_frame", "own_children", "travel",
)  # fmt: skip
"""Methods of public classes that only Podium itself uses."""


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(inspect.importlib.import_module(module)))  # type: ignore[attr-defined]


@cache
def definition(thing: Any) -> Any:
    """The node of a class or function in the source; of overloads, the longest."""
    found = [node for node in parsed(thing.__module__).body if getattr(node, "name", None) == thing.__name__]
    return max(found, key=lambda node: len(ast.unparse(node.args)) if hasattr(node, "args") else 0)


def bases_of(cls: type) -> list[type]:
    """The class and those of its bases that are Podium's, the farthest first."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("podium.")]
    return [base for base in reversed(ours) if base.__name__ not in ("Definition", "_Asked")]


def parts_of(cls: type) -> list[type]:
    """The class, and a base of it that is no class of the public API but a part of this one."""
    return [cls, *(base for base in bases_of(cls)[:-1] if base is Scene)]


def text_of(node: ast.stmt | None) -> str | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return None


def documented(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str | None]]:
    """Each statement with the text below it."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        yield node, text_of(after)


def type_of(annotation: ast.expr) -> str:
    """As it is written; bounds of numbers in words."""
    if isinstance(annotation, ast.BinOp):
        return f"{type_of(annotation.left)} | {type_of(annotation.right)}"
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        inner, *notes = annotation.slice.elts
        keywords = [each for note in notes if isinstance(note, ast.Call) for each in note.keywords]
        words = [BOUNDS[str(each.arg)].format(ast.unparse(each.value)) for each in keywords if each.arg in BOUNDS]
        return ", ".join([type_of(inner), *words])
    return re.sub(r"Annotated\[(\w+), Field\([^)]*\)\]", r"\1", ast.unparse(annotation)).replace("'", '"')


def default_of(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    if isinstance(value, ast.Call):
        return "`{}`" if "dict" in ast.unparse(value) else ""
    return f"`{ast.unparse(value)}`".replace("'", '"')


def fields_of(cls: type) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each public field."""
    found = {}
    for node, text in documented(definition(cls).body):
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            name = ast.unparse(node.target)
            if not name.startswith("_"):
                found[name] = (name, type_of(node.annotation), default_of(node.value), text or "")
    return list(found.values())


def attributes_of(cls: type) -> list[tuple[str, str]]:
    """What `__init__` puts on an object with a text below it."""
    made = [node for part in parts_of(cls) for node in definition(part).body if getattr(node, "name", "") == "__init__"]
    return [
        (target.attr, text)
        for init in made
        for node, text in documented(init.body)
        if isinstance(node, ast.Assign | ast.AnnAssign) and text
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute)
    ]


def table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines] + [""]


def fields_table(cls: type) -> list[str]:
    rows = [(f"`{name}`", f"`{type}`", default, text) for name, type, default, text in fields_of(cls) if name != "ref"]
    if cls is Declaration:
        rows[0] = (*rows[0][:2], "its own", rows[0][3])
    if not rows:
        return [""]
    is_tuple = issubclass(cls, tuple)
    if is_tuple or (is_dataclass(cls) and cls not in (testing.Faults, podium.Goto)):
        return table(((name, type, text) for name, type, _, text in rows), ("field", "type", "meaning"))
    return table(rows, ("setting", "type", "default", "meaning"))


def prose(text: str) -> list[str]:
    """A docstring as Markdown: its lists of arguments and errors become lists."""
    lines, label = [], ""
    for line in inspect.cleandoc(text).splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            label = line
            lines += [f"**{line[:-1]}**", ""]
        elif label and (item := re.fullmatch(r"    ([\w, ]+): (.*)", line)) and label != "Returns:":
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif label:
            lines.append("  " + line.strip() if line.strip() else "")
        else:
            lines.append(line)
    return [*lines, ""]


def signature(node: Any, name: str) -> list[str]:
    """A call with all its arguments, one in each line if there are many."""
    text = re.sub(r"^self(, )?", "", ast.unparse(node.args)).replace("'", '"')
    text = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", text)
    yields = any(isinstance(each, ast.Yield) for each in ast.walk(node))
    prefix = "" if isinstance(node, ast.FunctionDef) else "async for event in " if yields else "await "
    result = f" -> {ast.unparse(node.returns)}".replace("'", '"') if node.returns else ""
    line = f"{prefix}{name}({text}){result}"
    if len(line) > 100:
        parts = re.split(r", (?![^\[]*\])", text)
        line = f"{prefix}{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"
    return ["```text", line, "```", ""]


def method(owner: type, node: Any) -> list[str]:
    text = ast.get_docstring(node) or ""
    decorators = {ast.unparse(each) for each in node.decorator_list}
    name = f"{owner.__name__}.{node.name}"
    if decorators & {"property", "cached_property"}:
        call = ["```text", f"{name}: {ast.unparse(node.returns)}", "```", ""]
    else:
        call = signature(node, name)
    return [f"#### {name}", "", *call, *prose(text)]


def is_deprecated(node: Any) -> bool:
    return any(isinstance(each, ast.Call) and ast.unparse(each.func) == "deprecated" for each in ast.walk(node))


def methods_of(cls: type) -> Iterator[Any]:
    """Public methods and properties, without those that are deprecated: the docs know the new way only."""
    for node in (node for part in parts_of(cls) for node in definition(part).body):
        is_method = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_method and not node.name.startswith("_") and node.name not in NOT_HERE and not is_deprecated(node):
            if any(ast.unparse(each) == "overload" for each in node.decorator_list):
                continue  # the implementation has the text
            yield node


def same_as_sync(cls: type) -> list[str]:
    """Methods of the asynchronous form, in one table where they only mirror the other's."""
    rows = [node for node in methods_of(cls) if (ast.get_docstring(node) or "").startswith("As `")]
    lines = [f"- `{signature(node, node.name)[1].partition('(')[0]}`: {ast.get_docstring(node)}" for node in rows]
    return [*lines, ""] if lines else []


def class_entry(cls: type, module: str) -> list[str]:
    above = cls.__mro__[1]
    kind = f" ({above.__name__})" if issubclass(cls, podium.PodiumError) and above is not Exception else ""
    lines = [f"### {cls.__name__}{kind}", "", *prose(inspect.getdoc(cls) or "")]
    if cls is podium.Settings:
        return [*lines[:2], "The settings in force, as `engine.settings` has them: [settings.md](settings.md).", ""]
    if cls in tree.NODES:
        own = {base for base in bases_of(cls) if base.__name__ == "_Group"}
        lines += fields_table(cls)[:-1] + [row for base in own for row in fields_table(base)[2:-1]] + [""]
    else:
        lines += fields_table(cls)
    lines += [f"- `{name}`: {text}" for name, text in attributes_of(cls)] + [""]
    lines += same_as_sync(cls)
    if issubclass(cls, podium.PodiumError):
        return lines
    for node in methods_of(cls):
        if not (ast.get_docstring(node) or "").startswith("As `"):
            lines += method(cls, node)
    return lines


def function_entry(function: Any, module: str) -> list[str]:
    name = f"{module or 'podium'}.{function.__name__}"
    lines = [f"### {function.__name__}", "", *signature(definition(function), name), *prose(function.__doc__ or "")]
    if function is podium.protocol:
        lines += ["The settings, also as attributes of a class of `podium.Protocol`:", "", *fields_table(Declaration)]
    return lines


def error_tree() -> list[str]:
    """The picture of the tree in the docstring of the errors' module."""
    text = ast.get_docstring(parsed(errors.PodiumError.__module__)) or ""
    picture = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    return ["```text", textwrap.dedent(picture), "```", ""]


def types_section() -> list[str]:
    rows = [(f"`{name}`", "one of " + ", ".join(f"`{each}`" for each in get_args(kind))) for name, kind in
            LITERALS.items()]  # fmt: skip
    rows += [
        ("`Value`", "plain data: None, bool, int, float, str, bytes, datetime, lists, dicts ([values.md](values.md))"),
        ("`Amount`", '`5`, or a rate such as `"90000/min burst 20000"` ([limits.md](limits.md))'),
        ("`Expression`", "CEL as a text ([workflows.md](workflows.md#inputs))"),
        ("`Node`", f"{', '.join(node.__name__ for node in tree.NODES)}; a protocol stands for a Step"),
        ("`RetryPolicy`", f"a `Retry`, a number of attempts, or one of {', '.join(f'`{n}`' for n in policy.PRESETS)}"),
        ("`Attempts`", "a whole number from 1 to 1000"),
        ("`OnError`", "an `Action`, or several in their order, by `Category`"),
        ("`Seconds`, `SecondsOrNone`", "a number of seconds, at most 10¹⁰: above 0, or from 0"),
        ("`Count`, `CountOrNone`", "a whole number, at most 2⁵³: from 1, or from 0"),
        ("`Replicas`", "a whole number from 1 to 1000, or a pair of them (min, max), where min may be 0"),
        ("`Quantity`", "a number from 0, at most 2⁵³"),
        ("`BACKGROUND`", f"the priority {outcomes.BACKGROUND}: for work that nobody waits for"),
    ]
    return ["## Types", "", *table(rows, ("name", "what it is"))]


def every_node() -> list[str]:
    return ["### Every node", "", "These settings stand at every node:", "", *fields_table(tree._Node)]


def page() -> str:
    lines = [HEAD]
    for title, module, things in SECTIONS:
        lines += [f"## {title}", ""]
        lines += [f"In `{module}`.", ""] if module else []
        lines += error_tree() if title == "Errors" else []
        for thing in things:
            lines += (class_entry if inspect.isclass(thing) else function_entry)(thing, module)
            lines += every_node() if thing is podium.Workflow else []
    text = "\n".join([*lines, *types_section()])
    text = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
