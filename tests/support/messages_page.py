"""Writes docs/messages.md from the types of the messages: `python -m tests.support.messages_page`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

from podium.supervisors.messages import client, door, host, resources, supervisor
from tests.support import ROOT

PAGE = ROOT / "docs" / "messages.md"
HEAD = """# Messages

What actors say to each other. `python -m tests.support.messages_page` makes this page from `supervisors/messages/`, and
a test keeps it true. A message travels as its kind and the list of its fields, packed with msgpack. It is answered
once, after any number of chunks. `Value` is plain data; a row is the list of the fields of another class.

"""
RECEIVERS: list[tuple[str, str, door.Door[Any]]] = [
    ("Coordinator", "From clients.", client.COORDINATOR),
    (
        "Supervisor",
        "From clients, the coordinator, and the supervisor above a nested one.",
        supervisor.SUPERVISOR,
    ),
    ("ProtocolHost", "From its supervisor.", host.HOST),
    ("ResourceActor", "From supervisors and the coordinator.", resources.RESOURCES),
]


def page() -> str:
    parts = [HEAD]
    told: list[type] = []
    for name, senders, receiver in RECEIVERS:
        classes: list[Any] = list(receiver.classes.values())
        parts.append(f"## {name}\n\n{senders}\n\n| message | fields | reply | chunks |\n|---|---|---|---|\n")
        parts.append("".join(map(_row, classes)) + "\n")
        for cls in classes:
            answers = door.answers_of(cls)
            told += [each for each in (answers.reply, *answers.chunks) if each is not None and each not in told]
    parts.append("## Replies, chunks and rows\n\n| class | fields | meaning |\n|---|---|---|\n")
    rows = [client.Submission, client.Ack, client.Letter, resources.BreakerState, resources.CallsEnded]
    parts.append("".join(f"| `{cls.__name__}` | {_fields(cls)} | {_first(cls)} |\n" for cls in [*told, *rows]))
    return "".join(parts)


def _row(cls: type) -> str:
    answers = door.answers_of(cls)
    reply = f"`{answers.reply.__name__}`" if answers.reply else "done"
    chunks = ", ".join(f"`{each.__name__}`" for each in answers.chunks)
    return f"| `{cls.__name__}`: {_first(cls)} | {_fields(cls)} | {reply} | {chunks} |\n"


def _first(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()).replace("|", "\\|")


def _fields(cls: Any) -> str:
    hints = typing.get_type_hints(cls)
    return ", ".join(f"{name}: {_named(hints[name])}" for name in cls._fields)


def _named(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(each) for each in typing.get_args(hint)))
    if origin is typing.Literal:
        return " or ".join(f'"{each}"' for each in typing.get_args(hint))
    if origin is not None:
        return f"{_plain(origin)} of {' to '.join(_inside(hint))}"
    return "None" if hint is type(None) else "Value" if hint in (Any, object) else hint.__name__


def _inside(hint: Any) -> Iterator[str]:
    for each in typing.get_args(hint):
        yield _named(each)


def _plain(origin: type) -> str:
    return {"Mapping": "mapping", "dict": "mapping", "Sequence": "list", "list": "list"}[origin.__name__]


if __name__ == "__main__":
    PAGE.write_text(page())
