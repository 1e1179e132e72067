"""The engine against a small interpreter that was written from docs/workflows.md: random trees, random values.

`python -m tests.support.differential --simulated 20000 --inprocess 500 --ray 50` compares what comes out of each tree:
the value, or the code of the failure. The interpreter knows nothing of events, journals or actors. Expressions are
evaluated by the engine's own CEL, which has tests of its own (tests/protocols/test_expressions.py).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import podium
from podium import Adaptive, Constant, Hierarchy, Parallel, Rule, Sequence, Sleep, Step, Wait, Workflow, verdict
from podium.errors import InvalidDefinition, InvalidInput, TaskFailed
from podium.protocols.check import walk
from podium.protocols.conditions import ExpressionFailed, evaluate, mentions
from podium.protocols.recovery import RECOVERY
from podium.testing import Simulation
from tests.support.hostile import BYTES, DATES, EXPRESSIONS, NUMBERS, TEXTS, nested
from tests.support.patient import at_last

VALUES: list[Any] = [
    None, True, 3, -7, 0.5, "a", [], [1, 2, 3], {"k": "a", "n": 2}, {"k": None, "items": [1, "x", None]},
    {"items": list(range(10_001)), "k": "a"}, nested(60), *TEXTS, *NUMBERS, *BYTES, *DATES,
]  # fmt: skip
LARGE = 10
"""Which of the values has 10,001 items."""
BAD_OUTPUTS = [nested(150), "\ud800", object(), {(1, 2): 3}, open, 2**64, {"a": [float, 1]}]


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("even its text fails")


RAISED: list[tuple[Any, str]] = [
    (lambda: ValueError("no"), "error"),
    (lambda: StopIteration(1), "error"),
    (lambda: StopAsyncIteration(), "error"),
    (lambda: SystemExit(3), "error"),
    (lambda: KeyboardInterrupt(), "error"),
    (lambda: GeneratorExit(), "error"),
    (lambda: TimeoutError("late"), "error"),
    (lambda: ConnectionError("\ud800 \x00 \x1b[31m"), "error"),
    (lambda: MemoryError(), "error"),
    (lambda: RecursionError(), "error"),
    (lambda: Odd(), "error"),
    (lambda: BaseExceptionGroup("several", [ValueError("a"), KeyError("b")]), "error"),
    (lambda: InvalidInput(problem="x" * 100_000, path="input"), "invalid_input"),
    (lambda: asyncio.CancelledError(), "cancelled"),
]
CATEGORY = {
    "invalid_input": "validation",
    "invalid_output": "validation",
    "expression": "validation",
    "cancelled": "cancelled",
}
_CLASSES = {6: "timeout", 7: "dependency", 8: "resource"}


@dataclass(frozen=True)
class Failed:
    code: str
    category: str = ""

    @property
    def actions(self):
        return RECOVERY[self.category or CATEGORY.get(self.code, "internal")]


BEHAVIOURS: dict[str, Any] = {}
"""By reference: what a step makes of its input, as the interpreter sees it."""


def _made(name, run, means):
    run.__name__ = run.__qualname__ = name
    made = globals()[name] = podium.protocol(concurrency=100)(run)
    BEHAVIOURS[f"{__name__}:{name}"] = means
    return made


def _steps():
    async def echo(input):
        return input

    async def wrap(input):
        return {"k": input, "items": [1]}

    def plain(input):
        return [input]

    async def items(input):
        for item in (input, 1):
            yield item

    def lazy(input):
        return iter([input])

    made = [
        _made("echo", echo, _given),
        _made("wrap", wrap, lambda value: _given({"k": value, "items": [1]})),
        _made("plain", plain, lambda value: _given([value])),
        _made("items", items, lambda value: _given([value, 1])),
        _made("lazy", lazy, lambda value: _given([value])),
    ]
    for n, (error, code) in enumerate(RAISED):
        made.append(_made(f"raises_{n}", _raising(error), lambda _, n=n, code=code: Failed(code, _CLASSES.get(n, ""))))
    for n, value in enumerate(VALUES):
        if n == LARGE:
            continue  # an input only: some thousand of it make no message
        made.append(_made(f"gives_{n}", _giving(value), lambda _, value=value: value))
    for n, value in enumerate(BAD_OUTPUTS):
        made.append(_made(f"bad_{n}", _giving(value), lambda _: Failed("invalid_output")))
    return made


def _given(value):
    return Failed("invalid_output") if _depth(value) > 100 else value


def _depth(value) -> int:
    deepest, level = 0, [value]
    while level:
        level = [b for a in level if isinstance(a, list | dict) for b in (a.values() if isinstance(a, dict) else a)]
        deepest += 1
        if deepest > 300:
            break
    return deepest - 1


def _raising(error):
    async def raises(input):
        raise error()

    return raises


def _giving(value):
    async def gives(input):
        return value

    return gives


async def lead_all(brief):
    return verdict.assign() if not brief["outcomes"] else verdict.accept(sorted(brief["outcomes"]))


async def lead_takes(brief):
    return verdict.accept(brief["input"])


async def lead_fails(brief):
    return verdict.fail("no")


async def lead_odd(brief):
    return {"verdict": "accept"}


async def lead_again(brief):
    return verdict.assign()


STEPS = _steps()
LEADS = [podium.protocol(lead) for lead in (lead_all, lead_takes, lead_fails, lead_odd, lead_again)]
lead_all, lead_takes, lead_fails, lead_odd, lead_again = LEADS
MAPPINGS = [
    "input",
    "task",
    "outputs",
    "[input, task]",
    "{'x': input}",
    "outputs.a",
    "outputs.b.k",
    "input.k",
    "1 / 0",
    *(source for source in EXPRESSIONS if source.count("input") == 1),  # others double what they are given
]
CONDITIONS = [
    "true",
    "false",
    "input == output",
    "size(output) > 1",
    "output.k == 'a'",
    "visits.a < 2",
    "error != null",
    "outputs.a == output",
    "1",
]


class Trees:
    """Random trees; the same seed, the same tree."""

    def __init__(self, seed: int, tiers: bool) -> None:
        self.random, self._tiers, self._left = Random(seed), tiers, 12
        self.waits = seed % 2 == 0
        """Whether nodes wait in it."""

    def workflow(self, name: str) -> Workflow:
        while True:
            try:
                return Workflow(name, self._node(3, root=True))
            except InvalidDefinition:
                self._left = 12  # a tree that is refused, as one with names that cannot be

    def _node(self, depth: int, root: bool = False) -> Any:
        self._left -= 1
        kinds = (
            [self._step] if depth == 0 or self._left <= 0 else [self._step, self._sequence, self._parallel, self._each]
        )
        if self.waits and self.random.random() < 0.1:
            kinds = [self._wait, self._sleep]
        if depth and self._left > 0:
            kinds += [self._adaptive] + ([self._hierarchy] if self._tiers or root else [])
        return self.random.choice(kinds)(depth)

    def _settings(self, depth: int) -> dict[str, Any]:
        draw, settings = self.random, {}
        if draw.random() < 0.3:
            one = lambda: draw.choice(MAPPINGS)  # noqa: E731
            settings["with_"] = {"k": one(), "items": "task"} if draw.random() < 0.3 else one()
        if draw.random() < 0.2 and depth:
            settings["fallback"] = [self._node(0) for _ in range(draw.randint(1, 2))]
        if draw.random() < 0.1:
            settings["otherwise"] = Constant(value=draw.choice([1, "x", {"k": "a"}]))
        return settings

    def _step(self, depth: int) -> Any:
        weights = [12 if n < 5 else 1 for n in range(len(STEPS))]
        return Step(self.random.choices(STEPS, weights)[0], **self._settings(depth))

    def _wait(self, depth: int) -> Any:
        """Nobody answers, so it times out."""
        late = self.random.choice([{"value": 3}, {"value": None}, self._step(0), None])
        return Wait("yes", timeout_s=0.01, on_timeout=late, **self._settings(depth))

    def _sleep(self, depth: int) -> Any:
        moments = ["0", "2020-01-01T00:00:00Z", "timestamp('2020-01-01T00:00:00Z')", "'soon'"]
        span = self.random.choice([{"for_s": 0.01}, {"for_s": "1 / 100"}, *({"until": each} for each in moments)])
        return Sleep(**span, **self._settings(depth))

    def _sequence(self, depth: int) -> Any:
        nodes = [self._node(depth - 1) for _ in range(self.random.randint(1, 3))]
        for at, name in enumerate("abc"[: len(nodes)]):
            if self.random.random() < 0.5:
                nodes[at] = nodes[at].model_copy(update={"name": name})
        return Sequence(*nodes, **self._settings(depth))

    def _parallel(self, depth: int) -> Any:
        names = "abc"[: self.random.randint(1, 3)]
        return Parallel({name: self._node(depth - 1) for name in names}, **self._join(), **self._settings(depth))

    def _each(self, depth: int) -> Any:
        source = self.random.choice(["[1, 2, input]", "input.items", "[]", "input", "task"])
        return Parallel(each=source, do=self._node(depth - 1), **self._join(), **self._settings(depth))

    def _join(self) -> dict[str, Any]:
        """One at a time, unless the order of the ends is of no interest."""
        join = self.random.choice(["all", "all", "any", "settled", "quorum(1)"])
        return {"join": join} if join == "settled" else {"join": join, "limit": 1}

    def _adaptive(self, depth: int) -> Any:
        names = "abc"[: self.random.randint(1, 3)]
        draw = self.random.choice
        rules = [Rule(when=draw(CONDITIONS), to=draw([*names, "end"])) for _ in range(self.random.randint(0, 2))]
        rules += [Rule(after=name, when=draw(CONDITIONS), to=draw([*names, "end"])) for name in names]
        rules += [Rule(to="end")]
        self.random.shuffle(rules)
        nodes = {name: self._node(depth - 1) for name in names}
        return Adaptive(nodes, start="a", rules=rules, max_visits=3, **self._settings(depth))

    def _hierarchy(self, depth: int) -> Any:
        team = {name: self._node(depth - 1) for name in "ab"[: self.random.randint(1, 2)]}
        return Hierarchy(self.random.choice(LEADS), team=team, max_rounds=3, **self._settings(depth))


class Interpreter:
    """What should come out of a node: a value, or Failed."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def result(self, root: Any) -> Any:
        return self.run(root, self._task, {}, None, is_root=True)

    def run(
        self, node: Any, given: Any, seen: dict[str, Any], error: dict[str, Any] | None, is_root: bool = False
    ) -> Any:
        input, inside = given, dict(seen)
        mapped = self._mapped(node, given, seen, error)
        if isinstance(mapped, Failed):
            outcome = mapped
        else:
            input = mapped
            outcome = self._own(node, input, inside, is_root)
        if not isinstance(outcome, Failed):
            return outcome
        is_own_step = isinstance(node, Step) or isinstance(mapped, Failed)
        actions = outcome.actions if is_own_step else ("fallback", "degrade")
        first, last = outcome, outcome
        if "fallback" in actions:
            for other in node.fallback:
                last = self.run(other, input, inside, _said(last))
                if not isinstance(last, Failed):
                    return last
        if "degrade" in actions and node.otherwise is not None:
            return node.otherwise.value
        return last if node.fallback and "fallback" in actions else first

    def _mapped(self, node: Any, input: Any, seen: dict[str, Any], error: dict[str, Any] | None) -> Any:
        names = {"input": input, "task": self._task, "outputs": dict(seen)}
        where = "with"
        if error is not None:
            where, names["error"] = "fallback", error
        try:
            if node.with_ is None:
                return input
            if isinstance(node.with_, str):
                return evaluate(node.with_, where, names)
            return {key: evaluate(source, where, names) for key, source in node.with_.items()}
        except ExpressionFailed:
            return Failed("expression")

    def _own(self, node: Any, input: Any, inside: dict[str, Any], is_root: bool) -> Any:
        match node:
            case Step():
                return BEHAVIOURS[node.step](input)
            case Sequence():
                return self._sequence(node, input, inside)
            case Parallel():
                return self._parallel(node, input, inside)
            case Adaptive():
                return self._adaptive(node, input, inside)
            case Hierarchy():
                return self._hierarchy(node, input, is_root)
            case Wait():
                if isinstance(node.on_timeout, Constant):
                    return node.on_timeout.value
                return Failed("timeout") if node.on_timeout is None else self.run(node.on_timeout, input, inside, None)
            case Sleep():
                return Failed("expression") if node.sleep.until == "'soon'" else input
            case _:
                raise AssertionError(f"the interpreter of tests/support/differential.py does not know {type(node)}")

    def _sequence(self, node: Any, value: Any, inside: dict[str, Any]) -> Any:
        for child in node.sequence:
            value = self.run(child, value, inside, None)
            if isinstance(value, Failed):
                return value
            inside[child.name] = value
        return value

    def _parallel(self, node: Any, input: Any, inside: dict[str, Any]) -> Any:
        if node.parallel is not None:
            branches = [(child, input) for child in node.parallel.values()]
        else:
            try:
                names = {"input": input, "task": self._task, "outputs": dict(inside)}
                items = evaluate(node.each, "with", names)
            except ExpressionFailed:
                return Failed("expression")
            if not isinstance(items, list):
                return Failed("expression")
            branches = [(node.do, item) for item in items]
        return self._joined(node, [lambda b=b: self.run(b[0], b[1], inside, None) for b in branches])

    def _joined(self, node: Any, branches: list[Any]) -> Any:
        outcomes: list[Any] = []
        good = lambda: [n for n, each in enumerate(outcomes) if not isinstance(each, Failed)]  # noqa: E731
        wanted = {"any": 1, "quorum(1)": 1}.get(node.join)
        if wanted is not None and len(branches) < wanted:
            return Failed("too_few")
        for run in branches:
            outcomes.append(run())
            last = outcomes[-1]
            if node.join == "all" and isinstance(last, Failed):
                return last
            if wanted is not None and len(good()) == wanted:
                break
            if wanted is not None and len(branches) - (len(outcomes) - len(good())) < wanted:
                return Failed("too_few")
        if node.join == "any":
            return outcomes[-1]
        if node.join == "settled":
            outcomes = [{"error": _said(each)} if isinstance(each, Failed) else {"output": each} for each in outcomes]
            return outcomes if node.do is not None else dict(zip(node.parallel, outcomes, strict=True))
        if node.do is not None:
            return [outcomes[n] for n in good()]
        return {list(node.parallel)[n]: outcomes[n] for n in good()}

    def _adaptive(self, node: Any, input: Any, inside: dict[str, Any]) -> Any:
        visits, last, name, value = dict.fromkeys(node.adaptive, 0), None, node.start, input
        while True:
            if visits[name] == node.max_visits:
                return Failed("too_many_visits")
            visits[name] += 1
            outcome = self.run(node.adaptive[name], value, inside, None)
            failed = isinstance(outcome, Failed)
            if not failed:
                inside[name] = last = outcome
            output = None if failed else outcome
            names = {"input": input, "output": output, "task": self._task, "outputs": dict(inside), "visits": visits}
            rule = self._rule(node, name, outcome, {**names, "error": _said(outcome) if failed else None})
            if isinstance(rule, Failed):
                return rule
            if rule.to == "end":
                return last if failed else outcome
            name, value = rule.to, last if failed else outcome

    def _rule(self, node: Any, name: str, outcome: Any, names: dict[str, Any]) -> Any:
        for rule in node.rules:
            if rule.after not in (None, name) or (isinstance(outcome, Failed) and not mentions(rule.when, "error")):
                continue
            try:
                holds = evaluate(rule.when, "when", names)
            except ExpressionFailed:
                return Failed("expression")
            if not isinstance(holds, bool):
                return Failed("expression")
            if holds:
                return rule
        return outcome if isinstance(outcome, Failed) else Failed("no_rule")

    def _hierarchy(self, node: Any, input: Any, is_root: bool) -> Any:
        lead = node.hierarchy.step.partition(":")[2]
        inside = self if is_root else Interpreter(input)
        if lead == "lead_takes":
            return input
        if lead in ("lead_fails", "lead_odd"):
            return Failed("rejected" if lead == "lead_fails" else "bad_verdict")
        for _ in range(1 if lead == "lead_all" else 3):
            for child in node.team.values():
                inside.run(child, input, {}, None)
        return sorted(node.team) if lead == "lead_all" else Failed("too_many_rounds")


def _said(failed: Failed) -> dict[str, Any]:
    return {"code": failed.code, "message": "", "kind": "", "step": ""}


def _plain(value: Any) -> Any:
    """For comparison: of an error only its code, of a number what it prints as."""
    if isinstance(value, dict):
        if value.keys() == {"code", "message", "kind", "step"}:
            return {"code": value["code"]}
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else repr(value)


def case(seed: int, tiers: bool = True) -> tuple[Workflow, Any]:
    """A tree and its input."""
    trees = Trees(seed, tiers)
    workflow, input = trees.workflow(f"w{seed}"), trees.random.choice(VALUES)
    is_each = any(isinstance(node, Parallel) and node.each for _, node in walk(workflow.root, ()))
    if input is VALUES[LARGE] and is_each:
        input = VALUES[LARGE + 1]  # ten thousand steps of ten thousand items each need all the memory that there is
    return workflow, input


def expected(workflow: Workflow, input: Any) -> Any:
    outcome = Interpreter(input).result(workflow.root)
    return ["failed", outcome.code] if isinstance(outcome, Failed) else ["ok", _plain(outcome)]


async def found(engine: Any, workflow: Workflow, input: Any) -> Any:
    try:
        task = await at_last(partial(engine.submit, workflow, input, key=workflow.name))
        return ["ok", _plain(await task.result())]
    except TaskFailed as failed:
        return ["failed", failed.cause_code]


def differences(seeds: list[int], run: Any) -> list[str]:
    """What the engine made of the trees of these seeds that the interpreter did not."""
    cases = {seed: case(seed) for seed in seeds}

    async def work(engine: Any) -> list[Any]:
        return await asyncio.gather(*(found(engine, *each) for each in cases.values()))

    said = []
    for seed, outcome in zip(cases, run(work), strict=True):
        wanted = expected(*cases[seed])
        if outcome != wanted:
            said.append(f"seed {seed}: {str(outcome)[:200]}, and should be {str(wanted)[:200]}")
    return said


def simulated(work: Any) -> Any:
    return Simulation().run(work, within_s=1_000)


def real(cluster: str) -> Any:
    def run(work: Any) -> Any:
        async def within() -> Any:
            async with podium.connect_async(data=tempfile.mkdtemp(), cluster=cluster) as engine:
                return await work(engine)

        return asyncio.run(within())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for kind in ("simulated", "inprocess", "ray"):
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="TREES")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    given = parser.parse_args()
    said: list[str] = []
    for kind, run, together in (
        ("simulated", simulated, 50),
        ("inprocess", real("inprocess"), 25),
        ("ray", real("ray"), 5),
    ):
        for start in range(given.first, given.first + getattr(given, kind), together):
            said += differences(list(range(start, min(start + together, given.first + getattr(given, kind)))), run)
        print(f"{kind}: {getattr(given, kind)} trees, {len(said)} differences so far", flush=True)
    print("\n".join(said))
    sys.exit(bool(said))


if __name__ == "__main__":
    from tests.support.differential import main as main_of_the_module  # so that its protocols are importable

    main_of_the_module()
