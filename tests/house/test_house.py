"""The rules of the house (docs/architecture.md): who may import whom, and how long things may get."""

from __future__ import annotations

import ast
import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from podium.protocols import errors
from tests import conftest
from tests.support import ROOT
from tests.support.sources import MODULES, ROOMS, parsed

TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
OUTSIDE = {
    "ray",
    "sqlite3",
    "socket",
    "subprocess",
    "threading",
    "secrets",
    "time",
    "os",
    "fcntl",
    "signal",
    "psutil",
}
"""What only cluster/ may touch, and user-land: Ray, clocks, processes, files, sockets."""


def is_user_land(path: Path) -> bool:
    return path.relative_to(ROOT).parts[:2] == ("protocols", "library")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def of_every_module(rule: Callable[[Path], None]) -> Callable[[], None]:
    """Make one test of a rule about a module: hundreds of small ones cost more to tell of than to run."""

    def test() -> None:
        broken = []
        for path in MODULES:
            try:
                rule(path)
            except AssertionError as error:
                broken.append(f"{path.relative_to(ROOT)}: {error}")
        assert not broken, "\n".join(broken)

    test.__name__, test.__doc__ = rule.__name__, rule.__doc__
    return test


@functools.cache
def imported(path: Path) -> list[tuple[str, int]]:
    """Every module that `path` imports, ours by room: ("protocols.errors", line)."""
    package = ["podium", *path.relative_to(ROOT).parent.parts]
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.append((".".join([*base, *(node.module or "").split(".")]), node.lineno))
    return found


@of_every_module
def test_a_room_imports_only_rooms_above_it(path):
    allowed = ROOMS[: ROOMS.index(room_of(path)) + 1]
    for name, line in imported(path):
        if name.startswith("podium."):
            assert name.split(".")[1] in allowed, f"{path}:{line} imports {name}"


def modules_imported(path: Path) -> set[str]:
    """Modules of ours that `path` imports, in functions and for the type checker too."""
    named = {name for name, _ in imported(path)}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            package = ["podium", *path.relative_to(ROOT).parent.parts]
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            named |= {f"{whole}.{alias.name}" for alias in node.names}
    return {name for name in named if name in BY_NAME}


BY_NAME = {".".join(["podium", *path.relative_to(ROOT).with_suffix("").parts]): path for path in MODULES}


def test_no_module_needs_itself():
    """No circle of imports, late ones and those under TYPE_CHECKING included."""
    needs = {name: modules_imported(path) - {name} for name, path in BY_NAME.items()}
    while free := {name for name, others in needs.items() if not others}:
        needs = {name: others - free for name, others in needs.items() if name not in free}
    knotted = {name: sorted(others) for name, others in needs.items() if others & needs.keys()}
    assert not knotted, f"in a circle, or importing one: {knotted}"


@of_every_module
def test_the_engine_never_needs_a_ready_made_protocol(path):
    if not is_user_land(path) and room_of(path) != "cluster":
        assert not [name for name, _ in imported(path) if name.startswith("podium.protocols.library")]


@of_every_module
def test_ray_clocks_files_and_sockets_stay_in_cluster(path):
    if room_of(path) != "cluster" and not is_user_land(path):
        names = {name.split(".")[0] for name, _ in imported(path)}
        assert not names & OUTSIDE, f"{path} imports {names & OUTSIDE}"


def test_the_environment_is_read_in_one_file_and_for_secrets_in_another():
    ours = [path for path in MODULES if not is_user_land(path)]
    readers = [path.name for path in ours if "os.environ" in path.read_text() or "getenv" in path.read_text()]
    assert readers == ["config.py", "secret_places.py"]


@of_every_module
def test_no_module_over_600_lines_no_function_over_60(path):
    source = path.read_text()
    assert source.count("\n") <= 600, f"{path} has {source.count(chr(10))} lines"
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno} {node.name}"


def test_any_is_rare():
    """Where a value is only carried, `object` says so, and the type checker keeps to it; records have types."""
    sources = [path.read_text() for path in MODULES]
    lines = sum(source.count("\n") for source in sources)
    found = sum(len(re.findall(r"\bAny\b", source)) for source in sources)
    assert found * 1000 <= 14 * lines, f"{found} times Any in {lines} lines: {1000 * found / lines:.1f} per 1,000"


@of_every_module
def test_a_match_over_classes_leaves_no_class_out_in_silence(path):
    """A new kind of node, event, effect, move or message is an error of the type checker wherever it is not handled."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Match) and any(isinstance(case.pattern, ast.MatchClass) for case in node.cases):
            last = node.cases[-1]
            is_rest = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None and last.guard is None
            assert is_rest, f"{path}:{node.lineno}: end it with `case _: assert_never(…)`"


@of_every_module
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(parsed(path)), f"{path} has no docstring"


@of_every_module
def test_docstrings_are_sentences_and_no_riddles(path):
    """The texts below attributes and constants, too: they name the thing, and do not begin with a relative clause."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = node.value.value.strip()
            is_riddle = re.match(r"(Of|What|Who|Whose|Those|That|Which|As of|It|Its|They)\b", text)
            assert not is_riddle, f"{path}:{node.lineno}: {text[:80]}"


EXAMPLES = [
    errors.InvalidDefinition(problem="p", path="a.b", where="f:1:2"),
    errors.InvalidInput(problem="p", path="x"),
    errors.InvalidSetting(name="n", source="s", problem="p"),
    errors.HookFailed(command="c", problem="p"),
    errors.KeyConflict(key="k", task_id="t"),
    errors.NotFound(what="task", name="t", hint="h"),
    errors.Overloaded(reason="r", retry_after_s=2.0),
    errors.AcceptanceUnknown(task_id="t", retry_after_s=1.0),
    errors.BlobsAway(place="blobs", reason="r"),
    errors.AnswerRefused(task_id="t", name="n", reason="answered", problem="p", by="ada", at=1.0),
    errors.BlobMissing(name="b", place="blobs"),
    errors.BlobCorrupt(name="b", place="blobs", problem="p"),
    errors.WaitTimedOut(task_id="t", waited_s=1.0, status="running"),
    errors.WorkflowDown(workflow="w", reason="r"),
    errors.DataInUse(directory="d", holder="h"),
    errors.PeerLost(address="a", reason="r"),
    errors.PeerUnreachable(address="a", reason="r"),
    errors.EngineClosed(reason="r"),
    errors.TaskFailed(task_id="t", workflow="w", failure={"code": "error", "message": "m", "step": "s", "attempt": 2}),
    errors.TaskCancelled(task_id="t", workflow="w"),
    errors.JournalFailed(shard="s", reason="r"),
    errors.JournalCorrupt(shard="s", place="p", problem="x"),
    errors.Fenced(shard="s", epoch=1, newer=2),
    errors.TooManyRestarts(intensity=3, period_s=60.0, last="x"),
    errors.SpawnFailed(address="a", reason="r", kind="k"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling_and_the_wire_with_its_fields(error):
    for copy in (pickle.loads(pickle.dumps(error)), errors.from_wire(error.to_wire())):
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.__dict__ == error.__dict__


def test_every_concrete_error_is_among_the_examples():
    def leaves(kind):
        below = kind.__subclasses__()
        return {kind} if not below else set().union(*(leaves(each) for each in below))

    concrete = {kind for kind in leaves(errors.PodiumError) if kind.__module__ == errors.__name__}
    assert concrete == {type(error) for error in EXAMPLES} - {errors.InvalidDefinition} | {
        kind for kind in concrete if issubclass(kind, errors.InvalidDefinition)
    }


def test_the_files_that_run_otherwise_than_others_are_there():
    names = [path.name for path in TESTS]
    assert set(names) >= conftest.SPREAD | conftest.LONG | conftest.FIRST
    assert len(names) == len(set(names)), "they are listed by their names"


def test_no_test_file_lies_outside_the_folders():
    assert [path.name for path in TESTS if path.parent == ROOT / "tests"] == []


def test_what_tests_share_lies_in_no_test_file():
    """It is in tests/support/, or a fixture of a conftest.py. Planted bugs run tests, so they import them."""
    for path in set((ROOT / "tests").rglob("*.py")) - set((ROOT / "tests/support").glob("*mutants.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = (getattr(node, "module", None) or "").split(".")
                is_of_tests = module[0] == "tests" or getattr(node, "level", 0) > 0
                named = [*module, *(part for alias in node.names for part in alias.name.split("."))]
                found = [name for name in named if name.startswith("test_")]
                assert not (found and (is_of_tests or "tests" in named)), f"{path}:{node.lineno} imports {found[0]}"
