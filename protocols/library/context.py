"""Assembles the context of a question from files, the conversation and earlier answers.

All sources run at once, under the pipeline's time limit. Results that come in time are used; the sources that come too
late are named. The index of the files and the conversations live in `ctx.folder`: the index is a cache, the
conversations are authoritative.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel

from ..context import Context
from ..protocol import Protocol, protocol
from ..requests.grants import requests_config
from .file_index import FileIndex, Refreshed
from .file_index import Passage as Hit
from .files import Reason
from .front import Planned, granted_folder
from .index_database import delete, take_lock
from .memory import Memory

T = TypeVar("T")

FRESH_S = 2.0
"""Seconds for which an updated index counts as up to date. Within them no refresh is made."""
MARGIN_S = 0.15
"""Seconds before the deadline that are kept for searching."""
PASSAGES = 12
TURNS = 6
KEPT_SEARCHES = 256
OPEN_INDEXES = 16
"""Number of folders whose indexes stay open at once, in one host. Indexes in use stay open beyond that."""
KEPT_INDEXES = 256
"""Number of folders whose indexes are kept on disk, in one host. Indexes that are open are never deleted."""
CHARS_PER_TOKEN = 4
SAID: Mapping[Reason, str] = {
    "secret": "with keys or passwords",
    "encoding": "in no known encoding",
    "too large": "over 1 MiB",
    "too many": "beyond the first 200,000",
    "unreadable": "that cannot be read",
    "name": "whose name is not UTF-8",
}
"""Descriptions of files that are left out, by reason. Other reasons (ignored, binary, …) are not reported."""


class Passage(BaseModel):
    """A piece of a file that answers a question, or an attachment."""

    path: str
    line: int
    end_line: int
    text: str
    score: float


class Turn(BaseModel):
    question: str
    answer: str


class Found(BaseModel):
    """The result of a search in the files for one question."""

    question: str
    passages: list[Passage] = []
    missing: str | None = None
    """The reason why not all files were searched; None if all were."""
    left_out: str | None = None
    """Description of files that are not in the index on purpose, but that a user might miss."""


class Assembled(BaseModel):
    """Context as the model gets it, cut to the budget of the request."""

    passages: list[Passage] = []
    turns: list[Turn] = []
    earlier: list[Turn] = []
    missing: dict[str, str] = {}
    """Reasons by source: why the source is missing, or not complete."""
    left_out: str | None = None
    """Description of files that are not in the index on purpose, but that a user might miss."""


class ToFind(BaseModel):
    plan: Planned
    task: Literal["index", "search"] = "search"
    question: str | None = None
    """The question to search for; None is the text of the request."""


class ToRecall(BaseModel):
    plan: Planned
    task: Literal["session", "earlier", "remember"]
    answer: dict[str, object] | None = None


class ToAssemble(BaseModel):
    plan: Planned
    sources: dict[str, object]
    """Outcomes by name of the source: {"output": …} or {"error": …}."""


class Files(Protocol):
    """Searches the folder of a request. Each folder has an index of its own."""

    concurrency = 8
    quotas: ClassVar[Mapping[str, int]] = {"context": 1}

    def __init__(self) -> None:
        self._indexes: OrderedDict[str, _Indexed] = OrderedDict()
        """Open indexes by root, the one used last at the end."""
        self._opening = threading.Lock()

    async def stop(self) -> None:
        for indexed in self._indexes.values():
            indexed.index.close()

    def run(self, ctx: Context, input: ToFind) -> Found:
        """Bring the index up to date as far as time allows; with the task `search`, also search it."""
        named, question = input.plan.request.root, input.question or input.plan.request.text
        if named is None:
            return Found(question=question, missing="the request names no folder")
        root = granted_folder(named, requests_config(ctx.config).grants_of(ctx.user), ctx.user)
        with self._index_of(ctx, root) as indexed:
            missing = indexed.refresh(ctx)
            kept_out = indexed.left_out
            found = [] if input.task == "index" else indexed.search(question)
        passages = [Passage.model_validate(each, from_attributes=True) for each in found]
        return Found(question=question, passages=passages, missing=missing, left_out=kept_out)

    @contextmanager
    def _index_of(self, ctx: Context, root: str) -> Iterator[_Indexed]:
        """Yield the index of a folder, and keep it open while it is in use. The latest idle ones stay open."""
        with self._opening:
            indexed = self._indexes.get(root) or self._open(Path(ctx.folder), root)
            indexed.users += 1
            self._indexes.move_to_end(root)
        try:
            yield indexed
        finally:
            with self._opening:
                indexed.users -= 1
                self._close_idle()

    def _open(self, folder: Path, root: str) -> _Indexed:
        _make_room(folder)
        name = hashlib.sha256(root.encode()).hexdigest()[:24]
        indexed = self._indexes[root] = _Indexed(FileIndex(Path(root), folder / f"{name}.sqlite3"))
        return indexed

    def _close_idle(self) -> None:
        for root in [root for root, indexed in self._indexes.items() if not indexed.users]:
            if len(self._indexes) <= OPEN_INDEXES:
                return
            self._indexes.pop(root).index.close()


def _make_room(folder: Path) -> None:
    """Delete the indexes that were not written for the longest time, beyond KEPT_INDEXES."""
    kept = sorted(folder.glob("[0-9a-f]" * 24 + ".sqlite3"), key=_changed_at, reverse=True)
    for path in kept[KEPT_INDEXES - 1 :]:
        lock = take_lock(path)
        if lock is not None:
            delete(path)
            os.close(lock)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another host has just deleted it
        return 0.0


class _Indexed:
    """The index of one folder, with its recent searches and the time of its last refresh."""

    def __init__(self, index: FileIndex) -> None:
        self.index = index
        self.users = 0
        """Number of calls that use the index now."""
        self._fresh_at = -FRESH_S
        self.left_out: str | None = None
        """Description of the files that the last complete refresh left out."""
        self._searches: OrderedDict[str, list[Hit]] = OrderedDict()
        self._turn, self._keeping = threading.Lock(), threading.Lock()

    def refresh(self, ctx: Context) -> str | None:
        """Bring the index up to date. Returns why the index is incomplete, or None.

        A call that finds a refresh running waits for it no longer than its own deadline allows.
        """
        left_s = None if ctx.left_s is None else max(0.0, ctx.left_s - MARGIN_S)
        until = None if left_s is None else time.monotonic() + left_s
        if not self._turn.acquire(timeout=-1.0 if left_s is None else left_s):
            return "the index was still being made"
        try:
            if time.monotonic() - self._fresh_at < FRESH_S:
                return None
            done = self.index.refresh(lambda: ctx.cancelled or (until is not None and time.monotonic() >= until))
            if done.indexed or done.removed or done.locked_out:
                with self._keeping:
                    self._searches.clear()
            if done.complete or done.locked_out:
                self._fresh_at = time.monotonic()
            if done.complete:
                self.left_out = left_out(done)
            return _why_not_all(done)
        finally:
            self._turn.release()

    def search(self, question: str) -> list[Hit]:
        with self._keeping:
            known = self._searches.get(question)
        if known is None:
            known = self.index.search(question, PASSAGES)
            with self._keeping:
                self._searches[question] = known
                while len(self._searches) > KEPT_SEARCHES:
                    self._searches.popitem(last=False)
        return known


def _why_not_all(done: Refreshed) -> str | None:
    if done.complete or done.locked_out:
        return None
    return f"time was up after {done.seen:,} files; the next request goes on from there"


def left_out(done: Refreshed) -> str | None:
    """Describe the skipped files that a user might miss, with some of the paths. None if there are none."""
    said = [
        f"{done.skipped[reason]:,} {SAID[reason]} ({_paths(done, reason)})" for reason in SAID if reason in done.skipped
    ]
    return "; ".join(said) or None


def _paths(done: Refreshed, reason: Reason) -> str:
    named = done.named.get(reason, ())
    return ", ".join(named) + (", …" if len(named) < done.skipped[reason] else "")


class Conversation(Protocol):
    """Looks up turns of this session, or of all sessions of the user, and stores the answer."""

    concurrency = 8

    def __init__(self) -> None:
        self._memory: Memory | None = None
        self._opening = threading.Lock()

    async def stop(self) -> None:
        if self._memory is not None:
            self._memory.close()

    def run(self, ctx: Context, input: ToRecall) -> dict[str, object]:
        """Return {"turns"} for the tasks `session` and `earlier`; for `remember`, store the answer and return it."""
        memory, request = self._opened(ctx), input.plan.request
        if input.task == "remember":
            answer = input.answer or {}
            session = request.session or f"task {ctx.task_id}"
            memory.add(ctx.user, session, ctx.task_id, request.text, worth_keeping(answer), time.time())
            return answer
        if input.task == "session":
            turns = [] if request.session is None else memory.recent(ctx.user, request.session, TURNS)
        else:
            found = memory.search(ctx.user, None, request.text, TURNS)
            recent = (
                set()
                if request.session is None
                else {turn.turn_id for turn in memory.recent(ctx.user, request.session, TURNS)}
            )
            turns = [turn for turn in found if turn.turn_id not in recent]
        return {"turns": [{"question": turn.question, "answer": turn.answer} for turn in turns]}

    def _opened(self, ctx: Context) -> Memory:
        with self._opening:
            if self._memory is None:
                self._memory = Memory(Path(ctx.folder) / "conversations.sqlite3")
            return self._memory


def worth_keeping(answer: Mapping[str, Any]) -> str:
    """Return the text to store for an answer. For quotations it has only their places."""
    text = str(answer.get("text", ""))
    if text.strip() and (answer.get("model") is not None or answer.get("value") is not None):
        return text
    places = [f"{source['path']}:{source['line']}" for source in answer.get("sources", [])]
    ran = [str(run["tool"]) for run in answer.get("tools", []) if not run.get("error")]
    said = [f"quoted {', '.join(places)}"] if places else []
    said += [f"ran {', '.join(ran)}"] if ran else []
    return "; ".join(said) or "nothing was found"


@protocol(concurrency=64)
async def assemble(ctx: Context, input: ToAssemble) -> Assembled:
    """Assemble one context from all sources: the best first, cut to the request's budget."""
    return assembled(input.plan, input.sources)


def assembled(plan: Planned, sources: Mapping[str, Any]) -> Assembled:
    """Assemble one context from the outcomes of the sources, cut to the request's budget.

    Args:
        sources: outcomes by name, {"output": …} or {"error": …}. Known: files, conversation, earlier.
    """
    missing: dict[str, str] = {}
    outputs: dict[str, Any] = {}
    for name, outcome in sources.items():
        if outcome.get("error"):
            error = outcome["error"]
            missing[name] = "it took too long" if error.get("code") == "timeout" else str(error.get("message", ""))
        else:
            outputs[name] = outcome.get("output") or {}
    found = Found.model_validate({"question": "", **outputs.get("files", {})})
    if found.missing and plan.request.root is not None:
        missing["files"] = found.missing
    context = Assembled(
        passages=[*_attached(plan), *found.passages],
        turns=[Turn.model_validate(turn) for turn in outputs.get("conversation", {}).get("turns", [])],
        earlier=[Turn.model_validate(turn) for turn in outputs.get("earlier", {}).get("turns", [])],
        missing=missing,
        left_out=found.left_out,
    )
    return cut_to(context, plan.request.limits.context_tokens)


def cut_to(context: Assembled, tokens: int) -> Assembled:
    """Cut a context to the budget: 1/4 for the conversation, 1/8 for earlier answers, the rest for passages."""
    budget = tokens * CHARS_PER_TOKEN
    turns = list(reversed(_first(list(reversed(context.turns)), budget // 4, _turn_chars)))
    earlier = _first(context.earlier, budget // 8, _turn_chars)
    used = sum(map(_turn_chars, [*turns, *earlier]))
    passages = _first(context.passages, budget - used, lambda passage: len(passage.text))
    return context.model_copy(update={"turns": turns, "earlier": earlier, "passages": passages})


def _first(items: list[T], budget: int, chars: Callable[[T], int]) -> list[T]:
    """Return the items that fit the budget, in their order. After one that does not fit, smaller ones may follow."""
    kept = []
    for item in items:
        if chars(item) <= budget:
            budget -= chars(item)
            kept.append(item)
    return kept


def _turn_chars(turn: Turn) -> int:
    return len(turn.question) + len(turn.answer)


def _attached(plan: Planned) -> list[Passage]:
    return [
        Passage(path=f"attachment:{each.name}", line=1, end_line=each.text.count("\n") + 1, text=each.text, score=1e6)
        for each in plan.request.attachments
    ]
